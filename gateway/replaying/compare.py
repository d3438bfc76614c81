"""What a record says, what it would say now, and what it lacks. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct, structs

from gateway.model import EMERGENCY_SIGNALS, Reading

POSITION = "position"

# Why a record is left as it is: a closed set, the keys of the totals.
WOULD_LOSE = "would_lose"
WOULD_BE_FAULT = "would_be_a_fault"
STILL_FAULT = "still_a_fault"
READS_OTHERWISE = "reads_otherwise"
ALONE = "alone"
RESEND = "resend"
NOT_THEIRS = "not_theirs"

REASONS = {
    WOULD_LOSE: "it would lose observations that it has",
    WOULD_BE_FAULT: "it would be a fault now",
    STILL_FAULT: "it still cannot be read",
    READS_OTHERWISE: "it has these observations, but with other values or times; --changed adds them",
    ALONE: "it cannot be understood alone: what was said before it, or its key, is not in the journal",
    RESEND: "it is a resend of a record that is repaired",
    NOT_THEIRS: "its device is unknown or retired now, or belonged to somebody else then",
}


class Part(Struct):
    """One report of a frame: as it was journalled, or as it would be now. ``name`` names a resend, "" for nothing."""

    part: int
    device_id: str
    device_key: str
    reading: Reading | None
    fault: str | None
    name: str = ""
    also_at: tuple[int, ...] = ()  # times of what was added to it


class Repair(Struct, array_like=True):
    """What one part of a frame lacks. ``reading`` is marked as stored: it tells of the past."""

    part: int
    device_id: str
    device_key: str
    reading: Reading
    fault: str | None = None


class Difference(Struct):
    """Of two readings of the same report, by name of what is observed."""

    gained: list[str]
    changed: list[str]
    lost: list[str]
    retimed: bool = False


class Finding(Struct):
    """A frame that is understood differently now. ``why`` is "" when ``repairs`` may be applied."""

    seq: int
    was: list[Part]
    now: list[Part]
    repairs: list[Repair]
    why: str = ""
    known: bool = False  # nothing is to be told: its observations are in the journal by another record


def names(reading: Reading | None) -> list[str]:
    """What a reading speaks of: metrics, signals, and ``position``."""
    if reading is None:
        return []
    return [*reading.measurements, *reading.signals, *([POSITION] if reading.position is not None else [])]


def difference(old: Reading | None, new: Reading | None, also_at: Sequence[int] = ()) -> Difference:
    """What ``new`` has that ``old`` lacks, has otherwise, or has lost. ``also_at``: times that ``old`` tells of too."""
    if old is None or new is None or not names(old):
        return Difference(names(new), [], names(old) if new is None else [])
    found = Difference([], [], [name for name in names(old) if name not in names(new)])
    found.retimed = new.observed_at_us not in (old.observed_at_us, *also_at)
    for metric, value in new.measurements.items():
        if metric not in old.measurements:
            found.gained.append(metric)
        elif found.retimed or value != old.measurements[metric]:
            found.changed.append(metric)
    for signal, active in new.signals.items():
        before = old.signals.get(signal)
        if before is None or (active and not before and signal in EMERGENCY_SIGNALS):
            found.gained.append(signal)
        elif found.retimed or active != before:
            found.changed.append(signal)
    if new.position is not None:
        if old.position is None:
            found.gained.append(POSITION)
        elif found.retimed or new.position != old.position:
            found.changed.append(POSITION)
    return found


def only(reading: Reading | None, wanted: Sequence[str], at_us: int) -> Reading:
    """These observations of a reading, marked as stored; an empty one of ``at_us`` where there is none."""
    if reading is None:
        return Reading(at_us, stored=True)
    return Reading(
        reading.observed_at_us,
        {name: value for name, value in reading.measurements.items() if name in wanted},
        {name: active for name, active in reading.signals.items() if name in wanted},
        reading.position if POSITION in wanted else None,
        stored=True,
    )


def is_emergency(reading: Reading | None) -> bool:
    return reading is not None and any(
        active and signal in EMERGENCY_SIGNALS for signal, active in reading.signals.items()
    )


def merged(was: Sequence[Part], repairs: Sequence[Repair]) -> list[Part]:
    """The parts of a frame together with what was added to them by an earlier replay."""
    parts = {part.part: part for part in was}
    for repair in repairs:
        old = parts.get(repair.part)
        reading = repair.reading
        base = old or Part(repair.part, repair.device_id, repair.device_key, None, None)
        also_at = (*base.also_at, reading.observed_at_us)
        if base.reading is not None:
            before = base.reading
            reading = Reading(
                before.observed_at_us,
                before.measurements | reading.measurements,
                before.signals | reading.signals,
                reading.position or before.position,
            )
        parts[repair.part] = structs.replace(base, reading=reading, fault=repair.fault, also_at=also_at)
    return [parts[number] for number in sorted(parts)]


def compare(seq: int, at_us: int, was: Sequence[Part], now: Sequence[Part], *, also_changed: bool) -> Finding | None:
    """How a frame is understood differently now, and what its record lacks; None when nothing differs."""
    old = {part.part: part for part in was}
    broken = any(part.fault is not None for part in was)
    repairs: list[Repair] = []
    lost = any(names(part.reading) and all(part.part != other.part for other in now) for part in was)
    changed, retimed, faults, differs = False, False, False, lost
    for part in now:
        before = old.get(part.part)
        if before is None:
            if part.name and not broken:
                continue  # a report that names itself may have come before, and then is in the journal already
            before = Part(part.part, part.device_id, part.device_key, None, None)
        found = difference(before.reading, part.reading, before.also_at)
        lost = lost or bool(found.lost)
        changed = changed or bool(found.changed)
        retimed = retimed or found.retimed
        faults = faults or (part.fault is not None and not broken)
        differs = differs or bool(found.gained or found.changed or found.lost) or part.fault != before.fault
        wanted = found.gained + (found.changed if also_changed else [])
        if wanted or (before.fault is not None and part.fault is None):
            lacking = only(part.reading, wanted, at_us)
            repairs.append(Repair(part.part, part.device_id, part.device_key, lacking, part.fault))
    if not differs:
        return None
    finding = Finding(seq, list(was), list(now), repairs)
    if any(is_emergency(repair.reading) for repair in repairs):
        return finding  # it adds and takes nothing away: nothing may keep an emergency
    if lost or faults:
        finding.why = WOULD_BE_FAULT if faults else WOULD_LOSE
    elif retimed and not also_changed:
        finding.why = READS_OTHERWISE
    elif not repairs:
        finding.why = READS_OTHERWISE if changed else STILL_FAULT
    return finding


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Repair])


def encode(repairs: Sequence[Repair]) -> bytes:
    return _ENCODER.encode(repairs)


def decode(body: bytes) -> list[Repair]:
    """The inverse of ``encode``. Raises msgspec.DecodeError."""
    return _DECODER.decode(body)


def said(reading: Reading | None, received_at_us: int) -> int:
    """A hash of what a report says, the same however often it was sent."""
    if reading is None:
        return 0
    at_us = reading.observed_at_us if reading.observed_at_us != received_at_us else 0
    return zlib.crc32(_ENCODER.encode((at_us, reading.measurements, reading.signals)))
