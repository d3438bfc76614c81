"""The pages under /console, as one ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.console import case, case_acts, case_data, conference, lists, queue, sign_in, statistics, stream
from gateway.console.frame import ROOT, Frame, Handler, refusal, visiting

GET: Final = ("GET",)
POST: Final = ("POST",)
BOTH: Final = ("GET", "POST")
Message = MutableMapping[str, Any]

# path under /console, methods, handler, permission of gateway.api.auth.MAY
PAGES: Final[Sequence[tuple[str, Sequence[str], Handler, str | None]]] = (
    ("", GET, queue.home, "alerts.read"),
    ("/queue", GET, queue.part, "alerts.read"),
    ("/presented", POST, queue.presented, "alerts.read"),
    ("/alerts/{alert_id}", GET, case.show, "alerts.read"),
    ("/alerts/{alert_id}/panel", GET, case.panel, "alerts.read"),
    ("/alerts/{alert_id}/readings", GET, case_data.readings, "observations.read"),
    ("/alerts/{alert_id}/map.json", GET, case_data.places, "observations.read"),
    ("/alerts/{alert_id}/conference", GET, conference.legs, "alerts.act"),
    ("/alerts/{alert_id}/parties", GET, conference.parties, "alerts.act"),
    ("/alerts/{alert_id}/conference/{change}", POST, conference.change, "alerts.act"),
    ("/alerts/{alert_id}/call", POST, case_acts.call, "alerts.act"),
    ("/alerts/{alert_id}/order", POST, case_acts.order, "alerts.act"),
    ("/alerts/{alert_id}/reveal", POST, case_acts.reveal, "alerts.act"),
    ("/alerts/{alert_id}/{action}", POST, case_acts.act, "alerts.act"),
    ("/map", GET, lists.whole_map, "persons.read"),
    ("/map.json", GET, lists.whole_map_data, "persons.read"),
    ("/persons", BOTH, lists.persons, "persons.read"),
    ("/persons/{person_id}", GET, lists.person, "persons.read"),
    ("/persons/{person_id}/door-code", POST, lists.door_code, "persons.write"),
    ("/devices", BOTH, lists.devices, "devices.read"),
    ("/devices/{device_id}", GET, lists.device, "devices.read"),
    ("/calls", GET, lists.calls, "calls.read"),
    ("/audit", GET, lists.audit, "audit.read"),
    ("/supervision", GET, lists.supervision, "orders.read"),
    ("/statistics", GET, statistics.page, "alerts.read"),
    ("/colleagues", GET, queue.colleagues, "alerts.act"),
    ("/outline.json", GET, queue.outline, "alerts.read"),
    ("/sign-out", POST, sign_in.sign_out, None),
)
PASSIVE: Final = frozenset(
    {
        "/queue",
        "/presented",
        "/alerts/{alert_id}/panel",
        "/alerts/{alert_id}/readings",
        "/alerts/{alert_id}/map.json",
        "/alerts/{alert_id}/conference",
        "/map.json",
    }
)
"""Asked by the page's script: no sign of a person."""
WAITING: Final = frozenset(
    {
        "/alerts/{alert_id}/readings",
        "/alerts/{alert_id}/map.json",
        "/alerts/{alert_id}/conference",
        "/alerts/{alert_id}/conference/{change}",
        "/alerts/{alert_id}/call",
        "/map.json",
    }
)
"""Ask the history or a provider."""


def build_console(frame: Frame) -> Callable[..., Awaitable[None]]:
    """What serves every path under /console."""

    async def static(request: Request) -> Response:
        try:
            return frame.assets.answer(request)
        except HTTPException as error:
            return await refusal(frame, request, error)

    async def wrong(request: Request, error: Exception) -> Response:
        return await refusal(frame, request, error)

    async def bug(request: Request, error: Exception) -> Response:
        structlog.get_logger("console").error("request_failed", error=type(error).__name__)
        return await refusal(frame, request, HTTPException(500, "a fault in carebell; it is logged"))

    routes = [
        Route(f"{ROOT}/static/{{name}}", static, methods=["GET"]),
        Route(f"{ROOT}/sign-in", sign_in.begin(frame), methods=list(BOTH)),
        Route(f"{ROOT}/language/{{language}}", sign_in.language, methods=["GET"]),
        Route(f"{ROOT}/code", visiting(frame, sign_in.code, steps=("code",)), methods=list(BOTH)),
        Route(f"{ROOT}/password", visiting(frame, sign_in.password, steps=("password", "in")), methods=list(BOTH)),
        Route(f"{ROOT}/events", visiting(frame, stream.events, "alerts.read", active=False), methods=["GET"]),
    ]
    for path, methods, handler, permission in PAGES:
        endpoint = visiting(frame, handler, permission, active=path not in PASSIVE, waits=path in WAITING)
        routes.append(Route(f"{ROOT}{path}", endpoint, methods=list(methods)))
    pages = Starlette(routes=routes, exception_handlers={HTTPException: wrong, Exception: bug})
    pages.router.redirect_slashes = False
    templates = {id(route.endpoint): route for route in routes}
    headers = [
        (b"content-security-policy", frame.csp.encode()),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"permissions-policy", b"geolocation=(), microphone=(), camera=(self)"),
    ]

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
                scope["route"] = templates.get(id(scope.get("endpoint")))  # its path is what the access log shows
            await send(message)

        await pages(scope, receive, told)

    return app
