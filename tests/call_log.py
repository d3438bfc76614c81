"""Calls for the tests of the call log, made the way the lane of notices makes them."""

from __future__ import annotations

from typing import Any

import apsw

from alerts import attempts, rows
from alerts.attempts import Parties
from alerts.channel import Dispatch
from alerts.lifecycle import apply_effects
from alerts.notice import Told
from alerts.people import hash_of
from alerts.policy import Policy
from gateway.model import Actor
from gateway.registry.persons import add_person
from tests.alerts_support import sos
from tests.factory import T0_US

NUMBER = "+8613900000001"
CALLER = "+862212349"
ACTOR = Actor("operator", "U-9", role="supervisor")


def add_alert(connection: apsw.Connection, person_id: str = "P-0001", number: int = 1) -> str:
    """A person in care and their open SOS; the alert's id."""
    add_person(connection, person_id, {"name": "王秀英", "district": "和平区"}, at_us=T0_US, actor=ACTOR)
    apply_effects(connection, [sos(number, person_id=person_id)], T0_US, Policy())
    found = connection.execute("SELECT id FROM alert WHERE person_id = ?", (person_id,)).fetchone()
    assert found is not None
    return rows.get(connection, str(found[0])).id


def begin(
    connection: apsw.Connection,
    attempt_id: str,
    alert_id: str,
    *,
    at_us: int = T0_US,
    person_id: str = "P-0001",
    to: str = NUMBER,
    medium: str = "voice",
    contact_id: str = "P-0001.1",
    provider: str = "twilio",
) -> int:
    """One attempt, about to be handed to its provider; the call's number."""
    payload: dict[str, Any] = {"contact_id": contact_id, "medium": medium, "ladder": "family", "loop": 1, "step": 2}
    dispatch = Dispatch(
        id=1, lane="notify", destination=f"notify_{medium}", order_key="", priority=1, idempotency_key=attempt_id,
        alert_id=alert_id, payload=payload, attempt=1, uncertain=False, created_at_us=at_us, expires_at_us=None,
    )  # fmt: skip
    parties = Parties(caller=CALLER, callee=to, person_id=person_id)
    attempts.begin(connection, dispatch, provider, hash_of(to), at_us, parties)
    found = connection.execute("SELECT id FROM attempt WHERE attempt_id = ?", (attempt_id,)).fetchone()
    assert found is not None
    return int(found[0])


def tell(connection: apsw.Connection, attempt_id: str, state: Any, at_us: int, **members: Any) -> bool:
    """What the provider tells of an attempt, as the callbacks do; False when it told that before."""
    told = Told(
        attempt_id=attempt_id, provider="twilio", provider_id="CA1", state=state, at_us=at_us, **members,
    )  # fmt: skip
    attempt = attempts.find(connection, attempt_id)
    assert attempt is not None
    new = attempts.note_told(connection, told, attempt.provider)
    if new:
        attempts.take(connection, attempt, told)
    return new
