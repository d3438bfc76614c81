"""Commands in the journal file. Every function runs in its caller's transaction; every step is an audit row.

The audit holds ids, states and the names of parameters, never what a personal one says; from there come the events.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import apsw
import msgspec
from msgspec import structs

from gateway import audit
from gateway.clock import US_PER_S, iso
from gateway.commands.catalog import Catalog, clean, find, masked
from gateway.commands.states import IN_FLIGHT, OVER, Command, Event, State, step
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.filters import where
from gateway.model import Actor

SHORTEST_S: Final = 10
LONGEST_S: Final = 86_400
OPEN_PER_DEVICE: Final = 16
RATE_PER_DEVICE: Final = 10
RATE_WINDOW_S: Final = 60
OPEN_MAX: Final = 10_000
TEXT_MAX: Final = 200
VERSION_KEY: Final = "command_version"
SEQ_KEY: Final = "command_seq"
KEPT_US: Final = 92 * 86_400 * US_PER_S

SYSTEM: Final = Actor("system", "commands")


class NotAllowedError(UsageError):
    """Whoever asks may not give this command. Handler: the API (403) or the CLI (exit 2)."""


_COLUMNS: Final = Command.__struct_fields__
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM command"  # noqa: S608 - names of columns


# ---- asking ----------------------------------------------------------------------------------------------------------


def request(
    connection: apsw.Connection,
    catalog: Catalog,
    device_id: str,
    name: str,
    parameters: Mapping[str, Any],
    *,
    now_us: int,
    actor: Actor,
    expires_s: int | None = None,
    reason: str = "",
    may_be_dangerous: bool = True,
) -> Command:
    """Queue a command for a device. It is sent when the device is next in contact, within ``expires_s`` or never.

    Raises NotFoundError, UsageError (the profile has no such command, a parameter is wrong), NotAllowedError (it is
    dangerous, and that may not be), ConflictError (the device is not in service, too many commands, a dangerous one is
    under way already).
    """
    row = connection.execute(
        "SELECT profile, state, person_id FROM device LEFT JOIN binding ON device_id = device.id AND to_us IS NULL"
        " WHERE device.id = ?",
        (device_id,),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no device {device_id!r}")
    profile, device_state, person_id = row
    if device_state != "active":
        raise ConflictError(f"device {device_id!r} is {device_state}: it gets no commands")
    declaration = find(catalog, profile, name)
    if declaration.dangerous and not may_be_dangerous:
        raise NotAllowedError(f"{name} is a dangerous command: it needs the role admin or supervisor")
    values = clean(declaration, parameters)
    if len(reason) > TEXT_MAX:
        raise UsageError(f"reason: at most {TEXT_MAX} characters")
    lives_s = declaration.expires_s if expires_s is None else expires_s
    if not SHORTEST_S <= lives_s <= LONGEST_S:
        raise UsageError(f"a command waits for {SHORTEST_S} to {LONGEST_S} seconds, not {lives_s}")
    _within_bounds(connection, device_id, now_us, dangerous=declaration.dangerous)
    command_id, expires_at_us = secrets.token_hex(8), now_us + lives_s * US_PER_S
    # Said now, so that what cannot be said is refused to the one who asks; the bytes are made when they are sent.
    declaration.encode(
        values, command_id=command_id, expires_at_us=expires_at_us, device_key=device_key(connection, device_id)
    )
    command = Command(
        number=0,
        id=command_id,
        device_id=device_id,
        person_id=person_id,
        name=name,
        parameters=values,
        personal=declaration.personal(),
        dangerous=declaration.dangerous,
        confirms=declaration.confirms,
        confirm_within_s=declaration.confirm_within_s,
        actor=msgspec.to_builtins(actor),
        created_at_us=now_us,
        expires_at_us=expires_at_us,
    )
    seq = _record(connection, command, None, now_us, actor, reason)
    command = structs.replace(command, first_seq=seq)
    row_values = {column: value for column, value in _row(command).items() if column != "number"}
    connection.execute(
        f"INSERT INTO command ({', '.join(row_values)}) VALUES ({', '.join('?' * len(row_values))})",  # noqa: S608
        tuple(row_values.values()),
    )
    _count_up(connection)
    return structs.replace(command, number=connection.last_insert_rowid())


def _within_bounds(connection: apsw.Connection, device_id: str, now_us: int, *, dangerous: bool) -> None:
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE finished_at_us IS NULL),"
        " count(*) FILTER (WHERE finished_at_us IS NULL AND dangerous),"
        " count(*) FILTER (WHERE created_at_us > ?) FROM command WHERE device_id = ?",
        (now_us - RATE_WINDOW_S * US_PER_S, device_id),
    ).fetchone()
    assert row is not None
    waiting, dangers, recent = row
    if waiting >= OPEN_PER_DEVICE:
        raise ConflictError(f"{waiting} commands for device {device_id!r} are under way; cancel some or wait")
    if recent >= RATE_PER_DEVICE:
        raise ConflictError(f"{recent} commands for device {device_id!r} within {RATE_WINDOW_S} s; wait a little")
    if dangerous and dangers:
        raise ConflictError(f"a dangerous command for device {device_id!r} is under way; one at a time")
    row = connection.execute("SELECT count(*) FROM command WHERE finished_at_us IS NULL").fetchone()
    assert row is not None
    if row[0] >= OPEN_MAX:
        raise ConflictError(f"{row[0]} commands wait for their devices already; no more fit")


def device_key(connection: apsw.Connection, device_id: str) -> str:
    """The identity that a device most likely goes by in its maker's protocol: IMEI, else serial, else another one."""
    row = connection.execute(
        "SELECT shown FROM device_key WHERE device_id = ? ORDER BY CASE kind WHEN 'imei' THEN 0 WHEN 'serial' THEN 1"
        " WHEN 'other_key' THEN 2 ELSE 3 END LIMIT 1",
        (device_id,),
    ).fetchone()
    return device_id if row is None else str(row[0])


def cancel(connection: apsw.Connection, command_id: str, *, now_us: int, actor: Actor, reason: str = "") -> Command:
    """Take back a command that has not been sent. Raises NotFoundError, ConflictError."""
    command = get(connection, command_id)
    changed = apply(connection, command_id, Event.CANCEL, now_us=now_us, actor=actor, reason=reason)
    if changed is None:
        raise ConflictError(f"command {command_id} is {command.state} already; only a queued one can be taken back")
    return changed


# ---- steps -----------------------------------------------------------------------------------------------------------


def apply(
    connection: apsw.Connection,
    command_id: str,
    event: Event,
    *,
    now_us: int,
    actor: Actor = SYSTEM,
    reason: str = "",
    transport: str = "",
    handle: int | None = None,
    last_word: bool = False,
) -> Command | None:
    """What happened to a command, as its row is now. None, and nothing written, when that means nothing any more."""
    command = get(connection, command_id)
    changed = step(command, event, now_us, transport=transport, handle=handle, last_word=last_word)
    if changed is None:
        return None
    if changed.finished_at_us is not None and changed.personal:
        changed = structs.replace(changed, parameters=shown_parameters(changed))
    row = _row(changed)
    sets = ", ".join(f"{column} = ?" for column in row)
    connection.execute(f"UPDATE command SET {sets} WHERE id = ?", (*row.values(), command_id))  # noqa: S608
    _record(connection, changed, command, now_us, actor, reason)
    _count_up(connection)
    return changed


def take_reply(
    connection: apsw.Connection, device_id: str, named: str, event: Event, *, now_us: int, seq: int
) -> Command | None:
    """Give a device's answer to the command that it answers: the one of that id, else the oldest one of that name
    that is in flight, else the only one in flight when the answer names none. None when there is no such command.

    ``seq`` is the record's number: what was said before a command was given does not answer it.
    """
    in_flight = [one for one in _of_device(connection, device_id) if one.state in IN_FLIGHT and one.first_seq < seq]
    found = _by_id(connection, device_id, named)
    if found is None:
        same = [one for one in in_flight if named in ("", one.name)]
        if not same or (not named and len(same) > 1):
            return None
        found = same[0]
    actor = Actor("device", device_id, channel="uplink")
    return apply(connection, found.id, event, now_us=now_us, actor=actor, reason=f"record {seq}")


def _by_id(connection: apsw.Connection, device_id: str, command_id: str) -> Command | None:
    found = next(_commands(connection, "WHERE id = ?", (command_id,)), None) if command_id else None
    return found if found is not None and found.device_id == device_id else None


def _of_device(connection: apsw.Connection, device_id: str) -> Iterator[Command]:
    return _commands(connection, "WHERE device_id = ? AND finished_at_us IS NULL ORDER BY number", (device_id,))


def _record(
    connection: apsw.Connection, after: Command, before: Command | None, now_us: int, actor: Actor, reason: str
) -> int:
    told: dict[str, Any] = {
        "command_id": after.id,
        "device_id": after.device_id,
        "person_id": after.person_id,
        "command": after.name,
        "state": str(after.state),
        "result": after.result,
        "finished": after.finished_at_us is not None,
    }
    if before is None:
        told |= {"parameters": shown_parameters(after), "expires_at": iso(after.expires_at_us)}
    return audit.append(
        connection,
        at_us=now_us,
        actor=actor,
        action=f"command.{after.state}",
        subject=f"device/{after.device_id}",
        version=after.version,
        before=None if before is None else {"state": str(before.state), "result": before.result},
        after=told,
        reason=reason,
    )


def _count_up(connection: apsw.Connection) -> None:
    """So that readers in every process look again."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET value = value + 1", (VERSION_KEY,)
    )


# ---- looking ---------------------------------------------------------------------------------------------------------


def version(connection: apsw.Connection) -> int:
    """The number of changes to the ledger so far."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (VERSION_KEY,)).fetchone()
    return 0 if row is None else int(row[0])


def reached(connection: apsw.Connection) -> int:
    """Up to which record the answers in the journal were given to their commands."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (SEQ_KEY,)).fetchone()
    return 0 if row is None else int(row[0])


def set_reached(connection: apsw.Connection, seq: int) -> None:
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = max(value, ?2)",
        (SEQ_KEY, seq),
    )


def get(connection: apsw.Connection, command_id: str) -> Command:
    """Raises NotFoundError."""
    found = next(_commands(connection, "WHERE id = ?", (command_id,)), None)
    if found is None:
        raise NotFoundError(f"no command {command_id!r}")
    return found


def open_commands(connection: apsw.Connection) -> list[Command]:
    """Those that are not over, oldest first."""
    return list(_commands(connection, "WHERE finished_at_us IS NULL ORDER BY number", ()))


def list_commands(
    connection: apsw.Connection,
    *,
    device_id: str = "",
    state: str = "",
    open_only: bool = False,
    before: int = 0,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Views, newest first; ``before`` is the number of the last one of an earlier page. Raises UsageError."""
    if state and state not in list(State):
        raise UsageError(f"state: {state!r} is none of {', '.join(State)}")
    asked, values = where(
        (device_id, "device_id = ?", (device_id,)),
        (state, "state = ?", (state,)),
        (before, "number < ?", (before,)),
        (open_only, "finished_at_us IS NULL", ()),
    )
    rest = f"{asked} ORDER BY number DESC LIMIT ?"
    return [view(command) for command in _commands(connection, rest, (*values, limit))]


def show(connection: apsw.Connection, command_id: str) -> dict[str, Any]:
    """One command with its steps. Raises NotFoundError."""
    command = get(connection, command_id)
    steps = []
    for (body,) in connection.execute(
        "SELECT body FROM audit WHERE subject = ? AND seq >= ? AND action GLOB 'command.*' ORDER BY seq",
        (f"device/{command.device_id}", command.first_seq),
    ):
        row = msgspec.json.decode(body)
        if row["after"]["command_id"] == command_id:
            told = {"seq": row["seq"], "at": iso(row["at_us"]), "state": row["after"]["state"]}
            steps.append(told | {"result": row["after"]["result"], "actor": row["actor"], "reason": row["reason"]})
    return view(command) | {"steps": steps}


def view(command: Command) -> dict[str, Any]:
    """JSON-ready; personal parameters are masked."""
    times = {
        name.removesuffix("_us"): None if value is None else iso(value)
        for name in ("created_at_us", "expires_at_us", "sent_at_us", "answer_by_us", "finished_at_us")
        for value in (getattr(command, name),)
    }
    return {
        "id": command.id,
        "number": command.number,
        "device_id": command.device_id,
        "person_id": command.person_id,
        "name": command.name,
        "parameters": shown_parameters(command),
        "dangerous": command.dangerous,
        "confirms": command.confirms,
        "state": str(command.state),
        "result": command.result,
        "finished": command.finished_at_us is not None,
        "attempts": command.attempts,
        "transport": command.transport,
        "requested_by": command.actor,
        "version": command.version,
    } | times


def shown_parameters(command: Command) -> dict[str, Any]:
    """The parameters, those that are personal masked."""
    return {name: masked(value) if name in command.personal else value for name, value in command.parameters.items()}


def prune(connection: apsw.Connection, *, now_us: int, limit: int = 1000) -> int:
    """Forget commands that were over 92 days ago; the audit keeps their steps. Returns how many."""
    connection.execute(
        "DELETE FROM command WHERE number IN (SELECT number FROM command WHERE finished_at_us < ? LIMIT ?)",
        (now_us - KEPT_US, limit),
    )
    return connection.changes()


def counts(connection: apsw.Connection) -> dict[str, int]:
    """Commands that are not over, by state."""
    found = connection.execute("SELECT state, count(*) FROM command WHERE finished_at_us IS NULL GROUP BY state")
    return dict.fromkeys((str(state) for state in State if state not in OVER), 0) | dict(found)


def _commands(connection: apsw.Connection, rest: str, bindings: Iterable[Any]) -> Iterator[Command]:
    for row in connection.execute(f"{_SELECT} {rest}", tuple(bindings)):
        values = dict(zip(_COLUMNS, row, strict=True))
        for name in ("parameters", "personal", "actor"):
            values[name] = msgspec.json.decode(values[name])
        for name in ("dangerous", "confirms"):
            values[name] = bool(values[name])
        yield Command(**values | {"state": State(values["state"])})


def _row(command: Command) -> dict[str, Any]:
    row = {name: getattr(command, name) for name in _COLUMNS}
    for name in ("parameters", "personal", "actor"):
        row[name] = msgspec.json.encode(row[name]).decode()
    for name in ("dangerous", "confirms"):
        row[name] = int(row[name])
    return row | {"state": str(command.state)}
