"""What each action of states.TABLE changes on an alert. Values in, values out; whoever calls writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from alerts.rows import Alert
from alerts.states import OUTCOMES, OWNED, PROGRESS, TABLE, Condition, Handling
from gateway.errors import UsageError
from gateway.model import Actor, Severity


class Request(Struct, frozen=True, kw_only=True):
    """Who wants what, for the functions that say what an action changes."""

    actor: Actor
    now_us: int
    outcome: str = ""
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


# ---- what each action changes ----------------------------------------------------------------------------------------


def _press(alert: Alert, request: Request) -> dict[str, Any]:
    changed: dict[str, Any] = {"occurrences": alert.occurrences + 1, "condition": Condition.ACTIVE}
    if request.detail.get("position") is not None:
        changed["position"] = request.detail["position"]
    return changed


def _reopen(alert: Alert, request: Request) -> dict[str, Any]:
    changed: dict[str, Any] = {"owner": "", "progress": "", "outcome": "", "resolved_at_us": None}
    if request.detail.get("pressed"):
        changed |= _press(alert, request)
    elif not request.note:
        raise UsageError("say why the alert is reopened")
    return changed


def _progress(alert: Alert, request: Request) -> dict[str, Any]:
    state = request.detail.get("progress") or alert.progress or "contacting_person"
    if state not in PROGRESS:
        raise UsageError(f"unknown progress {state!r}; known are {', '.join(sorted(PROGRESS))}")
    return {"progress": state}


def _assign(alert: Alert, request: Request) -> dict[str, Any]:
    owner = clean_text(request.detail.get("owner", ""), "owner", 200)
    if not owner:
        raise UsageError("say to whom the alert is assigned")
    if alert.handling is Handling.IN_PROGRESS:
        return {"owner": owner, "handling": Handling.IN_PROGRESS}
    return {"owner": owner}


def _severity(request: Request, default: int) -> Severity:
    asked = request.detail.get("severity", default)
    try:
        return Severity[asked] if isinstance(asked, str) else Severity(asked)
    except (KeyError, ValueError) as error:
        raise UsageError(f"unknown severity {asked!r}; known are P1 to P4") from error


def _severity_up(alert: Alert, request: Request) -> dict[str, Any]:
    severity = _severity(request, max(1, alert.severity - 1))
    if severity > alert.severity:
        raise UsageError(f"{severity.name} is lower than {alert.severity.name}; only a person lowers, with a reason")
    return {"severity": severity}


def _lower(alert: Alert, request: Request) -> dict[str, Any]:
    severity = _severity(request, min(4, alert.severity + 1))
    if severity <= alert.severity:
        raise UsageError(f"{severity.name} is not lower than {alert.severity.name}")
    if not request.note:
        raise UsageError("say why the alert is lowered")
    return {"severity": severity}


def _resolve(alert: Alert, request: Request) -> dict[str, Any]:
    del alert
    if request.outcome not in OUTCOMES:
        raise UsageError(f"an alert is resolved with an outcome: one of {', '.join(sorted(OUTCOMES))}")
    if request.outcome == "cleared" and request.actor.type == "operator":
        raise UsageError("'cleared' is what the gateway says of a condition that went by itself; name what you found")
    return {"outcome": request.outcome, "resolved_at_us": request.now_us}


def _note(alert: Alert, request: Request) -> dict[str, Any]:
    del alert
    if not request.note:
        raise UsageError("the note is empty")
    return {}


def _order_status(alert: Alert, request: Request) -> dict[str, Any]:
    state = request.detail.get("progress")
    if state is None or alert.handling not in OWNED:
        return {}
    return {"progress": state, "handling": Handling.IN_PROGRESS}


def _family_accept(alert: Alert, request: Request) -> dict[str, Any]:
    del alert
    if request.detail.get("family_first"):
        return {"owner": request.actor.id, "handling": Handling.ACCEPTED}
    return {}


def _redispatch(alert: Alert, request: Request) -> dict[str, Any]:
    del alert
    if not request.note:
        raise UsageError("say why it is dispatched again")
    return {}


def _end_test(alert: Alert, request: Request) -> dict[str, Any]:
    del alert
    return {"outcome": "test", "resolved_at_us": request.now_us}


def _nothing(alert: Alert, request: Request) -> dict[str, Any]:
    del alert, request
    return {}


CHANGES: Final[Mapping[str, Callable[[Alert, Request], dict[str, Any]]]] = MappingProxyType(
    {
        "press": _press,
        "clear": lambda alert, request: {"condition": Condition.CLEARED},  # noqa: ARG005 - one signature for all
        "lose_sight": lambda alert, request: {"condition": Condition.UNKNOWN},  # noqa: ARG005
        "severity_up": _severity_up,
        "accept": lambda alert, request: {"owner": request.actor.id},  # noqa: ARG005
        "progress": _progress,
        "release": lambda alert, request: {"owner": "", "progress": ""},  # noqa: ARG005
        "assign": _assign,
        "escalate": _severity_up,
        "lower": _lower,
        "resolve": _resolve,
        "family_accept": _family_accept,
        "family_release": _nothing,
        "next_step": _nothing,
        "answer_noted": _nothing,
        "presented": _nothing,
        "note": _note,
        "reopen": _reopen,
        "close": _nothing,
        "remind": _nothing,
        "restore": _nothing,
        "ladder_step": _nothing,
        "accept_late": _nothing,
        "unmask": _nothing,
        "end_test": _end_test,
        "order_sent": _order_status,
        "order_failed": _nothing,
        "order_status": _order_status,
        "order_code_refused": _nothing,
        "service_checkin": _order_status,
        "service_checkout": _nothing,
        "open_ticket": _nothing,
        "redispatch": _redispatch,
        "order_reminded": _nothing,
        "order_supervise_requested": _nothing,
        "order_complained": _nothing,
        "order_followed_up": _nothing,
    }
)
assert CHANGES.keys() == TABLE.keys()


def clean_text(value: Any, name: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise UsageError(f"{name} must be text of at most {longest} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} is not valid Unicode") from error
    return value.strip()
