"""What the installer's and the family's pages stand on: small files of their own, sessions of links, refusals."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import jinja2
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.api.services import Services
from gateway.console import assets
from gateway.console.assets import Assets
from gateway.console.family_link import FamilyLinks
from gateway.console.templating import environment, in_turn
from gateway.errors import ConflictError, NotFoundError, StorageError, UsageError
from gateway.provisioning import links
from gateway.provisioning.links import Installer
from gateway.provisioning.recent import RecentFrames

ROOT: Final = "/installer"
COOKIE: Final = "carebell_installer"
MAX_FIELDS: Final = 50
MAX_OUTLINE: Final = 200_000
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
log: Final = structlog.get_logger("installer")

Answer = Callable[[str, str, bool], Awaitable[str]]
"""alerts.link_answers.answer of an alert's id, a contact's id and whether they go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outdoors:
    """Everything behind the pages. ``hotline`` is the call center's number, ``outline`` GeoJSON text, "" for none."""

    services: Services
    family: FamilyLinks
    answer: Answer
    recent: RecentFrames
    public_url: str = ""
    hotline: str = ""
    outline: str = ""
    assets: Assets = field(default_factory=lambda: Assets(ROOT, "outdoors"))
    templates: jinja2.Environment = field(default_factory=environment)

    async def page(self, request: Request, template: str, context: Mapping[str, Any], status: int = 200) -> Response:
        """Rendered in a thread, so that the loop is not held."""
        shared = {"asset": self.assets.url, "hotline": self.hotline, **context}

        def made() -> Response:
            return assets.html(request, self.templates.get_template(template).render(shared), status)

        return await in_turn(made)

    def is_secure(self, request: Request) -> bool:
        """Whether the browser came by TLS, as far as we can know."""
        return request.url.scheme == "https" or self.public_url.startswith("https://")

    def check_origin(self, request: Request) -> None:
        """A form of another site is refused, whatever cookie the browser sent along."""
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "same-origin")
        allowed = {request.headers.get("host", ""), urlsplit(self.public_url).netloc} - {""}
        if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc not in allowed):
            raise HTTPException(403, "this form was sent from another site")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """One request of an installer who is signed in. ``form`` holds the fields of a POST that was checked."""

    outdoors: Outdoors
    request: Request
    installer: Installer
    form: Mapping[str, str]

    @property
    def services(self) -> Services:
        return self.outdoors.services

    @property
    def device_id(self) -> str:
        return str(self.request.path_params["device_id"])

    @property
    def now_us(self) -> int:
        return self.services.clock.now_us()

    async def page(self, template: str, status: int = 200, /, **context: Any) -> Response:
        return await self.outdoors.page(self.request, template, {"installer": self.installer, **context}, status)

    def back(self, step: str = "") -> Response:
        """To the device's page, at one of its steps."""
        return RedirectResponse(f"{ROOT}/device/{self.device_id}" + (f"#{step}" if step else ""), 303)


Handler = Callable[[Stay], Awaitable[Response]]


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; a name that comes more than once holds its values in lines. Raises HTTPException."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind not in ("application/x-www-form-urlencoded", ""):
        raise HTTPException(415, "a form is application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(
            (await request.body()).decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
        )
    except ValueError:
        raise HTTPException(400, "this form cannot be read") from None
    form: dict[str, str] = {}
    for name, value in pairs:
        form[name] = f"{form[name]}\n{value}" if name in form else value
    return form


def staying(outdoors: Outdoors, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a page for installers who are signed in."""

    async def endpoint(request: Request) -> Response:
        session = request.cookies.get(COOKIE, "")
        now_us = outdoors.services.clock.now_us()
        installer = await outdoors.services.store.read(lambda c: links.find(c, session, now_us)) if session else None
        if installer is None:
            return await outdoors.page(request, "installer/signed_out.html", {}, 401)
        request.scope["carebell.key_id"] = f"installer:{installer.link_id}"  # for the access log
        form: dict[str, str] = {}
        try:
            if request.method == "POST":
                outdoors.check_origin(request)
                form = await form_of(request)
                _check_csrf(installer, form.pop("csrf", ""))
            stay = Stay(outdoors=outdoors, request=request, installer=installer, form=form)
            return await handler(stay)
        except (HTTPException, UsageError) as error:
            log.warning(
                "installer_refused", link=installer.link_id, route=request.scope["path"].split("/")[-1][:32],
                error=type(error).__name__, status=status_of(error),
            )  # fmt: skip
            raise

    return endpoint


def _check_csrf(installer: Installer, presented: str) -> None:
    if not hmac.compare_digest(installer.csrf.encode(), presented.encode("utf-8", "replace")):
        raise HTTPException(403, "this form is not of this session; reload the page")


def status_of(error: Exception) -> int:
    """The status of the page that says what went wrong."""
    if isinstance(error, HTTPException):
        return error.status_code
    for kind, status in ((NotFoundError, 404), (ConflictError, 409), (UsageError, 422), (StorageError, 503)):
        if isinstance(error, kind):
            return status
    return 500


async def refusal(outdoors: Outdoors, request: Request, error: Exception) -> Response:
    """The page that says what went wrong."""
    status = status_of(error)
    detail = "a fault in carebell; it is logged" if status == 500 else str(getattr(error, "detail", error))
    if status == 503:
        detail = "暂时无法取得，请再试一次 what this needs cannot be reached now; try again"
    if status == 500:
        log.error("request_failed", error=type(error).__name__)
    back = ROOT if request.url.path.startswith(ROOT) else request.url.path if status >= 500 else ""
    return await outdoors.page(
        request, "installer/refusal.html", {"status": status, "detail": detail, "back": back}, status
    )
