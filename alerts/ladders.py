"""The third axis of an alert: its ladders, which run, pause and stop beside its handling. In the caller's transaction.

Nothing here reads a clock or a policy file: what an alert needs was copied when it was raised. The daemon alone climbs
(``climb``); what people do in other processes pauses ladders or makes them due.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

import apsw
from msgspec import Struct
from msgspec.structs import replace

from alerts import attempts, outbox_rows
from alerts.dossier import Dossier, Rung, load, snapshot
from alerts.notice import Medium
from alerts.people import Contact, Reach, contact_of, hash_of
from alerts.policy_files import is_on
from alerts.policy_schema import LadderName, Snapshot, Target
from alerts.rows import Alert
from alerts.states import OWNED, Handling, is_emergency
from gateway.clock import US_PER_S, iso

LANE: Final = "notify"
NAMES: Final[tuple[LadderName, ...]] = ("operator", "family")
TIMER: Final = {"operator": "ladder_operator", "family": "ladder_family"}
_ALL_TIMERS: Final = (*TIMER.values(), "present", "accept_target", "accept_sla", "family_hold", "unreachable")
_NAMESPACE: Final = uuid.UUID("5c0f1f0e-8f63-5d35-8a53-0a4a3c7c9f10")
LATE_US: Final = 2 * US_PER_S
"""A step that fires later than this was held up: what follows it is counted from now, so that nothing piles up."""
REDIAL_US: Final = 60 * US_PER_S
"""Nobody's phone rings twice within this time for alerts, whichever provider could do it."""
CALL_LIFE_US: Final = 90 * US_PER_S
"""A call that could not be made for so long is left to the steps that come after it."""


class Told(Struct, frozen=True):
    """What a step did: targets by medium (``P-1.1:voice``), and groups of consoles."""

    targets: list[str]
    consoles: list[str]


def rungs(connection: apsw.Connection, alert_id: str) -> dict[str, Rung]:
    """The ladders of an alert by name; none for an alert that has no escalation."""
    return load(connection, alert_id).rungs


# ---- beginning, pausing, beginning again -----------------------------------------------------------------------------


def begin(connection: apsw.Connection, dossier: Dossier, reach: Reach, now_us: int) -> Told:
    """Copy the policy into a new alert, start its ladders and take the steps that are due at once."""
    alert = dossier.alert
    person = reach.source.person(connection, alert.person_id) if alert.person_id else None
    place = person or (reach.source.device(connection, alert.device_id) if alert.device_id else None) or {}
    chosen = reach.choose(alert.kind, str(place.get("district") or ""), str(place.get("community") or ""))
    connection.execute(_BEGIN, (alert.id, now_us, chosen.digest))
    if connection.changes() == 0:
        connection.execute(
            "INSERT INTO policy_snapshot (hash, policy_id, version, body) VALUES (?, ?, ?, ?)",
            (chosen.digest, chosen.snapshot.policy.id, chosen.snapshot.version, chosen.body),
        )
        connection.execute(_BEGIN, (alert.id, now_us, chosen.digest))
    dossier.policy_hash = chosen.digest
    for name in NAMES:
        dossier.set_rung(Rung(alert.id, name, "stopped", "not started", 0, 0, 0, ""))
    _start(dossier, chosen.snapshot, now_us)
    told = Told([], [])
    for name in NAMES:
        timer = dossier.timers.find(TIMER[name])
        while timer is not None and timer <= now_us:
            more = climb(connection, dossier, name, timer, reach, now_us)
            told = Told(told.targets + more.targets, told.consoles + more.consoles)
            timer = dossier.timers.find(TIMER[name])
    return told


_BEGIN: Final = (
    "INSERT INTO escalation (alert_id, policy_hash, started_at_us)"
    " SELECT ?1, hash, ?2 FROM policy_snapshot WHERE hash = ?3"
)
"""Inserts nothing while the policy's snapshot is not there."""


def _start(dossier: Dossier, snapshot: Snapshot, now_us: int) -> None:
    """Start every ladder of the alert's severity from its first step, in a loop of its own."""
    policy, alert, timers = snapshot.policy, dossier.alert, dossier.timers
    for name, rung in list(dossier.rungs.items()):
        ladder = policy.ladder_of(name, alert.severity.name)
        if ladder is None:
            dossier.set_rung(replace(rung, state="stopped", reason="no ladder for this severity"))
            timers.cancel((TIMER[name],))
            continue
        loop = rung.loop + 1
        dossier.set_rung(replace(rung, state="running", reason="", loop=loop, first_loop=loop, step=0, taken_by=""))
        timers.arm(TIMER[name], now_us + round(ladder.step[0].at_s * US_PER_S))
    if is_emergency(alert.kind, alert.severity):
        for kind, after_s in (
            ("present", policy.present_s), ("accept_target", policy.accept_target_s),
            ("accept_sla", policy.accept_sla_s),
        ):  # fmt: skip
            timers.arm(kind, now_us + round(after_s * US_PER_S))


def follow(
    connection: apsw.Connection,
    before: Alert,
    dossier: Dossier,
    action: str,
    actor_id: str,
    detail: Mapping[str, Any],
    now_us: int,
) -> None:
    """What a change of an alert means to its ladders; ``dossier`` has the alert as it is behind it."""
    if dossier.policy_hash is None:
        return
    after = dossier.alert
    if after.handling in (Handling.RESOLVED, Handling.CLOSED):
        _halt(connection, dossier, "stopped", after.handling.value, now_us)
    elif action == "family_accept":
        _family_took(connection, dossier, actor_id, now_us)
    elif after.handling in OWNED:
        if before.handling not in OWNED:
            _halt(connection, dossier, "paused", f"accepted by {after.owner}", now_us)
            connection.execute(
                "UPDATE escalation SET accepted_at_us = coalesce(accepted_at_us, ?) WHERE alert_id = ?",
                (now_us, after.id),
            )
    elif before.handling is not Handling.RAISED or _other_ladders(_snapshot(connection, dossier), before, after):
        _start(dossier, _snapshot(connection, dossier), now_us)
        connection.execute("UPDATE escalation SET started_at_us = ? WHERE alert_id = ?", (now_us, after.id))
    elif action in ("escalate", "next_step"):
        _hasten(dossier, NAMES if action == "escalate" else (detail["ladder"],), now_us)
    elif action in ("family_release", "restore"):
        _resume(dossier, action, now_us)
    elif action == "presented":
        dossier.timers.cancel(("present",))
        connection.execute(
            "UPDATE escalation SET presented_at_us = coalesce(presented_at_us, ?) WHERE alert_id = ?",
            (now_us, after.id),
        )


def _snapshot(connection: apsw.Connection, dossier: Dossier) -> Snapshot:
    """The policy of an alert that has one."""
    found = snapshot(connection, dossier.policy_hash)
    assert found is not None
    return found


def _other_ladders(snapshot: Snapshot, before: Alert, after: Alert) -> bool:
    """Whether a rise of severity leads to other ladders."""
    if after.severity >= before.severity:
        return False
    return any(
        snapshot.policy.ladder_of(name, after.severity.name) != snapshot.policy.ladder_of(name, before.severity.name)
        for name in NAMES
    )


def _family_took(connection: apsw.Connection, dossier: Dossier, contact_id: str, now_us: int) -> None:
    """One of the family is on the way: the others are left alone, the operators are not."""
    alert, timers = dossier.alert, dossier.timers
    if alert.handling in OWNED:
        _halt(connection, dossier, "paused", f"accepted by {contact_id}", now_us)
    rung = dossier.rungs.get("family")
    if rung is not None:
        dossier.set_rung(replace(rung, state="paused", reason="taken by the family", taken_by=contact_id))
    timers.cancel((TIMER["family"],))
    outbox_rows.supersede(connection, alert.id, LANE, "family", now_us)
    if alert.handling is Handling.RAISED:
        hold_s = _snapshot(connection, dossier).policy.family_hold_s
        timers.arm("family_hold", now_us + round(hold_s * US_PER_S))


def _resume(dossier: Dossier, action: str, now_us: int) -> None:
    """Let the family ladder go on (``family_release``), or give back timers that got lost (``restore``)."""
    timers = dossier.timers
    for name, rung in list(dossier.rungs.items()):
        if action == "family_release" and name == "family" and rung.state == "paused":
            dossier.set_rung(replace(rung, state="running", reason="", taken_by=""))
            timers.arm(TIMER[name], now_us)
            timers.cancel(("family_hold",))
        elif action == "restore" and timers.find(TIMER[name]) is None:
            if rung.state == "running" or (rung.state == "paused" and name == "operator"):
                dossier.set_rung(replace(rung, state="running", reason=""))
                timers.arm(TIMER[name], now_us)
            elif rung.taken_by and timers.find("family_hold") is None:
                timers.arm("family_hold", now_us)


def _halt(connection: apsw.Connection, dossier: Dossier, state: str, reason: str, now_us: int) -> None:
    for rung in list(dossier.rungs.values()):
        if rung.state != "stopped":
            dossier.set_rung(replace(rung, state=state, reason=reason))
    dossier.timers.cancel(_ALL_TIMERS)
    outbox_rows.supersede(connection, dossier.alert.id, LANE, "", now_us)


def _hasten(dossier: Dossier, names: tuple[str, ...], now_us: int) -> None:
    """The next step of these ladders, where they run, is due now."""
    for name, rung in dossier.rungs.items():
        if name in names and rung.state == "running":
            dossier.timers.hasten(TIMER[name], now_us)


# ---- climbing --------------------------------------------------------------------------------------------------------


def climb(
    connection: apsw.Connection, dossier: Dossier, name: LadderName, due_us: int, reach: Reach, now_us: int
) -> Told:
    """Take the next step of a ladder and arm the one after it. Does nothing for a ladder that does not run."""
    alert, rung = dossier.alert, dossier.rungs.get(name)
    policy = snapshot(connection, dossier.policy_hash)
    ladder = None if policy is None else policy.policy.ladder_of(name, alert.severity.name)
    dossier.timers.cancel((TIMER[name],))
    if policy is None or rung is None or rung.state != "running" or alert.handling is not Handling.RAISED:
        return Told([], [])
    if ladder is None:
        dossier.set_rung(replace(rung, state="stopped", reason="no ladder for this severity"))
        return Told([], [])
    base_us = now_us if now_us - due_us > LATE_US else due_us
    place = min(rung.step, len(ladder.step) - 1)
    step = ladder.step[place]
    if place + 1 < len(ladder.step):
        loop, following, pause_s = rung.loop, place + 1, ladder.step[place + 1].at_s - step.at_s
    else:
        loop, following = rung.loop + 1, 0
        pause_s = ladder.period_s(rung.loop - rung.first_loop) - step.at_s + ladder.step[0].at_s
    dossier.set_rung(replace(rung, loop=loop, step=following))
    dossier.timers.arm(TIMER[name], base_us + round(pause_s * US_PER_S))
    return tell(connection, dossier, policy, step, rung, place, reach, now_us)


def tell(
    connection: apsw.Connection,
    dossier: Dossier,
    snapshot: Snapshot,
    target: Target,
    rung: Rung,
    place: int,
    reach: Reach,
    now_us: int,
) -> Told:
    """Put a message or call for everybody whom this step names into the outbox."""
    if target.tell == "console":
        return Told([], list(target.who))
    alert, usable = dossier.alert, reach.media()
    wanted = _addresses(connection, alert, snapshot, target, rung, reach, now_us)
    if wanted and not usable:
        dossier.timers.hasten("unreachable", now_us)
    told: list[str] = []
    for contact_id, medium in wanted:
        if medium in usable and _enqueue(connection, alert, rung, place, contact_id, medium, now_us):
            told.append(f"{contact_id}:{medium}")
    return Told(told, [])


def _addresses(
    connection: apsw.Connection,
    alert: Alert,
    snapshot: Snapshot,
    target: Target,
    rung: Rung,
    reach: Reach,
    now_us: int,
) -> list[tuple[str, Medium]]:
    """Contact and medium of each message, as if every medium could be used; calls within the quotas."""
    if target.tell == "contacts":
        return [
            (contact.contact_id, medium)
            for contact in _willing(connection, alert, reach, now_us)
            for medium in target.media
            if _may_tell(connection, contact, medium, snapshot, reach, now_us)
        ]
    if target.tell == "next_contact":
        return _next_contact(connection, alert, snapshot, target, reach, now_us)
    if target.tell == "staff":
        return [
            (f"staff:{role}", medium)
            for role in target.who
            if role in snapshot.staff and is_on(snapshot.staff[role], snapshot, now_us)
            for medium in target.media
            if (address := snapshot.staff[role].address(medium))
            and _has_room(connection, address, medium, snapshot, reach, now_us)
        ]
    later = rung.loop > rung.first_loop
    names = centers(snapshot, target, now_us)
    if target.tell == "center":
        names = [name for place, name in enumerate(names) if place == 0 or (later and snapshot.centers[name].city)]
    return [
        (f"center:{name}", medium)
        for name in names
        for medium in target.media
        if snapshot.centers[name].address(medium)
    ]


def centers(snapshot: Snapshot, target: Target, now_us: int) -> list[str]:
    """The centers that this step could tell, the best first: on duty, and with an address for one of its media."""
    if target.tell == "backup":
        possible = [name for name, center in snapshot.centers.items() if center.backup]
    else:
        possible = [name for name in snapshot.route if name in snapshot.centers]
    return [
        name
        for name in possible
        if any(snapshot.centers[name].address(medium) for medium in target.media)
        and is_on(snapshot.centers[name], snapshot, now_us)
    ]


def _willing(connection: apsw.Connection, alert: Alert, reach: Reach, now_us: int) -> list[Contact]:
    """The person's contacts who want to hear of this severity, now."""
    if not alert.person_id:
        return []
    emergency = is_emergency(alert.kind, alert.severity)
    timezone = reach.book.timezone
    if not emergency:  # an emergency asks for nobody's quiet hours
        timezone = str((reach.source.person(connection, alert.person_id) or {}).get("timezone") or timezone)
    return [
        contact
        for contact in map(contact_of, reach.source.contacts(connection, alert.person_id))
        if (emergency and "P1" in contact.severities) or alert.severity.name in contact.severities
        if emergency or not contact.is_quiet(now_us, timezone)
    ]


def _may_tell(
    connection: apsw.Connection, contact: Contact, medium: Medium, snapshot: Snapshot, reach: Reach, now_us: int
) -> bool:
    """Whether the medium reaches them, the number is theirs, and some provider's quota has room for it."""
    address = contact.address(medium)
    if not address or attempts.is_wrong(connection, contact.contact_id, hash_of(address)):
        return False
    return _has_room(connection, address, medium, snapshot, reach, now_us)


def _has_room(
    connection: apsw.Connection, address: str, medium: Medium, snapshot: Snapshot, reach: Reach, now_us: int
) -> bool:
    """Whether some provider may send to this address now; True when there is no provider at all."""
    providers = reach.providers(medium)
    return not providers or any(
        attempts.wait_us(connection, hash_of(address), medium, provider, snapshot.quotas, now_us) == 0
        for provider in providers
    )


def _next_contact(
    connection: apsw.Connection, alert: Alert, snapshot: Snapshot, target: Target, reach: Reach, now_us: int
) -> list[tuple[str, Medium]]:
    """The contact who was called least, in their order; those who said that they cannot come last."""
    found: list[tuple[tuple[bool, int, int], str, Medium]] = []
    for contact in _willing(connection, alert, reach, now_us):
        for medium in target.media:
            address = hash_of(contact.address(medium))
            if attempts.called_within(connection, address, medium, now_us - REDIAL_US, now_us):
                continue
            if _may_tell(connection, contact, medium, snapshot, reach, now_us):
                declined, times = attempts.history_of(connection, alert.id, contact.contact_id, medium)
                found.append(((declined, times, contact.position), contact.contact_id, medium))
                break
    return [min(found)[1:]] if found else []


def _enqueue(
    connection: apsw.Connection, alert: Alert, rung: Rung, place: int, contact_id: str, medium: Medium, now_us: int
) -> bool:
    """False when this very message is in the outbox already."""
    name = f"{alert.id}/{rung.name}/{rung.loop}/{place}/{contact_id}/{medium}"
    key = str(uuid.uuid5(_NAMESPACE, name))
    enqueued = outbox_rows.enqueue(
        connection,
        lane=LANE,
        destination=f"{LANE}_{medium}",
        order_key=key,  # no message waits for another
        priority=int(alert.severity),
        idempotency_key=key,
        alert_id=alert.id,
        payload={
            "contact_id": contact_id,
            "medium": medium,
            "ladder": rung.name,
            "loop": rung.loop,
            "step": place,
            "template": alert.kind,
        },
        now_us=now_us,
        expires_at_us=now_us + CALL_LIFE_US if medium == "voice" else None,
        once=True,
    )
    if enqueued:
        attempts.count_told(connection, alert.id, contact_id, medium)
    return enqueued > 0


def tell_next_center(connection: apsw.Connection, alert: Alert, payload: Any, reach: Reach, now_us: int) -> bool:
    """A center could not be told: tell the one behind it in the route. False when there is none."""
    dossier = load(connection, alert.id)
    policy, rung = snapshot(connection, dossier.policy_hash), dossier.rungs.get("operator")
    ladder = None if policy is None else policy.policy.ladder_of("operator", alert.severity.name)
    if policy is None or rung is None or ladder is None or payload["step"] >= len(ladder.step):
        return False
    step = ladder.step[payload["step"]]
    names = centers(policy, step, now_us)
    failed = str(payload["contact_id"]).removeprefix("center:")
    behind = names[names.index(failed) + 1 :] if failed in names else []
    usable = reach.media()
    then = replace(rung, loop=payload["loop"])
    for name in behind:
        told = [
            _enqueue(connection, alert, then, payload["step"], f"center:{name}", medium, now_us)
            for medium in step.media
            if policy.centers[name].address(medium) and medium in usable
        ]
        if any(told):
            return True
    return False


# ---- for people to read ----------------------------------------------------------------------------------------------


def view(connection: apsw.Connection, alert_id: str) -> dict[str, Any] | None:
    """The escalation of an alert, JSON-ready; None when it has none."""
    row = connection.execute(
        "SELECT policy_id, version, hash, started_at_us, presented_at_us, accepted_at_us, target_missed_at_us,"
        " sla_missed_at_us FROM escalation JOIN policy_snapshot ON hash = policy_hash WHERE alert_id = ?",
        (alert_id,),
    ).fetchone()
    if row is None:
        return None
    names = ("started_at", "presented_at", "accepted_at", "target_missed_at", "sla_missed_at")
    times = {name: None if at is None else iso(at) for name, at in zip(names, row[3:], strict=True)}
    shown: dict[str, Any] = {"policy": row[0], "policy_version": row[1], "policy_hash": row[2], **times, "ladders": {}}
    dossier = load(connection, alert_id)
    for name, rung in dossier.rungs.items():
        due_us = dossier.timers.find(TIMER[name])
        shown["ladders"][name] = {
            "state": rung.state,
            "reason": rung.reason or None,
            "loop": rung.loop,
            "step": rung.step,
            "due_at": None if due_us is None else iso(due_us),
            "taken_by": rung.taken_by or None,
        }
    return shown
