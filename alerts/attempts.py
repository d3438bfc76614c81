"""The tables ``attempt`` and ``attempt_told``: the call log's base, and quotas. Inside a transaction of the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import apsw
from msgspec import Struct

from alerts.channel import Dispatch
from alerts.notice import AttemptState, Medium, Told
from alerts.policy_schema import Quota
from gateway.clock import US_PER_S, iso
from gateway.filters import where

_RANK: Final[Mapping[str, int]] = MappingProxyType(
    {
        "sending": 0,
        "unknown": 0,
        "deferred": 0,
        "refused": 0,
        "queued": 1,
        "sent": 2,
        "ringing": 2,
        "answered": 3,
        "machine": 4,
        "no_answer": 4,
        "busy": 4,
        "undelivered": 4,
        "failed": 4,
        "delivered": 5,
    }
)
"""A state never goes back: callbacks overtake each other."""

_ENDED: Final = frozenset({"delivered", "undelivered", "no_answer", "busy", "failed"})
NOT_MADE: Final = ("deferred", "refused")
"""Nothing reached anybody: not counted in quotas."""


class Parties(Struct, frozen=True, kw_only=True):
    """Who calls or writes to whom, for the call log. Personal data: shown by role, never logged.

    ``caller`` is "" when the provider does not say by which number it calls. ``role`` "": as ``contact_id`` says.
    """

    caller: str = ""
    callee: str = ""
    person_id: str = ""
    role: str = ""


NOBODY: Final = Parties()


class Attempt(Struct, frozen=True):
    """The part of a row that decisions need."""

    attempt_id: str
    provider: str
    alert_id: str
    contact_id: str
    medium: Medium
    ladder: str
    loop: int
    step: int
    address_hash: str
    state: str
    digits: str


_COLUMNS: Final = ", ".join(Attempt.__struct_fields__)


def find(connection: apsw.Connection, attempt_id: str, provider: str = "") -> Attempt | None:
    """The row of an attempt, of this provider or of the newest one."""
    asked, values = where((True, "attempt_id = ?", (attempt_id,)), (provider, "provider = ?", (provider,)))
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM attempt{asked} ORDER BY id DESC LIMIT 1",  # noqa: S608 - columns of ours
        values,
    ).fetchone()
    return None if row is None else Attempt(*row)


def begun_with(connection: apsw.Connection, attempt_id: str) -> list[tuple[str, str, int]]:
    """Provider, state and beginning of each row of an attempt, oldest first."""
    return [
        (str(provider), str(state), int(started))
        for provider, state, started in connection.execute(
            "SELECT provider, state, started_at_us FROM attempt WHERE attempt_id = ? ORDER BY id", (attempt_id,)
        )
    ]


def wait_us(
    connection: apsw.Connection,
    address_hash: str,
    medium: Medium,
    provider: str,
    quotas: Sequence[Quota],
    now_us: int,
    *,
    with_care: bool = False,
) -> int:
    """How long until this provider may send to this address again; 0 when it may now.

    ``with_care``: caring messages and calls count as well. For alerts they do not: care takes nothing from them.
    """
    own = [quota for quota in quotas if quota.medium == medium and quota.provider == provider]
    quota = next(iter(own or [each for each in quotas if each.medium == medium and not each.provider]), None)
    longest = 0
    for seconds, count in () if quota is None else quota.windows():
        row = connection.execute(
            "SELECT started_at_us FROM attempt WHERE address_hash = ? AND medium = ? AND provider = ?"
            " AND started_at_us > ? AND started_at_us <= ? AND state NOT IN ('deferred', 'refused')"
            " AND direction = 'outbound' AND (? OR ladder <> 'care') ORDER BY started_at_us DESC LIMIT 1 OFFSET ?",
            (address_hash, medium, provider, now_us - seconds * US_PER_S, now_us, with_care, count - 1),
        ).fetchone()
        if row is not None:
            longest = max(longest, int(row[0]) + seconds * US_PER_S - now_us)
    return longest


def called_within(connection: apsw.Connection, address_hash: str, medium: Medium, since_us: int, now_us: int) -> bool:
    """Whether any provider was asked to reach this address after ``since_us``."""
    row = connection.execute(
        "SELECT 1 FROM attempt WHERE address_hash = ? AND medium = ? AND started_at_us > ? AND started_at_us <= ?"
        " AND state NOT IN ('deferred', 'refused') AND direction = 'outbound' AND ladder <> 'care' LIMIT 1",
        (address_hash, medium, since_us, now_us),
    ).fetchone()
    return row is not None


def begin(
    connection: apsw.Connection,
    dispatch: Dispatch,
    provider: str,
    address_hash: str,
    now_us: int,
    parties: Parties = NOBODY,
) -> None:
    """Before the provider is asked: this attempt is being made."""
    payload = dispatch.payload
    connection.execute(
        "INSERT INTO attempt (attempt_id, provider, alert_id, contact_id, medium, ladder, loop, step, address_hash,"
        " provider_id, state, reason, tries, started_at_us, digits, recording, role, person_id, caller, callee,"
        " created_at_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 'sending', '', 1, ?, '', '', ?, ?, ?, ?, ?)"
        " ON CONFLICT (attempt_id, provider) DO UPDATE SET state = 'sending', tries = tries + 1, reason = '',"
        " started_at_us = excluded.started_at_us",
        (
            dispatch.idempotency_key, provider, dispatch.alert_id, payload["contact_id"], payload["medium"],
            payload["ladder"], payload["loop"], payload["step"], address_hash, now_us,
            parties.role or role_of(str(payload["contact_id"])), parties.person_id, parties.caller[:200],
            parties.callee[:500], now_us,
        ),
    )  # fmt: skip


def role_of(contact_id: str) -> str:
    """``staff``, ``center`` or ``contact``, by the form of the id."""
    prefix, separator, _ = contact_id.partition(":")
    return prefix if separator and prefix in ("staff", "center") else "contact"


def failed(connection: apsw.Connection, attempt_id: str, provider: str, state: str, reason: str, now_us: int) -> None:
    """The provider did not take it (``deferred``, ``refused``), or nobody knows (``unknown``)."""
    connection.execute(
        "UPDATE attempt SET state = ?, reason = ?, ended_at_us = iif(? = 'unknown', NULL, ?)"
        " WHERE attempt_id = ? AND provider = ? AND state IN ('sending', 'unknown')",
        (state, reason[:500], state, now_us, attempt_id, provider),
    )


def sent(connection: apsw.Connection, attempt_id: str, provider: str, provider_id: str, now_us: int) -> None:
    """The provider has it. What it told meanwhile stays."""
    connection.execute(
        "UPDATE attempt SET provider_id = iif(provider_id = '', ?, provider_id), sent_at_us = coalesce(sent_at_us, ?),"
        " state = iif(state IN ('sending', 'unknown'), 'queued', state) WHERE attempt_id = ? AND provider = ?",
        (provider_id, now_us, attempt_id, provider),
    )


def note_told(connection: apsw.Connection, told: Told, provider: str = "") -> bool:
    """Keep what a provider told. False when it told exactly that before.

    A recording gets a serial number. ``provider``: whose attempt it is, when that is not who told.
    """
    connection.execute(
        "INSERT OR IGNORE INTO attempt_told (attempt_id, provider, provider_id, state, digits, duration_s, recording,"
        " at_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            told.attempt_id, told.provider, told.provider_id, told.state, told.digits[:20],
            -1 if told.duration_s is None else told.duration_s, told.recording[:500], told.at_us,
        ),
    )  # fmt: skip
    new = connection.changes() == 1
    if new and told.recording:
        note_recording(connection, provider or told.provider, told)
    return new


def note_recording(connection: apsw.Connection, provider: str, told: Told) -> None:
    """A recording of this attempt. Of ``detail``: ``recording_uri``, ``recording_sha256`` and ``recording_s``."""
    seconds = str(told.detail.get("recording_s", ""))
    connection.execute(
        "INSERT OR IGNORE INTO call_recording (attempt_id, provider, reference, uri, sha256, duration_s,"
        " recorded_at_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            told.attempt_id, provider, told.recording[:500], str(told.detail.get("recording_uri", ""))[:1000],
            str(told.detail.get("recording_sha256", ""))[:64],
            int(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 9 else None, told.at_us,
        ),
    )  # fmt: skip


def take(connection: apsw.Connection, attempt: Attempt, told: Told) -> None:
    """Bring the row up to what was told; a state never goes back, the first key that was pressed stays."""
    state = told.state if _RANK[told.state] >= _RANK.get(attempt.state, 0) else attempt.state
    answered: AttemptState = "answered"
    connection.execute(
        "UPDATE attempt SET state = ?, provider_id = iif(provider_id = '', ?, provider_id),"
        " sent_at_us = coalesce(sent_at_us, ?), rang_at_us = coalesce(rang_at_us, ?),"
        " answered_at_us = coalesce(answered_at_us, ?), ended_at_us = coalesce(ended_at_us, ?),"
        " duration_s = coalesce(?, duration_s),"
        " digits = iif(digits = '', ?, digits), recording = iif(? = '', recording, ?)"
        " WHERE attempt_id = ? AND provider = ?",
        (
            state, told.provider_id, told.at_us, told.at_us if told.state == "ringing" else None,
            told.at_us if told.state == answered or told.digits else None,
            told.at_us if _is_over(told) else None, told.duration_s,
            told.digits[:20], told.recording, told.recording[:500], attempt.attempt_id, attempt.provider,
        ),
    )  # fmt: skip


def _is_over(told: Told) -> bool:
    return told.state in _ENDED or told.duration_s is not None or told.detail.get("event") == "conference-end"


def count_told(connection: apsw.Connection, alert_id: str, contact_id: str, medium: Medium) -> None:
    connection.execute(
        "INSERT INTO told_contact (alert_id, contact_id, medium, times) VALUES (?, ?, ?, 1)"
        " ON CONFLICT DO UPDATE SET times = times + 1",
        (alert_id, contact_id, medium),
    )


def note_declined(connection: apsw.Connection, attempt: Attempt, now_us: int) -> None:
    """They cannot: others are told first from now on."""
    connection.execute(
        "INSERT INTO told_contact (alert_id, contact_id, medium, times, declined_at_us) VALUES (?, ?, ?, 1, ?)"
        " ON CONFLICT DO UPDATE SET declined_at_us = excluded.declined_at_us",
        (attempt.alert_id, attempt.contact_id, attempt.medium, now_us),
    )


def history_of(connection: apsw.Connection, alert_id: str, contact_id: str, medium: Medium) -> tuple[bool, int]:
    """Whether a contact declined, whichever way they were told, and how often they were told by this medium."""
    row: Any = connection.execute(
        "SELECT coalesce(max(declined_at_us IS NOT NULL), 0), coalesce(sum(iif(medium = ?, times, 0)), 0)"
        " FROM told_contact WHERE alert_id = ? AND contact_id = ?",
        (medium, alert_id, contact_id),
    ).fetchone()
    return bool(row[0]), int(row[1])


def note_wrong(connection: apsw.Connection, attempt: Attempt, now_us: int) -> bool:
    """Whoever answers this number is not the contact. False when that was known."""
    connection.execute(
        "INSERT OR IGNORE INTO wrong_number (contact_id, address_hash, told_at_us, alert_id) VALUES (?, ?, ?, ?)",
        (attempt.contact_id, attempt.address_hash, now_us, attempt.alert_id),
    )
    return connection.changes() == 1


def is_wrong(connection: apsw.Connection, contact_id: str, address_hash: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM wrong_number WHERE contact_id = ? AND address_hash = ?", (contact_id, address_hash)
    ).fetchone()
    return row is not None


def of_alert(connection: apsw.Connection, alert_id: str, limit: int = 1000) -> list[dict[str, Any]]:
    """The attempts of an alert as JSON-ready views, oldest first; ids and times, no names or numbers."""
    rows: Iterable[Any] = connection.execute(
        "SELECT attempt_id, provider, contact_id, medium, ladder, loop, step, provider_id, state, reason, tries,"
        " started_at_us, sent_at_us, answered_at_us, ended_at_us, duration_s, digits, recording FROM attempt"
        " WHERE alert_id = ? ORDER BY id LIMIT ?",
        (alert_id, limit),
    )
    names = ("attempt_id", "provider", "contact_id", "medium", "ladder", "loop", "step", "provider_id", "state",
             "reason", "tries", "started_at", "sent_at", "answered_at", "ended_at", "duration_s", "digits",
             "recording")  # fmt: skip
    views = []
    for row in rows:
        view = dict(zip(names, row, strict=True))
        for name in ("started_at", "sent_at", "answered_at", "ended_at"):
            view[name] = None if view[name] is None else iso(view[name])
        views.append(view)
    return views
