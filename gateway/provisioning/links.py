"""Sign-in links of installers: short-lived, bound to a district, and good for one sign-in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway import audit
from gateway.clock import US_PER_S, iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.security import digest_of, new_token

HOUR_US: Final = 3600 * US_PER_S
DEFAULT_HOURS: Final = 8
LONGEST_HOURS: Final = 24
WRONG_CODES: Final = 20
WRONG_WINDOW_US: Final = HOUR_US
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"


class Installer(Struct, frozen=True):
    """Somebody who signed in by a link. ``district`` "" is the whole site."""

    link_id: str
    label: str
    district: str
    expires_at_us: int
    csrf: str

    @property
    def actor(self) -> Actor:
        return Actor("operator", f"installer:{self.link_id}", "installer", "installer")


def issue(
    connection: apsw.Connection, label: str, district: str, *, hours: int = DEFAULT_HOURS, at_us: int, actor: Actor
) -> tuple[str, str]:
    """A new link's id and token; the token is shown this once. Raises UsageError."""
    if not 1 <= hours <= LONGEST_HOURS:
        raise UsageError(f"a link is valid for 1 to {LONGEST_HOURS} hours")
    if not 1 <= len(label.strip()) <= 100 or not label.isprintable() or len(district) > 100:
        raise UsageError("label: say whose link it is, in 1 to 100 characters")
    link_id, token = "".join(secrets.choice(_ALPHABET) for _ in range(10)), new_token()
    expires_us = at_us + hours * HOUR_US
    connection.execute(
        "INSERT INTO installer_link (id, digest, label, district, created_at_us, expires_at_us)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (link_id, digest_of(token), label.strip(), district, at_us, expires_us),
    )
    audit.append(
        connection, at_us=at_us, actor=actor, action="installer.link", subject=f"installer/{link_id}",
        after={"district": district, "expires_at": iso(expires_us)},
    )  # fmt: skip
    return link_id, token


def sign_in(connection: apsw.Connection, token: str, *, at_us: int, browser: str = "") -> tuple[str, Installer]:
    """Use a link up; the token of the session that begins, and who that is.

    ``browser``: a secret that only the visitor's browser knows. With the same one the link may be presented again: its
    first answer may have been lost. Raises NotFoundError (forged), ConflictError (used before, expired or revoked).
    """
    row = connection.execute(
        "SELECT id, used_at_us, expires_at_us, revoked_at_us, session FROM installer_link WHERE digest = ?",
        (digest_of(token),),
    ).fetchone()
    if row is None:
        raise NotFoundError("there is no such link")
    link_id, used_us, expires_us, revoked_us, begun = row
    if revoked_us is not None or at_us >= expires_us:
        raise ConflictError("this link has expired")
    session = _session_of(token, browser) if browser else new_token()
    if used_us is not None:
        installer = find(connection, session, at_us) if begun == digest_of(session) else None
        if installer is None:
            raise ConflictError("this link was used before")
        return session, installer
    connection.execute(
        "UPDATE installer_link SET used_at_us = ?, session = ? WHERE id = ?", (at_us, digest_of(session), link_id)
    )
    installer = find(connection, session, at_us)
    assert installer is not None
    audit.append(
        connection, at_us=at_us, actor=installer.actor, action="installer.sign_in", subject=f"installer/{link_id}"
    )
    return session, installer


def _session_of(token: str, browser: str) -> str:
    """Of the link and the browser together: neither alone tells it."""
    mixed = hmac.new(token.encode(), b"session" + browser.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mixed).rstrip(b"=").decode()


def find(connection: apsw.Connection, session: str, at_us: int) -> Installer | None:
    """Whose session this is, None when it is over."""
    row = connection.execute(
        "SELECT id, label, district, expires_at_us FROM installer_link"
        " WHERE session = ? AND expires_at_us > ? AND revoked_at_us IS NULL",
        (digest_of(session), at_us),
    ).fetchone()
    if row is None:
        return None
    csrf = hmac.new(session.encode("utf-8", "surrogatepass"), b"csrf", hashlib.sha256).hexdigest()
    return Installer(str(row[0]), str(row[1]), str(row[2]), int(row[3]), csrf)


def revoke(connection: apsw.Connection, link_id: str, *, at_us: int, actor: Actor) -> None:
    """End a link and its session now. Raises NotFoundError, ConflictError when it has ended."""
    row = connection.execute(
        "SELECT revoked_at_us, expires_at_us FROM installer_link WHERE id = ?", (link_id,)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no link {link_id!r}")
    if row[0] is not None or row[1] <= at_us:
        raise ConflictError(f"link {link_id!r} has ended")
    connection.execute("UPDATE installer_link SET revoked_at_us = ? WHERE id = ?", (at_us, link_id))
    audit.append(connection, at_us=at_us, actor=actor, action="installer.revoke", subject=f"installer/{link_id}")


def may_try(connection: apsw.Connection, link_id: str, at_us: int) -> bool:
    """Whether this link may present a code: after 20 wrong ones it waits until an hour after the first of them."""
    row = connection.execute(
        "SELECT wrong_codes, wrong_since_us FROM installer_link WHERE id = ?", (link_id,)
    ).fetchone()
    return row is not None and (row[0] < WRONG_CODES or at_us - row[1] >= WRONG_WINDOW_US)


def note_wrong(connection: apsw.Connection, link_id: str, at_us: int) -> None:
    """It presented a code that is none."""
    connection.execute(
        "UPDATE installer_link SET wrong_codes = CASE WHEN ?1 - wrong_since_us >= ?2 THEN 1 ELSE wrong_codes + 1 END,"
        " wrong_since_us = CASE WHEN ?1 - wrong_since_us >= ?2 THEN ?1 ELSE wrong_since_us END WHERE id = ?3",
        (at_us, WRONG_WINDOW_US, link_id),
    )


def list_links(connection: apsw.Connection, *, limit: int = 1000) -> list[dict[str, Any]]:
    """Links without their tokens, newest first."""
    found = connection.execute(
        "SELECT id, label, district, created_at_us, expires_at_us, used_at_us, revoked_at_us FROM installer_link"
        " ORDER BY created_at_us DESC, id LIMIT ?",
        (limit,),
    )
    return [
        {
            "link_id": link_id,
            "label": label,
            "district": district,
            "created_at": iso(created),
            "expires_at": iso(expires),
            "used_at": None if used is None else iso(used),
            "revoked_at": None if revoked is None else iso(revoked),
        }
        for link_id, label, district, created, expires, used, revoked in found
    ]
