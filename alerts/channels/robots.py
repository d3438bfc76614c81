"""Group robots of WeCom, DingTalk and Feishu/Lark: they tell a group, and nobody knows who read it.

Informational: a robot gives no receipt by a person, so a policy must never have one as its only channel
(``INFORMATIONAL``). Each robot is named in the configuration; a notice's ``to`` is that name.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct

from alerts.channel import Receipt, ServerFailedError
from alerts.channels.http_request import HttpAnswer, HttpRequester, read_secret
from alerts.channels.quota import LimitReachedError, Quota, Window
from alerts.notice import Medium, Notice, Told
from gateway.clock import US_PER_S, Clock
from gateway.errors import DeliveryDeferredError, DeliveryError, DeliveryRefusedError, DeliveryUnknownError

INFORMATIONAL: Final = True
"""A message in a group is no way to reach somebody: escalation may use it beside other channels only."""

Kind = Literal["wecom", "dingtalk", "feishu"]
_LIMITS: Final[Mapping[Kind, tuple[int, tuple[Window, ...]]]] = {
    "wecom": (2_048, (Window(60, 20),)),
    "dingtalk": (6_000, (Window(60, 20),)),
    "feishu": (15_000, (Window(1, 5), Window(60, 100))),
}
"""Bytes of text in one message (UTF-8, with room for what JSON and the envelope add), and messages in a time."""
_MARKDOWN_BYTES: Final[Mapping[Kind, int]] = {"wecom": 4_096, "dingtalk": 6_000, "feishu": 15_000}
_DINGTALK_PENALTY_S: Final = 600.0  # who sends more than 20 in a minute is shut out for ten
_SLOW_DOWN: Final[Mapping[Kind, frozenset[int]]] = {
    "wecom": frozenset({45009, 45033, -1}),
    "dingtalk": frozenset({130101, 410100, 430104, 90030, -1}),
    "feishu": frozenset({11232, 99991400, 9499}),
}
_BASE_URLS: Final[Mapping[Kind, str]] = {
    "wecom": "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=",
    "dingtalk": "https://oapi.dingtalk.com/robot/send?access_token=",
    "feishu": "https://open.feishu.cn/open-apis/bot/v2/hook/",
}


class Robot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``key_file`` holds the secret end of the robot's address (key, access_token, hook), ``secret_file`` what signs.

    ``base_url`` is what stands before the key; "" is the maker's. Lark's is
    ``https://open.larksuite.com/open-apis/bot/v2/hook/``. WeCom robots have no signing secret.
    """

    kind: Kind
    key_file: str
    secret_file: str = ""
    base_url: str = ""
    style: Literal["text", "markdown"] = "text"


class RobotsProvider:
    """A Provider for ``chat``."""

    def __init__(
        self, robots: Mapping[str, Robot], clock: Clock, *, timeout_s: float = 10.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._robots = robots
        self._clock = clock
        self._http = HttpRequester("the robot's service", timeout_s, tls=tls)
        self._quotas = {name: Quota(_LIMITS[robot.kind][1], "messages of this robot") for name, robot in robots.items()}

    @property
    def name(self) -> str:
        return "robots"

    @property
    def media(self) -> frozenset[Medium]:
        return frozenset({"chat"})

    def ready(self) -> bool:
        return bool(self._robots)

    async def close(self) -> None:
        await self._http.close()

    async def find(self, notice: Notice) -> Told | None:
        """None: a robot cannot be asked what it said."""
        del notice
        return None

    async def send(self, notice: Notice) -> Receipt:
        robot = self._robots.get(notice.to)
        if robot is None:
            raise DeliveryRefusedError(f"there is no robot {notice.to!r}")
        url = (robot.base_url or _BASE_URLS[robot.kind]) + quote(
            read_secret(robot.key_file, "the robot's key"), safe=""
        )
        secret = read_secret(robot.secret_file, "the robot's secret") if robot.secret_file else ""
        body = message(robot, notice)
        now_us = self._clock.now_us()
        if secret and robot.kind == "dingtalk":
            stamp = str(now_us // 1000)
            url += f"&timestamp={stamp}&sign={quote(dingtalk_sign(stamp, secret), safe='')}"
        elif secret and robot.kind == "feishu":
            stamp = str(now_us // US_PER_S)
            body = {"timestamp": stamp, "sign": feishu_sign(stamp, secret)} | body
        quota = self._quotas[notice.to]
        quota.take(notice.to, self._clock.monotonic_s())
        try:
            answer = await self._http.ask(
                "POST",
                url,
                headers={"Content-Type": "application/json; charset=utf-8"},
                content=msgspec.json.encode(body),
            )
        except DeliveryDeferredError:
            quota.give_back(notice.to)
            raise
        fault = _fault(robot.kind, answer)
        if isinstance(fault, LimitReachedError):
            quota.close(notice.to, self._clock.monotonic_s() + (fault.retry_after_s or 0.0))
        if fault is not None:
            raise fault
        return Receipt(notice.attempt_id, {"service": robot.kind})


def message(robot: Robot, notice: Notice) -> dict[str, Any]:
    """The body of a robot's message, shortened to what the service takes, never in the middle of a character."""
    if robot.style == "markdown":
        title = clipped(notice.subject or notice.text, 120)
        text = clipped(f"**{title}**\n\n{notice.text}" if notice.subject else notice.text, _MARKDOWN_BYTES[robot.kind])
        if robot.kind == "wecom":
            return {"msgtype": "markdown", "markdown": {"content": text}}
        if robot.kind == "dingtalk":
            return {"msgtype": "markdown", "markdown": {"title": title, "text": text}}
        body = {"tag": "markdown", "content": clipped(notice.text, _MARKDOWN_BYTES[robot.kind] - 200)}
        header = {"title": {"tag": "plain_text", "content": title}, "template": "red"}
        return {"msg_type": "interactive", "card": {"header": header, "elements": [body]}}
    text = clipped(f"{notice.subject}\n{notice.text}" if notice.subject else notice.text, _LIMITS[robot.kind][0])
    if robot.kind == "feishu":
        return {"msg_type": "text", "content": {"text": text}}
    return {"msgtype": "text", "text": {"content": text}}


def clipped(text: str, limit: int) -> str:
    """At most ``limit`` bytes of UTF-8, with an ellipsis in place of what was cut off."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode("utf-8")
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def dingtalk_sign(stamp_ms: str, secret: str) -> str:
    """base64(HMAC-SHA256(key = secret, message = stamp, newline, secret)) (open.dingtalk.com, custom robots)."""
    return _base64_hmac(secret.encode(), f"{stamp_ms}\n{secret}".encode())


def feishu_sign(stamp_s: str, secret: str) -> str:
    """base64(HMAC-SHA256(key = stamp, newline, secret; message empty)) (open.feishu.cn, custom bot guide)."""
    return _base64_hmac(f"{stamp_s}\n{secret}".encode(), b"")


def _base64_hmac(key: bytes, data: bytes) -> str:
    return base64.b64encode(hmac.new(key, data, hashlib.sha256).digest()).decode()


def _fault(kind: Kind, answer: HttpAnswer) -> DeliveryError | None:
    """What an answer means; None when the message is in the group. The services say so in a code, under HTTP 200."""
    if answer.status == 429 or answer.status >= 500:
        return _overload(answer)
    said = answer.json()
    said = said if isinstance(said, dict) else {}
    code = said.get("code", said.get("StatusCode")) if kind == "feishu" else said.get("errcode")
    if not isinstance(code, int) or isinstance(code, bool):
        if answer.status < 300:
            return DeliveryUnknownError("the robot's service answered without a code")
        return DeliveryRefusedError(f"the robot's service answered {answer.status}")
    if code in _SLOW_DOWN[kind]:
        pause_s = _DINGTALK_PENALTY_S if code in (130101, 410100) else 60.0
        return LimitReachedError(f"the robot's service limits the flow: {code}", pause_s)
    return DeliveryRefusedError(f"the robot's service refused: {code}") if code else None


def _overload(answer: HttpAnswer) -> DeliveryError:
    if answer.status == 429:
        return LimitReachedError("the robot's service limits the flow", answer.retry_after_s or 60.0)
    if answer.status == 503:
        return DeliveryDeferredError("the robot's service answered 503", answer.retry_after_s)
    return ServerFailedError(f"the robot's service answered {answer.status}", answer.retry_after_s)
