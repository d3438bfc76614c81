"""Understands the journal's frames again, as ingest would now, with what their records kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.errors import FrameError
from gateway.ingest import UNVERIFIED_FAULT
from gateway.model import EMERGENCY_SIGNALS, DeviceBinding, Frame, Reading, Record, Report
from gateway.ports import Codec, Directory, Profiles
from gateway.replaying import compare
from gateway.replaying.compare import Finding, Part, Repair
from gateway.replaying.frames import Kept
from gateway.storage.dedup import KEY_LIFE_US, NAMED

CONNECTIONS: Final = 4096
"""Connections whose teaching is remembered at a time, the latest."""
NAMES: Final = 50_000
"""Named reports that are remembered, so that of a frame that was sent again and again one is repaired."""


def is_repair(kept: Kept) -> bool:
    """Whether a replay brought this frame into the journal (``queue.reference``)."""
    first = kept.records[0]
    named = first.dedup_key if first.verified else first.source.rpartition(" ")[2]
    return named.removeprefix(NAMED).startswith("replay:")


class _Untaught(Mapping[str, Any]):
    """What a connection of which nothing is known has taught; remembers whether a codec looked for something."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return True  # so that nobody takes another empty one in its place

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[str]:
        self.asked = True
        return iter(())

    def __getitem__(self, key: str) -> Any:
        self.asked = True
        raise KeyError(key)


class Reader:
    """One pass over the journal, in its order: what a frame teaches about its connection holds for those behind it."""

    def __init__(
        self,
        codecs: Mapping[str, Codec],
        profiles: Profiles,
        directory: Directory,
        person_then: Callable[[str, int], str],
        *,
        also_changed: bool = False,
    ) -> None:
        """``person_then``: to whom a device belonged at a time, "" for nobody. ``also_changed``: observations that
        read otherwise now are lacking too.
        """
        self._codecs = codecs
        self._profiles = profiles
        self._directory = directory
        self._person_then = person_then
        self._also_changed = also_changed
        self._taught: OrderedDict[tuple[str, str, str], Mapping[str, Any]] = OrderedDict()
        self._named: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()  # to number and reception

    def can_read(self, kept: Kept) -> bool:
        """Whether the frame's bytes and its codec are here."""
        first = kept.records[0]
        return not first.part and first.codec in self._codecs

    def look_at(self, kept: Kept, repaired: Sequence[Repair]) -> Finding | None:
        """How a frame that ``can_read`` is understood differently now, beside what was added to it before."""
        first = kept.records[0]
        at_us = first.received_at_us
        untaught = _Untaught()
        now = self._understand(kept, untaught)
        was = [
            Part(record.part, record.device_id, record.device_key, record.reading, record.fault)
            for record in kept.records
        ]
        if repaired:
            self._is_resend(kept.seq, at_us, now)
            was = compare.merged(was, [_prefixed(repair, first) for repair in repaired])
        found = compare.compare(kept.seq, at_us, was, now, also_changed=self._also_changed)
        if found is None or found.why:
            if found is not None and untaught.asked and found.why in (compare.WOULD_LOSE, compare.WOULD_BE_FAULT):
                found.why = compare.ALONE
            return found
        if not all(self._is_theirs(first, repair) for repair in found.repairs):
            found.why = compare.NOT_THEIRS
        elif not repaired and self._is_resend(kept.seq, at_us, now):
            found.why, found.known = compare.RESEND, True
        for repair in found.repairs:  # ingest says it again
            if repair.fault is not None and not first.verified:
                repair.fault = repair.fault.removeprefix(UNVERIFIED_FAULT).removeprefix("; ") or None
        return found

    # ---- as ingest does --------------------------------------------------------------------------------------------

    def _understand(self, kept: Kept, untaught: _Untaught) -> list[Part]:
        first = kept.records[0]
        connection = (first.transport, first.codec, first.source.partition(" ")[0])  # a broker's topic stands behind
        frame = Frame(
            first.transport,
            first.codec,
            first.source,
            first.payload,
            first.received_at_us,
            first.device_key,
            verified=first.verified,
            context=self._taught.get(connection, untaught),
        )
        try:
            reports = self._codecs[first.codec].parse(frame)
            for report in reports:
                if report.context is not None:
                    self._teach(connection, report.context)
            if not reports:
                return [self._part(first, 0, first.device_id, first.device_key, None, None)]
            return [self._explained(kept, report, part) for part, report in enumerate(reports)]
        except FrameError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - a codec's bug is what a replay may be there to find
            fault = f"{first.codec} failed: {type(error).__name__}: {error}"
        return [self._part(first, 0, first.device_id, first.device_key, None, fault)]

    def _teach(self, connection: tuple[str, str, str], context: Mapping[str, Any]) -> None:
        self._taught[connection] = context
        self._taught.move_to_end(connection)
        if len(self._taught) > CONNECTIONS:
            self._taught.popitem(last=False)

    def _explained(self, kept: Kept, report: Report, part: int) -> Part:
        first = kept.records[0]
        device_id = self._whose(kept, report)
        binding = self._directory.device(device_id) if device_id else None
        reading = report.reading
        fault = "; ".join(report.faults) if report.faults else None
        if report.fields is not None or (reading is not None and reading.unknown):
            try:
                profile = self._profile(kept, part, binding) or report.model_hint
                reading = self._profiles.explain(profile, report, first.received_at_us)
                if report.faults:
                    fault = "; ".join(report.faults)
            except FrameError as error:
                fault = str(error) if fault is None else f"{fault}; {error}"
        found = self._part(first, part, device_id, report.device_key or first.device_key, reading, fault)
        if report.seq >= 0:
            found.name = f"{report.boot}:{report.seq}:{compare.said(reading, first.received_at_us)}"
        elif report.dedup_key:
            found.name = f"key:{report.dedup_key}"
        return found

    def _profile(self, kept: Kept, part: int, binding: DeviceBinding | None) -> str:
        """The device's of now; of a device that is no more, the one of then."""
        if binding is not None:
            return binding.profile
        return next((record.profile for record in kept.records if record.part == part), "")

    def _whose(self, kept: Kept, report: Report) -> str:
        """The device of a report: as it was resolved then, where that can be told; else by what it calls itself."""
        first, key = kept.records[0], report.device_key
        if not key or key in (first.device_key, first.device_id):
            return first.device_id
        for record in kept.records:
            if record.device_key == key:
                return record.device_id
        if first.device_id and first.reading is None and first.fault is not None and len(kept.records) == 1:
            return first.device_id  # its transport knew it: a fault has no other identity
        binding = self._directory.device(key) or self._directory.device_by_key(key)
        return "" if binding is None else binding.device_id

    @staticmethod
    def _part(
        first: Record, part: int, device_id: str, device_key: str, reading: Reading | None, fault: str | None
    ) -> Part:
        if not first.verified:  # what proved nothing then proves nothing now
            reading = _only_emergencies(reading)
            fault = UNVERIFIED_FAULT if fault is None else f"{UNVERIFIED_FAULT}; {fault}"
        return Part(part, device_id, device_key, reading, fault)

    # ---- may it be repaired ----------------------------------------------------------------------------------------

    def _is_theirs(self, first: Record, repair: Repair) -> bool:
        """Whether the device stands for the same person as when it spoke, so that nobody gets another's readings."""
        if not repair.device_id:
            return not first.verified
        binding = self._directory.device(repair.device_id)
        if binding is None or binding.state == "retired":
            return False
        known_then = repair.device_id == first.device_id
        then = first.person_id if known_then else self._person_then(repair.device_id, first.received_at_us)
        return binding.person_id == then

    def _is_resend(self, seq: int, at_us: int, parts: Sequence[Part]) -> bool:
        """Whether all its reports came before within this pass, by another frame; remembers them otherwise."""
        named = [(part.device_id, part.name) for part in parts if part.name]
        if not named or len(named) < len(parts):
            return False
        before = [self._named.get(name) for name in named]
        if all(
            found is not None
            and found[0] != seq
            and (not name[1].startswith("key:") or 0 <= at_us - found[1] < KEY_LIFE_US)
            for name, found in zip(named, before, strict=True)
        ):
            return True
        for name in named:
            self._named[name] = (seq, at_us)
            if len(self._named) > NAMES:
                self._named.popitem(last=False)
        return False


def _prefixed(repair: Repair, first: Record) -> Repair:
    """As the record that the repair made has its fault."""
    if first.verified:
        return repair
    fault = UNVERIFIED_FAULT if repair.fault is None else f"{UNVERIFIED_FAULT}; {repair.fault}"
    return Repair(repair.part, repair.device_id, repair.device_key, repair.reading, fault)


def _only_emergencies(reading: Reading | None) -> Reading | None:
    if reading is None:
        return None
    signals = {signal: True for signal, active in reading.signals.items() if active and signal in EMERGENCY_SIGNALS}
    return Reading(reading.observed_at_us, {}, signals, reading.position) if signals else None
