"""GATT: values of Bluetooth health characteristics.

A frame is one value or several that belong together, each as it came over the air:

    <characteristic, 2 bytes, big-endian> <length, 1 byte> <value>

``2A35 07 00 7800 5000 5D00`` is a blood pressure of 120/80 mmHg. The fields keep the unit that the device sent; the
profile converts. A date of the device is its local time: ``Frame.context["zone"]`` says which zone that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from typing import Final

from gateway.clock import US_PER_S
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import Cursor
from protocols.codecs import gatt_characteristics as gatt
from protocols.codecs.gatt_values import DEFAULT_ZONE, zone_of

MAX_VALUES: Final = 64
MAX_BYTES: Final = 4096
SKEW_US: Final = 600 * US_PER_S
"""How wrong a device's clock may be."""
STORED_US: Final = 300 * US_PER_S
"""A measurement that is older than this when it arrives was kept by the device."""


def packed(uuid: int, value: bytes) -> bytes:
    """One value as a frame holds it. Raises ValueError for one of more than 255 bytes."""
    return uuid.to_bytes(2, "big") + bytes([len(value)]) + value


class GattCodec:
    """``ports.Codec``."""

    name = "gatt"

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report for each value; a glucose context joins the measurement of its number. Raises ParseError."""
        context = frame.context or {}
        zone = zone_of(str(context.get("zone") or DEFAULT_ZONE))
        skew_s = context.get("clock_skew_s")
        reports: list[Report] = []
        numbered: dict[int, Report] = {}
        for uuid, value in values(frame.payload):
            said = _parse(uuid, value, zone)
            measured = numbered.get(said.sequence) if uuid == gatt.GLUCOSE_CONTEXT else None
            if measured is not None and measured.fields is not None:
                measured.fields |= said.fields
                measured.faults = [*(measured.faults or ()), *said.faults] or None
                continue
            report = Report(frame.device_key, fields=said.fields, stored=said.stored)
            if uuid == gatt.GLUCOSE:
                numbered[said.sequence] = report
            if uuid == gatt.CURRENT_TIME:
                _clock(report, frame.received_at_us)
            report.faults = said.faults or None
            _place_in_time(report, said, frame.received_at_us, skew_s if isinstance(skew_s, int) else 0)
            if report.at_us:  # a value with its own time is the same value when it comes again
                report.dedup_key = f"{uuid:04x}:{value.hex()}"[:200]
            reports.append(report)
        return reports


def values(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Characteristic and value of each. Raises ParseError."""
    if not payload or len(payload) > MAX_BYTES:
        raise ParseError(f"{len(payload)} bytes are no frame of GATT values")
    cursor = Cursor(payload)
    for _ in range(MAX_VALUES):
        if not cursor.left:
            return
        yield cursor.u16(), cursor.take(cursor.u8())
    if cursor.left:
        raise ParseError(f"more than {MAX_VALUES} values")


def _parse(uuid: int, value: bytes, zone: tzinfo) -> gatt.Said:
    try:
        return gatt.parse(uuid, value, zone)
    except ParseError as error:
        raise ParseError(f"{uuid:04X}: {error}") from error


def _clock(report: Report, received_at_us: int) -> None:
    """How far the device's clock is from ours, positive when it is ahead."""
    at_us = report.fields.pop("clock_at_us", 0) if report.fields is not None else 0
    if at_us and report.fields is not None:
        report.fields["clock_skew_s"] = round((at_us - received_at_us) / US_PER_S)


def _place_in_time(report: Report, said: gatt.Said, received_at_us: int, skew_s: int) -> None:
    """Use the device's time where it can be believed; say so where not. A wrong clock never hides a value."""
    if said.time is None or report.fields is None:
        return
    report.fields["device_time"] = said.time.text
    if not said.time.at_us:
        return
    faults = list(report.faults or ())
    wrong_us = skew_s * US_PER_S if abs(skew_s) * US_PER_S > SKEW_US else 0
    at_us, ahead_us = said.time.at_us - wrong_us, said.time.at_us - wrong_us - received_at_us
    if wrong_us:
        faults.append(f"device_time: the device's clock is wrong by {skew_s} s; its time is corrected by that")
    if ahead_us > SKEW_US or at_us <= 0:
        faults.append(f"device_time: {ahead_us // US_PER_S} s in the future; the time of receipt is used")
    else:
        report.at_us = at_us
        report.stored = report.stored or -ahead_us > STORED_US
    report.faults = faults or None
