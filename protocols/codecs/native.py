"""The native device protocol (contracts, section 3): JSON, an object or an array of objects, at most 64 KiB.

Two roads that agree: a typed decode for the ordinary message, and a tolerant one for everything that it refuses.
Where a key stands twice in one object, the last one counts (RFC 8259, section 4, leaves that open).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder

from gateway.model import METRICS, SIGNALS, Frame, Position, Reading, Report
from protocols.codecs.native_tolerant import MAX_SEQ, boot_number, read_tolerantly, to_wgs84
from protocols.codecs.tolerant_json import check_size

_RANGES: Final = {name: (metric.lowest, metric.highest) for name, metric in METRICS.items()}
_NOWHERE: Final = (1.0, 0.0)  # no value is inside
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Uint32 = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
if TYPE_CHECKING:
    _Signal = str
else:
    _Signal = Literal[tuple(sorted(SIGNALS))]  # the closed list is the model's


class _Position(Struct, forbid_unknown_fields=True, gc=False):
    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    accuracy_m: Annotated[float, Meta(ge=0, le=1e8)] | None = None
    source: Literal["gnss", "cell", "wifi", "manual"] = "gnss"
    datum: Literal["wgs84", "gcj02", "bd09"] = "wgs84"
    valid: bool = True


class _Message(Struct, forbid_unknown_fields=True, gc=False):
    seq: _Uint32 = -1
    boot: _Uint32 | Annotated[str, Meta(max_length=64)] = 0
    at: Annotated[datetime, Meta(tz=True)] | None = None
    signals: list[_Signal] | None = None
    measurements: dict[str, float] | None = None
    position: _Position | None = None
    stored: bool = False


_decode_one: Final = Decoder(_Message).decode
_decode_many: Final = Decoder(list[_Message]).decode


class NativeCodec:
    """``ports.Codec`` of the native protocol."""

    name = "native"

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report for each object, in order. Raises ParseError when the payload as a whole cannot be used.

        A member that cannot be used is a fault of its report, with its path; the other members count, and an object
        without a usable member is a report with faults and no reading.
        """
        payload = frame.payload
        check_size(payload)
        try:
            if payload.startswith(b"["):
                reports = [_report(frame, message) for message in _decode_many(payload)]
                return reports or read_tolerantly(frame)
            return [_report(frame, _decode_one(payload))]
        except (DecodeError, UnicodeDecodeError, RecursionError, _NotOrdinaryError):
            return read_tolerantly(frame)


class _NotOrdinaryError(Exception):
    """A message that the tolerant road must read. Handler: ``NativeCodec.parse``."""


def _report(frame: Frame, message: _Message) -> Report:
    observed_at_us = frame.received_at_us
    at = message.at
    if at is not None:
        since = at - _EPOCH
        observed_at_us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        if observed_at_us < 0:
            raise _NotOrdinaryError
    measurements = message.measurements
    if measurements is None:
        if message.signals is None and message.position is None:
            raise _NotOrdinaryError
        measurements = {}
    for name, value in measurements.items():
        lowest, highest = _RANGES.get(name, _NOWHERE)
        if not lowest <= value <= highest:
            raise _NotOrdinaryError
    reading = Reading(observed_at_us, measurements)
    if message.signals:
        reading.signals = dict.fromkeys(message.signals, True)
    if message.position is not None:
        reading.position = _place(message.position, observed_at_us)
    report = Report(frame.device_key, reading)
    if at is not None:
        report.at_us = observed_at_us
    if message.seq >= 0:
        report.seq = message.seq
        report.boot = boot_number(message.boot)
    if message.stored:
        report.stored = reading.stored = True
    return report


def _place(place: _Position, observed_at_us: int) -> Position:
    latitude, longitude = place.latitude, place.longitude
    if place.datum != "wgs84":
        latitude, longitude = to_wgs84(place.datum, latitude, longitude)
    return Position(latitude, longitude, observed_at_us, place.accuracy_m, place.source, place.valid)
