"""The telephone company's other face: Alibaba Cloud's message and voice operations, with the same people and faults.

Checks signatures of version 3, knows approved templates, limits what one number gets, and pushes receipts in batches.
For tests, the demo and trying things out; everything is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2
import msgspec
from msgspec import Struct, field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from simulators.carrier_state import OF_CALLBACKS, Fault
from simulators.people import Behaviour, People
from simulators.server import LocalServer, abort

KEY_ID: Final = "LTAI-simulated"
KEY_SECRET: Final = "simulated-aliyun-secret"  # noqa: S105 - opens a simulator
MAX_KEPT: Final = 20_000
MAX_SKEW_S: Final = 900
CALL_LIMITS: Final = (
    (60, 1, "分钟级流控Permits:1"),
    (3_600, 5, "小时级流控Permits:5"),
    (86_400, 20, "天级流控Permits:20"),
)
RING_S: Final = 25.0
SPEECH_S: Final = 12.0
_BEIJING: Final = timezone(timedelta(hours=8))
_VERSION: Final = "2017-05-25"


class Made(Struct, kw_only=True):
    """A message or call. ``kind``: SendSms, SingleCallByTts or IvrCall. ``reported``: the receipts that were pushed."""

    kind: str
    number: str
    provider_id: str
    out_id: str
    parameters: dict[str, str]
    at: datetime
    status: str = ""
    digits: str = ""
    seconds: int = 0
    reported: list[dict[str, Any]] = field(default_factory=list)


class _Refusal(Exception):  # noqa: N818 - an answer, not an accident
    """Handler: the route."""

    def __init__(self, code: str, message: str = "", status: int = 200) -> None:
        super().__init__(code)
        self.response = JSONResponse({"Code": code, "Message": message or code, "RequestId": "simulated"}, status)


class SimulatedAliyun:
    """``async with SimulatedAliyun(people) as aliyun``: serves both APIs at ``aliyun.url`` until the block ends.

    ``callback_url`` gets the receipts. ``templates`` are the approved ones. ``speed``: simulated seconds in a real one.
    ``limited`` False lets one number be called without end. ``people`` go by E.164 numbers.
    """

    def __init__(
        self,
        people: People | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        callback_url: str = "",
        templates: frozenset[str] = frozenset({"SMS_1", "TTS_1"}),
        speed: float = 1.0,
        late_s: float = 1.0,
        slow_s: float = 5.0,
        limited: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.people = people or People()
        self.callback_url = callback_url
        self.made: OrderedDict[str, Made] = OrderedDict()
        self.requests: deque[dict[str, str]] = deque(maxlen=10_000)
        self._templates = templates
        self._speed = speed
        self._late_s = late_s
        self._slow_s = slow_s
        self._limited = limited
        self._say = say
        self._where = (host, port)
        self._planned: deque[Fault] = deque()
        self._nonces: deque[str] = deque(maxlen=10_000)
        self._called: dict[str, list[datetime]] = {}
        self._stack = contextlib.AsyncExitStack()
        self._work: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._client = await self._stack.enter_async_context(httpx2.AsyncClient(timeout=10.0, trust_env=False))
        app = Starlette(routes=[Route("/", self._serve, methods=["POST"])])
        self._server = LocalServer(app, self._group, *self._where)
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop()
        for task in self._work:
            task.cancel()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        return self._server.url

    async def start(self) -> None:
        """Serve again after ``stop``, on the same port."""
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    def fail(self, fault: Fault, times: int = 1) -> None:
        """For the next requests that make something."""
        self._planned.extend([fault] * times)

    async def push(self, reports: list[dict[str, Any]]) -> int:
        """Push a batch of receipts; the status of the answer."""
        answer = await self._client.post(
            self.callback_url, content=msgspec.json.encode(reports), headers={"Content-Type": "application/json"}
        )
        return answer.status_code

    async def _serve(self, request: Request) -> Response:
        parameters = dict(request.query_params)
        action = request.headers.get("x-acs-action", "")
        self.requests.append({"Action": action} | parameters)
        try:
            self._authenticate(request)
            if action == "QuerySendDetails":
                return self._messages_of(parameters)
            if action == "QueryCallDetailByCallId":
                return self._call_detail(parameters)
            if action in ("SendSms", "SingleCallByTts", "IvrCall"):
                return await self._make(request, action, parameters)
        except _Refusal as refusal:
            return refusal.response
        return _Refusal("InvalidAction.NotFound", status=404).response

    async def _make(self, request: Request, action: str, parameters: dict[str, str]) -> Response:
        fault = self._planned.popleft() if self._planned else None
        self._refuse(fault)
        if fault is Fault.RESET_BEFORE:
            abort(request)
            return PlainTextResponse("")
        number = self._checked(action, parameters)
        made = Made(
            kind=action,
            number=number,
            provider_id=f"{len(self.made) + 1:012d}^0",
            out_id=parameters.get("OutId", ""),
            parameters=parameters,
            at=datetime.now(UTC),
        )
        self.made[made.provider_id] = made
        if len(self.made) > MAX_KEPT:
            self.made.popitem(last=False)
        self._say(f"{action} to {number[:3]}****{number[-4:]}")
        self._spawn(self._happen(made, fault if fault in OF_CALLBACKS else None))
        if fault is Fault.SLOW:
            await asyncio.sleep(self._slow_s)
        if fault is Fault.RESET_AFTER:
            abort(request)
        if fault is Fault.ERROR_AFTER:
            raise _Refusal("isp.SYSTEM_ERROR", status=500)
        if fault is Fault.BAD_JSON:
            return PlainTextResponse('{"Code": "OK", ')
        name = "BizId" if action == "SendSms" else "CallId"
        return JSONResponse({"Code": "OK", "Message": "OK", "RequestId": "simulated", name: made.provider_id})

    @staticmethod
    def _refuse(fault: Fault | None) -> None:
        if fault is Fault.ERROR:
            raise _Refusal("InternalError", status=500)
        if fault is Fault.UNAVAILABLE:
            raise _Refusal("ServiceUnavailable", status=503)
        if fault is Fault.TOO_MANY:
            raise _Refusal("Throttling.User", status=400)
        if fault is Fault.QUOTA:
            raise _Refusal("isv.BUSINESS_LIMIT_CONTROL", "触发小时级流控Permits:5")
        if fault is Fault.INVALID_NUMBER:
            raise _Refusal("isv.MOBILE_NUMBER_ILLEGAL", "手机号码格式错误")

    def _authenticate(self, request: Request) -> None:
        """Signature version 3, made anew from the request as it came."""
        names = ("host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version")
        headers = {name: request.headers.get(name, "") for name in names}
        query = "&".join(
            f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(request.query_params.items())
        )
        lines = ["POST", "/", query, *(f"{name}:{headers[name]}" for name in names), "", ";".join(names)]
        canonical = "\n".join([*lines, hashlib.sha256(b"").hexdigest()])
        text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.new(KEY_SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()
        expected = f"ACS3-HMAC-SHA256 Credential={KEY_ID},SignedHeaders={';'.join(names)},Signature={signature}"
        if not hmac.compare_digest(request.headers.get("authorization", ""), expected):
            raise _Refusal("SignatureDoesNotMatch", status=400)
        signed_at = datetime.strptime(headers["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        if abs((datetime.now(UTC) - signed_at).total_seconds()) > MAX_SKEW_S:
            raise _Refusal("InvalidTimeStamp.Expired", status=400)
        if headers["x-acs-signature-nonce"] in self._nonces:
            raise _Refusal("SignatureNonceUsed", status=400)
        self._nonces.append(headers["x-acs-signature-nonce"])
        if headers["x-acs-version"] != _VERSION:
            raise _Refusal("InvalidVersion", status=400)

    def _checked(self, action: str, parameters: Mapping[str, str]) -> str:
        """The number, once template, parameters and limits are all right."""
        sms = action == "SendSms"
        number = parameters.get("PhoneNumbers" if sms else "CalledNumber", "")
        if not (number.isdecimal() and 10 <= len(number) <= 15) or f"+86{number}" in self.people.invalid:
            raise _Refusal("isv.MOBILE_NUMBER_ILLEGAL" if sms else "isv.INVALID_PARAMETERS")
        code = parameters.get({"SendSms": "TemplateCode", "IvrCall": "StartCode"}.get(action, "TtsCode"), "")
        if code not in self._templates:
            raise _Refusal("isv.SMS_TEMPLATE_ILLEGAL" if sms else "isv.TTS_TEMPLATE_ILLEGAL")
        given = parameters.get({"SendSms": "TemplateParam", "IvrCall": "StartTtsParams"}.get(action, "TtsParam"), "{}")
        try:
            values = msgspec.json.decode(given, type=dict[str, str])
        except msgspec.DecodeError as error:
            raise _Refusal("isv.INVALID_JSON_PARAM") from error
        if any(len(value) > 35 for value in values.values()):
            raise _Refusal("isv.PARAM_LENGTH_LIMIT")
        if not sms and self._limited:
            now = datetime.now(UTC)
            before = self._called.setdefault(number, [])
            for seconds, count, message in CALL_LIMITS:
                if sum((now - at).total_seconds() < seconds for at in before) >= count:
                    raise _Refusal("isv.BUSINESS_LIMIT_CONTROL", f"触发{message}")
            before.append(now)
        return number

    async def _happen(self, made: Made, fault: Fault | None) -> None:
        """What the person does, and the receipts of it."""
        medium = "message" if made.kind == "SendSms" else "call"
        behaviour = self.people.behaviour(f"+86{made.number}", "message" if medium == "message" else "call")
        report = await (self._deliver(made, behaviour) if medium == "message" else self._ring(made, behaviour))
        if report is None or fault is Fault.NO_CALLBACK or not self.callback_url:
            return
        if fault is Fault.LATE:
            await asyncio.sleep(self._late_s)
        for _ in range(2 if fault is Fault.TWICE else 1):
            made.reported.append(report)
            with contextlib.suppress(httpx2.HTTPError):
                await self.push([report])

    async def _deliver(self, made: Made, behaviour: Behaviour) -> dict[str, Any] | None:
        await self._wait(2.0)
        if behaviour.messages == "never":
            return None
        delivered = behaviour.messages == "delivered"
        made.status = "DELIVERED" if delivered else "MK:0001"
        return {
            "phone_number": made.number,
            "send_time": _local(made.at),
            "report_time": _local(datetime.now(UTC)),
            "success": delivered,
            "err_code": made.status,
            "err_msg": "用户接收成功" if delivered else "用户停机",
            "sms_size": "1",
            "biz_id": made.provider_id,
            "out_id": made.out_id,
        }

    async def _ring(self, made: Made, behaviour: Behaviour) -> dict[str, Any]:
        answers_s = behaviour.answers_after_s
        if behaviour.line != "free":
            made.status = "200002" if behaviour.line == "busy" else "200010"
        elif answers_s is None or answers_s > RING_S:
            await self._wait(RING_S)
            made.status = "200003"
        else:
            await self._wait(answers_s)
            await self._talk(made, behaviour)
        return {
            "call_id": made.provider_id,
            "start_time": _local(made.at) if made.seconds else "",
            "end_time": _local(datetime.now(UTC)) if made.seconds else "",
            "duration": str(made.seconds),
            "status_code": made.status,
            "status_msg": "",
            "out_id": made.out_id,
            "dtmf": made.digits,
        }

    async def _talk(self, made: Made, behaviour: Behaviour) -> None:
        stays_s = behaviour.hangs_up_after_s
        if stays_s is not None and stays_s < SPEECH_S:
            await self._wait(stays_s)
            made.status, made.seconds = "200001", max(round(stays_s), 1)
            return
        await self._wait(SPEECH_S)
        made.seconds = round(SPEECH_S)
        status = "200000"
        if made.kind == "IvrCall" and not behaviour.machine:
            known = {made.parameters.get(f"MenuKeyMap.{number}.Key") for number in range(1, 11)}
            status = "200000" if behaviour.keys else "200008"
            for key in behaviour.keys:
                await self._wait(behaviour.key_after_s)
                made.digits += key
                made.seconds += round(behaviour.key_after_s)
                if key in known:
                    break
        made.status = status  # last: who asks meanwhile learns nothing yet

    def _messages_of(self, parameters: Mapping[str, str]) -> Response:
        day, number = parameters.get("SendDate", ""), parameters.get("PhoneNumber", "")
        found = [
            made
            for made in reversed(self.made.values())
            if made.kind == "SendSms" and made.number == number and f"{made.at.astimezone(_BEIJING):%Y%m%d}" == day
        ]
        size, page = int(parameters.get("PageSize", "10")), int(parameters.get("CurrentPage", "1"))
        details = [
            {
                "PhoneNum": made.number,
                "OutId": made.out_id,
                "SendStatus": 1 if not made.status else 3 if made.status == "DELIVERED" else 2,
                "ErrCode": made.status,
                "TemplateCode": made.parameters.get("TemplateCode", ""),
                "SendDate": _local(made.at),
                "ReceiveDate": "",
                "Content": "",
            }
            for made in found[(page - 1) * size : page * size]
        ]
        return JSONResponse({
            "Code": "OK", "Message": "OK", "RequestId": "simulated",
            "TotalCount": str(len(found)), "SmsSendDetailDTOs": {"SmsSendDetailDTO": details},
        })  # fmt: skip

    def _call_detail(self, parameters: Mapping[str, str]) -> Response:
        made = self.made.get(parameters.get("CallId", ""))
        answer = {"Code": "OK", "Message": "OK", "RequestId": "simulated"}
        product = "11000000300005" if made and made.kind == "IvrCall" else "11000000300006"
        if made is not None and made.status and parameters.get("ProdId") == product:
            data = {"state": made.status, "stateDesc": made.status, "duration": made.seconds, "dtmf": made.digits}
            answer["Data"] = msgspec.json.encode(data).decode()
        return JSONResponse(answer)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def _local(at: datetime) -> str:
    return f"{at.astimezone(_BEIJING):%Y-%m-%d %H:%M:%S}"
