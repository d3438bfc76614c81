"""The open alerts as every screen shows them: read once for all screens, whenever an alert changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import apsw
import msgspec
import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.errors import StorageBrokenError, StorageError
from gateway.ports import NearStore
from gateway.storage.many import fetch

LONGEST: Final = 1000
POLL_S: Final = 0.1
REFRESH_S: Final = 10.0
REPLAY: Final = 2000
WAKE_AT_ONCE: Final = 25
"""Screens written to before others get their turn: the loop that acknowledges presses is not held."""
PACE_S: Final = 0.0003
"""So long a screen delays the next news of a full room: a thousand are told three times a second, not ten times."""

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
    person_district: str

    def is_of(self, district: str) -> bool:
        """Whether somebody of this district ("": of all) sees it. What belongs to nobody yet is shown to everybody."""
        return not district or not self.person_id or self.person_district == district


class Change(Struct, frozen=True):
    """A transition of an alert: what a screen is told of it are ``alert_id`` and ``action``, an id and a code."""

    seq: int
    alert_id: str
    action: str
    person_id: str
    person_district: str

    def is_of(self, district: str) -> bool:
        """As ``Row.is_of``."""
        return not district or not self.person_id or self.person_district == district


class Snapshot(Struct, frozen=True):
    """``number`` rises with every reading that differs from the one before, also from one start to the next.

    ``changes`` are the transitions that led here from the one before, ``seq`` is the number of the journal it shows,
    ``screens`` is how many were connected then.
    """

    number: int = 0
    rows: tuple[Row, ...] = ()
    left_out: int = 0
    seq: int = 0
    changes: tuple[Change, ...] = ()
    screens: int = 0


class Board:
    """Follow it with ``run``. ``snapshot`` is the newest state; who ``watch``es is called when there is a newer one."""

    def __init__(self, store: NearStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._changes: list[Change] = []
        self._since_seq = 0  # of the oldest change in memory
        self._watching: dict[object, Callable[[], None]] = {}
        self._thread = ThreadPoolExecutor(1, "board")  # nobody's page is in front of a new alert
        self.snapshot = Snapshot(clock.now_us() // 1000)
        self.screens: dict[str, int] = {}
        """Connected screens by user id."""
        self.publish: Callable[[Snapshot], Any] | None = None
        """Called in a thread with each newer state before anybody is told (gateway.console.views)."""

    async def run(self) -> None:
        """Read the board when an alert changes, and every ``REFRESH_S``. Ends by failure or cancellation alone."""
        read_s = float("-inf")
        seq = self._since_seq = await self._store.read(_last_audit)
        self._changes.clear()
        self.snapshot = msgspec.structs.replace(self.snapshot, number=self.snapshot.number + 1, seq=seq)
        while True:
            number = self.snapshot.number
            try:
                changes, reached = await self._store.glance(lambda c, seq=seq: _changes(c, seq))  # type: ignore[misc]
                now_s = self._clock.monotonic_s()
                if changes or now_s - read_s >= REFRESH_S:
                    await self._read(changes, reached)
                    read_s = now_s
                seq = reached
            except StorageBrokenError:
                raise
            except StorageError as error:
                log.error("queue_not_read", error=str(error))
            told = len(self._watching) if self.snapshot.number > number else 0
            await asyncio.sleep(max(POLL_S, PACE_S * told))

    def watch(self, who: object, told: Callable[[], None]) -> None:
        """Call ``told`` on the loop whenever there is a newer state, until ``leave``."""
        self._watching[who] = told

    def leave(self, who: object) -> None:
        self._watching.pop(who, None)

    async def changes_after(self, seq: int) -> list[Change]:
        """Transitions behind a number, at most ``REPLAY``; from memory where that reaches back so far."""
        if seq >= self._since_seq:
            return [change for change in self._changes if change.seq > seq]
        return (await self._store.read(lambda c: _changes(c, seq)))[0]

    def rows_for(self, district: str) -> list[Row]:
        """The rows that somebody of a district ("": of all) sees; order as in the queue."""
        return [row for row in self.snapshot.rows if row.is_of(district)]

    async def _read(self, changes: list[Change], seq: int) -> None:
        rows, left_out = await self._store.read(_open_alerts)
        old = self.snapshot
        if rows == old.rows and left_out == old.left_out and not changes:
            return
        newer = Snapshot(old.number + 1, rows, left_out, seq, tuple(changes), sum(self.screens.values()))
        if self.publish is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self.publish, newer)
        self.snapshot = newer
        self._changes.extend(changes)
        if len(self._changes) > REPLAY:
            del self._changes[:-REPLAY]
            self._since_seq = self._changes[0].seq - 1
        watching = list(self._watching.values())
        for start in range(0, len(watching), WAKE_AT_ONCE):
            for told in watching[start : start + WAKE_AT_ONCE]:
                told()
            await asyncio.sleep(0)


def _last_audit(connection: apsw.Connection) -> int:
    row: Any = connection.execute("SELECT coalesce(max(seq), 0) FROM audit").fetchone()
    return int(row[0])


_CHANGE: Final = ("t.seq", "t.alert_id", "t.action", "coalesce(a.person_id, '')", "coalesce(p.district, '')")
_CHANGES: Final = """
FROM (SELECT seq, alert_id, action FROM audit WHERE seq > ? ORDER BY seq LIMIT ?) t
LEFT JOIN alert a ON a.id = t.alert_id
LEFT JOIN person p ON p.id = a.person_id
ORDER BY t.seq
"""


def _changes(connection: apsw.Connection, seq: int) -> tuple[list[Change], int]:
    """Transitions behind a number, and the number that was reached."""
    rows = fetch(connection, _CHANGE, _CHANGES, (seq, REPLAY))
    return [Change(*row) for row in rows if row[1]], rows[-1][0] if rows else seq


_ROW: Final = (
    "a.id", "a.version", "a.kind", "a.severity", "a.condition", "a.handling", "a.progress", "a.owner",
    "coalesce(u.name, a.owner)", "a.person_id", "a.device_id", "a.verified", "a.late", "a.occurrences",
    "a.raised_at_us", "a.updated_at_us", "e.presented_at_us IS NOT NULL", "s.alert_id IS NOT NULL",
    "coalesce(p.name, '')", "coalesce(p.address, '')", "coalesce(p.district, d.district, '')",
    "coalesce(d.install_place, '')", "coalesce(p.district, '')",
)  # fmt: skip
_ROWS: Final = """
FROM alert a
LEFT JOIN escalation e ON e.alert_id = a.id
LEFT JOIN suppressed_alert s ON s.alert_id = a.id
LEFT JOIN person p ON p.id = a.person_id
LEFT JOIN device d ON d.id = a.device_id
LEFT JOIN user_account u ON u.id = a.owner
WHERE a.handling IN ('raised', 'accepted', 'in_progress')
ORDER BY s.alert_id IS NOT NULL, a.severity, a.handling <> 'raised', a.raised_at_us, a.id LIMIT ?
"""


def _open_alerts(connection: apsw.Connection) -> tuple[tuple[Row, ...], int]:
    """Rows in the order of the queue: urgent first, then what nobody has, then the oldest."""
    found = fetch(connection, _ROW, _ROWS, (LONGEST,))
    left_out = 0
    if len(found) == LONGEST:
        row: Any = connection.execute(
            "SELECT count(*) FROM alert WHERE handling IN ('raised', 'accepted', 'in_progress')"
        ).fetchone()
        left_out = int(row[0]) - LONGEST
    flags = (11, 12, 16, 17)  # SQLite has no type for them
    for values in found:
        for number in flags:
            values[number] = bool(values[number])
    return tuple(Row(*values) for values in found), left_out
