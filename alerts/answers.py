"""What people answer, as providers tell it: a pressed key is an answer, and nothing else is. In a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import apsw
import structlog

from alerts import attempts, care, ladders, rows
from alerts.attempts import Attempt
from alerts.lifecycle import transition
from alerts.notice import Told
from alerts.policy import Policy
from alerts.rows import Alert
from alerts.states import Handling
from alerts.technical import raise_technical
from gateway.errors import ConflictError
from gateway.model import Actor

_log = structlog.get_logger(__name__)


def take_told(connection: apsw.Connection, told: Told, now_us: int, policy: Policy) -> str:
    """Keep what a provider told, and act on a key.

    Returns what came of it: ``unknown`` (no such attempt), ``repeated``, ``noted``, ``accepted``, ``declined``,
    ``wrong_number`` or ``late``. The same thing told twice does nothing the second time.
    """
    attempt = attempts.find(connection, told.attempt_id, told.provider) or attempts.find(connection, told.attempt_id)
    if attempt is None:
        _log.warning("callback_of_unknown_attempt", provider=told.provider, attempt_id=told.attempt_id[:64])
        return "unknown"
    if not attempts.note_told(connection, told, attempt.provider):
        return "repeated"
    attempts.take(connection, attempt, told)
    if attempt.ladder == care.LANE:
        return "noted" if attempt.digits else care.take_answer(connection, told, now_us, policy)
    if not told.digits:
        if told.state in ("failed", "undelivered") and attempt.medium == "voice":
            _go_on(connection, attempt, told, now_us, policy)
        return "noted"
    act = _ANSWERS.get(told.digits)
    if act is None or attempt.digits:  # the first key counts, whatever is pressed later in the same call
        return "noted"
    return act(connection, rows.get(connection, attempt.alert_id), attempt, told, now_us, policy)


def _detail(attempt: Attempt, told: Told) -> dict[str, Any]:
    return {
        "attempt_id": attempt.attempt_id,
        "provider": told.provider,
        "contact_id": attempt.contact_id,
        "medium": attempt.medium,
        "digits": told.digits[:20],
        "call_sid": told.provider_id[:100],
    }


def _actor(attempt: Attempt) -> Actor:
    """Staff and call centers answer as operators; everybody else is family."""
    if attempt.contact_id.startswith(("staff:", "center:")):
        return Actor("operator", attempt.contact_id, role="operator", channel=attempt.medium)
    return Actor("contact", attempt.contact_id, role="family", channel=attempt.medium)


def _accept(
    connection: apsw.Connection, alert: Alert, attempt: Attempt, told: Told, now_us: int, policy: Policy
) -> str:
    actor = _actor(attempt)
    action = "accept" if actor.type == "operator" else "family_accept"
    if alert.handling is Handling.RAISED:
        try:
            transition(
                connection, alert.id, action, expected_version=alert.version, actor=actor, now_us=now_us,
                policy=policy, detail=_detail(attempt, told),
            )  # fmt: skip
        except ConflictError as error:
            return _note_late(connection, alert, attempt, told, now_us, policy, str(error))
        return "accepted"
    return _note_late(connection, alert, attempt, told, now_us, policy, f"the alert is {alert.handling.value}")


def _note_late(
    connection: apsw.Connection, alert: Alert, attempt: Attempt, told: Told, now_us: int, policy: Policy, why: str
) -> str:
    transition(
        connection, alert.id, "answer_noted", expected_version=None,
        actor=Actor("contact", attempt.contact_id, role="family", channel=attempt.medium), now_us=now_us,
        policy=policy, note=f"came too late: {why}"[:500], detail=_detail(attempt, told),
    )  # fmt: skip
    return "late"


def _decline(
    connection: apsw.Connection, alert: Alert, attempt: Attempt, told: Told, now_us: int, policy: Policy
) -> str:
    attempts.note_declined(connection, attempt, now_us)
    if alert.handling is not Handling.RAISED:
        return _note_late(connection, alert, attempt, told, now_us, policy, f"the alert is {alert.handling.value}")
    rung = ladders.rungs(connection, alert.id).get("family")
    if rung is not None and rung.taken_by == attempt.contact_id:
        transition(
            connection, alert.id, "family_release", expected_version=None, actor=_actor(attempt), now_us=now_us,
            policy=policy, detail=_detail(attempt, told),
        )  # fmt: skip
    else:
        _go_on(connection, attempt, told, now_us, policy)
    return "declined"


def _wrong(connection: apsw.Connection, alert: Alert, attempt: Attempt, told: Told, now_us: int, policy: Policy) -> str:
    """Nobody calls this number again for this contact; the site has to find the right one."""
    if attempts.note_wrong(connection, attempt, now_us):
        raise_technical(
            connection, "contact_wrong_number", f"wrong_number/{attempt.attempt_id}", now_us, policy,
            evidence={"contact_id": attempt.contact_id, "alert_id": alert.id},
        )  # fmt: skip
    if alert.handling is Handling.RAISED:
        _go_on(connection, attempt, told, now_us, policy)
    return "wrong_number"


def _go_on(connection: apsw.Connection, attempt: Attempt, told: Told, now_us: int, policy: Policy) -> None:
    """The next step of this ladder is due now, if the alert still climbs."""
    alert = rows.get(connection, attempt.alert_id)
    rung = ladders.rungs(connection, alert.id).get(attempt.ladder)
    if alert.handling is not Handling.RAISED or rung is None or rung.state != "running":
        return
    transition(
        connection, alert.id, "next_step", expected_version=None, actor=Actor("contact", attempt.contact_id, "family"),
        now_us=now_us, policy=policy, detail={**_detail(attempt, told), "ladder": attempt.ladder},
    )  # fmt: skip


_ANSWERS: Final[Mapping[str, Callable[[apsw.Connection, Alert, Attempt, Told, int, Policy], str]]] = MappingProxyType(
    {"1": _accept, "2": _decline, "9": _wrong}
)
"""The keys that a call asks for: I take it, I cannot, wrong number."""
