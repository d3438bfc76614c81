"""Signing in: password, second factor, a password of one's own; signing out; the language."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.access.door import LoginRefusedError
from gateway.access.sessions import Session
from gateway.console.frame import (
    COOKIE,
    LANGUAGE_COOKIE,
    ROOT,
    STEPS,
    Frame,
    Visit,
    check_origin,
    client_address,
    form_of,
    language_of,
    refusal,
    see_other,
)
from gateway.errors import CarebellError, UsageError


def begin(frame: Frame) -> Callable[[Request], Awaitable[Response]]:
    """The sign-in page."""

    async def endpoint(request: Request) -> Response:
        try:
            if request.method == "GET":
                return await _form(frame, request, 200)
            check_origin(frame, request)
            form = await form_of(request)
            session = await frame.door.sign_in(
                form.get("login", ""), form.get("password", ""), client_address(request)
            )  # fmt: skip
        except LoginRefusedError as error:
            return await _form(frame, request, 429 if error.retry_after_s else 401, error)
        except (HTTPException, CarebellError) as error:
            return await refusal(frame, request, error)
        answer = see_other(STEPS.get(session.step, ROOT))
        _set_cookie(frame, request, answer, session)
        return answer

    return endpoint


async def _form(frame: Frame, request: Request, status: int, error: LoginRefusedError | None = None) -> Response:
    say = language_of(request)
    context: dict[str, Any] = {"t": say.text, "w": say.word, "asset": frame.assets.url, "error": error}
    answer = await frame.answer(request, "sign_in.html", status, context)
    if error is not None and error.retry_after_s:
        answer.headers["retry-after"] = str(error.retry_after_s)
    return answer


async def code(visit: Visit) -> Response:
    """The second factor; who has none yet is given a secret for an authenticator app."""
    error = None
    if visit.request.method == "POST":
        try:
            session = await visit.frame.door.present_code(
                visit.session, visit.form.get("code", ""), client_address(visit.request)
            )
            return see_other(STEPS.get(session.step, ROOT))
        except LoginRefusedError as refused:
            error = refused
    new = None
    if visit.session.user.totp_confirmed_at_us is None:
        new = await visit.frame.door.enrol(visit.session)
    status = 200 if error is None else 429 if error.retry_after_s else 401
    return await visit.page("code.html", status, new=new, error=error)


async def password(visit: Visit) -> Response:
    """A password of one's own."""
    error: CarebellError | None = None
    status = 200
    if visit.request.method == "POST":
        try:
            await visit.frame.door.change_password(
                visit.session, visit.form.get("old", ""), visit.form.get("new", ""), client_address(visit.request)
            )
            return see_other(ROOT)
        except LoginRefusedError as refused:
            error, status = refused, 429 if refused.retry_after_s else 401
        except UsageError as weak:
            error, status = weak, 422
    return await visit.page("password.html", status, error=error)


async def sign_out(visit: Visit) -> Response:
    await visit.frame.door.sign_out(visit.session)
    answer = see_other(f"{ROOT}/sign-in")
    answer.delete_cookie(COOKIE, path="/")
    return answer


async def language(request: Request) -> Response:
    """Switch, and go on where one was."""
    wanted = "en" if request.path_params["language"] == "en" else "zh"
    back = request.query_params.get("back", "")
    is_ours = back.startswith(ROOT) and "\\" not in back and back.isprintable()
    answer = see_other(back if is_ours else ROOT)
    answer.set_cookie(LANGUAGE_COOKIE, wanted, max_age=31_536_000, path="/", samesite="strict", httponly=True)
    return answer


def _set_cookie(frame: Frame, request: Request, answer: Response, session: Session) -> None:
    """Without an age: it ends with the browser, at the latest with the session."""
    answer.set_cookie(
        COOKIE, session.token, path="/", httponly=True, samesite="strict", secure=frame.is_secure(request)
    )  # fmt: skip
