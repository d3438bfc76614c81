"""The writer thread: everything that changes the journal file goes through it, many jobs to a commit."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import structlog

from gateway import crashpoints
from gateway.errors import StorageBrokenError, StorageError, StorageFullError
from gateway.model import Record
from gateway.storage import journal
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.readers import Readers
from gateway.storage.reserve import Reserve

T = TypeVar("T")
JOBS_PER_COMMIT: Final = 64
CHECKPOINT_BYTES: Final = 4 << 20
CHECKPOINT_INLINE_BYTES: Final = 48 << 20

log = structlog.get_logger("journal")

BatchDone = Callable[[int | StorageError], None]


class _Batch:
    """Records to append. ``done`` gets the first sequence number, or why there is none."""

    __slots__ = ("done", "emergency", "records")

    def __init__(self, records: Sequence[Record], done: BatchDone, emergency: bool) -> None:
        self.records = records
        self.done = done
        self.emergency = emergency

    def execute(self, connection: apsw.Connection) -> int:
        return journal.insert(connection, self.records) if self.records else 0

    def deliver(self, outcome: Any) -> None:
        self.done(outcome)


class _Call:
    """A transaction of somebody else's."""

    __slots__ = ("emergency", "fn", "future")

    def __init__(self, fn: Callable[[apsw.Connection], Any], future: asyncio.Future[Any]) -> None:
        self.fn = fn
        self.future = future
        self.emergency = True  # alerts and their deliveries come this way

    def execute(self, connection: apsw.Connection) -> Any:
        return self.fn(connection)

    def deliver(self, outcome: Any) -> None:
        if self.future.done():  # whoever waited was cancelled
            return
        if isinstance(outcome, _Failed):
            self.future.set_exception(outcome.error)
        elif isinstance(outcome, StorageError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class _Failed:
    """A job's own exception: it was rolled back alone, the commit went on without it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


_Job = _Batch | _Call


class JournalWriter:
    """Owns the write connection. Implements ``ports.Store``; ``submit`` is the hot path of ingest.

    ``on_broken`` is called once, on the loop, when the file or the disk failed: nothing is committed after that.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        on_broken: Callable[[StorageBrokenError], None],
        reserve_bytes: int = 16 << 20,
        vfs: str | None = None,
    ) -> None:
        self.path = data_dir / FILE_NAME
        self._connection = open_database(self.path, vfs=vfs)
        self._checkpoint_connection = open_database(self.path, vfs=vfs)
        self._readers = Readers(self.path, vfs=vfs)
        self._reserve = Reserve(data_dir / "reserve.bin", reserve_bytes)
        self._reserve.hold()
        self._on_broken = on_broken
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._broken: StorageBrokenError | None = None
        self._stopping = threading.Event()
        self._checkpoint_now = threading.Event()
        self.full = False
        self.commits = 0
        self.commit_seconds = 0.0
        self.on_commit_time: Callable[[float], None] = lambda _seconds: None
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._checkpointer = threading.Thread(target=self._checkpoint_loop, name="journal-checkpointer", daemon=True)
        self._thread.start()
        self._checkpointer.start()

    # ---- on the loop -------------------------------------------------------------------------------------------------

    def submit(self, records: Sequence[Record], done: BatchDone, *, emergency: bool) -> None:
        """Append records; ``done`` is called on the loop. Emergencies may use the reserved space."""
        if self._broken is not None:
            done(self._broken)
            return
        self._queue.put(_Batch(records, done, emergency))

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        if self._broken is not None:
            raise self._broken
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Call(fn, future))
        return await future

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        return await self._readers.read(fn)

    async def glance(self, fn: Callable[[apsw.Connection], T]) -> T:
        return await self._readers.glance(fn)

    async def close(self) -> None:
        """Commit what was submitted, then end. Safe to call twice."""
        if not self._stopping.is_set():
            self._readers.stop_glancing()  # before the writer's, which as the last one empties the WAL
            self._stopping.set()
            self._checkpoint_now.set()
            self._queue.put(None)
        while self._thread.is_alive() or self._checkpointer.is_alive():
            await asyncio.sleep(0.005)
        self._readers.close()

    def restore_reserve(self) -> None:
        """Take the reserve back once the disk has space again. Quick; call it now and then."""
        if self._reserve.hold() and self.full:
            self.full = False
            log.info("disk_has_space_again")

    # ---- in other threads --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stop = False
        while not stop:
            jobs: list[_Job] = []
            job = self._queue.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) >= JOBS_PER_COMMIT:
                    break
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                stop = True
            if jobs:
                outcomes = self._commit(jobs)
                self._post(self._deliver, jobs, outcomes)
            if self._checkpoint_now.is_set() and not stop:
                self._checkpoint_now.clear()
                self._checkpoint(self._connection)
        _close(self._connection)

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        """One transaction for all; when the disk is full, one for each, emergencies first."""
        if self._broken is not None:
            return [self._broken] * len(jobs)
        started = time.perf_counter()
        try:
            outcomes = self._transaction(jobs)
        except StorageFullError as error:
            outcomes = self._commit_singly(jobs, error)
        except StorageBrokenError as error:
            outcomes = self._break(jobs, error)
        except StorageError as error:
            return [error] * len(jobs)
        self.commits += 1
        elapsed = time.perf_counter() - started
        self.commit_seconds += elapsed
        self.on_commit_time(elapsed)
        return outcomes

    def _transaction(self, jobs: Sequence[_Job]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._execute(connection, job) for job in jobs]
            crashpoints.reached(crashpoints.BEFORE_COMMIT)
            connection.execute("COMMIT")
            crashpoints.reached(crashpoints.AFTER_COMMIT)
        except apsw.Error as error:
            self._rollback()
            raise _classify(error) from error
        return outcomes

    @staticmethod
    def _execute(connection: apsw.Connection, job: _Job) -> Any:
        if isinstance(job, _Batch):
            return job.execute(connection)
        try:
            with connection:  # a savepoint: the job's own failure undoes only the job
                return job.execute(connection)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError):
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for this job
            return _Failed(error)

    def _commit_singly(self, jobs: list[_Job], why: StorageFullError) -> list[Any]:
        if not self.full:
            self.full = True
            log.error("disk_full", reserve_held=self._reserve.held(), error=str(why))
        outcomes: dict[int, Any] = {}
        for index, job in sorted(enumerate(jobs), key=lambda item: not item[1].emergency):
            while index not in outcomes:
                try:
                    outcomes[index] = self._transaction([job])[0]
                except StorageFullError as error:
                    if not (job.emergency and self._reserve.release()):
                        outcomes[index] = error
                    else:
                        log.error("reserve_released")
                except StorageBrokenError as error:
                    return self._break(jobs, error)
                except StorageError as error:
                    outcomes[index] = error
        return [outcomes[index] for index in range(len(jobs))]

    def _break(self, jobs: Sequence[_Job], error: StorageBrokenError) -> list[Any]:
        """After a failed write or fsync nothing on this handle can be trusted: say so once, commit nothing more."""
        self._broken = error
        log.error("journal_broken", error=str(error))
        self._post(self._on_broken, error)
        return [error] * len(jobs)

    def _rollback(self) -> None:
        if not self._connection.in_transaction:
            return
        try:
            self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            log.error("rollback_failed", error=str(error))

    def _post(self, fn: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(fn, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._stopping.set()

    @staticmethod
    def _deliver(jobs: list[_Job], outcomes: list[Any]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.deliver(outcome)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint_loop(self) -> None:
        """Move the WAL into the file beside the writer, so that no commit pays for it."""
        connection = self._checkpoint_connection
        wal = Path(f"{self.path}-wal")
        while not self._stopping.wait(0.2):
            try:
                size = wal.stat().st_size
            except FileNotFoundError:
                continue
            if size < CHECKPOINT_BYTES:
                continue
            self._checkpoint(connection)
            if size > CHECKPOINT_INLINE_BYTES:  # only the writer's own pause lets the WAL start over
                self._checkpoint_now.set()
        _close(connection)

    def _checkpoint(self, connection: apsw.Connection) -> None:
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.FullError:
            pass  # the next commit meets it and deals with it
        except (apsw.BusyError, apsw.LockedError):
            pass  # another process checkpoints
        except apsw.Error as error:
            if self._broken is None:
                self._broken = StorageBrokenError(f"checkpoint: {error}")
                log.error("journal_broken", error=str(error))
                self._post(self._on_broken, self._broken)


def _close(connection: apsw.Connection) -> None:
    try:
        connection.close()
    except apsw.Error as error:
        log.error("close_failed", error=str(error))


def _classify(error: apsw.Error) -> StorageError:
    if isinstance(error, apsw.FullError):
        return StorageFullError(str(error))
    if isinstance(error, apsw.BusyError):
        return StorageError(f"another process holds the journal: {error}")
    return StorageBrokenError(f"{type(error).__name__}: {error}")
