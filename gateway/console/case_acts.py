"""What an operator does about an alert. Each answers with the case as it is now, and says what was confirmed."""

from __future__ import annotations

from typing import Any, Final

import apsw
import structlog
from starlette.responses import Response

from gateway.access import door
from gateway.api.routes.alerts import visible_alert
from gateway.console.case import facts
from gateway.console.conference import party_of
from gateway.console.frame import Visit, see_other
from gateway.errors import CarebellError, ConflictError, DeliveryError, NotFoundError, UsageError
from gateway.registry.contacts import show_contact
from gateway.registry.persons import show_person

ACTS: Final = frozenset({"accept", "progress", "release", "resolve", "note", "assign", "escalate", "reopen"})
WHENEVER: Final = frozenset({"accept", "note"})
"""Done whatever became of the alert since it was seen. To take one, it is enough that nobody has it: a second press or
word of its order, between a look and the key, must not turn away whoever answers.
"""
NOTE_LONGEST: Final = 2000
log = structlog.get_logger("console")


async def act(visit: Visit) -> Response:
    """One of ACTS with the version that was seen. Of two who act on one version one is told who was quicker: 409.

    A browser sends again what got no answer: an act is done once, and whoever did it is told so.
    """
    action = visit.request.path_params["action"]
    if action not in ACTS:
        raise NotFoundError(f"there is no act {action!r}")
    note = visit.form.get("note", "").strip()
    if len(note) > NOTE_LONGEST:
        raise UsageError(f"note: at most {NOTE_LONGEST} characters")
    version = visit.number("version")
    if version is None and action not in WHENEVER:
        raise UsageError("version: which state of the alert was seen?")
    detail = {name: visit.form[name] for name in ("progress", "owner", "severity") if visit.form.get(name)}

    async def do(alert: dict[str, Any]) -> str:
        if not _is_done(alert, action, visit, version, note, detail):
            try:
                alert = await visit.services.desk.act(
                    alert["id"], action, actor=visit.actor, version=None if action in WHENEVER else version,
                    outcome=visit.form.get("outcome", ""), note=note, detail=detail or None,
                )  # fmt: skip
            except ConflictError:
                alert = await visible_alert(visit.services, visit.principal, alert["id"])
                if not _is_done(alert, action, visit, version, note, detail):
                    raise
        return f"{visit.say.word(action, 'action')} · v{alert['version']}"

    return await _answered(visit, do)


def _is_done(
    alert: dict[str, Any], action: str, visit: Visit, version: int | None, note: str, detail: dict[str, str]
) -> bool:
    """Whether this very act stands in the timeline behind the version that was seen: its answer did not arrive."""
    if version is None or (action == "resolve" and alert["outcome"] != visit.form.get("outcome", "")):
        return False
    for step in reversed(alert["transitions"]):
        if step["version"] <= version:
            return False
        if step["action"] != action or step["actor"]["id"] != visit.actor.id or (step["reason"] or "") != note:
            continue
        if detail.items() <= (step["evidence"] or {}).items() and (
            step["version"] == version + 1 or action in WHENEVER
        ):
            return True
    return False


async def order(visit: Visit) -> Response:
    """Ask the platform for help: the first order of this alert, or the incident once more."""
    note = visit.form.get("note", "").strip() or visit.say.text("坐席派单", "by the call center")

    async def do(alert: dict[str, Any]) -> str:
        if visit.services.orders is None:
            raise NotFoundError("this gateway keeps no orders")
        await visit.services.orders.act(
            alert["id"], "redispatch", actor=visit.actor, note=note, version=visit.number("version")
        )
        return visit.say.word("redispatch", "action")

    return await _answered(visit, do)


async def call(visit: Visit) -> Response:
    """Bring somebody to the line through the provider; without one, show the number to dial, which is audited."""
    shown: dict[str, str] = {}

    async def do(alert: dict[str, Any]) -> str:
        role, contact_id, to = party_of(visit)
        if visit.services.conferences is not None:
            leg = await visit.services.conferences.add(
                alert["id"], role, actor=visit.actor, to=to, contact_id=contact_id
            )  # fmt: skip
            said = f"{visit.say.text('正在呼叫', 'Calling')} · {visit.say.word(leg['status'], 'leg')}"
        else:
            what = f"contact/{contact_id}" if contact_id else "phone"
            shown.update(await _reveal(visit, alert, what))
            said = visit.say.text("本站点没有通话服务商，请用话机拨打", "No provider for calls here: dial it by hand")
        progress = {"person": "contacting_person", "family": "contacting_family", "ems120": "ems_called"}.get(role)
        if progress is not None:
            await _note_progress(visit, alert, progress)
        return said

    return await _answered(visit, do, shown)


async def reveal(visit: Visit) -> Response:
    """Show what is masked: ``door_code``, ``phone``, or ``contact/<id>``. The audit knows who looked."""
    shown: dict[str, str] = {}

    async def do(alert: dict[str, Any]) -> str:
        shown.update(await _reveal(visit, alert, visit.form.get("what", "")))
        return visit.say.text("已显示，查看已记入审计", "Shown; the audit knows of it")

    return await _answered(visit, do, shown)


async def _answered(visit: Visit, do: Any, shown: dict[str, str] | None = None) -> Response:
    """Do it; then the panel with what was confirmed, or with why it was not done, in the place where the button was."""
    alert_id = visit.request.path_params["alert_id"]
    alert = await visible_alert(visit.services, visit.principal, alert_id)
    status, message, conflict = 200, "", ""
    try:
        message = await do(alert)
    except ConflictError as error:
        status, conflict = 409, str(error)
    except (UsageError, DeliveryError) as error:
        status, conflict = _status_of(error), str(error)
    context = await facts(visit, alert_id)
    if status not in (200, 409):
        conflict = f"{visit.say.text('没有执行', 'Not done')}: {conflict}"
    elif conflict and context["owner_name"] and not context["mine"]:
        conflict = visit.say.text(
            f"{context['owner_name']} 已经接手，您的操作没有执行",
            f"{context['owner_name']} has it; your act was not done",
        )
    elif conflict:
        conflict = visit.say.text(
            "告警已被更改，您的操作没有执行", "The alert changed meanwhile; your act was not done"
        )
    if status == 200 and not visit.is_fragment and not shown:
        return see_other(f"/console/alerts/{alert_id}")
    context |= {"message": message, "conflict": conflict, "shown": shown or {}}
    return await visit.page("alert_panel.html" if visit.is_fragment else "alert_alone.html", status, **context)


def _status_of(error: CarebellError) -> int:
    return 404 if isinstance(error, NotFoundError) else 422 if isinstance(error, UsageError) else 502


async def _reveal(visit: Visit, alert: dict[str, Any], what: str) -> dict[str, str]:
    """Read it and write down that it was read, in one transaction."""
    person_id = alert["person_id"]
    if not person_id or not visit.sees_names:
        raise NotFoundError("there is nothing to show")
    now_us, actor = visit.services.clock.now_us(), visit.actor

    def read(connection: apsw.Connection) -> str:
        kind, _, contact_id = what.partition("/")
        if what == "door_code":
            found = door.door_code(connection, person_id)
        elif what == "phone":
            found = show_person(connection, person_id)["phone"]
        elif kind == "contact":
            contact = show_contact(connection, contact_id)
            found = contact["phone"] if contact["person_id"] == person_id else None
        else:
            raise UsageError("what: door_code, phone or contact/<id>")
        if found is None:
            raise NotFoundError("there is nothing to show")
        door.reveal(
            connection, f"person/{person_id}", what, at_us=now_us, actor=actor, reason="alert", alert_id=alert["id"]
        )
        return str(found)

    return {what: await visit.services.store.write(read)}


async def _note_progress(visit: Visit, alert: dict[str, Any], progress: str) -> None:
    """Whoever has the alert and calls somebody makes progress; who has it not changes nothing about it."""
    if alert["owner"] != visit.actor.id or alert["progress"] == progress:
        return
    try:
        await visit.services.desk.act(
            alert["id"], "progress", actor=visit.actor, version=alert["version"], detail={"progress": progress}
        )
    except ConflictError:
        log.info("progress_overtaken", alert=alert["id"])  # the call itself went out
