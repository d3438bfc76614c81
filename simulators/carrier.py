"""A telephone company, simulated: Twilio's paths, people who answer or do not, signed callbacks, faults on demand.

For tests, the demo and trying things out; everything is in memory. ``simulators/people.py`` has the people.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self
from urllib.parse import parse_qs

import httpx2
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from simulators.carrier_calls import Switchboard
from simulators.carrier_page import PAGE_POLICY, carrier_page
from simulators.carrier_post import CallbackPoster, Posted
from simulators.carrier_rest import Refused, Resources, invalid_number, missing
from simulators.carrier_state import API_VERSION, OF_CALLBACKS, Call, Conference, Fault, Message, new_sid
from simulators.people import People, from_document
from simulators.server import LocalServer, abort

ACCOUNT_SID: Final = "AC" + "5" * 32
AUTH_TOKEN: Final = "simulated-auth-token"  # noqa: S105 - opens a simulator
NUMBER: Final = "+15005550006"
MAX_BODY_BYTES: Final = 256 * 1024
_BASE: Final = f"/{API_VERSION}/Accounts/{{account}}"


class SimulatedCarrier:
    """``async with SimulatedCarrier(people) as carrier``: serves at ``carrier.url`` until the block ends.

    ``speed`` is how many of its seconds pass in a real one. ``late_s`` (late callbacks), ``slow_s`` (slow answers) and
    ``retry_after_s`` are real seconds. ``fail(Fault.ERROR, 3)``: so for the next three requests that make something.
    """

    def __init__(
        self,
        people: People | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        account_sid: str = ACCOUNT_SID,
        auth_token: str = AUTH_TOKEN,
        speed: float = 1.0,
        late_s: float = 1.0,
        slow_s: float = 5.0,
        retry_after_s: int = 1,
        say: Callable[[str], None] = print,
    ) -> None:
        self.people = people or People()
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.requests: deque[tuple[str, str, dict[str, list[str]]]] = deque(maxlen=10_000)  # method, path, form
        self._slow_s = slow_s
        self._late_s = late_s
        self._retry_after_s = retry_after_s
        self._speed = speed
        self._say = say
        self._planned: deque[Fault] = deque()
        self._where = (host, port)
        self._stack = contextlib.AsyncExitStack()
        self._work: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        client = await self._stack.enter_async_context(httpx2.AsyncClient(timeout=10.0, trust_env=False))
        self.poster = CallbackPoster(self.auth_token, client, self.spawn, late_s=self._late_s)
        self.board = Switchboard(self.people, self.poster, self.spawn, speed=self._speed, say=self._say)
        self._server = LocalServer(self._app(), self._group, *self._where)
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.hush()
        await self._server.stop()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def messages(self) -> list[Message]:
        return list(self.board.messages.values())

    @property
    def calls(self) -> list[Call]:
        return list(self.board.calls.values())

    @property
    def conferences(self) -> list[Conference]:
        return list(self.board.conferences.values())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def text(self, url: str, sender: str, body: str, *, sid: str = "", to: str = NUMBER) -> int:
        """Somebody writes to one of our customers, whose address for messages is ``url``; the status of its answer.

        ``sid``: that of a message before, which is told again.
        """
        sid = sid or new_sid("SM")
        form = {
            "AccountSid": self.account_sid, "ApiVersion": API_VERSION, "Body": body, "From": sender, "To": to,
            "MessageSid": sid, "SmsMessageSid": sid, "SmsSid": sid, "NumMedia": "0", "NumSegments": "1",
            "SmsStatus": "received",
        }  # fmt: skip
        try:
            await self.poster.ask(url, form)
        except Posted as answered:
            return answered.status
        return 200

    async def start(self) -> None:
        """Serve again after ``stop``, on the same port."""
        await self._server.start()

    async def stop(self) -> None:
        """Be down for requests. Calls that are up go on."""
        await self._server.stop()

    async def hush(self) -> None:
        """End every call and callback. Before the server that takes callbacks is stopped: a connection that it has
        accepted and not yet taken up when it closes would be lost (CPython before 3.12).
        """
        ending = set(self._work)
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
            await asyncio.sleep(0.01)

    def fail(self, fault: Fault, times: int = 1) -> None:
        self._planned.extend([fault] * times)

    def heal(self) -> None:
        self._planned.clear()

    # ---- routes ------------------------------------------------------------------------------------------------------

    def _app(self) -> Starlette:
        rest = Resources(self.account_sid, self.people, self.board)
        participants = _BASE + "/Conferences/{conference}/Participants"
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/people/{number}", self._script, methods=["PUT"]),
                Route("/faults", self._plan, methods=["POST"]),
                self._route(_BASE + "/Messages.json", POST=rest.create_message, GET=rest.list_messages),
                self._route(_BASE + "/Messages/{sid}.json", GET=rest.message),
                self._route(_BASE + "/Calls.json", POST=rest.create_call, GET=rest.list_calls),
                self._route(_BASE + "/Calls/{sid}.json", GET=rest.call, POST=rest.change_call),
                self._route(_BASE + "/Calls/{sid}/Events.json", GET=rest.call_events),
                self._route(_BASE + "/Conferences.json", GET=rest.list_conferences),
                self._route(_BASE + "/Conferences/{conference}.json", GET=rest.conference, POST=rest.end_conference),
                self._route(participants + ".json", POST=rest.create_participant, GET=rest.list_participants),
                self._route(
                    participants + "/{sid}.json",
                    GET=rest.participant, POST=rest.change_participant, DELETE=rest.drop_participant,
                ),
            ]
        )  # fmt: skip

    def _route(self, path: str, **handlers: Callable[[Request, dict[str, list[str]]], Any]) -> Route:
        async def answer(request: Request) -> Response:
            form = await _form(request)
            self.requests.append((request.method, request.url.path, form))
            try:
                self._authenticate(request)
                response: Response = handlers[request.method](request, form)
            except Refused as refused:
                return refused.response
            return response

        async def make(request: Request) -> Response:
            return await self._making(request, answer)

        wrapped = make if path.endswith(("Messages.json", "Calls.json", "Participants.json")) else answer
        return Route(path, wrapped, methods=list(handlers))

    async def _making(self, request: Request, answer: Callable[[Request], Any]) -> Response:
        """A request that makes something: here the planned faults strike."""
        fault = self._planned[0] if request.method == "POST" and self._planned else None
        if fault is not None:
            self._planned.popleft()
        if fault is Fault.RESET_BEFORE:
            abort(request)
            return Response(status_code=500)
        try:
            self._refuse(fault)
        except Refused as refused:
            return refused.response
        request.state.fault = fault if fault in OF_CALLBACKS else None
        response: Response = await answer(request)
        if fault is Fault.RESET_AFTER:
            abort(request)
        elif fault is Fault.ERROR_AFTER:
            return PlainTextResponse("made and failed", 500)
        elif fault is Fault.BAD_JSON:
            return PlainTextResponse('{"sid": ', 201, media_type="application/json")
        elif fault is Fault.SLOW:
            await asyncio.sleep(self._slow_s)
        return response

    def _refuse(self, fault: Fault | None) -> None:
        wait = {"Retry_After": str(self._retry_after_s)}
        if fault is Fault.ERROR:
            raise Refused(500, 20500, "Internal Server Error")
        if fault is Fault.UNAVAILABLE:
            raise Refused(503, 20503, "Service Unavailable", **wait)
        if fault is Fault.TOO_MANY:
            raise Refused(429, 20429, "Too Many Requests", **wait)
        if fault is Fault.QUOTA:
            raise Refused(429, 63038, "Account exceeded the daily messages limit", **wait)
        if fault is Fault.INVALID_NUMBER:
            raise invalid_number()

    def _authenticate(self, request: Request) -> None:
        given = request.headers.get("Authorization", "")
        asked = "Basic " + base64.b64encode(f"{self.account_sid}:{self.auth_token}".encode()).decode()
        if not hmac.compare_digest(given.encode(), asked.encode()):
            raise Refused(401, 20003, "Authenticate")
        if request.path_params["account"] != self.account_sid:
            raise missing(request)

    # ---- for people at a screen --------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        del request
        page = carrier_page(self.messages[:-101:-1], self.calls[:-101:-1], self.conferences[:-101:-1])
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    async def _script(self, request: Request) -> Response:
        """``PUT /people/+8613800000001`` with ``{"script": ["busy", {"keys": ["1"]}]}``."""
        try:
            self.people.set(request.path_params["number"], *from_document(msgspec.json.decode(await _body(request))))
        except (msgspec.DecodeError, ValueError, AttributeError) as error:
            return JSONResponse({"detail": str(error)}, 400)
        return Response(status_code=204)

    async def _plan(self, request: Request) -> Response:
        """``{"fault": "error", "times": 3}`` or ``{"heal": true}``."""
        try:
            asked = msgspec.json.decode(await _body(request))
            if asked.get("heal"):
                self.heal()
            else:
                self.fail(Fault(asked["fault"]), max(1, min(int(asked.get("times", 1)), 10_000)))
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
            return JSONResponse({"detail": f"no fault: {error}; known are {', '.join(Fault)}"}, 400)
        return JSONResponse({"planned": list(self._planned)})


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MAX_BODY_BYTES:
            body += chunk
    return bytes(body[:MAX_BODY_BYTES])


async def _form(request: Request) -> dict[str, list[str]]:
    return parse_qs((await _body(request)).decode("utf-8", "replace"), keep_blank_values=True)
