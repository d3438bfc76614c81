"""Care: messages and "I'm OK" checks that come due, the answers, and what becomes of silence. In a transaction.

A check that was put to the person and not answered is a ``no_answer``: an emergency. One that could not be put to them
(no provider, no number) is a ``check_in_missed``: somebody should ask by other means. Care never goes before an alarm:
it has queues and workers of its own, waits while alarms of its medium are to be sent, and leaves a person alone who has
an open alarm.
"""

from __future__ import annotations

import uuid
from typing import Any, Final
from zoneinfo import ZoneInfo

import apsw
import structlog

from alerts import care_rows, outbox_rows, rows
from alerts.care_rows import CARE_ACTOR, Occasion, Schedule
from alerts.care_words import meaning_of
from alerts.lifecycle import apply_effects
from alerts.notice import Medium, Told
from alerts.people import NoticeSource, contact_of, hash_of, zone_of
from alerts.policy import HOUR_US, MINUTE_US, Policy
from alerts.technical import raise_technical
from gateway.clock import from_us
from gateway.errors import UsageError
from gateway.model import Actor, Clear, Raise, Severity

LANE: Final = "care"
MESSAGE_LATE_US: Final = 2 * HOUR_US
"""A caring message that could not go out for so long is not sent any more."""
HELD_UP_US: Final = 2 * MINUTE_US
"""When the end of a wait is noticed so late, answers may have been missed: the person is asked once more."""
CALL_LIFE_US: Final = 10 * MINUTE_US
_NAMESPACE: Final = uuid.UUID("0f5b6a5e-9f0b-5c53-8d7a-7c1f3b7a2d11")
_log = structlog.get_logger(__name__)


class Site:
    """What care needs of the site: who people are, and which media work."""

    def __init__(self, policy: Policy, source: NoticeSource, ready: frozenset[Medium], timezone: str) -> None:
        self.policy = policy
        self.source = source
        self.ready = ready
        self.timezone = timezone

    def person(self, connection: apsw.Connection, person_id: str) -> dict[str, Any]:
        return dict(self.source.person(connection, person_id) or {})


def tick(connection: apsw.Connection, site: Site, now_us: int, limit: int = 100) -> int:
    """Begin what is due and end what was waited for long enough; returns how much that was, at most ``2 * limit``."""
    schedules = care_rows.due(connection, now_us, limit)
    for schedule in schedules:
        _begin(connection, schedule, site, now_us)
    silent = care_rows.unanswered(connection, now_us, limit)
    for occasion in silent:
        _silence(connection, occasion, site, now_us)
    return len(schedules) + len(silent)


def _begin(connection: apsw.Connection, schedule: Schedule, site: Site, now_us: int) -> None:
    person = site.person(connection, schedule.person_id)
    zone = zone_of(str(person.get("timezone") or site.timezone))
    planned_us = _planned(schedule, zone, now_us)
    planned = from_us(planned_us).astimezone(zone)
    care_rows.put_off(connection, schedule.id, care_rows.next_time(schedule.at, schedule.days, zone, now_us))
    occasion = care_rows.begin(connection, schedule, planned.date().isoformat(), now_us)
    if occasion is None:
        return
    reason = _reason_not_to(connection, schedule, person, site, planned_us, now_us)
    since_us = care_rows.wall_us(planned.date(), schedule.since, zone)
    if reason:
        care_rows.end(connection, occasion.id, "skipped", reason, now_us)
    elif schedule.kind == "check" and care_rows.last_sign_us(connection, schedule.person_id) >= since_us:
        care_rows.end(connection, occasion.id, "answered", "a sign of life before it was asked", now_us)
    elif schedule.kind == "check":
        _ask(connection, occasion, schedule, site, now_us)
    elif schedule.medium in site.ready:
        _say(connection, occasion, schedule, now_us, MESSAGE_LATE_US)
    else:
        care_rows.end(connection, occasion.id, "failed", "no provider", now_us)


def _planned(schedule: Schedule, zone: ZoneInfo, now_us: int) -> int:
    """The newest time that was missed: after an outage of days only today's counts."""
    today = from_us(now_us).astimezone(zone).date()
    at_us = care_rows.wall_us(today, schedule.at, zone)
    return at_us if str(today.isoweekday()) in schedule.days and at_us <= now_us else schedule.next_at_us


def _reason_not_to(
    connection: apsw.Connection,
    schedule: Schedule,
    person: dict[str, Any],
    site: Site,
    planned_us: int,
    now_us: int,
) -> str:
    """Why nothing is said now; "" when it is."""
    if person.get("state", "active") != "active" or not person:
        return "not in service"
    if care_rows.has_opted_out(connection, schedule.person_id, schedule.contact_id, schedule.medium):
        return "opted out"
    if has_alarm(connection, schedule.person_id):
        return "an alarm is open"
    now = from_us(now_us).astimezone(zone_of(str(person.get("timezone") or site.timezone)))
    planned = from_us(planned_us).astimezone(now.tzinfo)
    too_late = schedule.kind == "message" and now_us - planned_us > MESSAGE_LATE_US
    if too_late or planned.date() != now.date() or care_rows.is_quiet(now.strftime("%H:%M")):
        return "too late"
    return "quiet hours" if _is_quiet_for(connection, schedule, site, now_us) else ""


def _is_quiet_for(connection: apsw.Connection, schedule: Schedule, site: Site, now_us: int) -> bool:
    if not schedule.contact_id:
        return False
    person = site.person(connection, schedule.person_id)
    timezone = str(person.get("timezone") or site.timezone)
    return any(
        contact_of(view).is_quiet(now_us, timezone)
        for view in site.source.contacts(connection, schedule.person_id)
        if view["contact_id"] == schedule.contact_id
    )


def has_alarm(connection: apsw.Connection, person_id: str) -> bool:
    """Whether somebody is being looked after already: an open P1 or P2 of this person."""
    row = connection.execute(
        f"SELECT 1 FROM alert WHERE person_id = ? AND severity <= 2 AND {rows.OPEN_SQL} LIMIT 1",  # noqa: S608 - ours
        (person_id,),
    ).fetchone()
    return row is not None


def _ask(connection: apsw.Connection, occasion: Occasion, schedule: Schedule, site: Site, now_us: int) -> None:
    wait_us = schedule.wait_minutes * MINUTE_US
    care_rows.asked(connection, occasion.id, now_us + wait_us)
    if schedule.medium in site.ready:
        _say(connection, occasion, schedule, now_us, min(wait_us, CALL_LIFE_US))


def _say(connection: apsw.Connection, occasion: Occasion, schedule: Schedule, now_us: int, life_us: int) -> None:
    key = str(uuid.uuid5(_NAMESPACE, f"{schedule.id}/{occasion.day}/{occasion.tries}"))
    outbox_rows.enqueue(
        connection,
        lane=LANE,
        destination=f"{LANE}_{schedule.medium}",
        order_key=key,
        priority=outbox_rows.CARE_PRIORITY,
        idempotency_key=key,
        alert_id="",
        payload={
            "schedule_id": schedule.id,
            "occasion_id": occasion.id,
            "contact_id": schedule.contact_id or f"person:{schedule.person_id}",
            "medium": schedule.medium,
            "ladder": LANE,
            "loop": occasion.id,
            "step": occasion.tries,
        },
        now_us=now_us,
        expires_at_us=now_us + life_us,
    )


def _silence(connection: apsw.Connection, occasion: Occasion, site: Site, now_us: int) -> None:
    """A question was not answered in time: again, or an alert."""
    schedule = care_rows.get(connection, occasion.schedule_id)
    person = site.person(connection, occasion.person_id)
    reason = ""
    if person.get("state", "active") != "active" or not person:
        reason = "not in service"
    elif care_rows.has_opted_out(connection, occasion.person_id, "", schedule.medium):
        reason = "opted out"
    elif has_alarm(connection, occasion.person_id):
        reason = "an alarm is open"
    if reason:
        care_rows.end(connection, occasion.id, "skipped", reason, now_us)
        return
    clock = from_us(now_us).astimezone(zone_of(str(person.get("timezone") or site.timezone))).strftime("%H:%M")
    held_up = occasion.due_at_us is not None and now_us - occasion.due_at_us > HELD_UP_US
    tries = schedule.tries + 1 if held_up else schedule.tries
    if occasion.tries < tries and not care_rows.is_quiet(clock):
        _ask(connection, occasion, schedule, site, now_us)
        return
    reached = occasion.reached > 0
    alert_id = _raise(
        connection, occasion, "no_answer" if reached else "check_in_missed", Severity.P1 if reached else Severity.P2,
        now_us, site.policy,
    )  # fmt: skip
    reason = "nobody answered" if reached else "could not be asked"
    care_rows.end(connection, occasion.id, "unanswered", reason, now_us, alert_id)
    _log.warning("care_check_unanswered", occasion_id=occasion.id, alert_id=alert_id, reached=reached)


def _raise(
    connection: apsw.Connection, occasion: Occasion, kind: str, severity: Severity, now_us: int, policy: Policy
) -> str:
    effect = Raise(
        effect_id=f"care/{occasion.schedule_id}/{occasion.day}/{kind}",
        kind=kind,
        severity=severity,
        person_id=occasion.person_id,
        device_id="",
        seq=0,
        occurred_at_us=now_us,
        received_at_us=now_us,
        rule_id=f"care.{occasion.schedule_id}",
        rule_version="1",
        evidence={"schedule": occasion.schedule_id, "day": occasion.day, "tries": occasion.tries},
    )
    applied = apply_effects(connection, [effect], now_us, policy)
    return (applied.raised or applied.changed or [""])[0]


# ---- answers ---------------------------------------------------------------------------------------------------------


def sign_of_life(
    connection: apsw.Connection, person_id: str, name: str, how: str, at_us: int, now_us: int, policy: Policy
) -> None:
    """The person is well: checks that wait are answered, and what a silence raised is no longer active (a person ends
    it). ``name`` is the same for the same sign, ``how`` says what it was.
    """
    care_rows.note_sign(connection, person_id, at_us)
    for occasion in care_rows.asking(connection, person_id):
        care_rows.end(connection, occasion.id, "answered", how, now_us)
    for kind in ("no_answer", "check_in_missed"):
        alert = rows.find_open(connection, f"person/{person_id}", kind, verified=True)
        if alert is not None and alert.rule_id.startswith("care."):
            cleared = Clear(
                effect_id=f"care/{name}/{kind}", kind=kind, person_id=person_id, device_id="", seq=0, at_us=at_us,
                rule_id=alert.rule_id,
            )  # fmt: skip
            apply_effects(connection, [cleared], now_us, policy)


def take_answer(connection: apsw.Connection, told: Told, now_us: int, policy: Policy) -> str:
    """What a provider tells of a caring call or message; its attempt is written down already. Only a key counts.

    Returns ``noted``, ``answered``, ``help``, ``opted_out`` or ``late``.
    """
    occasion = _occasion_of(connection, told.attempt_id)
    if occasion is None or not told.digits:
        return "noted"
    schedule = care_rows.get(connection, occasion.schedule_id)
    if told.digits == "9":
        return _wrong_number(connection, schedule, told.attempt_id, now_us, policy)
    if schedule.kind != "check" or told.digits not in ("1", "2"):
        return "noted"
    return _answered(connection, occasion, told.digits, f"key {told.digits}", told.attempt_id, now_us, policy)


def _occasion_of(connection: apsw.Connection, attempt_id: str) -> Occasion | None:
    row = connection.execute(
        "SELECT loop FROM attempt WHERE attempt_id = ? AND ladder = ? LIMIT 1", (attempt_id, LANE)
    ).fetchone()
    return None if row is None else care_rows.find_occasion(connection, int(row[0]))


def _answered(
    connection: apsw.Connection, occasion: Occasion, key: str, how: str, name: str, now_us: int, policy: Policy
) -> str:
    in_time = occasion.state == "asking"
    sign_of_life(connection, occasion.person_id, name, how, now_us, now_us, policy)
    if key == "1":
        return "answered" if in_time else "late"
    alert_id = _raise(connection, occasion, "sos", Severity.P1, now_us, policy)
    care_rows.end(connection, occasion.id, "help", how, now_us, alert_id)
    return "help"


def _wrong_number(connection: apsw.Connection, schedule: Schedule, attempt_id: str, now_us: int, policy: Policy) -> str:
    """Whoever answers is not the person: nothing more is said there, and the site has to find the right number."""
    care_rows.opt_out(connection, schedule.person_id, schedule.contact_id, "", actor=CARE_ACTOR, now_us=now_us)
    raise_technical(
        connection, "contact_wrong_number", f"care/wrong_number/{attempt_id}", now_us, policy,
        evidence={"person_id": schedule.person_id, "contact_id": schedule.contact_id or None},
    )  # fmt: skip
    return "opted_out"


def take_reply(connection: apsw.Connection, sender: str, text: str, name: str, now_us: int, policy: Policy) -> str:
    """A message that somebody sent back. ``name`` is the same when the same message is told again.

    It is the answer to the newest message to this number within two days. Returns ``unknown`` (we wrote nothing to this
    number, or do not understand), ``answered``, ``help``, ``late``, ``opted_out`` or ``noted``.
    """
    row = connection.execute(
        "SELECT attempt_id, loop FROM attempt WHERE address_hash = ? AND ladder = ? AND started_at_us > ?"
        " AND state NOT IN ('deferred', 'refused') ORDER BY id DESC LIMIT 1",
        (hash_of(sender), LANE, now_us - 48 * HOUR_US),
    ).fetchone()
    occasion = None if row is None else care_rows.find_occasion(connection, int(row[1]))
    meaning = meaning_of(text)
    if occasion is None or not meaning:
        return "unknown"
    schedule = care_rows.get(connection, occasion.schedule_id)
    if meaning == "stop":
        care_rows.opt_out(connection, schedule.person_id, schedule.contact_id, "", actor=CARE_ACTOR, now_us=now_us)
        if occasion.state == "asking":
            care_rows.end(connection, occasion.id, "skipped", "opted out", now_us)
        return "opted_out"
    if schedule.contact_id:
        return "noted"  # a contact's word is no sign of life of the person
    key = {"well": "1", "help": "2"}[meaning]
    return _answered(connection, occasion, key, f"reply {key}", name, now_us, policy)


def told_by(
    connection: apsw.Connection, person_id: str, answer: str, *, actor: Actor, now_us: int, policy: Policy
) -> list[dict[str, Any]]:
    """Somebody of the site has talked to the person, who is ``well`` or needs ``help``. Audited.

    Well: what is being asked is answered, and what a silence raised is no longer active. Help: an ``sos`` (P1). Returns
    the person's newest occasions. Raises UsageError.
    """
    if answer not in ("well", "help"):
        raise UsageError("answer: well or help")
    name = f"told/{uuid.uuid4()}"
    how = f"told {actor.id}"
    asked = care_rows.asking(connection, person_id)
    sign_of_life(connection, person_id, name, how, now_us, now_us, policy)
    care_rows.note_answer(connection, person_id, answer, actor, now_us)
    if answer == "help":
        effect = Raise(
            effect_id=f"care/{name}/sos", kind="sos", severity=Severity.P1, person_id=person_id, device_id="", seq=0,
            occurred_at_us=now_us, received_at_us=now_us, rule_id="care.told", rule_version="1",
            evidence={"reported_by": actor.id},
        )  # fmt: skip
        applied = apply_effects(connection, [effect], now_us, policy)
        for occasion in asked:
            care_rows.end(connection, occasion.id, "help", how, now_us, (applied.raised or applied.changed)[0])
    return care_rows.list_occasions(connection, person_id=person_id, limit=10)


def not_said(connection: apsw.Connection, occasion_id: int, reason: str, now_us: int) -> None:
    """No provider took it. A check waits on, and is asked again or becomes an alert at its time."""
    occasion = care_rows.find_occasion(connection, occasion_id)
    if occasion is not None and occasion.state == "asking" and occasion.due_at_us is None:
        care_rows.end(connection, occasion_id, "failed", reason, now_us)


def said(connection: apsw.Connection, occasion_id: int, attempt_id: str, provider: str, now_us: int) -> None:
    """A provider took it."""
    occasion = care_rows.find_occasion(connection, occasion_id)
    if occasion is None:
        return
    care_rows.note_reached(connection, occasion_id)
    if occasion.state == "asking" and occasion.due_at_us is None:
        care_rows.end(connection, occasion_id, "sent", "", now_us)
    told: list[Any] = connection.execute(
        "SELECT state FROM attempt WHERE attempt_id = ? AND provider = ?", (attempt_id, provider)
    ).fetchall()
    _log.info("care_said", occasion_id=occasion_id, state=told[0][0] if told else "")
