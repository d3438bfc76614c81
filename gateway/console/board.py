"""The open alerts as every screen shows them: read once for all screens, whenever an alert changes."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import apsw
import structlog
from msgspec import Struct

from gateway.api.auth import sees
from gateway.clock import Clock
from gateway.errors import StorageBrokenError, StorageError
from gateway.ports import Store
from gateway.registry.keys import ApiKey

LONGEST: Final = 1000
POLL_S: Final = 0.1
REFRESH_S: Final = 10.0
REPLAY: Final = 2000

log = structlog.get_logger("console")


class Row(Struct, frozen=True):
    """One open alert of the queue."""

    id: str
    version: int
    kind: str
    severity: int
    condition: str
    handling: str
    progress: str
    owner: str
    owner_name: str
    person_id: str
    device_id: str
    verified: bool
    late: bool
    occurrences: int
    raised_at_us: int
    updated_at_us: int
    presented: bool
    suppressed: bool
    name: str
    address: str
    district: str
    place: str


class Change(Struct, frozen=True):
    """A transition of an alert: what a screen is told of it. Ids and codes only."""

    seq: int
    alert_id: str
    action: str


class Snapshot(Struct, frozen=True):
    """``number`` rises with every reading that differs from the one before."""

    number: int = 0
    rows: tuple[Row, ...] = ()
    left_out: int = 0
    seq: int = 0


class Board:
    """Follow it with ``run``. ``snapshot`` is the newest state; ``changed`` waits for a newer one."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._event = asyncio.Event()
        self._changes: list[Change] = []
        self._since_seq = 0  # of the oldest change in memory
        self.snapshot = Snapshot()
        self.screens: dict[str, int] = {}
        """Connected screens by user id."""

    async def run(self) -> None:
        """Read the board when an alert changes, and every ``REFRESH_S``. Ends by failure or cancellation alone."""
        read_s = float("-inf")
        self._since_seq = await self._newest()
        self._changes.clear()
        seq = self._since_seq
        while True:
            try:
                changes, reached = await self._store.read(lambda c, seq=seq: _changes(c, seq))  # type: ignore[misc]
                now_s = self._clock.monotonic_s()
                if changes or now_s - read_s >= REFRESH_S:
                    await self._read(reached)
                    read_s = now_s
                seq = reached
                self._keep(changes)
            except StorageBrokenError:
                raise
            except StorageError as error:
                log.error("queue_not_read", error=str(error))
            await asyncio.sleep(POLL_S)

    async def changes_after(self, seq: int) -> list[Change]:
        """Transitions behind a number, at most ``REPLAY``; from memory where that reaches back so far."""
        if seq >= self._since_seq:
            return [change for change in self._changes if change.seq > seq]
        return (await self._store.read(lambda c: _changes(c, seq)))[0]

    async def changed(self, number: int) -> None:
        """Return when ``snapshot.number`` is above this one."""
        while self.snapshot.number <= number:
            await self._event.wait()

    def rows_for(self, principal: ApiKey, visible: frozenset[str] | None) -> list[Row]:
        """The rows that somebody sees; order as in the queue."""
        return [row for row in self.snapshot.rows if sees(visible, row.person_id or None, principal)]

    async def _newest(self) -> int:
        return await self._store.read(_last_audit)

    async def _read(self, seq: int) -> None:
        rows, left_out = await self._store.read(_open_alerts)
        old = self.snapshot
        if rows != old.rows or left_out != old.left_out or seq != old.seq:
            self.snapshot = Snapshot(old.number + 1, rows, left_out, seq)

    def _keep(self, changes: list[Change]) -> None:
        if not changes:
            return
        self._changes.extend(changes)
        if len(self._changes) > REPLAY:
            del self._changes[:-REPLAY]
            self._since_seq = self._changes[0].seq - 1
        self._event.set()
        self._event = asyncio.Event()


def _last_audit(connection: apsw.Connection) -> int:
    row: Any = connection.execute("SELECT coalesce(max(seq), 0) FROM audit").fetchone()
    return int(row[0])


def _changes(connection: apsw.Connection, seq: int) -> tuple[list[Change], int]:
    """Transitions behind a number, and the number that was reached."""
    rows: list[Any] = connection.execute(
        "SELECT seq, alert_id, action FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", (seq, REPLAY)
    ).fetchall()
    return [Change(*row) for row in rows if row[1]], rows[-1][0] if rows else seq


_SQL: Final = """
SELECT a.id, a.version, a.kind, a.severity, a.condition, a.handling, a.progress, a.owner, coalesce(u.name, a.owner),
       a.person_id, a.device_id, a.verified, a.late, a.occurrences, a.raised_at_us, a.updated_at_us,
       e.presented_at_us IS NOT NULL, s.alert_id IS NOT NULL, coalesce(p.name, ''), coalesce(p.address, ''),
       coalesce(p.district, d.district, ''), coalesce(d.install_place, '')
FROM alert a
LEFT JOIN escalation e ON e.alert_id = a.id
LEFT JOIN suppressed_alert s ON s.alert_id = a.id
LEFT JOIN person p ON p.id = a.person_id
LEFT JOIN device d ON d.id = a.device_id
LEFT JOIN user_account u ON u.id = a.owner
WHERE a.handling IN ('raised', 'accepted', 'in_progress')
ORDER BY s.alert_id IS NOT NULL, a.severity, a.handling <> 'raised', a.raised_at_us, a.id
"""


def _open_alerts(connection: apsw.Connection) -> tuple[tuple[Row, ...], int]:
    """Rows in the order of the queue: urgent first, then what nobody has, then the oldest."""
    found: list[Any] = connection.execute(f"{_SQL} LIMIT ?", (LONGEST,)).fetchall()
    left_out = 0
    if len(found) == LONGEST:
        row: Any = connection.execute(
            "SELECT count(*) FROM alert WHERE handling IN ('raised', 'accepted', 'in_progress')"
        ).fetchone()
        left_out = int(row[0]) - LONGEST
    flags = {11, 12, 16, 17}  # SQLite has no type for them
    rows: list[Row] = []
    for row in found:
        values: list[Any] = [bool(value) if number in flags else value for number, value in enumerate(row)]
        rows.append(Row(*values))
    return tuple(rows), left_out
