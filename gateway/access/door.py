"""Signing in, staying signed in and out: the access service of the pages."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from typing import Final, Protocol

import apsw
import structlog

from gateway import audit
from gateway.access import lockout, sessions, totp, users
from gateway.access.passwords import Hashing, check_strength
from gateway.access.sessions import Limits, Session
from gateway.access.users import SECOND_FACTOR, User
from gateway.clock import US_PER_S, Clock
from gateway.errors import CarebellError, NotFoundError
from gateway.model import Actor
from gateway.ports import NearStore, Store
from gateway.security import digest_of

ISSUER: Final = "carebell"
LOOKED_AT_ONCE: Final = 25
log = structlog.get_logger("access")


class LoginRefusedError(CarebellError):
    """Wrong login, password or code, or locked (``retry_after_s`` > 0). Handler: the sign-in page (401, 429)."""

    def __init__(self, reason: str, retry_after_s: int = 0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def actor_of(user: User) -> Actor:
    """Who did it, for the audit and as owner of alerts: an id, never a name."""
    return Actor("operator", user.id, user.role, "console")


class Attendance(Protocol):
    """Writes down that somebody is there. Raises StorageError."""

    async def seen(self, token: str) -> None: ...

    async def watched(self, tokens: Sequence[str]) -> None: ...


class WrittenAttendance:
    """In the file, by the process that writes it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def seen(self, token: str) -> None:
        now_us = self._clock.now_us()
        await self._store.write(lambda c: sessions.seen(c, token, now_us))

    async def watched(self, tokens: Sequence[str]) -> None:
        now_us = self._clock.now_us()
        await self._store.write(lambda c: sessions.watched(c, tokens, now_us))


class Door:
    """``limits`` are those of sessions, ``attendance`` is kept by somebody else where the store is not written here.
    Every method may raise StorageError.
    """

    def __init__(
        self,
        store: NearStore,
        clock: Clock,
        limits: Limits,
        *,
        second_factor: bool = True,
        attendance: Attendance | None = None,
    ) -> None:
        self._attendance = attendance or WrittenAttendance(store, clock)
        self._store = store
        self._clock = clock
        self.limits = limits
        self._second_factor = second_factor
        self._hashing = Hashing()
        self._addresses = lockout.Addresses()

    # ---- signing in --------------------------------------------------------------------------------------------------

    async def sign_in(self, login: str, password: str, address: str) -> Session:
        """The first factor. Raises LoginRefusedError, which does not tell whether there is such a login."""
        now_us = self._clock.now_us()
        until_us = self._addresses.locked_until_us(address, now_us)
        if until_us:
            raise _locked(until_us, now_us)
        user = await self._store.read(lambda c: _known(c, login))
        if user is not None and user.locked_until_us > now_us:
            raise _locked(user.locked_until_us, now_us)
        fits = await self._hashing.fits(None if user is None else user.password_hash, password[:1000])
        if user is None or not fits or user.disabled_at_us is not None:
            await self._failed(user, address)
            raise LoginRefusedError("wrong login or password")
        step = "code" if self.needs_code(user) else "password" if user.must_change else "in"

        def begin(connection: apsw.Connection) -> str:
            sessions.sweep(connection, now_us, self.limits)
            if step == "in":
                _signed_in(connection, user, now_us)
            return sessions.begin(connection, user.id, now_us, step)

        token = await self._store.write(begin)
        return await self._reload(token)

    def needs_code(self, user: User) -> bool:
        """Whether this user signs in with a second factor."""
        return self._second_factor and user.role in SECOND_FACTOR

    async def enrol(self, session: Session) -> tuple[str, str]:
        """The secret of a user who has no confirmed one yet, and its URI for an authenticator app."""
        user = session.user
        assert user.totp_confirmed_at_us is None

        def keep(connection: apsw.Connection) -> str:
            known = users.by_id(connection, user.id).totp_secret
            if known is not None:
                return known
            secret = totp.new_secret()
            connection.execute("UPDATE user_account SET totp_secret = ? WHERE id = ?", (secret, user.id))
            return secret

        secret = await self._store.write(keep)
        return secret, totp.provisioning_uri(secret, user.login, ISSUER)

    async def present_code(self, session: Session, code: str, address: str) -> Session:
        """The second factor; the first right code also confirms a new secret. Raises LoginRefusedError."""
        now_us = self._clock.now_us()
        user = (await self._reload(session.token)).user
        until_us = max(user.locked_until_us, self._addresses.locked_until_us(address, now_us))
        if until_us > now_us:
            raise _locked(until_us, now_us)

        def take(connection: apsw.Connection) -> bool:
            fresh = users.by_id(connection, user.id)
            if fresh.totp_secret is None:
                return False
            step = totp.matching_step(fresh.totp_secret, code, now_us // US_PER_S, fresh.totp_step)
            if step is None:
                return False
            if fresh.totp_confirmed_at_us is None:
                audit.append(connection, at_us=now_us, actor=actor_of(fresh), action="user.second_factor",
                             subject=f"user/{fresh.id}")  # fmt: skip
            connection.execute(
                "UPDATE user_account SET totp_step = ?, totp_confirmed_at_us = coalesce(totp_confirmed_at_us, ?)"
                " WHERE id = ?",
                (step, now_us, fresh.id),
            )
            sessions.advance(connection, session.token, "password" if fresh.must_change else "in")
            if not fresh.must_change:
                _signed_in(connection, fresh, now_us)
            return True

        if not await self._store.write(take):
            await self._failed(user, address)
            raise LoginRefusedError("wrong code")
        return await self._reload(session.token)

    async def change_password(self, session: Session, old: str, new: str, address: str) -> Session:
        """Raises LoginRefusedError for a wrong old password, UsageError for a weak new one."""
        user = session.user
        now_us = self._clock.now_us()
        until_us = max(user.locked_until_us, self._addresses.locked_until_us(address, now_us))
        if until_us > now_us:
            raise _locked(until_us, now_us)
        check_strength(new, user.login)
        if not await self._hashing.fits(user.password_hash, old[:1000]):
            await self._failed(user, address)
            raise LoginRefusedError("wrong password")
        encoded = await self._hashing.hash(new)

        def change(connection: apsw.Connection) -> None:
            users.change_password(connection, user.id, encoded, at_us=now_us, actor=actor_of(user))
            users.end_sessions(connection, user.id, but=digest_of(session.token))
            if session.step == "password":
                sessions.advance(connection, session.token, "in")
                _signed_in(connection, user, now_us)

        await self._store.write(change)
        return await self._reload(session.token)

    async def sign_out(self, session: Session) -> None:
        await self._store.write(lambda c: sessions.end(c, session.token))

    # ---- staying signed in -------------------------------------------------------------------------------------------

    async def session(self, token: str, *, active: bool = True) -> Session | None:
        """The session in force of a cookie. ``active``: a person asks, not a timer."""
        now_us = self._clock.now_us()
        found = await self._store.glance(lambda c: sessions.find(c, token, now_us, self.limits))
        if found is None:
            return None
        session, is_stale = found
        if active and is_stale:
            await self._attendance.seen(token)
        return session

    async def watched(self, tokens: Sequence[str]) -> dict[str, Session]:
        """The sessions in force of connected screens, by token; call it every ``sessions.WATCHED_EVERY_S``."""
        now_us = self._clock.now_us()
        in_force: dict[str, Session] = {}
        for start in range(0, len(tokens), LOOKED_AT_ONCE):
            part = tokens[start : start + LOOKED_AT_ONCE]
            found = await self._store.glance(lambda c, part=part: self._find(c, part, now_us))  # type: ignore[misc]
            in_force |= found
            await asyncio.sleep(0)  # others of the loop have their turn
        if in_force:
            await self._attendance.watched(list(in_force))
        return in_force

    def _find(self, connection: apsw.Connection, tokens: Sequence[str], now_us: int) -> dict[str, Session]:
        found = {token: sessions.find(connection, token, now_us, self.limits) for token in tokens}
        return {token: session[0] for token, session in found.items() if session is not None}

    async def _reload(self, token: str) -> Session:
        session = await self.session(token, active=False)
        if session is None:
            raise LoginRefusedError("this session is over; sign in again")
        return session

    async def _failed(self, user: User | None, address: str) -> None:
        now_us = self._clock.now_us()
        self._addresses.failed(address, now_us)
        if user is None:
            return

        def note(connection: apsw.Connection) -> None:
            fresh = users.by_id(connection, user.id)
            failures, until_us = lockout.after_failure(fresh.failures, fresh.failed_at_us, now_us)
            connection.execute(
                "UPDATE user_account SET failures = ?, failed_at_us = ?, locked_until_us = ? WHERE id = ?",
                (failures, now_us, until_us, user.id),
            )
            if until_us:
                audit.append(
                    connection, at_us=now_us, actor=Actor("system", "access"), action="user.locked",
                    subject=f"user/{user.id}", after={"failures": failures},
                )  # fmt: skip

        await self._store.write(note)
        log.warning("sign_in_failed", user=user.id)


def is_csrf(session: Session, presented: str) -> bool:
    """Whether a request carries the token of its session."""
    return hmac.compare_digest(session.csrf.encode(), presented.encode("utf-8", "replace"))


def reveal(
    connection: apsw.Connection, subject: str, what: str, *, at_us: int, actor: Actor, reason: str, alert_id: str = ""
) -> None:
    """Write down that somebody looked at personal data that is otherwise masked; call it where it is read."""
    audit.append(
        connection, at_us=at_us, actor=actor, action="reveal", subject=subject, reason=reason,
        evidence={"what": what, "for_alert": alert_id},
    )  # fmt: skip


def door_code(connection: apsw.Connection, person_id: str) -> str | None:
    """How to get through a person's door. Whoever shows it calls ``reveal`` in the same transaction."""
    row = connection.execute("SELECT code FROM door_code WHERE person_id = ?", (person_id,)).fetchone()
    return None if row is None else str(row[0])


def set_door_code(connection: apsw.Connection, person_id: str, code: str, *, at_us: int, actor: Actor) -> None:
    """Keep it, or forget it when blank. Raises NotFoundError, ValueError for more than 100 characters."""
    if connection.execute("SELECT 1 FROM person WHERE id = ?", (person_id,)).fetchone() is None:
        raise NotFoundError(f"there is no person {person_id!r}")
    if len(code) > 100:
        raise ValueError("a door code has at most 100 characters")
    if code.strip():
        connection.execute("INSERT OR REPLACE INTO door_code VALUES (?, ?, ?)", (person_id, code.strip(), at_us))
    else:
        connection.execute("DELETE FROM door_code WHERE person_id = ?", (person_id,))
    audit.append(connection, at_us=at_us, actor=actor, action="person.door_code", subject=f"person/{person_id}")


def _known(connection: apsw.Connection, login: str) -> User | None:
    try:
        return users.by_login(connection, login[:200])
    except NotFoundError:
        return None


def _locked(until_us: int, now_us: int) -> LoginRefusedError:
    return LoginRefusedError("too many wrong tries", max(1, -(-(until_us - now_us) // US_PER_S)))


def _signed_in(connection: apsw.Connection, user: User, now_us: int) -> None:
    connection.execute(
        "UPDATE user_account SET failures = 0, locked_until_us = 0, signed_in_at_us = ? WHERE id = ?", (now_us, user.id)
    )
    audit.append(connection, at_us=now_us, actor=actor_of(user), action="user.sign_in", subject=f"user/{user.id}")
