"""The platform's order API, simulated: takes orders, works them off, calls the gateway back, and fails when told to.

``docs/order-api.openapi.yaml`` is its contract. For tests, the demo and trying things out; everything is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import random
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import msgspec
from msgspec import Struct, field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from simulators.platform_page import orders_page
from simulators.server import LocalServer, abort

CONTRACT: Final = Path(__file__).resolve().parents[1] / "docs" / "order-api.openapi.yaml"
CATEGORIES: Final = frozenset({"emergency", "service", "consultation", "maintenance"})
MAX_ORDERS: Final = 20_000
MAX_BODY_BYTES: Final = 256 * 1024
CALLBACK_TRIES: Final = 8
_KEY: Final = re.compile(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"')  # an RFC 8941 string without escapes


class Fault(enum.StrEnum):
    """What goes wrong with one request to create an order."""

    ERROR = "error"  # 500, no order
    ERROR_AFTER = "error_after"  # the order is made, then 500
    UNAVAILABLE = "unavailable"  # 503 with Retry-After
    TOO_MANY = "too_many"  # 429 with Retry-After
    SLOW = "slow"  # the order is made, the answer comes late
    RESET_BEFORE = "reset_before"  # the connection breaks, no order
    RESET_AFTER = "reset_after"  # the order is made, the connection breaks before the answer
    BAD_JSON = "bad_json"  # the order is made, the answer is none
    REFUSE = "refuse"  # 400
    REDIRECT = "redirect"  # 307 to somewhere else


class Loop(Struct, frozen=True):
    """Seconds from one step of an order to the next. None: the step and those after it never come."""

    accept_s: float | None = None
    dispatch_s: float | None = None
    arrive_s: float | None = None
    complete_s: float | None = None
    follow_up_s: float | None = None

    @classmethod
    def compressed(cls, speed: float = 60.0) -> Loop:
        """A usual case: accepted after 20 s, on the way after 2 min, there after 12, done after 40, asked next day."""
        return cls(20 / speed, 100 / speed, 600 / speed, 1680 / speed, 86_400 / speed / 24)

    def steps(self) -> list[tuple[str, float]]:
        """Each status with its pause, up to the first that never comes."""
        told: list[tuple[str, float]] = []
        for status, pause_s in (
            ("accepted", self.accept_s),
            ("dispatched", self.dispatch_s),
            ("arrived", self.arrive_s),
            ("completed", self.complete_s),
            ("followed_up", self.follow_up_s),
        ):
            if pause_s is None:
                break
            told.append((status, pause_s))
        return told


class Order(Struct):
    """What the platform knows of one order. ``history`` holds each status with its time."""

    order_id: str
    key: str
    body: dict[str, Any]
    status: str = "accepted"
    history: list[tuple[str, str]] = field(default_factory=list)

    def shown(self) -> dict[str, str]:
        return {"order_id": self.order_id, "status": self.status}


class _Key(Struct):
    """One idempotency key: the body it came with, and its order once there is one."""

    fingerprint: bytes
    order: Order | None = None
    in_flight: bool = True


class SimulatedPlatform:
    """``async with SimulatedPlatform(...) as platform``: serves at ``platform.url`` until the block ends.

    ``gateway_url`` "" makes no callbacks. ``token`` "" lets everybody in. ``retry_after_s`` goes with 429 and 503.
    Faults: ``fail(Fault.ERROR, 3)`` for the next three orders, or ``fault_rate`` of all, drawn from ``faults``.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        gateway_url: str = "",
        gateway_token: str = "",
        loop: Loop | None = None,
        fault_rate: float = 0.0,
        faults: tuple[Fault, ...] = tuple(Fault),
        retry_after_s: int = 1,
        slow_s: float = 5.0,
        rng: random.Random | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.gateway_url = gateway_url.rstrip("/")
        self.gateway_token = gateway_token
        self.loop = loop or Loop()
        self.fault_rate = fault_rate
        self.faults = faults
        self.retry_after_s = retry_after_s
        self.slow_s = slow_s
        self.orders: OrderedDict[str, Order] = OrderedDict()
        self.attempts: deque[tuple[float, str, Any]] = deque(maxlen=MAX_ORDERS)  # loop time, Idempotency-Key, body
        self.refused_callbacks: deque[tuple[str, str, int]] = deque(maxlen=1000)  # order, status, HTTP status
        self._token = token
        self._keys: dict[str, _Key] = {}
        self._planned: deque[Fault] = deque()
        self._rng = rng or random.Random()
        self._say = say
        self._host = host
        self._port = port
        self._stack = contextlib.AsyncExitStack()
        self._work: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return self._server.url

    def fail(self, fault: Fault, times: int = 1) -> None:
        """Let the next orders fail in this way."""
        self._planned.extend([fault] * times)

    def heal(self) -> None:
        """Everything works from now on."""
        self._planned.clear()
        self.fault_rate = 0.0

    def orders_for(self, external_ref: str) -> list[Order]:
        return [order for order in self.orders.values() if order.body["external_ref"] == external_ref]

    async def __aenter__(self) -> Self:
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._client = await self._stack.enter_async_context(httpx2.AsyncClient(timeout=10.0, trust_env=False))
        self._server = LocalServer(self._app(), self._group, self._host, self._port)
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        for task in self._work:
            task.cancel()
        await self._stack.aclose()

    async def start(self) -> None:
        """Listen (again), on the same port as before."""
        await self._server.start()

    async def stop(self) -> None:
        """Be down, as a process that is killed: refuse connections and break those that exist. Orders stay."""
        await self._server.stop()

    # ---- HTTP --------------------------------------------------------------------------------------------------------

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/openapi.yaml", self._contract),
                Route("/orders", self._create, methods=["POST"]),
                Route("/orders", self._find, methods=["GET"]),
                Route("/orders/{order_id}/{status}", self._by_hand, methods=["POST"]),
                Route("/faults", self._plan, methods=["POST"]),
            ]
        )

    async def _page(self, request: Request) -> Response:
        del request
        newest = [self.orders[order_id] for order_id in list(reversed(self.orders))[:200]]
        rows = [(o.order_id, o.status, o.body, o.history) for o in newest]
        return HTMLResponse(orders_page(rows, len(self.orders)), headers={"Content-Security-Policy": PAGE_POLICY})

    async def _contract(self, request: Request) -> Response:
        del request
        if not CONTRACT.is_file():
            return _problem(404, "the contract is in docs/order-api.openapi.yaml of the source tree")
        return PlainTextResponse(CONTRACT.read_text(encoding="utf-8"), media_type="application/yaml")

    async def _find(self, request: Request) -> Response:
        if not self._knows(request):
            return _problem(401, "the token is missing or wrong")
        external_ref = request.query_params.get("external_ref", "")
        if not external_ref:
            return _problem(400, "external_ref is missing")
        return JSONResponse([order.shown() for order in self.orders_for(external_ref)])

    async def _create(self, request: Request) -> Response:
        raw = await _read_body(request)
        fault = self._next_fault()
        if fault is Fault.RESET_BEFORE:
            return self._reset(request)
        if not self._knows(request):
            return _problem(401, "the token is missing or wrong")
        refusal = self._fails_at_once(fault)
        if refusal is not None:
            return refusal
        match = _KEY.fullmatch(request.headers.get("Idempotency-Key", ""))
        if match is None:
            return _problem(400, "Idempotency-Key is missing or no quoted string")
        try:
            body = _order_request(raw)
        except ValueError as error:
            return _problem(400, str(error))
        self.attempts.append((asyncio.get_running_loop().time(), match[1], body))
        return await self._take(request, match[1], body, hashlib.sha256(raw).digest(), fault)

    async def _take(
        self, request: Request, key: str, body: dict[str, Any], fingerprint: bytes, fault: Fault | None
    ) -> Response:
        """What the draft on the Idempotency-Key header asks for: 409 while in flight, 422 for another body, replay."""
        known = self._keys.get(key)
        if known is not None:
            if known.fingerprint != fingerprint:
                return _problem(422, "this Idempotency-Key was used with another body")
            if known.in_flight or known.order is None:
                return _problem(409, "an attempt with this Idempotency-Key is still being worked on")
            return JSONResponse(known.order.shown())
        entry = self._keys[key] = _Key(fingerprint)
        try:
            entry.order = self._make(key, body)
            if fault is Fault.SLOW:
                await asyncio.sleep(self.slow_s)
        finally:
            entry.in_flight = False
        return self._answer(request, entry.order, fault)

    def _answer(self, request: Request, order: Order, fault: Fault | None) -> Response:
        if fault is Fault.RESET_AFTER:
            return self._reset(request)
        if fault is Fault.ERROR_AFTER:
            return _problem(500, "made and failed")
        if fault is Fault.BAD_JSON:
            return PlainTextResponse('{"order_id": ', status_code=201, media_type="application/json")
        return JSONResponse(order.shown(), status_code=201)

    def _make(self, key: str, body: dict[str, Any]) -> Order:
        order = Order(f"O-{len(self._keys):06d}", key, body)
        order.history.append(("accepted", _now()))
        self.orders[order.order_id] = order
        while len(self.orders) > MAX_ORDERS:
            _, oldest = self.orders.popitem(last=False)
            self._keys.pop(oldest.key, None)
        person = body.get("person") or {}
        self._say(
            f"{_now()} 新工单 order {order.order_id}: {body['category']} P{body['priority']} {body['title']}"
            f" | {person.get('id', '?')} | code {body['service_code']} | alert {body['external_ref']}"
        )
        self._spawn(order)
        return order

    def _next_fault(self) -> Fault | None:
        if self._planned:
            return self._planned.popleft()
        return self._rng.choice(self.faults) if self._rng.random() < self.fault_rate else None

    def _fails_at_once(self, fault: Fault | None) -> Response | None:
        wait = {"Retry-After": str(self.retry_after_s)}
        if fault is Fault.ERROR:
            return _problem(500, "failed")
        if fault is Fault.UNAVAILABLE:
            return _problem(503, "not now", wait)
        if fault is Fault.TOO_MANY:
            return _problem(429, "too many requests", wait)
        if fault is Fault.REFUSE:
            return _problem(400, "refused")
        if fault is Fault.REDIRECT:
            return _problem(307, "elsewhere", {"Location": "http://127.0.0.1:1/orders"})
        return None

    def _knows(self, request: Request) -> bool:
        return not self._token or request.headers.get("Authorization", "") == f"Bearer {self._token}"

    def _reset(self, request: Request) -> Response:
        abort(request)
        return Response(status_code=500)  # never leaves: its connection is gone

    async def _plan(self, request: Request) -> Response:
        """``{"fault": "error", "times": 3}`` or ``{"heal": true}``, for demonstrations."""
        try:
            asked = msgspec.json.decode(await _read_body(request))
            if asked.get("heal"):
                self.heal()
            else:
                self.fail(Fault(asked["fault"]), max(1, min(int(asked.get("times", 1)), 10_000)))
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
            return _problem(400, f"no fault: {error}; known are {', '.join(Fault)}")
        return JSONResponse({"planned": list(self._planned)})

    async def _by_hand(self, request: Request) -> Response:
        """Report a status of an order to the gateway, outside its loop: cancelled, complained, ..."""
        order = self.orders.get(request.path_params["order_id"])
        if order is None:
            return _problem(404, "no such order")
        if not self._knows(request):
            return _problem(401, "the token is missing or wrong")
        status = await self.report(order, request.path_params["status"])
        return JSONResponse({"order_id": order.order_id, "gateway_answered": status})

    # ---- the closed loop ---------------------------------------------------------------------------------------------

    def _spawn(self, order: Order) -> None:
        if self.gateway_url and self.loop.steps():
            task = self._group.create_task(self._work_off(order))
            self._work.add(task)
            task.add_done_callback(self._work.discard)

    async def _work_off(self, order: Order) -> None:
        for status, pause_s in self.loop.steps():
            await asyncio.sleep(pause_s)
            if order.status == "cancelled":
                return
            await self.report(order, status)

    async def report(self, order: Order, status: str, **members: str) -> int:
        """Tell the gateway a status, again until it answers; returns the HTTP status, 0 when it never did.

        ``members`` replace those that belong to the status.
        """
        report = {
            "status": status,
            "at": _now(),
            "organization": "和平养老服务中心",
            "worker": f"W-{order.order_id[-2:]}",
        }
        if status == "arrived":
            report["service_code"] = order.body["service_code"]
        report |= members
        headers = {"Authorization": f"Bearer {self.gateway_token}"} if self.gateway_token else {}
        url = f"{self.gateway_url}/api/v1/orders/{order.order_id}/status"
        answered = 0
        for attempt in range(CALLBACK_TRIES):
            try:
                answered = (await self._client.post(url, json=report, headers=headers)).status_code
            except httpx2.TransportError:
                answered = 0
            if 200 <= answered < 500 and answered not in (404, 429):
                break
            await asyncio.sleep(min(5.0, 0.1 * 2**attempt))
        if 200 <= answered < 300:
            order.status = status
            order.history.append((status, report["at"]))
            self._say(f"{_now()} 工单 order {order.order_id}: {status}")
        else:
            self.refused_callbacks.append((order.order_id, status, answered))
            self._say(f"{_now()} 工单 order {order.order_id}: {status} 回调失败 callback answered {answered}")
        return answered


PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MAX_BODY_BYTES:
            body += chunk
    return bytes(body)


def _order_request(raw: bytes) -> dict[str, Any]:
    """The body of a request for an order. Raises ValueError that says what is wrong with it."""
    if len(raw) > MAX_BODY_BYTES:
        raise ValueError("the body is longer than 256 KiB")
    body = msgspec.json.decode(raw)  # its DecodeError is a ValueError
    if not isinstance(body, dict):
        raise ValueError("the body is no object")  # noqa: TRY004 - a value of the caller, not a type of ours
    for name in ("external_ref", "service_code", "category", "kind", "title"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise ValueError(f"{name} is missing")
    if body["category"] not in CATEGORIES:
        raise ValueError(f"category is none of {', '.join(sorted(CATEGORIES))}")
    if body.get("priority") not in (1, 2, 3, 4):
        raise ValueError("priority is none of 1 to 4")
    return body


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    problem = {"type": "about:blank", "status": status, "detail": detail}
    return JSONResponse(problem, status, headers, media_type="application/problem+json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
