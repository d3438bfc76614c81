"""Advertisements of registered BTHome devices: repeats are told from presses, replays from the real sender."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from gateway.clock import Clock
from gateway.errors import ParseError
from gateway.model import DeviceBinding, Frame
from protocols.codecs.bthome import BthomeCodec, counter_of, encrypted
from protocols.codecs.bthome_objects import ALARMING
from protocols.transports.ble.delivery import After, Delivery
from protocols.transports.ble.memory import Memory
from protocols.transports.ble.options import BleOptions, address_key

SERVICE: Final = "0000fcd2-0000-1000-8000-00805f9b34fb"
REPEAT_S: Final = 3.0
"""A plain advert without a packet number that comes again after this much silence is another press."""
NUMBERED_REPEAT_S: Final = 60.0
"""The same with a packet number: after new batteries a button may begin with the number that it ended with."""
DOUBTFUL: Final = 10
DOUBTFUL_S: Final = 600.0
"""So many alarms, and so many other adverts, of a device that prove nothing are taken within so many seconds."""

_codec: Final = BthomeCodec()


class Doubts(Struct):
    """How many doubtful adverts a device has had since ``since_s``: others, alarms."""

    counts: list[int] = field(default_factory=lambda: [0, 0])
    since_s: float = 0.0

    def admit(self, now_s: float, *, alarm: bool) -> bool:
        """Whether one more is within bounds; it counts."""
        if now_s - self.since_s > DOUBTFUL_S or not any(self.counts):
            self.counts, self.since_s = [0, 0], now_s
        self.counts[alarm] += 1
        return self.counts[alarm] <= DOUBTFUL


class _Heard(Struct):
    """The last advert of a device."""

    data: bytes = b""
    heard_s: float = 0.0
    numbered: bool = False
    counter: int = -1
    key: bytes = b""
    doubts: Doubts = field(default_factory=Doubts)


class Adverts:
    """Bounded by the registry: only devices that are registered are remembered."""

    def __init__(self, options: BleOptions, delivery: Delivery, memory: Memory, clock: Clock) -> None:
        self._options = options
        self._delivery = delivery
        self._memory = memory
        self._clock = clock
        self._heard: dict[str, _Heard] = {}
        self.counts = {"repeats_total": 0, "replays_total": 0, "unproved_total": 0, "unreadable_total": 0}

    def heard(self, binding: DeviceBinding, address: str, data: bytes) -> None:
        """Service data of a registered device, as often as the radio reports it."""
        now_s = self._clock.monotonic_s()
        last = self._heard.get(binding.device_id)
        if last is None:
            last = self._heard[binding.device_id] = _Heard()
        if data == last.data and self._is_repeat(last, now_s, data):
            last.heard_s = now_s
            self.counts["repeats_total"] += 1
            return
        last.data, last.heard_s = data, now_s
        name = address_key(address)
        key = self._options.bind_keys.get(name)
        frame = Frame("ble", _codec.name, address, bytes.fromhex(name) + data, self._clock.now_us(), binding.device_id)
        frame.context = None if key is None else {"bindkey": key}
        try:
            (report,) = _codec.parse(frame)
        except ParseError:
            self.counts["unreadable_total"] += 1
            frame.verified = False
            self._doubtful(last, frame, now_s, alarm=False)
            return
        fields = report.fields or {}
        last.numbered = "packet_id" in fields
        alarm = is_alarm(fields)
        if not encrypted(data):
            # Who has a bind key and speaks in the clear may be anybody.
            frame.verified = self._options.trust_plain_advertisements and key is None
            if frame.verified:
                self._delivery.put(frame, alarm=alarm)
            else:
                self.counts["unproved_total"] += 1
                self._doubtful(last, frame, now_s, alarm=alarm)
            return
        self._proved(binding, last, frame, key or b"", alarm=alarm, now_s=now_s)

    def _proved(
        self, binding: DeviceBinding, last: _Heard, frame: Frame, key: bytes, *, alarm: bool, now_s: float
    ) -> None:
        """Encrypted with the device's own key: true, unless it was recorded and played again."""
        device_id, counter = binding.device_id, counter_of(last.data)
        if last.key != key:
            last.key, last.counter = key, self._memory.counter(device_id, key)
        if counter > last.counter:
            last.counter = counter
            after: After = lambda: self._memory.counted(device_id, key, counter)  # noqa: E731 - typed
            self._delivery.put(frame, alarm=alarm, after=after)
            return
        if counter == last.counter:  # the newest press, once more
            self.counts["repeats_total"] += 1
            return
        self.counts["replays_total"] += 1
        if alarm:
            frame.verified = False
            self._doubtful(last, frame, now_s, alarm=True)

    def _is_repeat(self, last: _Heard, now_s: float, data: bytes) -> bool:
        if encrypted(data):
            return True  # its counter is the same
        return now_s - last.heard_s < (NUMBERED_REPEAT_S if last.numbered else REPEAT_S)

    def _doubtful(self, last: _Heard, frame: Frame, now_s: float, *, alarm: bool) -> None:
        """Take what proves nothing, within bounds: ingest uses its emergencies alone, and marks them."""
        if last.doubts.admit(now_s, alarm=alarm):
            self._delivery.put(frame, alarm=alarm)


def is_alarm(fields: Mapping[str, Any]) -> bool:
    """Whether somebody may have to hear of this at once."""
    return any(
        value is True or (name == "button" and value != "none")
        for full, value in fields.items()
        if (name := full.partition("_")[0] if full.startswith("button_") else full) in ALARMING
    )
