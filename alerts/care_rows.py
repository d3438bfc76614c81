"""The tables of care: schedules, occasions, opt-outs, signs of life. Inside a transaction of the caller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import apsw
import msgspec
from msgspec import Struct

from alerts.people import zone_of
from gateway import audit
from gateway.clock import from_us, iso, to_us
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.filters import where
from gateway.model import Actor

QUIET_FROM: Final = "21:00"
QUIET_UNTIL: Final = "07:00"
"""Nobody is written to or called in care at these hours of their own time."""
MAX_WORDS: Final = 300
SIGN_RULE: Final = "carebell.sign-of-life"
"""The rule of an effect that says: this person is well."""
CARE_ACTOR: Final = Actor("contact", "care", role="family", channel="care")
_TIME: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DAYS: Final = re.compile(r"[1-7]{1,7}")
_FAR_DAYS: Final = 9


class Schedule(Struct, frozen=True, kw_only=True):
    """What is said to whom and when. ``contact_id`` "" is the person; times are ``HH:MM`` of the person's own clock.

    Of a check: ``since`` is from when today a sign of life is an answer, ``wait_minutes`` how long one question waits,
    ``tries`` how often it is asked before it becomes an alert.
    """

    id: str
    person_id: str
    contact_id: str
    kind: str
    medium: str
    at: str
    days: str
    words: str
    since: str
    wait_minutes: int
    tries: int
    next_at_us: int


class Occasion(Struct, frozen=True, kw_only=True):
    """One time that a schedule came due."""

    id: int
    schedule_id: str
    person_id: str
    day: str
    state: str
    reason: str
    tries: int
    reached: int
    begun_at_us: int
    due_at_us: int | None
    ended_at_us: int | None
    alert_id: str | None


_SCHEDULE: Final = ", ".join(Schedule.__struct_fields__)
_OCCASION: Final = ", ".join(Occasion.__struct_fields__)


def _schedule(row: tuple[Any, ...]) -> Schedule:
    return Schedule(**dict(zip(Schedule.__struct_fields__, row, strict=True)))


def _occasion(row: tuple[Any, ...]) -> Occasion:
    return Occasion(**dict(zip(Occasion.__struct_fields__, row, strict=True)))


# ---- schedules -------------------------------------------------------------------------------------------------------


def is_quiet(clock: str) -> bool:
    """Whether ``HH:MM`` is an hour at which nobody is disturbed."""
    return clock >= QUIET_FROM or clock < QUIET_UNTIL


CHANGEABLE: Final = ("medium", "at", "days", "words", "since", "wait_minutes", "tries")
"""What may be changed of a schedule; for another person, contact or kind there is another one."""


def new_schedule(
    person_id: str,
    *,
    kind: str,
    at: str,
    name: str = "",
    contact_id: str = "",
    medium: str = "voice",
    days: str = "1234567",
    words: str = "",
    since: str = "05:00",
    wait_minutes: int = 15,
    tries: int = 2,
) -> Schedule:
    """A schedule to be added; without ``name`` it is called by person, contact, kind and time."""
    whose = f"{person_id}-{contact_id}" if contact_id else person_id
    return Schedule(
        id=name or f"{whose}-{kind}-{at.replace(':', '')}", person_id=person_id, contact_id=contact_id, kind=kind,
        medium=medium, at=at, days=_sorted(days), words=words.strip(), since=since, wait_minutes=wait_minutes,
        tries=tries, next_at_us=0,
    )  # fmt: skip


def _sorted(days: str) -> str:
    return "".join(sorted(set(days)))


def add(connection: apsw.Connection, schedule: Schedule, timezone: str, *, actor: Actor, now_us: int) -> dict[str, Any]:
    """A new schedule; audited. ``next_at_us`` is made here. Raises UsageError and ConflictError."""
    _check(schedule)
    if connection.execute("SELECT 1 FROM care_schedule WHERE id = ?", (schedule.id,)).fetchone():
        raise ConflictError(f"there is a care schedule {schedule.id} already, or was one")
    next_us = next_time(schedule.at, schedule.days, zone_of(timezone), now_us)
    connection.execute(
        f"INSERT INTO care_schedule ({_SCHEDULE}, created_at_us, updated_at_us)"  # noqa: S608 - columns of ours
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            schedule.id, schedule.person_id, schedule.contact_id, schedule.kind, schedule.medium, schedule.at,
            schedule.days, schedule.words, schedule.since, schedule.wait_minutes, schedule.tries, next_us, now_us,
            now_us,
        ),
    )  # fmt: skip
    shown = show(connection, schedule.id)
    _note(connection, "care_added", schedule.id, shown, actor, now_us)
    return shown


def _check(schedule: Schedule) -> None:
    for wrong, text in (
        (not _ID.fullmatch(schedule.id), "id: letters, digits, - _ . and at most 64 of them"),
        (schedule.kind not in ("message", "check"), "kind: message or check"),
        (schedule.medium not in ("sms", "voice"), "medium: sms or voice"),
        (not _TIME.fullmatch(schedule.at), "at: a time of day such as 09:30"),
        (not _DAYS.fullmatch(schedule.days), "days: digits 1 (Monday) to 7, such as 12345"),
        (len(schedule.words) > MAX_WORDS, f"words: at most {MAX_WORDS} characters"),
        (schedule.kind == "check" and bool(schedule.contact_id), "a check asks the person, not a contact"),
        (not _TIME.fullmatch(schedule.since), "since: a time of day such as 05:00"),
        (not 5 <= schedule.wait_minutes <= 240, "wait: 5 to 240 minutes"),
        (not 1 <= schedule.tries <= 5, "tries: 1 to 5"),
    ):
        if wrong:
            raise UsageError(text)
    if is_quiet(schedule.at):
        raise UsageError(f"at: nobody is disturbed between {QUIET_FROM} and {QUIET_UNTIL}")
    if schedule.kind == "check" and schedule.since >= schedule.at:
        raise UsageError("since: earlier in the day than the check")


def change(
    connection: apsw.Connection,
    schedule_id: str,
    changes: Mapping[str, Any],
    timezone: str,
    *,
    actor: Actor,
    now_us: int,
) -> dict[str, Any]:
    """Change members of CHANGEABLE; audited. A question that is under way goes on as it began.

    Raises NotFoundError and UsageError.
    """
    if strange := sorted(set(changes) - set(CHANGEABLE)):
        raise UsageError(f"{', '.join(strange)}: only {', '.join(CHANGEABLE)} can be changed")
    before = _active(connection, schedule_id)
    after = msgspec.structs.replace(before, **changes)
    after = msgspec.structs.replace(after, days=_sorted(after.days), words=after.words.strip())
    _check(after)
    if (after.at, after.days) != (before.at, before.days):
        next_us = next_time(after.at, after.days, zone_of(timezone), now_us)
        after = msgspec.structs.replace(after, next_at_us=next_us)
    if after == before:
        return show(connection, schedule_id)
    connection.execute(
        "UPDATE care_schedule SET medium = ?, at = ?, days = ?, words = ?, since = ?, wait_minutes = ?, tries = ?,"
        " next_at_us = ?, updated_at_us = ? WHERE id = ?",
        (
            after.medium, after.at, after.days, after.words, after.since, after.wait_minutes, after.tries,
            after.next_at_us, now_us, schedule_id,
        ),
    )  # fmt: skip
    shown = show(connection, schedule_id)
    _note(connection, "care_changed", schedule_id, shown, actor, now_us)
    return shown


def _active(connection: apsw.Connection, schedule_id: str) -> Schedule:
    """Raises NotFoundError for one that is not there or was removed."""
    return get(connection, schedule_id, "AND state = 'active'")


def remove(connection: apsw.Connection, schedule_id: str, *, actor: Actor, now_us: int) -> None:
    """Nothing more is said on it; a question that is under way is dropped. Raises NotFoundError."""
    connection.execute(
        "UPDATE care_schedule SET state = 'removed', updated_at_us = ? WHERE id = ? AND state = 'active'",
        (now_us, schedule_id),
    )
    if connection.changes() == 0:
        raise NotFoundError(f"there is no care schedule {schedule_id}")
    connection.execute(
        "UPDATE care_occasion SET state = 'skipped', reason = 'removed', due_at_us = NULL, ended_at_us = ?"
        " WHERE schedule_id = ? AND state = 'asking'",
        (now_us, schedule_id),
    )
    _note(connection, "care_removed", schedule_id, None, actor, now_us)


def _note(
    connection: apsw.Connection, action: str, subject: str, after: dict[str, Any] | None, actor: Actor, now_us: int
) -> None:
    audit.append(connection, at_us=now_us, actor=actor, action=action, subject=f"care/{subject}", after=after)


def get(connection: apsw.Connection, schedule_id: str, also: str = "") -> Schedule:
    """``also``: SQL that it must fulfil as well. Raises NotFoundError."""
    row = connection.execute(
        f"SELECT {_SCHEDULE} FROM care_schedule WHERE id = ? {also}",  # noqa: S608 - columns of ours
        (schedule_id,),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no care schedule {schedule_id}")
    return _schedule(row)


def show(connection: apsw.Connection, schedule_id: str, *, with_words: bool = False) -> dict[str, Any]:
    """A schedule for people to read. Its own words may name somebody: they are in it only where they are asked for,
    and never in the audit. Raises NotFoundError.
    """
    schedule = get(connection, schedule_id)
    shown: dict[str, Any] = {
        name: getattr(schedule, name) for name in Schedule.__struct_fields__ if name not in ("words", "next_at_us")
    }
    shown["contact_id"] = schedule.contact_id or None
    shown["next_at"] = iso(schedule.next_at_us)
    if schedule.kind != "check":
        shown = {name: value for name, value in shown.items() if name not in ("since", "wait_minutes", "tries")}
    return {**shown, "words": schedule.words} if with_words else shown


def show_active(connection: apsw.Connection, schedule_id: str) -> dict[str, Any]:
    """One that is in force, with its words. Raises NotFoundError."""
    return show(connection, _active(connection, schedule_id).id, with_words=True)


def list_schedules(
    connection: apsw.Connection, *, person_id: str = "", limit: int = 1000, with_words: bool = False
) -> list[dict[str, Any]]:
    """Those that are in force, by their ids."""
    asked, values = where((True, "state = 'active'", ()), (person_id, "person_id = ?", (person_id,)))
    rows: list[Any] = connection.execute(
        f"SELECT id FROM care_schedule{asked} ORDER BY id LIMIT ?",  # noqa: S608 - columns of ours
        (*values, max(1, min(limit, 10_000))),
    ).fetchall()
    return [show(connection, schedule_id, with_words=with_words) for (schedule_id,) in rows]


def next_time(at: str, days: str, zone: ZoneInfo, after_us: int) -> int:
    """The first time behind ``after_us`` that is ``at`` on one of ``days``."""
    first = from_us(after_us).astimezone(zone).date()
    for ahead in range(_FAR_DAYS):
        day = first + timedelta(days=ahead)
        found = wall_us(day, at, zone)
        if str(day.isoweekday()) in days and found > after_us:
            return found
    raise UsageError("days: no such day in the next week")


def wall_us(day: date, clock: str, zone: ZoneInfo) -> int:
    """A local time of a day as UTC microseconds."""
    return to_us(datetime.combine(day, time.fromisoformat(clock), zone))


def due(connection: apsw.Connection, now_us: int, limit: int) -> list[Schedule]:
    rows: list[Any] = connection.execute(
        f"SELECT {_SCHEDULE} FROM care_schedule WHERE state = 'active' AND next_at_us <= ?"  # noqa: S608 - ours
        " ORDER BY next_at_us, id LIMIT ?",
        (now_us, limit),
    ).fetchall()
    return [_schedule(row) for row in rows]


def put_off(connection: apsw.Connection, schedule_id: str, next_us: int) -> None:
    connection.execute("UPDATE care_schedule SET next_at_us = ? WHERE id = ?", (next_us, schedule_id))


def is_due(connection: apsw.Connection, now_us: int) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM care_schedule WHERE state = 'active' AND next_at_us <= ?)"
        " OR EXISTS (SELECT 1 FROM care_occasion WHERE state = 'asking' AND due_at_us <= ?)",
        (now_us, now_us),
    ).fetchone()
    return bool(row and row[0])


# ---- occasions -------------------------------------------------------------------------------------------------------


def begin(connection: apsw.Connection, schedule: Schedule, day: str, now_us: int) -> Occasion | None:
    """The schedule came due on this day; None when it was so before (a clock that was set back)."""
    connection.execute(
        "INSERT OR IGNORE INTO care_occasion (schedule_id, person_id, day, state, reason, tries, reached, begun_at_us)"
        " VALUES (?, ?, ?, 'asking', '', 0, 0, ?)",
        (schedule.id, schedule.person_id, day, now_us),
    )
    return find_occasion(connection, int(connection.last_insert_rowid())) if connection.changes() else None


def find_occasion(connection: apsw.Connection, occasion_id: int) -> Occasion | None:
    row = connection.execute(
        f"SELECT {_OCCASION} FROM care_occasion WHERE id = ?",  # noqa: S608 - columns of ours
        (occasion_id,),
    ).fetchone()
    return None if row is None else _occasion(row)


def unanswered(connection: apsw.Connection, now_us: int, limit: int) -> list[Occasion]:
    """Questions whose time to wait is over."""
    rows: list[Any] = connection.execute(
        f"SELECT {_OCCASION} FROM care_occasion WHERE state = 'asking' AND due_at_us <= ?"  # noqa: S608 - ours
        " ORDER BY due_at_us, id LIMIT ?",
        (now_us, limit),
    ).fetchall()
    return [_occasion(row) for row in rows]


def asking(connection: apsw.Connection, person_id: str) -> list[Occasion]:
    """Checks of this person that wait for an answer."""
    rows: list[Any] = connection.execute(
        f"SELECT {_OCCASION} FROM care_occasion WHERE person_id = ? AND state = 'asking'"  # noqa: S608 - ours
        " AND due_at_us IS NOT NULL ORDER BY id",
        (person_id,),
    ).fetchall()
    return [_occasion(row) for row in rows]


def asked(connection: apsw.Connection, occasion_id: int, due_at_us: int) -> None:
    connection.execute(
        "UPDATE care_occasion SET tries = tries + 1, due_at_us = ? WHERE id = ?", (due_at_us, occasion_id)
    )


def note_reached(connection: apsw.Connection, occasion_id: int) -> None:
    connection.execute("UPDATE care_occasion SET reached = reached + 1 WHERE id = ?", (occasion_id,))


def end(
    connection: apsw.Connection, occasion_id: int, state: str, reason: str, now_us: int, alert_id: str | None = None
) -> None:
    connection.execute(
        "UPDATE care_occasion SET state = ?, reason = ?, due_at_us = NULL, ended_at_us = ?, alert_id = ? WHERE id = ?",
        (state, reason[:200], now_us, alert_id, occasion_id),
    )


def list_occasions(connection: apsw.Connection, *, person_id: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """What was said and what came of it, newest first."""
    asked, values = where((person_id, "person_id = ?", (person_id,)))
    rows: list[Any] = connection.execute(
        f"SELECT {_OCCASION} FROM care_occasion{asked} ORDER BY id DESC LIMIT ?",  # noqa: S608 - columns of ours
        (*values, max(1, min(limit, 10_000))),
    ).fetchall()
    views = []
    for row in rows:
        each = _occasion(row)
        view = {name: getattr(each, name) for name in ("schedule_id", "person_id", "day", "state", "tries", "reached")}
        view["id"] = each.id
        view |= {"reason": each.reason or None, "alert_id": each.alert_id, "begun_at": iso(each.begun_at_us)}
        view["due_at"] = None if each.due_at_us is None else iso(each.due_at_us)
        view["ended_at"] = None if each.ended_at_us is None else iso(each.ended_at_us)
        views.append(view)
    return views


def prune(connection: apsw.Connection, before_us: int, limit: int = 500) -> int:
    """Remove occasions that began before this; their calls and messages stand in the call log. Returns how many."""
    connection.execute(
        "DELETE FROM care_occasion WHERE id IN (SELECT id FROM care_occasion WHERE begun_at_us < ?"
        " AND state <> 'asking' ORDER BY id LIMIT ?)",
        (before_us, limit),
    )
    return connection.changes()


def shift(connection: apsw.Connection, by_us: int) -> None:
    """The wall clock was set back: who is asked still has as long to answer. Schedules go by the wall clock."""
    connection.execute("UPDATE care_occasion SET due_at_us = due_at_us + ? WHERE state = 'asking'", (by_us,))


# ---- opt-outs and signs of life --------------------------------------------------------------------------------------


def opt_out(
    connection: apsw.Connection, person_id: str, contact_id: str, medium: str, *, actor: Actor, now_us: int
) -> None:
    """They do not want it; ``medium`` "" is all of it. Audited."""
    if medium not in ("", "sms", "voice"):
        raise UsageError("medium: sms or voice")
    connection.execute(
        "INSERT OR IGNORE INTO care_opt_out (person_id, contact_id, medium, at_us, actor) VALUES (?, ?, ?, ?, ?)",
        (person_id, contact_id, medium, now_us, actor.id),
    )
    if connection.changes():
        after = {"person_id": person_id, "contact_id": contact_id or None, "medium": medium or None}
        _note(connection, "care_opted_out", contact_id or person_id, after, actor, now_us)


def opt_in(connection: apsw.Connection, person_id: str, contact_id: str, *, actor: Actor, now_us: int) -> None:
    """They want it again. Raises NotFoundError when they never said otherwise."""
    connection.execute("DELETE FROM care_opt_out WHERE person_id = ? AND contact_id = ?", (person_id, contact_id))
    if connection.changes() == 0:
        raise NotFoundError("they have not opted out")
    after = {"person_id": person_id, "contact_id": contact_id or None}
    _note(connection, "care_opted_in", contact_id or person_id, after, actor, now_us)


def has_opted_out(connection: apsw.Connection, person_id: str, contact_id: str, medium: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM care_opt_out WHERE person_id = ? AND contact_id = ? AND medium IN ('', ?)",
        (person_id, contact_id, medium),
    ).fetchone()
    return row is not None


def list_opt_outs(connection: apsw.Connection, *, person_id: str = "", limit: int = 1000) -> list[dict[str, Any]]:
    asked, values = where((person_id, "person_id = ?", (person_id,)))
    return [
        {"person_id": person, "contact_id": contact or None, "medium": medium or None, "at": iso(at_us), "actor": actor}
        for person, contact, medium, at_us, actor in connection.execute(
            f"SELECT person_id, contact_id, medium, at_us, actor FROM care_opt_out{asked}"  # noqa: S608 - ours
            " ORDER BY person_id, contact_id, medium LIMIT ?",
            (*values, max(1, min(limit, 10_000))),
        )
    ]


def note_answer(connection: apsw.Connection, person_id: str, answer: str, actor: Actor, now_us: int) -> None:
    """Somebody of the site says what the person said."""
    _note(connection, "care_answered", person_id, {"person_id": person_id, "answer": answer}, actor, now_us)


def note_sign(connection: apsw.Connection, person_id: str, at_us: int) -> None:
    connection.execute(
        "INSERT INTO care_sign (person_id, at_us) VALUES (?, ?)"
        " ON CONFLICT (person_id) DO UPDATE SET at_us = max(at_us, excluded.at_us)",
        (person_id, at_us),
    )


def take_sign(connection: apsw.Connection, person_id: str, at_us: int, now_us: int) -> None:
    """A device says that the person is well: checks that wait are answered."""
    note_sign(connection, person_id, at_us)
    for occasion in asking(connection, person_id):
        end(connection, occasion.id, "answered", "a device's sign of life", now_us)


def last_sign_us(connection: apsw.Connection, person_id: str) -> int:
    """When the person last gave a sign of life; 0 for never."""
    row = connection.execute("SELECT at_us FROM care_sign WHERE person_id = ?", (person_id,)).fetchone()
    return 0 if row is None else int(row[0])
