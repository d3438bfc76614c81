"""Legs that no ladder asked for, in the call log: parties of a conference, and calls that come in. In a transaction.

A leg is a row of ``attempt`` like any other: what its provider tells of it, and its recordings, find it by its id.
"""

from __future__ import annotations

from typing import Final, Literal

import apsw

from alerts.attempts import Parties
from alerts.notice import Medium
from alerts.people import hash_of

CONFERENCE: Final = "conference"
LONGEST_US: Final = 4 * 3600 * 1_000_000
"""A leg of which nothing was heard for so long is over."""


def begin_leg(
    connection: apsw.Connection,
    *,
    attempt_id: str,
    provider: str,
    alert_id: str,
    parties: Parties,
    now_us: int,
    direction: Literal["outbound", "inbound"] = "outbound",
    contact_id: str = "",
    provider_id: str = "",
) -> bool:
    """Write down a leg, before it is called, or when it has come in. False when it is there already.

    ``parties.role`` says who it is (``person``, ``call_center``, ``family``, ``doctor``, ``ems120``). ``contact_id``
    is the registry's, if it is one of the contacts. A leg counts in the quotas of its number like any call.
    """
    other = parties.caller if direction == "inbound" else parties.callee
    connection.execute(
        "INSERT OR IGNORE INTO attempt (attempt_id, provider, alert_id, contact_id, medium, ladder, loop, step,"
        " address_hash, provider_id, state, reason, tries, started_at_us, digits, recording, direction, role,"
        " person_id, caller, callee, created_at_us)"
        " VALUES (?, ?, ?, ?, 'voice', '', 0, 0, ?, ?, 'sending', '', 1, ?, '', '', ?, ?, ?, ?, ?, ?)",
        (
            attempt_id, provider, alert_id, contact_id, hash_of(other), provider_id, now_us, direction,
            parties.role, parties.person_id, parties.caller[:200], parties.callee[:500], now_us,
        ),
    )  # fmt: skip
    return connection.changes() == 1


def open_leg(
    connection: apsw.Connection, *, provider: str, alert_id: str, role: str, callee: str, now_us: int
) -> str | None:
    """The attempt of a leg to this number that nobody knows to have ended, the newest; None for none."""
    row = connection.execute(
        "SELECT attempt_id FROM attempt WHERE alert_id = ? AND provider = ? AND role = ? AND callee = ?"
        " AND direction = 'outbound' AND ended_at_us IS NULL AND created_at_us > ? ORDER BY created_at_us DESC LIMIT 1",
        (alert_id, provider, role, callee[:500], now_us - LONGEST_US),
    ).fetchone()
    return None if row is None else str(row[0])


def note_incoming(
    connection: apsw.Connection, *, attempt_id: str, provider: str, medium: Medium, parties: Parties, now_us: int
) -> bool:
    """A message that came in, or a call that was only heard to ring. False when it is there already."""
    connection.execute(
        "INSERT OR IGNORE INTO attempt (attempt_id, provider, alert_id, contact_id, medium, ladder, loop, step,"
        " address_hash, provider_id, state, reason, tries, started_at_us, ended_at_us, digits, recording, direction,"
        " role, person_id, caller, callee, created_at_us)"
        " VALUES (?, ?, '', '', ?, '', 0, 0, ?, ?, ?, '', 1, ?, ?, '', '', 'inbound', ?, ?, ?, ?, ?)",
        (
            attempt_id[:200], provider, medium, hash_of(parties.caller), attempt_id[:200],
            "delivered" if medium == "sms" else "no_answer", now_us, now_us, parties.role, parties.person_id,
            parties.caller[:200], parties.callee[:500], now_us,
        ),
    )  # fmt: skip
    return connection.changes() == 1


def note_result(connection: apsw.Connection, attempt_id: str, provider: str, result: str) -> None:
    """What a message that came in was taken for."""
    connection.execute(
        "UPDATE attempt SET reason = ? WHERE attempt_id = ? AND provider = ?", (result, attempt_id[:200], provider)
    )


def result_of(connection: apsw.Connection, attempt_id: str, provider: str) -> str:
    row = connection.execute(
        "SELECT reason FROM attempt WHERE attempt_id = ? AND provider = ?", (attempt_id[:200], provider)
    ).fetchone()
    return "unknown" if row is None else str(row[0])


def begin_conference(connection: apsw.Connection, *, provider: str, alert_id: str, person_id: str, now_us: int) -> bool:
    """The conference of an alert as a whole: its beginning, end and recordings are told under the alert's id."""
    return begin_leg(
        connection, attempt_id=alert_id, provider=provider, alert_id=alert_id,
        parties=Parties(callee=alert_id, person_id=person_id, role=CONFERENCE), now_us=now_us,
    )  # fmt: skip
