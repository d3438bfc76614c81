"""The installer's pages before a device: signing in by a link, the list of visits, claiming by code; and the routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import apsw
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.console import family, installer_steps
from gateway.console.installer_frame import COOKIE, CSP, ROOT, Outdoors, Stay, form_of, log, refusal, staying
from gateway.errors import CarebellError, ConflictError, NotFoundError, UsageError
from gateway.provisioning import claims, links, people, visits
from gateway.provisioning.codes import read_code
from gateway.security import mask_name, new_token

SHOWN: Final = 50
ENTRY: Final = "carebell_entry"
ENTRY_S: Final = 86_400
"""As long as a link lasts at most."""
Message = MutableMapping[str, Any]


def build_outdoors(outdoors: Outdoors) -> Callable[..., Awaitable[None]]:
    """What serves every path under /installer and /f/."""

    async def wrong(request: Request, error: Exception) -> Response:
        return await refusal(outdoors, request, error)

    def page(path: str, handler: Any, *methods: str) -> Route:
        return Route(ROOT + path, staying(outdoors, handler), methods=list(methods))

    steps = [page(f"/device/{{device_id}}/{name}", handler, "POST") for name, handler in installer_steps.STEPS.items()]
    routes = [
        Route(f"{ROOT}/static/{{name}}", outdoors.assets.answer, methods=["GET"]),
        Route(f"{ROOT}/enter/{{token}}", _entering(outdoors), methods=["GET", "POST"]),
        page("", home, "GET"),
        page("/claim", claim, "POST"),
        page("/outline.json", outline, "GET"),
        page("/sign-out", sign_out, "POST"),
        page("/device/{device_id}", installer_steps.device, "GET"),
        page("/device/{device_id}/live", installer_steps.live, "GET"),
        page("/device/{device_id}/label.svg", installer_steps.label, "GET"),
        *steps,
        Route("/f/{token}", family.endpoint(outdoors), methods=["GET", "POST"]),
    ]
    pages = Starlette(routes=routes, exception_handlers={HTTPException: wrong, CarebellError: wrong, Exception: wrong})
    pages.router.redirect_slashes = False
    by_endpoint = {id(route.endpoint): route for route in routes}
    headers = [
        (b"content-security-policy", CSP.encode()),
        (b"referrer-policy", b"same-origin"),  # without any, a form's Origin would be null
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"x-robots-tag", b"noindex"),
        (b"permissions-policy", b"geolocation=(self), camera=(self), microphone=()"),
    ]

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
                scope["route"] = by_endpoint.get(id(scope.get("endpoint")))  # its path is what the access log shows
            await send(message)

        await pages(scope, receive, told)

    return app


def _entering(outdoors: Outdoors) -> Callable[[Request], Awaitable[Response]]:
    """The link's own page. Only its button signs in, so that a preview of the message does not use it up.

    A browser that got no answer may press it again: it shows the secret that it got with the page.
    """

    async def enter(request: Request) -> Response:
        if request.method == "GET":
            page = await outdoors.page(request, "installer/enter.html", {})
            if not request.cookies.get(ENTRY):
                page.set_cookie(
                    ENTRY, new_token(), max_age=ENTRY_S, path=f"{ROOT}/enter", secure=outdoors.is_secure(request),
                    httponly=True, samesite="lax",
                )  # fmt: skip
            return page
        outdoors.check_origin(request)
        await form_of(request)
        token, now_us = request.path_params["token"][:100], outdoors.services.clock.now_us()
        try:
            browser = request.cookies.get(ENTRY, "")[:100]
            session, installer = await outdoors.services.store.write(
                lambda c: links.sign_in(c, token, at_us=now_us, browser=browser)
            )
        except (NotFoundError, ConflictError) as error:
            log.warning("installer_link_refused", error=str(error))
            return await outdoors.page(request, "installer/signed_out.html", {}, 403)
        answer = RedirectResponse(ROOT, 303)
        answer.set_cookie(
            COOKIE, session, max_age=max(1, (installer.expires_at_us - now_us) // 1_000_000), path=ROOT,
            secure=outdoors.is_secure(request), httponly=True, samesite="lax",
        )  # fmt: skip
        return answer

    return enter


async def home(stay: Stay) -> Response:
    """Claim a device, or take one that waits for a visit."""
    after = stay.request.query_params.get("after", "")[:64]
    installer, now_us = stay.installer, stay.now_us
    found = await stay.services.store.read(
        lambda c: visits.due(c, now_us, district=installer.district, after_id=after, limit=SHOWN)
    )
    for row in found:
        row["name"], row["address"] = mask_name(row["name"]), people.mask_address(row["address"])
    more = found[-1]["device_id"] if len(found) == SHOWN else ""
    return await stay.page("installer/home.html", due=found, reasons=visits.REASONS, more=more)


async def claim(stay: Stay) -> Response:
    """Use a claim code up. Codes that are none are counted: twenty within an hour, and the link has to wait."""
    code = read_code(stay.form.get("code", ""))
    if code is None:
        raise UsageError("code: twelve letters and digits, as on the label")
    installer, now_us = stay.installer, stay.now_us

    def take(connection: apsw.Connection) -> str:
        if not links.may_try(connection, installer.link_id, now_us):
            raise ConflictError("too many wrong codes; try again in an hour")
        device_id = claims.redeem(connection, code, link_id=installer.link_id, at_us=now_us, actor=installer.actor)
        people.openable(connection, installer, device_id)  # else the code stays unused
        visits.begin(connection, device_id, installer.link_id, now_us)
        return device_id

    try:
        taken = await stay.services.store.write(take)
    except (NotFoundError, ConflictError):
        await stay.services.store.write(lambda c: links.note_wrong(c, installer.link_id, now_us))
        raise
    return RedirectResponse(f"{ROOT}/device/{taken}", 303)


async def outline(stay: Stay) -> Response:
    """The site's outline for the map, {} when there is none."""
    return Response(stay.outdoors.outline or "{}", media_type="application/json")


async def sign_out(stay: Stay) -> Response:
    """End the link, so that a phone that is handed on opens nothing."""
    installer, now_us = stay.installer, stay.now_us
    await stay.services.store.write(lambda c: links.revoke(c, installer.link_id, at_us=now_us, actor=installer.actor))
    answer = await stay.outdoors.page(stay.request, "installer/signed_out.html", {})
    answer.delete_cookie(COOKIE, path=ROOT)
    return answer
