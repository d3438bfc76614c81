"""What changes an alert: effects of the rules, acts of people, timers and orders. Inside a transaction of the caller.

Every change is made by ``transition``; raising makes the row. Each writes the alert, its audit row, its timers and its
dispatches together, so that after a crash either all of them are there or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct, field

from alerts import care_rows, ladders, order_requests, outbox_rows, promises, rows, suppression
from alerts.changes import CHANGES, Request, clean_text
from alerts.dossier import Dossier, Timers, load, snapshot
from alerts.policy import SILENCE_KINDS, Policy, Steps
from alerts.rows import Alert
from alerts.states import OPEN, TABLE, Condition, Handling, permit
from gateway import audit
from gateway.errors import ConflictError, UsageError
from gateway.model import Actor, Clear, Effect, Position, Raise

MAX_TEXT: Final = 2000
WITHDRAW_GRACE_US: Final = 24 * 3600 * 1_000_000
"""How long an order that may have arrived is still asked for after its alert was resolved."""


class Applied(Struct):
    """What effects came to: ids of alerts, and how many effects were there already."""

    raised: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    known: int = 0


# ---- the one function that changes an alert --------------------------------------------------------------------------


def transition(
    connection: apsw.Connection,
    alert_id: str,
    action: str,
    *,
    expected_version: int | None,
    actor: Actor,
    now_us: int,
    policy: Policy,
    outcome: str = "",
    note: str = "",
    detail: Mapping[str, Any] | None = None,
    dossier: Dossier | None = None,
) -> Alert:
    """Do one action of states.TABLE to an alert: row, audit row, timers and dispatches in the caller's transaction.

    ``expected_version`` is what the caller saw, None when it does not matter. ``dossier``: what the caller has read of
    the alert in this transaction, and not yet written. Returns the alert as it is now.
    Raises NotFoundError, UsageError (not allowed, or wrong in itself) and ConflictError (naming the owner).
    """
    dossier = dossier or load(connection, alert_id)
    before = dossier.alert
    move = permit(action, actor, before.kind, before.severity)
    if expected_version is not None and expected_version != before.version:
        raise ConflictError(f"{_where(before)}; you saw version {expected_version}")
    if before.handling not in move.sources:
        raise ConflictError(_refusal(before, action))
    if action == "reopen":
        newer = rows.find_open(connection, before.subject, before.kind, verified=before.verified)
        if newer is not None:
            raise ConflictError(f"{_where(newer)}: it is the same person's and newer; work on that one")
    if action in ("family_accept", "family_release"):
        detail = _family_detail(connection, dossier, action, actor, detail)
    request = Request(
        actor=actor, now_us=now_us, outcome=outcome, note=clean_text(note, "note", MAX_TEXT), detail=detail or {}
    )
    changed: dict[str, Any] = {} if move.target is None else {"handling": move.target}
    changed |= CHANGES[action](before, request)
    after = before
    if move.versioned:
        after = msgspec.structs.replace(before, **changed, version=before.version + 1, updated_at_us=now_us)
    _settle(connection, dossier, before, after, action, request, policy)
    return dossier.alert


def _family_detail(
    connection: apsw.Connection, dossier: Dossier, action: str, actor: Actor, detail: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Only the first of the family takes an alert, and only who has it (or the gateway) gives it back."""
    alert, rung = dossier.alert, dossier.rungs.get("family")
    taken_by = "" if rung is None else rung.taken_by
    if action == "family_accept" and taken_by:
        raise ConflictError(f"{_where(alert)}: {taken_by} of the family has it already")
    if action == "family_release" and (not taken_by or actor.id not in (taken_by, "timer")):
        raise ConflictError(f"{_where(alert)}: {taken_by or 'nobody'} of the family has it")
    kept = snapshot(connection, dossier.policy_hash)
    first = kept is not None and kept.policy.family_first
    return {**(detail or {}), "family_first": first}


def _where(alert: Alert) -> str:
    owner = f", owner {alert.owner}" if alert.owner else ""
    return f"alert {alert.id} is {alert.handling.value}{owner}, version {alert.version}"


def _refusal(alert: Alert, action: str) -> str:
    possible = ", ".join(sorted(name for name, move in TABLE.items() if alert.handling in move.sources and move.roles))
    return f"{_where(alert)}: {action} is not possible now (possible: {possible or 'nothing'})"


def _settle(
    connection: apsw.Connection,
    dossier: Dossier,
    before: Alert | None,
    after: Alert,
    action: str,
    request: Request,
    policy: Policy,
) -> None:
    """Write a change and all that follows from it; ``dossier`` has the alert as it is behind it."""
    now_us = request.now_us
    masked = (
        suppression.find(connection, after, now_us, policy)
        if before is None
        else suppression.still_masks(connection, dossier, after, action)
    )
    steps = masked or policy.next_steps(after, action, policy)
    evidence = _evidence(request.detail)
    wants_order = _wants_order(dossier, before, action, steps)
    if wants_order:
        after = msgspec.structs.replace(after, order_number=after.order_number + 1)
    if before is None:
        rows.insert(connection, after)
    elif after is not before and not rows.update(connection, before, after):
        raise ConflictError(f"{_where(before)} was changed at the same time")
    dossier.alert = after
    if wants_order:
        dossier.order = order_requests.request(connection, after, steps.order, now_us, policy)
        promises.begin(connection, after, dossier.timers, steps.order, now_us, policy, action)
        promises.ordered(connection, after, dossier.timers, steps.order, now_us, policy)
    elif action in ("press", "reopen", "escalate") and after.order_number:
        _try_order_again(connection, dossier, now_us)
    if action == "reopen":
        outbox_rows.keep(connection, after.id)
    if action == "resolve":
        withdrawn = outbox_rows.withdraw(connection, after.id, now_us, WITHDRAW_GRACE_US)
        order_requests.finish_superseded(connection, withdrawn, now_us)
        if withdrawn:
            evidence["superseded_dispatches"] = withdrawn
            dossier.order_known = False
    _follow_promise(connection, dossier, action, steps, now_us, policy)
    _set_timers(dossier.timers, steps, now_us)
    if masked is not None:
        evidence["suppressed"] = suppression.note(connection, after, masked, now_us)
    else:
        evidence |= _climb(connection, dossier, before, action, request, policy)
    dossier.write(connection)
    audit.append(
        connection,
        at_us=now_us,
        actor=request.actor,
        action=action,
        subject=f"alert/{after.id}",
        alert_id=after.id,
        version=after.version,
        before=None if before is None else _difference(before, after),
        after=dossier.view(connection),
        reason=request.note,
        evidence=evidence or None,
    )


def _follow_promise(
    connection: apsw.Connection, dossier: Dossier, action: str, steps: Steps, now_us: int, policy: Policy
) -> None:
    alert = dossier.alert
    if alert.handling not in OPEN:
        promises.end(dossier.timers)
    elif action == "reopen":
        promises.resume(connection, alert.id, dossier.timers, now_us)
    elif "ticket" in steps.hasten:
        promises.begin(connection, alert, dossier.timers, "maintenance", now_us, policy, action)


def _set_timers(timers: Timers, steps: Steps, now_us: int) -> None:
    for kind, delay_us in steps.arm.items():
        timers.arm(kind, now_us + delay_us)
    for kind, delay_us in steps.hasten.items():
        timers.hasten(kind, now_us + delay_us)
    timers.cancel(steps.cancel)


_MAY_ORDER: Final = ("press", "reopen", "severity_up", "escalate", "unmask", "open_ticket", "redispatch")


def _wants_order(dossier: Dossier, before: Alert | None, action: str, steps: Steps) -> bool:
    """Whether this change asks the platform for an order: the alert needs one and has none under way."""
    if not steps.order or (before is not None and action not in _MAY_ORDER):
        return False
    return dossier.order_under_way() is None


def _climb(
    connection: apsw.Connection, dossier: Dossier, before: Alert | None, action: str, request: Request, policy: Policy
) -> dict[str, Any]:
    """The ladders' part of a change; returns what the audit row says of it."""
    begins = before is None or (
        action in ("restore", "unmask", "reopen", "release") and dossier.alert.handling is Handling.RAISED
    )
    if begins and policy.reach is not None and not dossier.rungs:
        told = ladders.begin(connection, dossier, policy.reach, request.now_us)
        return {"told": told.targets} if told.targets else {}
    if before is not None:
        ladders.follow(connection, before, dossier, action, request.actor.id, request.detail, request.now_us)
    return {}


def _try_order_again(connection: apsw.Connection, dossier: Dossier, now_us: int) -> None:
    """Somebody pressed again while the alert's order lies refused: try it once more, under its own key."""
    order = dossier.order_under_way()
    if order is not None and order.order_id is None and outbox_rows.revive(connection, order.idempotency_key, now_us):
        dossier.order_known = False


def _difference(before: Alert, after: Alert) -> dict[str, Any]:
    shown = ("handling", "condition", "severity", "owner", "progress", "occurrences", "outcome")
    values = {name: getattr(before, name) for name in shown if getattr(before, name) != getattr(after, name)}
    if "severity" in values:
        values["severity"] = before.severity.name
    return values


_SHOWN: Final = frozenset(
    {
        "effect_id", "seq", "late", "rule_id", "progress", "owner", "severity", "reference", "order_id", "status",
        "at", "number", "reason", "epoch", "dispatch_id", "channel", "recording_ref", "call_sid", "attempt_id",
        "contact_id", "provider", "digits", "medium", "ladder", "loop", "step", "mark", "service_code", "device_id",
        "staff_id", "method",
    }
)  # fmt: skip
"""What an audit row repeats of an action's detail; anything else might be personal."""


def _evidence(detail: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in detail.items():
        if key not in _SHOWN or value is None:
            continue
        if isinstance(value, str):
            kept[key] = clean_text(value, key, 500)
        elif isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 53):
            kept[key] = value
        else:
            raise UsageError(f"{key} must be text or a number")
    return kept


# ---- effects of the rules --------------------------------------------------------------------------------------------


def apply_effects(connection: apsw.Connection, effects: Sequence[Effect], now_us: int, policy: Policy) -> Applied:
    """Turn effects into alerts, in order. An effect that was applied before, in whatever life, does nothing."""
    applied = Applied()
    known = _known(connection, effects)
    for effect in effects:
        if effect.effect_id in known:
            applied.known += 1
            continue
        known.add(effect.effect_id)
        if isinstance(effect, Raise):
            _apply_raise(connection, effect, now_us, policy, applied)
        else:
            _apply_clear(connection, effect, now_us, policy, applied)
    return applied


def _known(connection: apsw.Connection, effects: Sequence[Effect]) -> set[str]:
    """The ids of those effects that were applied before."""
    row: Any = connection.execute(
        "SELECT json_group_array(effect_id) FROM occurrence WHERE effect_id IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode([effect.effect_id for effect in effects]).decode(),),
    ).fetchone()
    return set(msgspec.json.decode(row[0]))


def _apply_raise(connection: apsw.Connection, effect: Raise, now_us: int, policy: Policy, applied: Applied) -> None:
    actor = Actor("rule", effect.rule_id)
    subject = rows.subject_for(policy.site, effect)
    detail: dict[str, Any] = {
        "effect_id": effect.effect_id,
        "seq": effect.seq,
        "late": effect.late,
        "position": _position(effect.position),
        "pressed": True,
    }
    latest = rows.find_newest(connection, subject, effect.kind, verified=effect.verified)
    action = "press" if latest is not None and latest.handling in OPEN else "reopen"
    if latest is None or not _takes(latest, now_us, policy):
        alert = _new_alert(effect, subject, now_us, policy, previous_id=None if latest is None else latest.id)
        request = Request(actor=actor, now_us=now_us, detail=detail)
        _settle(connection, Dossier(alert), None, alert, "raise", request, policy)
        applied.raised.append(alert.id)
    else:
        alert = transition(
            connection,
            latest.id,
            action,
            expected_version=None,
            actor=actor,
            now_us=now_us,
            policy=policy,
            detail=detail,
        )
        if effect.severity < alert.severity:
            transition(
                connection, alert.id, "severity_up", expected_version=None, actor=actor, now_us=now_us, policy=policy,
                detail={"severity": effect.severity.name, "effect_id": effect.effect_id},
            )  # fmt: skip
        applied.changed.append(alert.id)
    _insert_occurrence(
        connection, effect, alert.id, received_at_us=effect.received_at_us, occurred_at_us=effect.occurred_at_us,
        active=True, late=effect.late,
    )  # fmt: skip
    if effect.kind in SILENCE_KINDS and effect.device_id:
        _lose_sight(connection, effect, now_us, policy, applied)


def _takes(alert: Alert, now_us: int, policy: Policy) -> bool:
    """Whether a new press belongs to this alert: it is open, or was resolved less than T_reopen ago."""
    if alert.handling in OPEN:
        return True
    resolved = alert.resolved_at_us
    return alert.handling is Handling.RESOLVED and resolved is not None and now_us - resolved < policy.reopen_us


def _new_alert(effect: Raise, subject: str, now_us: int, policy: Policy, *, previous_id: str | None) -> Alert:
    return Alert(
        id=rows.alert_id(policy.site, effect),
        version=1,
        subject=subject,
        person_id=effect.person_id,
        device_id=effect.device_id,
        kind=effect.kind,
        severity=effect.severity,
        condition=Condition.ACTIVE,
        handling=Handling.RAISED,
        progress="",
        owner="",
        outcome="",
        verified=effect.verified,
        late=effect.late,
        occurrences=1,
        raised_at_us=now_us,
        updated_at_us=now_us,
        occurred_at_us=effect.occurred_at_us,
        resolved_at_us=None,
        rule_id=effect.rule_id,
        rule_version=effect.rule_version,
        evidence=effect.evidence,
        position=_position(effect.position),
        previous_id=previous_id,
        order_number=0,
    )


def _position(position: Position | None) -> dict[str, Any] | None:
    if position is None:
        return None
    return {name: getattr(position, name) for name in position.__struct_fields__}


def _lose_sight(connection: apsw.Connection, effect: Raise, now_us: int, policy: Policy, applied: Applied) -> None:
    """Nobody hears the device any more: what it last said of its open alerts may no longer be so."""
    for alert in rows.open_alerts_of_device(connection, effect.device_id):
        if alert.kind not in SILENCE_KINDS and alert.condition is Condition.ACTIVE:
            transition(
                connection, alert.id, "lose_sight", expected_version=None, actor=Actor("rule", effect.rule_id),
                now_us=now_us, policy=policy, detail={"effect_id": effect.effect_id},
            )  # fmt: skip
            applied.changed.append(alert.id)


def _apply_clear(connection: apsw.Connection, effect: Clear, now_us: int, policy: Policy, applied: Applied) -> None:
    if effect.rule_id == care_rows.SIGN_RULE:
        care_rows.take_sign(connection, effect.person_id, effect.at_us, now_us)
    subject = rows.subject_for(policy.site, effect)
    alert = rows.find_open(connection, subject, effect.kind, verified=True) or rows.find_open(
        connection, subject, effect.kind, verified=False
    )
    if alert is not None and alert.condition is not Condition.CLEARED:
        transition(
            connection, alert.id, "clear", expected_version=None, actor=Actor("rule", effect.rule_id), now_us=now_us,
            policy=policy, detail={"effect_id": effect.effect_id, "seq": effect.seq},
        )  # fmt: skip
        applied.changed.append(alert.id)
    _insert_occurrence(
        connection, effect, None if alert is None else alert.id, received_at_us=effect.at_us,
        occurred_at_us=effect.at_us, active=False, late=False,
    )  # fmt: skip


def _insert_occurrence(
    connection: apsw.Connection,
    effect: Effect,
    alert_id: str | None,
    *,
    received_at_us: int,
    occurred_at_us: int,
    active: bool,
    late: bool,
) -> None:
    connection.execute(
        "INSERT INTO occurrence (effect_id, alert_id, seq, at_us, occurred_at_us, device_id, active, late, evidence)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            effect.effect_id, alert_id, effect.seq, received_at_us, occurred_at_us, effect.device_id, int(active),
            int(late), rows.encode_json(effect.evidence),
        ),
    )  # fmt: skip
