"""Sessions of people who signed in: 256 random bits in a cookie, their digest in the file, two limits."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway.access.users import User, by_id
from gateway.security import digest_of, new_token

SEEN_EVERY_US: Final = 30_000_000
"""How exactly the newest request is known: not every request is a write."""
WATCHED_EVERY_S: Final = 60.0


class Limits(Struct, frozen=True):
    """``idle_us`` without a request and without a connected screen ends a session, ``watch_us`` without a request one
    whose screen is connected (a call center's screen is watched, not clicked); ``absolute_us`` ends every session.
    """

    idle_us: int
    watch_us: int
    absolute_us: int


class Session(Struct, frozen=True):
    """A session in force. ``step`` is what signing in still waits for: ``code``, ``password``, or ``in``: nothing."""

    token: str
    user: User
    created_at_us: int
    step: str

    @property
    def csrf(self) -> str:
        """What forms and scripts of this session must send along."""
        return hmac.new(self.token.encode(), b"csrf", hashlib.sha256).hexdigest()


def begin(connection: apsw.Connection, user_id: str, now_us: int, step: str) -> str:
    """A new session's token. Sessions over their absolute limit are cleared by ``sweep``."""
    token = new_token()
    connection.execute(
        "INSERT INTO session VALUES (?, ?, ?, ?, 0, ?)", (digest_of(token), user_id, now_us, now_us, step)
    )
    return token


def find(connection: apsw.Connection, token: str, now_us: int, limits: Limits) -> tuple[Session, bool] | None:
    """The session of a token, and whether it is time to write down that it was seen; None when it is over."""
    row: Any = connection.execute(
        "SELECT user_id, created_at_us, seen_at_us, watched_at_us, step FROM session WHERE digest = ?",
        (digest_of(token),),
    ).fetchone()
    if row is None:
        return None
    user_id, created_us, seen_us, watched_us, step = row
    unseen_us, away_us = now_us - seen_us, now_us - max(seen_us, watched_us)
    if now_us - created_us >= limits.absolute_us or away_us >= limits.idle_us:
        return None
    if unseen_us >= max(limits.watch_us, limits.idle_us):
        return None
    user = by_id(connection, user_id)
    if user.disabled_at_us is not None:
        return None
    return Session(token, user, created_us, step), now_us - seen_us >= SEEN_EVERY_US


def seen(connection: apsw.Connection, token: str, now_us: int) -> None:
    connection.execute("UPDATE session SET seen_at_us = ? WHERE digest = ?", (now_us, digest_of(token)))


def watched(connection: apsw.Connection, tokens: Collection[str], now_us: int) -> None:
    """Their screens are connected now. One statement for all: a writer's commit waits for it."""
    marks = ", ".join("?" * len(tokens))
    connection.execute(
        f"UPDATE session SET watched_at_us = ? WHERE digest IN ({marks})",  # noqa: S608 - placeholders
        (now_us, *(digest_of(token) for token in tokens)),
    )


def advance(connection: apsw.Connection, token: str, step: str) -> None:
    connection.execute("UPDATE session SET step = ? WHERE digest = ?", (step, digest_of(token)))


def end(connection: apsw.Connection, token: str) -> None:
    connection.execute("DELETE FROM session WHERE digest = ?", (digest_of(token),))


def sweep(connection: apsw.Connection, now_us: int, limits: Limits) -> None:
    """Delete what is over its absolute limit."""
    connection.execute("DELETE FROM session WHERE created_at_us <= ?", (now_us - limits.absolute_us,))
