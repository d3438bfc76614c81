"""The only road in: frames become records, records become durable, and only then does anyone hear "accepted"."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from gateway.clock import Clock
from gateway.errors import FrameError, StorageError
from gateway.model import (
    EMERGENCY_SIGNALS,
    URGENT_SIGNALS,
    Committed,
    DeviceBinding,
    Frame,
    Reading,
    Record,
    Report,
    Urgency,
    Verdict,
)
from gateway.ports import Codec, CommittedListener, Directory, Profiles, VerdictFuture
from gateway.storage.dedup import NAMED, Marks, content_key, digest_of
from gateway.storage.journal import storable_text

LINGER_S: Final = 0.25
TARGET_RECORDS: Final = 64  # a commit should carry about as many
QUICK_LINGER_S: Final = 0.001
QUICK_COMMITS_PER_S: Final = 4.0  # what flash storage bears for years
QUICK_COMMITS_BURST: Final = 240.0
GROUP_RECORDS: Final = 2000
GROUP_BYTES: Final = 4 << 20
SLICE: Final = 50  # records that the listeners get in one turn of the loop
PUMP_S: Final = 0.001  # and no longer than this
AT_ONCE: Final = 500  # records that an emergency and what is before it may be, to be handed over without waiting
BACKLOG: Final = 20_000
UNVERIFIED_FAULT: Final = "credential missing or wrong: only emergency signals are used"

log = structlog.get_logger("ingest")


class Appender(Protocol):
    """What ingest asks of the journal (gateway.storage.writer)."""

    def submit(
        self, records: Sequence[Record], done: Callable[[int | StorageError], None], *, emergency: bool
    ) -> None: ...


class _Group:
    """What goes into one commit, and the future that everyone in it shares."""

    __slots__ = (
        "emergency", "failures", "future", "has_duplicates", "keys", "numbers", "payload_bytes", "records", "started_s",
    )  # fmt: skip

    def __init__(self, future: asyncio.Future[Verdict], *, emergency: bool, started_s: float, failures: int) -> None:
        self.future = future
        self.emergency = emergency
        self.started_s = started_s
        self.failures = failures
        self.has_duplicates = False
        self.records: list[Record] = []
        self.numbers: list[tuple[str, int, int, int]] = []
        self.keys: list[tuple[str, str]] = []
        self.payload_bytes = 0


class IngestCounters:
    """Monotonic counters; in = stored + duplicates + refused."""

    __slots__ = ("duplicates", "emergencies", "faults", "frames", "records", "refused", "unverified")

    def __init__(self) -> None:
        self.frames = self.records = self.duplicates = self.faults = self.refused = self.emergencies = 0
        self.unverified = 0

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class JournalIngest:
    """Implements ``ports.Ingest``. Everything here runs on the loop; only the commit is elsewhere."""

    def __init__(
        self,
        *,
        codecs: Mapping[str, Codec],
        profiles: Profiles,
        directory: Directory,
        marks: Marks,
        journal: Appender,
        clock: Clock,
        linger_max_s: float = LINGER_S,
    ) -> None:
        self._codecs = codecs
        self._profiles = profiles
        self._directory = directory
        self._marks = marks
        self._journal = journal
        self._clock = clock
        self._linger_max_s = linger_max_s
        self._loop = asyncio.get_running_loop()
        self._open: dict[bool, _Group] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._failures = 0
        self._listeners: list[CommittedListener] = []
        self._backlog: deque[Committed] = deque()
        self._backlog_records = 0
        self._pumping = False
        self._rate = 0.0
        self._rate_at_s = self._loop.time()
        self._rate_count = 0
        self._quick = QUICK_COMMITS_BURST
        self._closed = False
        self.counters = IngestCounters()
        self.observe_commit: Callable[[float], None] = lambda _seconds: None

    def listen(self, listener: CommittedListener) -> None:
        """Call this for every slice of committed records, in order."""
        self._listeners.append(listener)

    # ---- the road ----------------------------------------------------------------------------------------------------

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        if self._closed:
            return self._refuse()
        emergency = False
        understood: list[tuple[Record, Report | None, Frame]] = []
        for frame in frames:
            for record, report in self._understand(frame):
                understood.append((record, report, frame))
                emergency = emergency or record.urgency == Urgency.EMERGENCY
        group = self._open.get(emergency)
        if group is None:
            group = self._open[emergency] = _Group(
                VerdictFuture(loop=self._loop),
                emergency=emergency,
                started_s=self._loop.time(),
                failures=self._failures,
            )
        urgent = emergency
        for record, report, frame in understood:
            if self._is_new(group, record, report, frame):
                group.records.append(record)
                group.payload_bytes += len(record.payload)
                urgent = urgent or record.urgency != Urgency.ROUTINE
        self.counters.frames += len(frames)
        self._rate_count += len(understood)
        self._schedule(group, urgent=urgent)
        return group.future

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        waiter: asyncio.Future[Verdict] = self._loop.create_future()

        def resolve(shared: asyncio.Future[Verdict]) -> None:
            if not waiter.done():
                waiter.set_result(shared.result())

        self.offer(frames).add_done_callback(resolve)
        return await waiter

    async def settled(self) -> bool:
        """Commit what waits; return, once that is done, whether everything offered until now is on disk."""
        failures = self._failures
        self._flush()
        waiter: asyncio.Future[bool] = self._loop.create_future()

        def done(outcome: int | StorageError) -> None:
            if not waiter.done():
                waiter.set_result(not isinstance(outcome, StorageError) and self._failures == failures)

        self._journal.submit([], done, emergency=False)  # nothing to write: it stands behind all that was submitted
        return await waiter

    async def close(self) -> None:
        """Refuse new frames, commit the rest, hand it to the listeners, return."""
        self._closed = True
        self._flush()
        while self._in_flight or self._backlog:
            await asyncio.sleep(0.002)

    def _refuse(self) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = self._loop.create_future()
        future.set_result(Verdict.RETRY)
        return future

    # ---- understanding -----------------------------------------------------------------------------------------------

    def _understand(self, frame: Frame) -> list[tuple[Record, Report | None]]:
        """One record for each report, or one with a fault. Never raises: a codec's bug must not lose the frame."""
        binding = self._directory.device(frame.device_key) if frame.device_key else None
        try:
            reports = frame.reports
            if reports is None:
                reports = self._codecs[frame.codec].parse(frame)
            if len(reports) == 1 and binding is not None:
                report = reports[0]
                record = _ordinary(frame, binding, report)
                if record is not None:
                    return [(record, report)]
            elif not reports:
                return [(self._record(frame, binding, frame.payload, 0, None, None), None)]
            return [self._explain(frame, binding, report, part) for part, report in enumerate(reports)]
        except FrameError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - see the docstring
            fault = f"{frame.codec} failed: {type(error).__name__}: {error}"
            log.error("codec_failed", codec=frame.codec, device=frame.device_key, error=type(error).__name__)
        return [(self._record(frame, binding, frame.payload, 0, None, fault), None)]

    def _explain(self, frame: Frame, binding: DeviceBinding | None, report: Report, part: int) -> tuple[Record, Report]:
        if binding is None and report.device_key:
            binding = self._directory.device(report.device_key) or self._directory.device_by_key(report.device_key)
        reading = report.reading
        fault = "; ".join(report.faults) if report.faults else None
        if report.fields is not None or (reading is not None and reading.unknown):
            try:
                profile = binding.profile if binding is not None else report.model_hint
                reading = self._profiles.explain(profile, report, frame.received_at_us)
                if report.faults:  # the profile adds what it could not use
                    fault = "; ".join(report.faults)
            except FrameError as error:
                fault = str(error) if fault is None else f"{fault}; {error}"
        payload = frame.payload if part == 0 else b""
        return self._record(frame, binding, payload, part, reading, fault, report.device_key), report

    def _record(
        self,
        frame: Frame,
        binding: DeviceBinding | None,
        payload: bytes,
        part: int,
        reading: Reading | None,
        fault: str | None,
        claimed: str = "",
    ) -> Record:
        verified = frame.verified and binding is not None and binding.state != "retired"
        if not verified:
            self.counters.unverified += 1
            reading = _only_emergencies(reading)
            fault = UNVERIFIED_FAULT if fault is None else f"{UNVERIFIED_FAULT}; {fault}"
        urgency = Urgency.ROUTINE if reading is None or not reading.signals else _urgency(reading.signals)
        if fault is not None:
            self.counters.faults += 1
        return Record(
            frame.received_at_us,
            frame.transport,
            frame.codec,
            frame.source,
            payload,
            binding.device_id if binding is not None else "",
            storable_text(claimed or frame.device_key),
            binding.person_id if binding is not None else "",
            binding.profile if binding is not None else "",
            verified,
            urgency,
            "",
            reading,
            fault if fault is None else storable_text(fault),
            part,
        )

    def _is_new(self, group: _Group, record: Record, report: Report | None, frame: Frame) -> bool:
        """Whether the record is to be kept. A resend is not, and its acknowledgement waits for this group's commit.

        What names a resend: boot and seq; else a key of the protocol's or the sender's; else, when the transport says
        that it delivers again, the same bytes within ten minutes. Two presses that look alike are two presses.
        """
        if not record.verified:
            return True  # nobody may use up another device's numbers
        device_key = record.device_id
        if report is not None and report.seq >= 0:
            digest = digest_of(record)
            if self._marks.seen_number(device_key, report.boot, report.seq, digest):
                self.counters.duplicates += 1
                group.has_duplicates = True
                return False
            record.dedup_key = f"{report.boot}:{report.seq}" if report.boot else str(report.seq)
            group.numbers.append((device_key, report.boot, report.seq, digest))
            return True
        key = storable_text((report.dedup_key if report is not None else "") or frame.idempotency_key)
        if key and record.part:
            key = f"{key}/{record.part}"
        named = bool(key)
        if not named:
            key = content_key(frame.payload, record.part)
        seen = self._marks.seen_key(device_key, key, record.received_at_us)
        if seen and (named or frame.redelivered):
            self.counters.duplicates += 1
            group.has_duplicates = True
            return False
        if named:
            record.dedup_key = NAMED + key
        if not seen:
            group.keys.append((device_key, key))
        return True

    # ---- committing --------------------------------------------------------------------------------------------------

    def _schedule(self, group: _Group, *, urgent: bool) -> None:
        if urgent:
            self._flush(alone=group.emergency and not self._awaits(group))
        elif len(group.records) >= GROUP_RECORDS or group.payload_bytes >= GROUP_BYTES:
            if self._in_flight < 2:
                self._flush()
        elif self._timer is None and not self._in_flight:
            self._timer = self._loop.call_later(self._linger_s(), self._flush)

    def _linger_s(self) -> float:
        """How long routine frames wait for company: as long as it takes to fill a commit, at most ``linger_max_s``.

        After a quiet time there is a stock of immediate commits, so that a lone device does not wait.
        """
        now_s = self._loop.time()
        elapsed_s = now_s - self._rate_at_s
        if elapsed_s > 0.1:
            weight = min(1.0, elapsed_s)
            self._rate += weight * (self._rate_count / elapsed_s - self._rate)
            self._quick = min(QUICK_COMMITS_BURST, self._quick + elapsed_s * QUICK_COMMITS_PER_S)
            self._rate_count = 0
            self._rate_at_s = now_s
        linger_s = min(self._linger_max_s, TARGET_RECORDS / max(self._rate, 1.0))
        if linger_s > QUICK_LINGER_S and self._quick >= 1.0:
            self._quick -= 1.0
            return QUICK_LINGER_S
        return linger_s

    def _awaits(self, emergency: _Group) -> bool:
        """Whether something waits that must stay before it: of one of its devices, or what it is a resend of."""
        waiting = self._open.get(False)
        if waiting is None or emergency.has_duplicates:
            return waiting is not None
        devices = {record.device_id for record in emergency.records}
        return any(record.device_id in devices for record in waiting.records)

    def _flush(self, *, alone: bool = False) -> None:
        """Commit what waits; ``alone``: the emergencies, so that their commit is not one of thousands of readings."""
        if alone:
            groups = {True: self._open.pop(True)}
        else:
            groups, self._open = self._open, {}
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for emergency in (False, True):  # what came before an emergency keeps its place before it
            group = groups.get(emergency)
            if group is None:
                continue
            self._in_flight += 1
            submitted_s = self._loop.time()

            def done(outcome: int | StorageError, group: _Group = group, submitted_s: float = submitted_s) -> None:
                self.observe_commit(self._loop.time() - submitted_s)
                self._committed(group, outcome)

            # A group of duplicates alone still waits its turn, behind the commits that hold the originals.
            self._journal.submit(group.records, done, emergency=emergency)

    def _committed(self, group: _Group, outcome: int | StorageError) -> None:
        self._in_flight -= 1
        if isinstance(outcome, StorageError):
            self._failures += 1
            for number in group.numbers:
                self._marks.forget_number(*number)
            for key in group.keys:
                self._marks.forget_key(*key)
            self.counters.refused += len(group.records)
            group.future.set_result(Verdict.RETRY)
        else:
            self.counters.records += len(group.records)
            self.counters.emergencies += len(group.records) if group.emergency else 0
            # The original of a duplicate may have been in a commit that failed meanwhile: then nobody has it.
            doubtful = group.has_duplicates and group.failures != self._failures
            group.future.set_result(Verdict.RETRY if doubtful else Verdict.ACCEPTED)
            if group.records:
                self._hand_over(Committed(outcome, group.records), emergency=group.emergency)
        if self._open and self._timer is None and not self._in_flight:
            waited_s = self._loop.time() - min(waiting.started_s for waiting in self._open.values())
            self._timer = self._loop.call_later(max(0.0, self._linger_s() - waited_s), self._flush)

    def _hand_over(self, committed: Committed, *, emergency: bool) -> None:
        self._backlog.append(committed)
        self._backlog_records += len(committed.records)
        while self._backlog_records > BACKLOG:  # the listeners are slower than the devices: let the devices wait
            self._pump_slice()
        if emergency and self._backlog_records <= AT_ONCE:
            while self._backlog:
                self._pump_slice()
        elif not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        until_s = self._loop.time() + PUMP_S
        while self._backlog:
            self._pump_slice()
            if self._loop.time() > until_s:
                break
        if self._backlog:
            self._loop.call_soon(self._pump)
        else:
            self._pumping = False

    def _pump_slice(self) -> None:
        committed = self._backlog.popleft()
        if len(committed.records) > SLICE:
            self._backlog.appendleft(Committed(committed.first_seq + SLICE, committed.records[SLICE:]))
            committed = Committed(committed.first_seq, committed.records[:SLICE])
        self._backlog_records -= len(committed.records)
        for listener in self._listeners:
            listener(committed)


def _ordinary(frame: Frame, binding: DeviceBinding, report: Report) -> Record | None:
    """What the long way makes of most frames: understood, without a fault, from a known device."""
    reading = report.reading
    if (
        reading is None
        or reading.unknown
        or report.fields is not None
        or report.faults
        or not frame.verified
        or binding.state == "retired"
    ):
        return None
    return Record(
        frame.received_at_us,
        frame.transport,
        frame.codec,
        frame.source,
        frame.payload,
        binding.device_id,
        report.device_key or frame.device_key,
        binding.person_id,
        binding.profile,
        True,
        _urgency(reading.signals) if reading.signals else Urgency.ROUTINE,
        "",
        reading,
        None,
        0,
    )


def _urgency(signals: Mapping[str, bool]) -> Urgency:
    urgency = Urgency.ROUTINE
    for signal, active in signals.items():
        if signal in EMERGENCY_SIGNALS and active:
            return Urgency.EMERGENCY
        if signal in URGENT_SIGNALS:
            urgency = Urgency.URGENT
    return urgency


def _only_emergencies(reading: Reading | None) -> Reading | None:
    """What may be used of a report whose sender proved nothing."""
    if reading is None:
        return None
    signals = {signal: True for signal, active in reading.signals.items() if active and signal in EMERGENCY_SIGNALS}
    if not signals:
        return None
    return Reading(reading.observed_at_us, {}, signals, reading.position, stored=reading.stored)
