"""JSON of any maker's shape: each object becomes fields, and the device's profile says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import DecodeError
from msgspec.json import Decoder

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.tolerant_json import MAX_BAD_ELEMENTS, Faults, check_size, clean, kind, load

_decode: Final = Decoder().decode


class JsonFieldsCodec:
    """``ports.Codec`` for JSON that a profile explains."""

    name = "json"

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report with ``fields`` for each object. Raises ParseError when the payload as a whole cannot be used.

        Fields are as the device sent them, without what no journal can keep (numbers that are not finite or not of 64
        bits, nests deeper than 16, half surrogate pairs); each of those is a fault with its path.
        """
        check_size(frame.payload)
        faults: list[str] = []
        try:
            value = _decode(frame.payload)
        except (DecodeError, UnicodeDecodeError, RecursionError):
            value, faults = load(frame.payload)
        if isinstance(value, dict):
            return [_report(frame, value, Faults("", faults))]
        if not isinstance(value, list):
            raise ParseError(f"neither an object nor an array of objects, but {kind(value)}")
        if not value:
            raise ParseError("an array without objects")
        reports: list[Report] = []
        bad = 0
        for index, element in enumerate(value):
            if isinstance(element, dict):
                reports.append(_report(frame, element, Faults(f"[{index}].", faults)))
                faults = []
            elif (bad := bad + 1) <= MAX_BAD_ELEMENTS:
                reports.append(Report(frame.device_key, faults=[*faults, f"[{index}]: {kind(element)}, not an object"]))
                faults = []
        if bad > MAX_BAD_ELEMENTS:
            reports.append(Report(frame.device_key, faults=[f"and {bad - MAX_BAD_ELEMENTS} more that are no objects"]))
        return reports


def _report(frame: Frame, element: dict[str, Any], faults: Faults) -> Report:
    return Report(frame.device_key, fields=clean(element, 1, "", faults), faults=faults.texts())
