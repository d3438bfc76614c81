"""All of one alert that decisions need: read by one statement, changed here, and written together.

Each statement of the writer's thread gives the interpreter away and has to wait for it again beside a busy loop, so a
transition asks once for everything and writes each table once. Inside a transaction of the caller, from reading to
``write``; nothing else may change the alert's timers and ladders between the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct

from alerts import rows
from alerts.policy_files import read_snapshot
from alerts.policy_schema import LadderName, Snapshot
from alerts.rows import Alert
from gateway import audit
from gateway.errors import NotFoundError

SNAPSHOTS_KEPT: Final = 256
_snapshots: Final[dict[str, Snapshot]] = {}
"""By the hash of their body, which no process can change."""


class Rung(Struct, frozen=True):
    """One row of ``ladder``."""

    alert_id: str
    name: LadderName
    state: str
    reason: str
    loop: int
    first_loop: int
    step: int
    taken_by: str


class Order(Struct, frozen=True, array_like=True):
    """The alert's newest order request: what views show of it, and whether it is under way."""

    order_id: str | None
    status: str
    state: str
    category: str
    requested_at_us: int
    error: str
    idempotency_key: str
    finished: int


class Masking(Struct, frozen=True, array_like=True):
    """One row of ``suppressed_alert``."""

    kind: str
    cause: str
    until_us: int


class Timers:
    """The timers of one alert. ``write`` brings the table to what they are here."""

    __slots__ = ("_alert_id", "_now", "_stored")

    def __init__(self, alert_id: str, stored: Iterable[tuple[str, int, int]] = ()) -> None:
        self._alert_id = alert_id
        self._stored = {kind: (due_at_us, epoch) for kind, due_at_us, epoch in stored}
        self._now = dict(self._stored)

    def arm(self, kind: str, due_at_us: int, epoch: int = 0) -> None:
        """Set the timer of this kind, in place of an earlier one."""
        self._now[kind] = (due_at_us, epoch)

    def hasten(self, kind: str, due_at_us: int) -> None:
        """Set the timer of this kind from its first epoch; one that is due sooner keeps its time."""
        found = self._now.get(kind)
        self._now[kind] = (due_at_us if found is None else min(found[0], due_at_us), 0)

    def find(self, kind: str) -> int | None:
        """When the timer of this kind is due, None when there is none."""
        found = self._now.get(kind)
        return None if found is None else found[0]

    def cancel(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self._now.pop(kind, None)

    def write(self, connection: apsw.Connection) -> None:
        gone = self._stored.keys() - self._now.keys()
        if gone:
            marks = ", ".join("?" * len(gone))
            connection.execute(
                f"DELETE FROM timer WHERE alert_id = ? AND kind IN ({marks})",  # noqa: S608 - marks alone
                (self._alert_id, *gone),
            )
        new = [(self._alert_id, kind, *at) for kind, at in self._now.items() if self._stored.get(kind) != at]
        if new:
            marks = ", ".join(["(?, ?, ?, ?)"] * len(new))
            connection.execute(
                f"INSERT INTO timer (alert_id, kind, due_at_us, epoch) VALUES {marks} ON CONFLICT (alert_id, kind)"  # noqa: S608 - marks alone
                " DO UPDATE SET due_at_us = excluded.due_at_us, epoch = excluded.epoch",
                [value for row in new for value in row],
            )
        self._stored = dict(self._now)


class Dossier:
    """One alert. ``load`` reads it; made directly it is that of an alert which is not in the file yet."""

    __slots__ = ("_changed", "_viewed", "alert", "masking", "order", "order_known", "policy_hash", "rungs", "timers")

    def __init__(self, alert: Alert) -> None:
        self.alert = alert
        self.masking: Masking | None = None
        self.policy_hash: str | None = None
        self.rungs: dict[str, Rung] = {}
        self.timers = Timers(alert.id)
        self.order: Order | None = None
        self.order_known = True
        """False when ``order`` was changed in the file since."""
        self._changed: set[str] = set()
        self._viewed: tuple[Alert, Order | None, msgspec.Raw] | None = None

    def order_under_way(self) -> Order | None:
        """The alert's order that has not ended: unsent, sent, or refused and waiting for a person."""
        return None if self.order is None or self.order.finished else self.order

    def set_rung(self, rung: Rung) -> None:
        self.rungs[rung.name] = rung
        self._changed.add(rung.name)

    def write(self, connection: apsw.Connection) -> None:
        """Write the timers and ladders that changed. The alert's row has to be there."""
        if self._changed:
            changed = [msgspec.structs.astuple(self.rungs[name]) for name in sorted(self._changed)]
            marks = ", ".join([_RUNG_MARKS] * len(changed))
            connection.execute(
                f"INSERT INTO ladder ({_RUNG_COLUMNS}) VALUES {marks} {_RUNG_UPSERT}",  # noqa: S608 - columns of ours
                [value for row in changed for value in row],
            )
            self._changed.clear()
        self.timers.write(connection)

    def view(self, connection: apsw.Connection) -> msgspec.Raw:
        """rows.view as audit.canonical makes it, without asking for what is known."""
        order, last = self.order, self._viewed
        if self.order_known and last is not None and last[0] is self.alert and last[1] is order:
            return last[2]
        if not self.order_known:
            shown = rows.view(connection, self.alert)
        else:
            shown = rows.shown(self.alert, None if order is None else msgspec.structs.astuple(order)[:6])
        view = msgspec.Raw(audit.canonical(shown))
        self._viewed = (self.alert, order, view)
        return view


_RUNG_NAMES: Final = Rung.__struct_fields__
_RUNG_COLUMNS: Final = ", ".join(_RUNG_NAMES)
_RUNG_MARKS: Final = f"({', '.join('?' * len(_RUNG_NAMES))})"
_RUNG_UPSERT: Final = "ON CONFLICT (alert_id, name) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _RUNG_NAMES[2:]
)
_LOAD: Final = (
    f"SELECT {rows.COLUMNS}, (SELECT policy_hash FROM escalation WHERE escalation.alert_id = alert.id),"  # noqa: S608 - columns of ours
    " (SELECT json_array(kind, cause, until_us) FROM suppressed_alert WHERE suppressed_alert.alert_id = alert.id),"
    f" (SELECT json_group_array(json_array({_RUNG_COLUMNS})) FROM ladder WHERE ladder.alert_id = alert.id),"
    " (SELECT json_group_array(json_array(kind, due_at_us, epoch)) FROM timer WHERE timer.alert_id = alert.id),"
    f" (SELECT json_array({rows.ORDER_COLUMNS}, r.idempotency_key, r.finished) FROM order_request r"
    " LEFT JOIN outbox o ON o.idempotency_key = r.idempotency_key"
    " WHERE r.alert_id = alert.id AND r.number = alert.order_number) FROM alert WHERE alert.id = ?"
)
"""Subqueries and no join: beside the wide row of an alert a join costs four times as much."""
_ALERT_WIDTH: Final = len(Alert.__struct_fields__)
_rungs_of: Final = msgspec.json.Decoder(list[tuple[str, str, str, str, int, int, int, str]])
_timers_of: Final = msgspec.json.Decoder(list[tuple[str, int, int]])
_masking_of: Final = msgspec.json.Decoder(Masking)
_order_of: Final = msgspec.json.Decoder(Order)


def load(connection: apsw.Connection, alert_id: str) -> Dossier:
    """Raises NotFoundError."""
    row: Any = connection.execute(_LOAD, (alert_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no alert {alert_id}")
    found = Dossier(rows.alert_of(row[:_ALERT_WIDTH]))
    found.policy_hash, masking, rungs, timers, order = row[_ALERT_WIDTH:]
    if masking is not None:
        found.masking = _masking_of.decode(masking)
    if rungs != "[]":
        found.rungs = {values[1]: Rung(*values) for values in _rungs_of.decode(rungs)}  # type: ignore[arg-type] # the table's CHECK
    if timers != "[]":
        found.timers = Timers(alert_id, _timers_of.decode(timers))
    if order is not None:
        found.order = _order_of.decode(order)
    return found


def snapshot(connection: apsw.Connection, digest: str | None) -> Snapshot | None:
    """The policy with this hash, None for None."""
    if digest is None:
        return None
    known = _snapshots.get(digest)
    if known is None:
        row = connection.execute("SELECT body FROM policy_snapshot WHERE hash = ?", (digest,)).fetchone()
        assert row is not None  # what an escalation names stays: a foreign key
        if len(_snapshots) >= SNAPSHOTS_KEPT:
            _snapshots.clear()
        known = _snapshots[digest] = read_snapshot(row[0])
    return known
