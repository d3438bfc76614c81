"""SenML (RFC 8428) in JSON and in CBOR: records resolved, and measurements and signals by their names and units.

One codec for both: no CBOR array begins as JSON does. What has a canonical meaning becomes an observation; everything
else stays in ``Reading.unknown`` under its name, where a profile may explain it.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs import cbor, senml_meaning
from protocols.codecs.terminal import Draft
from protocols.codecs.tolerant_json import check_size, kind, load, shown

MAX_RECORDS: Final = 1000
MAX_VERSION: Final = 10
MAX_NAME: Final = 256
RELATIVE_S: Final = 2**28  # RFC 8428, section 4.5.3: smaller times are relative to now
LAST_S: Final = 253_402_300_799.0  # 9999-12-31T23:59:59Z
JSON_STARTS: Final = b"[{\xef \t\r\n"

_LABELS: Final[Mapping[int, str]] = {
    -1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
"""RFC 8428, section 6, table 6: the integer labels of CBOR."""

_KNOWN: Final = frozenset({*_LABELS.values(), "vlo"})  # vlo: the object link of LwM2M 1.1
_NAME: Final = re.compile(r"[A-Za-z0-9/][-A-Za-z0-9:./_]*")


class Resolved(Struct, gc=False):
    """A record without its base fields. ``time_s`` is absolute, 0 for "now"; ``value`` is None when only a sum came."""

    name: str
    own: str
    unit: str
    time_s: float
    value: float | str | bool | bytes | None
    total: float | None = None


class SenmlCodec:
    """``ports.Codec``: one report for each time in the pack, in the order in which they first appear."""

    name = "senml"

    def parse(self, frame: Frame) -> Sequence[Report]:
        """Raises ParseError when the payload as a whole is no SenML pack."""
        faults: list[str] = []
        records = resolve(read_pack(frame.payload, faults), frame.received_at_us, faults)
        drafts: dict[float, Draft] = {}
        for record in records:
            draft = drafts.get(record.time_s)
            if draft is None:
                draft = drafts[record.time_s] = Draft(
                    frame, senml_meaning.identity(record.name.removesuffix(record.own))
                )
                draft.at_us = round(record.time_s * 1e6)
            senml_meaning.understand(draft, record.name, record.own, record.unit, record.value, record.total)
        if not drafts:
            raise ParseError("; ".join(faults) if faults else "a pack without a value")
        reports = []
        for draft in drafts.values():
            senml_meaning.settle_place(draft)
            draft.faults = [*faults, *draft.faults]
            faults = []  # those of the whole pack stand on its first report
            reports.append(draft.report())
        return reports


def read_pack(payload: bytes, faults: list[str]) -> list[Any]:
    """The records as they stand, labels as text. Raises ParseError."""
    check_size(payload)
    if not payload:
        raise ParseError("an empty payload")
    if payload[0] in JSON_STARTS:
        value, found = load(payload)
        faults.extend(found)
    else:
        value = _named(cbor.read(payload))
    if isinstance(value, dict):  # a single record without its array: what some senders do
        faults.append("a record that stands in no array")
        value = [value]
    if not isinstance(value, list):
        raise ParseError(f"not SenML: {kind(value)}, not an array of records")
    if len(value) > MAX_RECORDS:
        raise ParseError(f"{len(value)} records; a pack has at most {MAX_RECORDS}")
    return value


def _named(value: Any) -> Any:
    """CBOR records with the labels of JSON."""
    if not isinstance(value, list):
        return value
    return [
        {_LABELS.get(key, str(key)) if isinstance(key, int) else key: member for key, member in record.items()}
        if isinstance(record, dict)
        else record
        for record in value
    ]


def resolve(records: Sequence[Any], now_us: int, faults: list[str]) -> Iterator[Resolved]:
    """Apply base fields (RFC 8428, section 4.6). A record that cannot be used is a fault; the others count."""
    base: dict[str, Any] = {"bn": "", "bu": "", "bt": 0.0, "bv": None, "bs": None}
    for index, record in enumerate(records):
        where = f"[{index}]"
        if not isinstance(record, dict):
            faults.append(f"{where}: {kind(record)}, not a record")
            continue
        _take_base(base, record, where, faults)
        stranger = next((key for key in record if isinstance(key, str) and key.endswith("_") and key not in _KNOWN), "")
        if stranger:  # section 4.4: a field that must be understood
            faults.append(f"{where}: {shown(stranger)} must be understood, and is not")
            continue
        resolved = _resolve_one(base, record, now_us, where, faults)
        if resolved is not None:
            yield resolved


def _take_base(base: dict[str, Any], record: dict[str, Any], where: str, faults: list[str]) -> None:
    version = _number(record.get("bver"))
    if version is not None and version > MAX_VERSION:
        faults.append(f"{where}: version {version:g}; {MAX_VERSION} is understood")
    for label in ("bn", "bu"):
        if label in record:
            if isinstance(record[label], str):
                base[label] = record[label]
            else:
                faults.append(f"{where}: {label}: {kind(record[label])}, not a text")
    for label in ("bt", "bv", "bs"):
        if label in record:
            number = _number(record[label])
            if number is None:
                faults.append(f"{where}: {label}: not a number")
            else:
                base[label] = number


def _resolve_one(
    base: dict[str, Any], record: dict[str, Any], now_us: int, where: str, faults: list[str]
) -> Resolved | None:
    own = record.get("n", "")
    name = f"{base['bn']}{own}" if isinstance(own, str) else ""
    if not _has_value(record, base):
        return None  # a record of base fields alone
    if not name or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        faults.append(f"{where}: no usable name")
        return None
    value, known = _value(record, base, where, faults)
    total = _number(record.get("s"))
    if total is not None or ("s" not in record and base["bs"] is not None and "v" in record):
        total = (total or 0.0) + (base["bs"] or 0.0)
    if not known and total is None:
        value = None  # an alarm counts by its name alone
    unit = record.get("u", base["bu"])
    return Resolved(
        name,
        own,
        unit if isinstance(unit, str) else "",
        _time(record, base["bt"], now_us, where, faults),
        value,
        total,
    )


def _has_value(record: dict[str, Any], base: dict[str, Any]) -> bool:
    if any(label in record for label in ("v", "vs", "vb", "vd", "vlo", "s")):
        return True
    return "n" in record and base["bv"] is not None


def _value(
    record: dict[str, Any], base: dict[str, Any], where: str, faults: list[str]
) -> tuple[float | str | bool | bytes | None, bool]:
    """The value, and whether the record had a usable one."""
    if "vb" in record:
        if isinstance(record["vb"], bool):
            return record["vb"], True
        faults.append(f"{where}: vb: {kind(record['vb'])}, not true or false")
    elif "vs" in record or "vlo" in record:
        text = record.get("vs", record.get("vlo"))
        if isinstance(text, str):
            return text, True
        faults.append(f"{where}: vs: {kind(text)}, not a text")
    elif "vd" in record:
        data = _data(record["vd"])
        if data is not None:
            return data, True
        faults.append(f"{where}: vd: not base64url data")
    elif "v" in record or base["bv"] is not None:
        number = _number(record.get("v", 0))
        if number is not None:
            return number + (base["bv"] or 0.0), True
        faults.append(f"{where}: v: {kind(record['v']) if record.get('v') != [] else 'an array'}, not a number")
    return None, False


def _data(value: Any) -> bytes | None:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) < 1 << 63 else None
    return value if math.isfinite(value) else None


def _time(record: dict[str, Any], base_s: float, now_us: int, where: str, faults: list[str]) -> float:
    """Seconds since 1970, 0 for now. One that cannot be is a fault and counts as now."""
    own = record.get("t")
    own_s = 0.0 if own is None else _number(own)
    if own_s is None:
        faults.append(f"{where}: t: not a number")
        own_s = 0.0
    time_s = base_s + own_s
    if time_s == 0:
        return 0.0
    if time_s < RELATIVE_S:
        time_s += now_us / 1e6
    if not 0 < time_s <= LAST_S:
        faults.append(f"{where}: not a time of this age")
        return 0.0
    return round(time_s, 6)
