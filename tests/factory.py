"""Small objects that many tests need."""

from __future__ import annotations

from gateway.model import Frame, Reading, Record, Urgency

T0_US = 1_795_000_000_000_000  # 2026-11-18


def record(number: int = 1, *, device_id: str = "D-0001", signal: str = "", at_us: int = T0_US) -> Record:
    """A record of an ordinary device, as ingest makes it."""
    reading = Reading(at_us + number, {"heart_rate_bpm": 60.0 + number % 30}, {signal: True} if signal else {})
    urgency = Urgency.EMERGENCY if signal == "sos" else Urgency.ROUTINE
    payload = b'{"seq":%d}' % number
    return Record(
        at_us + number, "mqtt", "native", "127.0.0.1:5000", payload, device_id, device_id, "P-0001",
        "carebell.native", True, urgency, str(number), reading,
    )  # fmt: skip


def frame(payload: bytes, *, device_key: str = "D-0001", at_us: int = T0_US) -> Frame:
    """A native frame over MQTT from a device that proved who it is."""
    return Frame("mqtt", "native", "127.0.0.1:5000", payload, at_us, device_key)
