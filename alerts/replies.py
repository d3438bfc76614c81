"""Messages that people send back, and calls that come in: the call log, and what a reply means.

A reply belongs to the newest message to its sender that waits for one: of an alert that is open, or of care.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import apsw

from alerts import answers, attempts, call_legs, care, link_answers, rows
from alerts.attempts import Attempt, Parties
from alerts.notice import Told
from alerts.people import hash_of
from alerts.policy import HOUR_US, Policy
from alerts.states import OPEN
from gateway.clock import Clock
from gateway.ports import Store

ANSWERED_WITHIN_US: Final = 48 * HOUR_US
_SAID: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "1": frozenset({"1", "我来", "我去", "我来处理", "我马上去", "马上到", "i take it", "on my way"}),
        "2": frozenset({"2", "我来不了", "来不了", "我去不了", "去不了", "i cannot", "cannot"}),
        "9": frozenset({"9", "打错了", "发错了", "wrong number"}),
    }
)
"""What stands for the keys of a call: I take it, I cannot, wrong number."""


def key_of(text: str) -> str:
    """The key that a reply to an alert stands for, "" for none."""
    said = text.strip().strip("。.!！").strip().casefold()
    return next((key for key, known in _SAID.items() if said in known), "")


def take_reply(connection: apsw.Connection, sender: str, text: str, name: str, now_us: int, policy: Policy) -> str:
    """A message of ``sender`` (E.164). ``name`` is the same when the same message is told again.

    Returns ``unknown`` (we wrote nothing to this number lately, or do not understand), what answers.take_told or
    link_answers.answer return for an alert, or what care.take_reply returns.
    """
    alarm = _newest(connection, sender, "ladder NOT IN ('', 'care')", now_us)
    caring = _newest(connection, sender, "ladder = 'care'", now_us)
    key = key_of(text)
    waits = alarm is not None and bool(key) and rows.get(connection, alarm[1].alert_id).handling in OPEN
    if alarm is not None and waits and (caring is None or alarm[0] > caring[0]):
        return _answer(connection, alarm[1], key, name, now_us, policy)
    came = care.take_reply(connection, sender, text, name, now_us, policy)
    if came == "unknown" and alarm is not None and key:
        return _answer(connection, alarm[1], key, name, now_us, policy)
    return came


def _newest(connection: apsw.Connection, sender: str, which: str, now_us: int) -> tuple[int, Attempt] | None:
    """Place in the call log and attempt of the newest message to this number."""
    row: Any = connection.execute(
        f"SELECT id, attempt_id, provider FROM attempt WHERE address_hash = ? AND medium = 'sms'"  # noqa: S608 - ours
        f" AND direction = 'outbound' AND started_at_us > ? AND state NOT IN ('deferred', 'refused') AND {which}"
        " ORDER BY id DESC LIMIT 1",
        (hash_of(sender), now_us - ANSWERED_WITHIN_US),
    ).fetchone()
    if row is None:
        return None
    attempt = attempts.find(connection, row[1], row[2])
    return None if attempt is None else (int(row[0]), attempt)


def _answer(connection: apsw.Connection, attempt: Attempt, key: str, name: str, now_us: int, policy: Policy) -> str:
    """As a key of a call, but a contact may think again."""
    told = Told(
        attempt_id=attempt.attempt_id, provider=attempt.provider, provider_id=name, state="answered", at_us=now_us,
        digits=key,
    )  # fmt: skip
    if key == "9" or attempt.contact_id.startswith(("staff:", "center:")):
        return answers.take_told(connection, told, now_us, policy)
    if not attempts.note_told(connection, told):
        return "repeated"
    attempts.take(connection, attempt, told)
    return link_answers.answer(
        connection, attempt.alert_id, attempt.contact_id, going=key == "1", now_us=now_us, policy=policy, channel="sms"
    )


class Replies:
    """What comes in, over ports.Store."""

    def __init__(self, store: Store, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def take_message(self, provider: str, sender: str, text: str, key: str, to: str = "") -> str:
        """A message of ``sender`` to our number ``to``, "" when that is not known. ``key`` names it.

        Returns as take_reply; told again, it does nothing and returns what it returned before. Raises StorageError.
        Wake the outbox afterwards.
        """
        now_us = self._clock.now_us()

        def take(connection: apsw.Connection) -> str:
            parties = Parties(caller=sender, callee=to, role="contact")
            if not call_legs.note_incoming(
                connection, attempt_id=key, provider=provider, medium="sms", parties=parties, now_us=now_us
            ):
                return call_legs.result_of(connection, key, provider)
            known = sender and text
            came = take_reply(connection, sender, text, f"reply/{key}", now_us, self._policy) if known else "unknown"
            call_legs.note_result(connection, key, provider, came)
            return came

        return await self._store.write(take)

    async def note_call(self, provider: str, number: str, key: str) -> None:
        """Somebody rang. ``number`` is "" when it is withheld. Raises StorageError."""
        now_us, parties = self._clock.now_us(), Parties(caller=number, role="contact")
        await self._store.write(
            lambda c: call_legs.note_incoming(
                c, attempt_id=key, provider=provider, medium="voice", parties=parties, now_us=now_us
            )
        )
