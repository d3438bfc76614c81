"""Our own frames of terminals: ``<codec>.toml`` beside this file, each with what it must say.

``[[vector]]``: ``name``; ``hex`` or ``text`` (one whole frame as its framer cuts it; ``reframe = false``: not from a
stream); ``device_key`` and ``context`` that the connection has learnt; then what is expected: ``learns`` (the identity
the frame tells), ``teaches`` (the context), ``observations`` (exactly these, over all reports; ``observed_at`` may be
left out where it is the time of receipt), ``unknown`` (these members, merged over all reports), ``faults`` (parts of
the texts, one for each fault), ``stored``, ``reply`` (hex, or ``reply_text``; left out: none), ``proof``, ``dedup``
(whether there is a key), ``reports`` (how many). Or ``fault``: a part of the ParseError's text. ``lenient = true`` asks
the lenient codec. ``received_at`` is 2026-11-22T01:02:03Z unless it says otherwise.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, convert

from gateway.clock import iso, to_us
from gateway.errors import ParseError
from gateway.model import Frame, Report
from gateway.observations import observations
from gateway.ports import Codec
from protocols.registry import CODECS, lenient

HERE = Path(__file__).parent
RECEIVED_AT = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)


class Vector(Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    hex: str = ""
    text: str | None = None
    reframe: bool = True
    device_key: str = ""
    context: dict[str, Any] | None = None
    received_at: datetime = RECEIVED_AT
    lenient: bool = False
    learns: str = ""
    teaches: dict[str, Any] | None = None
    observations: list[dict[str, Any]] = []
    unknown: dict[str, Any] = {}
    faults: list[str] = []
    stored: bool = False
    reply: str | None = None
    reply_text: str | None = None
    proof: bool | None = None
    dedup: bool | None = None
    reports: int | None = None
    fault: str = ""

    @property
    def payload(self) -> bytes:
        return bytes.fromhex(self.hex) if self.text is None else self.text.encode("utf-8", "surrogateescape")


def vectors(codec: str) -> list[Vector]:
    path = HERE / f"{codec}.toml"
    if not path.exists():
        return []
    return convert(tomllib.loads(path.read_text(encoding="utf-8")), dict[str, list[Vector]])["vector"]


def parse(codec: Codec, vector: Vector) -> list[Report]:
    frame = Frame(
        "test", codec.name, "test", vector.payload, to_us(vector.received_at), vector.device_key, context=vector.context
    )
    return list(codec.parse(frame))


def problems(codec: str, vector: Vector) -> list[str]:
    """What the codec of this name makes of the vector that it should not; empty when all is as expected."""
    return problems_with(lenient(codec) if vector.lenient else CODECS[codec], vector)


def problems_with(codec: Codec, vector: Vector) -> list[str]:
    """The same of any codec."""
    try:
        reports = parse(codec, vector)
    except ParseError as error:
        right = vector.fault and vector.fault in str(error)
        return [] if right else [f"fault {error}, expected {vector.fault or 'none'}"]
    if vector.fault:
        return [f"no fault, expected {vector.fault}"]
    found: list[str] = []
    for what, seen, wanted in _comparisons(reports, vector):
        if seen != wanted:
            found.append(f"{what}: {seen}, expected {wanted}")
    return found


def _comparisons(reports: list[Report], vector: Vector) -> list[tuple[str, Any, Any]]:
    readings = [report.reading for report in reports if report.reading is not None]
    seen = [observation for reading in readings for observation in observations(reading)]
    wanted = [{"observed_at": iso(to_us(vector.received_at))} | expected for expected in vector.observations]
    unknown: dict[str, Any] = {}
    for reading in readings:
        unknown |= reading.unknown or {}
    faults = [fault for report in reports for fault in report.faults or ()]
    reply = b"".join(report.reply for report in reports if report.reply) or None
    expected_reply = bytes.fromhex(vector.reply) if vector.reply else None
    if vector.reply_text is not None:
        expected_reply = vector.reply_text.encode()
    keys = {report.device_key for report in reports if report.device_key} - {vector.device_key}
    taught = next((report.context for report in reversed(reports) if report.context is not None), None)
    compared: list[tuple[str, Any, Any]] = [
        ("observations", _sorted(seen), _sorted(wanted)),
        ("unknown", {name: unknown.get(name) for name in vector.unknown}, vector.unknown),
        ("learns", keys, {vector.learns} - {""}),
        ("teaches", taught, vector.teaches),
        ("reply", reply, expected_reply),
        ("number of faults", len(faults), len(vector.faults)),
        ("stored", any(report.stored for report in reports), vector.stored),
        ("proof", next((r.proof for r in reports if r.proof is not None), None), vector.proof),
    ]
    compared += [
        ("faults", fault, part) for fault, part in zip(faults, vector.faults, strict=False) if part not in fault
    ]
    if vector.reports is not None:
        compared.append(("reports", len(reports), vector.reports))
    if vector.dedup is not None:
        compared.append(("dedup", any(report.dedup_key for report in reports), vector.dedup))
    return compared


def _sorted(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Positions, measurements and signals in one order; those of the last known place need no accuracy."""
    filled = [
        {"accuracy_m": None, "source": "gnss", "valid": True} | item if item["kind"] == "position" else item
        for item in shown
    ]
    return sorted(filled, key=lambda item: (item["kind"], item.get("signal") or item.get("metric") or ""))
