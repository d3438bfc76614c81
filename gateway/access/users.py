"""User accounts: who may sign in to the pages. Functions on a connection, in the caller's transaction."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway import audit
from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.security import ROLES

USER_ROLES: Final = ROLES - {"backend", "family"}
"""Programs have keys, families have links: neither signs in."""
SECOND_FACTOR: Final = frozenset({"admin", "operator", "supervisor"})
"""Who sees other people's data and acts on alerts signs in with two factors (GB/T 22239-2019, 8.1.4.1)."""

_LOGIN = re.compile(r"[a-z0-9][a-z0-9._-]{1,39}")


class User(Struct, frozen=True):
    """One row of ``user_account``; fields in the order of its columns."""

    id: str
    login: str
    name: str
    role: str
    district: str | None
    password_hash: str
    must_change: bool
    totp_secret: str | None
    totp_confirmed_at_us: int | None
    totp_step: int
    failures: int
    failed_at_us: int
    locked_until_us: int
    disabled_at_us: int | None
    created_at_us: int
    signed_in_at_us: int | None


_COLUMNS: Final = ", ".join(User.__struct_fields__)


def add_user(
    connection: apsw.Connection,
    login: str,
    *,
    name: str,
    role: str,
    password_hash: str,
    at_us: int,
    actor: Actor,
    district: str = "",
) -> dict[str, Any]:
    """Make an account whose password has to be changed at the first sign-in. Raises UsageError, ConflictError."""
    login = login.strip().lower()
    if _LOGIN.fullmatch(login) is None:
        raise UsageError("a login has 2 to 40 of a-z, 0-9, '.', '_', '-', and begins with a letter or digit")
    if role not in USER_ROLES:
        raise UsageError(f"role: must be one of {', '.join(sorted(USER_ROLES))}")
    name, district = name.strip() or login, district.strip()
    if len(name) > 100 or len(district) > 100:
        raise UsageError("a name and a district have at most 100 characters")
    if connection.execute("SELECT 1 FROM user_account WHERE login = ?", (login,)).fetchone():
        raise ConflictError(f"there is a user {login!r} already")
    user_id = f"u-{secrets.token_hex(5)}"
    connection.execute(
        "INSERT INTO user_account (id, login, name, role, district, password_hash, must_change, created_at_us)"
        " VALUES (?, ?, ?, ?, ?, ?, 1, ?)",
        (user_id, login, name, role, district or None, password_hash, at_us),
    )
    _record(connection, "user.add", user_id, at_us, actor, {"role": role, "district": district})
    return view(by_id(connection, user_id))


def set_disabled(
    connection: apsw.Connection, login: str, *, disabled: bool, at_us: int, actor: Actor
) -> dict[str, Any]:
    """End an account with its sessions, or let it back in. Raises NotFoundError, ConflictError."""
    user = by_login(connection, login)
    if (user.disabled_at_us is not None) == disabled:
        raise ConflictError(f"the user {user.login!r} is {'disabled' if disabled else 'not disabled'} already")
    connection.execute(
        "UPDATE user_account SET disabled_at_us = ? WHERE id = ?", (at_us if disabled else None, user.id)
    )
    end_sessions(connection, user.id)
    _record(connection, "user.disable" if disabled else "user.enable", user.id, at_us, actor)
    return view(by_id(connection, user.id))


def reset_user(
    connection: apsw.Connection, login: str, *, password_hash: str, at_us: int, actor: Actor
) -> dict[str, Any]:
    """A new password that must be changed; second factor, lock and sessions end. Raises NotFoundError."""
    user = by_login(connection, login)
    connection.execute(
        "UPDATE user_account SET password_hash = ?, must_change = 1, totp_secret = NULL, totp_confirmed_at_us = NULL,"
        " failures = 0, locked_until_us = 0 WHERE id = ?",
        (password_hash, user.id),
    )
    end_sessions(connection, user.id)
    _record(connection, "user.reset", user.id, at_us, actor)
    return view(by_id(connection, user.id))


def change_password(connection: apsw.Connection, user_id: str, password_hash: str, *, at_us: int, actor: Actor) -> None:
    """The user's own new password; every other session of theirs has to be ended by the caller."""
    connection.execute(
        "UPDATE user_account SET password_hash = ?, must_change = 0 WHERE id = ?", (password_hash, user_id)
    )
    _record(connection, "user.password", user_id, at_us, actor)


def list_users(connection: apsw.Connection) -> list[dict[str, Any]]:
    """All accounts by login, without secrets."""
    return [view(user) for user in _users(connection, "ORDER BY login")]


def by_login(connection: apsw.Connection, login: str) -> User:
    """Raises NotFoundError."""
    found = next(_users(connection, "WHERE login = ?", (login.strip().lower(),)), None)
    if found is None:
        raise NotFoundError(f"there is no user {login!r}")
    return found


def by_id(connection: apsw.Connection, user_id: str) -> User:
    """Raises NotFoundError."""
    found = next(_users(connection, "WHERE id = ?", (user_id,)), None)
    if found is None:
        raise NotFoundError(f"there is no user {user_id!r}")
    return found


def has_users(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM user_account LIMIT 1").fetchone() is not None


def names(connection: apsw.Connection) -> dict[str, str]:
    """Display names by id: owners and actors are stored as ids."""
    return {str(user_id): str(name) for user_id, name in connection.execute("SELECT id, name FROM user_account")}


def names_of(connection: apsw.Connection, ids: Collection[str]) -> dict[str, str]:
    """As ``names``, of these alone; who is no user is left out."""
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(f"SELECT id, name FROM user_account WHERE id IN ({marks})", tuple(ids))  # noqa: S608
    return {str(user_id): str(name) for user_id, name in rows}


def end_sessions(connection: apsw.Connection, user_id: str, *, but: bytes = b"") -> None:
    connection.execute("DELETE FROM session WHERE user_id = ? AND digest <> ?", (user_id, but))


def view(user: User) -> dict[str, Any]:
    """An account without its secrets, JSON-ready."""
    return {
        "user_id": user.id,
        "login": user.login,
        "name": user.name,
        "role": user.role,
        "district": user.district,
        "second_factor": user.totp_confirmed_at_us is not None,
        "must_change": user.must_change,
        "locked_until": iso(user.locked_until_us) if user.locked_until_us else None,
        "disabled_at": None if user.disabled_at_us is None else iso(user.disabled_at_us),
        "created_at": iso(user.created_at_us),
        "signed_in_at": None if user.signed_in_at_us is None else iso(user.signed_in_at_us),
    }


def _users(connection: apsw.Connection, where: str, values: tuple[Any, ...] = ()) -> Iterator[User]:
    for row in connection.execute(f"SELECT {_COLUMNS} FROM user_account {where}", values):  # noqa: S608 - ours
        told: list[Any] = list(row)
        told[6] = bool(told[6])
        yield User(*told)


def _record(
    connection: apsw.Connection,
    action: str,
    user_id: str,
    at_us: int,
    actor: Actor,
    after: Mapping[str, Any] | None = None,
) -> None:
    audit.append(connection, at_us=at_us, actor=actor, action=action, subject=f"user/{user_id}", after=after)
