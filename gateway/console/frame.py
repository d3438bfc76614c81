"""What every page stands on: who visits, what they may, words in two languages, templates, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import jinja2
import structlog
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.access.door import Door, actor_of, is_csrf
from gateway.access.sessions import Session
from gateway.api.auth import MAY
from gateway.api.services import Shared
from gateway.console import assets
from gateway.console.assets import Assets
from gateway.console.board import Board
from gateway.console.screens import Screens
from gateway.console.templating import environment, in_turn
from gateway.console.views import Sight, Views
from gateway.console.words import Translator
from gateway.errors import ConflictError, DeliveryError, NotFoundError, StorageError, UsageError
from gateway.model import Actor
from gateway.registry.keys import ApiKey

COOKIE: Final = "carebell_session"
LANGUAGE_COOKIE: Final = "carebell_language"
ROOT: Final = "/console"
MAX_FIELDS: Final = 100
AT_ONCE: Final = 4
"""Pages at work at one time, and acts beside them; the others wait. A rush of pages must not fill a turn of the loop,
or presses wait behind all of them."""
STEPS: Final = {"code": f"{ROOT}/code", "password": f"{ROOT}/password"}

Handler = Callable[["Visit"], Awaitable[Response]]
log = structlog.get_logger("console")


class Look(Struct, frozen=True):
    """What of the configuration the pages need. ``outline`` is the site's GeoJSON text, ``hotline`` its own number,
    ``conferences`` whether a provider brings people together on one line.
    """

    public_url: str = ""
    tile_url: str = ""
    tile_datum: str = "gcj02"
    tile_attribution: str = ""
    outline: str = ""
    hotline: str = ""
    conferences: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Everything behind the pages. ``csp`` is the Content-Security-Policy of each of them."""

    services: Shared
    door: Door
    board: Board
    look: Look
    assets: Assets = field(default_factory=lambda: Assets(ROOT))
    templates: jinja2.Environment = field(default_factory=environment)
    screens: Screens = field(default_factory=Screens)
    looks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    acts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    views: Views = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", Views(self.board))  # of a frozen one

    @property
    def csp(self) -> str:
        tiles = ""
        if self.look.tile_url:
            parts = urlsplit(self.look.tile_url)
            tiles = f" {parts.scheme}://{parts.netloc.replace('{s}', '*')}"
        return (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; font-src 'self'; "
            f"img-src 'self' data:{tiles}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    async def answer(self, request: Request, template: str, status: int, context: Mapping[str, Any]) -> Response:
        """A page, rendered in a thread: a long one must not hold the loop."""

        def made() -> Response:
            return assets.html(request, self.templates.get_template(template).render(context), status)

        return await in_turn(made)

    def is_secure(self, request: Request) -> bool:
        """Whether the browser came by TLS, as far as we can know."""
        return request.url.scheme == "https" or self.look.public_url.startswith("https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of somebody who is signed in. ``form`` holds the fields of a POST whose origin was checked."""

    frame: Frame
    request: Request
    session: Session
    principal: ApiKey
    say: Translator
    form: Mapping[str, str]

    @property
    def services(self) -> Shared:
        return self.frame.services

    @property
    def actor(self) -> Actor:
        return actor_of(self.session.user)

    @property
    def is_fragment(self) -> bool:
        """Whether the page's script asks for a part of it."""
        return self.request.headers.get("hx-request") == "true"

    def may(self, permission: str) -> bool:
        return self.principal.role in MAY[permission]

    @property
    def sees_names(self) -> bool:
        """Whether names and addresses stand there in the clear for this role."""
        return self.principal.role in ("admin", "operator", "supervisor")

    @property
    def sight(self) -> Sight:
        """What of the queue this visitor sees, as many others do."""
        return Sight(self.say.language, self.sees_names, self.principal.district)

    async def page(self, template: str, status: int = 200, /, **context: Any) -> Response:
        """An HTML page or a part of one. Templates have ``visit``, ``t`` (two languages) and ``w`` (a code's word)."""
        shared: dict[str, Any] = {"visit": self, "t": self.say.text, "w": self.say.word, "asset": self.frame.assets.url}
        shared |= {"user": self.session.user, **context}
        return await self.frame.answer(self.request, template, status, shared)

    def number(self, name: str) -> int | None:
        """A whole number of the form, None when it is not there. Raises UsageError."""
        text = self.form.get(name, "")
        if text and not (text.isdecimal() and len(text) < 16):
            raise UsageError(f"{name}: must be a whole number")
        return int(text) if text else None


def principal_of(session: Session) -> ApiKey:
    """The session as the API's principal: the same permissions and the same district."""
    user = session.user
    return ApiKey(user.id, user.role, b"", user.district or "")


def language_of(request: Request) -> Translator:
    return Translator("en" if request.cookies.get(LANGUAGE_COOKIE) == "en" else "zh")


def client_address(request: Request) -> str:
    return "" if request.client is None else request.client.host


def see_other(path: str) -> Response:
    return RedirectResponse(path, 303)


def check_origin(frame: Frame, request: Request) -> None:
    """A form of another site is refused, whatever cookie the browser sent along."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    allowed = {request.headers.get("host", ""), urlsplit(frame.look.public_url).netloc} - {""}
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc not in allowed):
        raise HTTPException(403, "this form was sent from another site")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form, the last of each name. Raises HTTPException for what is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind not in ("application/x-www-form-urlencoded", ""):
        raise HTTPException(415, "a form is application/x-www-form-urlencoded")
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError:
        raise HTTPException(400, "this form cannot be read") from None


def visiting(
    frame: Frame,
    handler: Handler,
    permission: str | None = None,
    *,
    steps: tuple[str, ...] = ("in",),
    active: bool = True,
    waits: bool = False,
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a page for people who are signed in.

    ``permission`` is one of gateway.api.auth.MAY. ``steps`` are how far signing in may be; at another step the
    browser is sent to that one's page. ``active``: False for what a timer of the page asks. ``waits``: it asks
    others (the history, a provider) and therefore takes no turn.
    """
    lane = frame.looks if permission != "alerts.act" else frame.acts

    async def endpoint(request: Request) -> Response:
        try:
            session = await frame.door.session(request.cookies.get(COOKIE, ""), active=active)
            if session is None or session.step not in steps:
                return _elsewhere(request, session)
            visit = await _admit(frame, request, session, permission)
            if waits:
                return await handler(visit)
            async with lane:
                return await handler(visit)
        except (HTTPException, UsageError, StorageError, DeliveryError) as error:
            return await refusal(frame, request, error)

    endpoint.__name__ = getattr(handler, "__name__", "endpoint")
    return endpoint


async def _admit(frame: Frame, request: Request, session: Session, permission: str | None) -> Visit:
    """Raises HTTPException for a role that may not, and for a form that is not of this session."""
    request.scope["carebell.key_id"] = session.user.id  # for the access log
    principal = principal_of(session)
    if permission is not None and principal.role not in MAY[permission]:
        raise HTTPException(403, f"the role {principal.role} may not do this")
    form: dict[str, str] = {}
    if request.method == "POST":
        check_origin(frame, request)
        form = await form_of(request)
        if not is_csrf(session, request.headers.get("x-csrf-token", form.pop("csrf", ""))):
            raise HTTPException(403, "this form is not of this session; reload the page")
    say = language_of(request)
    return Visit(frame=frame, request=request, session=session, principal=principal, say=say, form=form)


def _elsewhere(request: Request, session: Session | None) -> Response:
    """Where to go first. A script is told by a header, so that it does not show the sign-in page inside a page; who
    sent a form without one goes there by herself.
    """
    path = f"{ROOT}/sign-in" if session is None else STEPS.get(session.step, ROOT)
    is_form = request.headers.get("accept", "").startswith("text/html")
    if request.headers.get("hx-request") == "true" or (request.method != "GET" and not is_form):
        return Response(status_code=401, headers={"hx-redirect": path})
    return see_other(path)


async def refusal(frame: Frame, request: Request, error: Exception) -> Response:
    """The page, or the part of one, that says what went wrong."""
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
    elif isinstance(error, NotFoundError):
        status, detail = 404, str(error)
    elif isinstance(error, ConflictError):
        status, detail = 409, str(error)
    elif isinstance(error, UsageError):
        status, detail = 422, str(error)
    elif isinstance(error, DeliveryError):
        status, detail = 502, str(error)
    else:
        status, detail = 503, "what this needs cannot be reached now; try again"
    say = language_of(request)
    template = "refusal_part.html" if request.headers.get("hx-request") == "true" else "refusal.html"
    context = {"t": say.text, "w": say.word, "asset": frame.assets.url, "status": status, "detail": detail}
    return await frame.answer(request, template, status, context)
