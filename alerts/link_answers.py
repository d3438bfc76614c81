"""What a contact answers to a message: on the page of one alert that it linked to, or by a message back.

In a transaction of the caller.
"""

from __future__ import annotations

from typing import Any, Literal

import apsw
import msgspec

from alerts import ladders, rows
from alerts.lifecycle import transition
from alerts.policy import Policy
from alerts.rows import Alert
from alerts.states import OPEN, Handling
from gateway.errors import ConflictError
from gateway.model import Actor

Outcome = Literal["accepted", "declined", "noted", "late"]


def answer(
    connection: apsw.Connection,
    alert_id: str,
    contact_id: str,
    *,
    going: bool,
    now_us: int,
    policy: Policy,
    channel: Literal["link", "sms"] = "link",
) -> Outcome:
    """``going``: I am on my way; else: I cannot. Said again, it changes nothing; the other one takes it back.

    ``accepted``, ``declined``; ``noted`` when an operator has the alert or another contact goes (operators read it
    in the timeline); ``late`` when the alert has ended, and nothing is written. Raises NotFoundError.
    """
    alert = rows.get(connection, alert_id)
    if alert.handling not in OPEN:
        return "late"
    actor = Actor("contact", contact_id, role="family", channel=channel)
    detail = {"contact_id": contact_id, "medium": channel, "digits": "1" if going else "2"}
    rung = ladders.rungs(connection, alert_id).get("family")
    taken_by = "" if rung is None else rung.taken_by
    if going:
        return _going(connection, alert, taken_by, actor, detail, now_us, policy)
    if _declined(connection, alert_id, contact_id) and taken_by != contact_id:
        return "declined"
    _note_declined(connection, alert_id, contact_id, now_us)
    if alert.handling is not Handling.RAISED:
        _note(connection, alert, actor, detail, now_us, policy)
        return "noted"
    if taken_by == contact_id:
        action = "family_release"
    elif not taken_by and rung is not None and rung.state == "running":
        action, detail = "next_step", {**detail, "ladder": "family"}
    else:
        _note(connection, alert, actor, detail, now_us, policy)
        return "declined"
    transition(
        connection, alert_id, action, expected_version=None, actor=actor, now_us=now_us, policy=policy, detail=detail
    )
    return "declined"


def _going(
    connection: apsw.Connection,
    alert: Alert,
    taken_by: str,
    actor: Actor,
    detail: dict[str, Any],
    now_us: int,
    policy: Policy,
) -> Outcome:
    if taken_by == actor.id:
        return "accepted"
    connection.execute(
        "UPDATE told_contact SET declined_at_us = NULL WHERE alert_id = ? AND contact_id = ?", (alert.id, actor.id)
    )
    if alert.handling is Handling.RAISED:
        try:
            transition(
                connection, alert.id, "family_accept", expected_version=alert.version, actor=actor, now_us=now_us,
                policy=policy, detail=detail,
            )  # fmt: skip
        except ConflictError:  # another contact goes already
            _note(connection, alert, actor, detail, now_us, policy)
            return "noted"
        return "accepted"
    _note(connection, alert, actor, detail, now_us, policy)
    return "noted"


def _note(
    connection: apsw.Connection, alert: Alert, actor: Actor, detail: dict[str, Any], now_us: int, policy: Policy
) -> None:
    """Once for each thing that a contact says, however often the button is pressed."""
    told = connection.execute(
        "SELECT body FROM audit WHERE alert_id = ? AND action = 'answer_noted' ORDER BY seq DESC LIMIT 50", (alert.id,)
    )
    said = (msgspec.json.decode(body) for (body,) in told)
    newest = next((each for each in said if each["actor"]["id"] == actor.id), None)
    if newest is not None and (newest["evidence"] or {}).get("digits") == detail["digits"]:
        return
    words = "on the way 我马上过去" if detail["digits"] == "1" else "cannot come 去不了"
    transition(
        connection, alert.id, "answer_noted", expected_version=None, actor=actor, now_us=now_us, policy=policy,
        note=words, detail=detail,
    )  # fmt: skip


def _declined(connection: apsw.Connection, alert_id: str, contact_id: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM told_contact WHERE alert_id = ? AND contact_id = ? AND medium = 'sms'"
        " AND declined_at_us IS NOT NULL",
        (alert_id, contact_id),
    ).fetchone()
    return row is not None


def _note_declined(connection: apsw.Connection, alert_id: str, contact_id: str, now_us: int) -> None:
    """Others are told first from now on, whichever way this one was told."""
    connection.execute(
        "INSERT INTO told_contact (alert_id, contact_id, medium, times, declined_at_us) VALUES (?, ?, 'sms', 1, ?)"
        " ON CONFLICT DO NOTHING",
        (alert_id, contact_id, now_us),
    )
    connection.execute(
        "UPDATE told_contact SET declined_at_us = ? WHERE alert_id = ? AND contact_id = ?",
        (now_us, alert_id, contact_id),
    )
