"""Alibaba Cloud: messages (Dysmsapi 2017-05-25) and calls (Dyvmsapi 2017-05-25), signed as version 3 demands.

Both send only texts that were approved beforehand, so each notice names a template and gives its parameters. ``OutId``
is the attempt id: receipts and questions find the attempt by it.
"""

from __future__ import annotations

import hmac
import secrets
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
import phonenumbers
import structlog
from msgspec import Struct, field

from alerts.channel import Receipt
from alerts.channels import aliyun_reports
from alerts.channels.aliyun_signature import canonical_query, signed_headers
from alerts.channels.http_request import HttpRequester, read_secret
from alerts.channels.quota import LimitReachedError, Quota, Window
from alerts.notice import IncomingMessage, Medium, Notice, Told
from gateway.clock import US_PER_S, Clock, from_us
from gateway.errors import (
    DeliveryDeferredError,
    DeliveryRefusedError,
    DeliveryUnknownError,
    NotFoundError,
    UsageError,
)

VERSION: Final = "2017-05-25"
PREFIX: Final = "/callbacks/aliyun/"
GENERAL: Final = "alert"
"""The template of every kind that has none of its own."""
VOICE_QUOTA: Final = (Window(60, 1), Window(3_600, 5), Window(86_400, 20))
"""Calls to one number: 1 a minute, 5 an hour, 20 a day (help.aliyun.com, SingleCallByTts)."""
SMS_QUOTA: Final = (Window(86_400, 50),)
"""Notifications to one number: 50 a day; an account may have less."""
MAX_REMEMBERED: Final = 2_000
PAGES: Final = 4
PAGE_SIZE: Final = 50
_PRODUCT_NOTICE: Final = "11000000300006"
_PRODUCT_IVR: Final = "11000000300005"
_BEIJING: Final = ZoneInfo("Asia/Shanghai")
_MAINLAND: Final = 86
_log = structlog.get_logger(__name__)

T = TypeVar("T", "SmsTemplate", "VoiceTemplate")


class SmsTemplate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approved message. ``params``: its variables and how many characters each may have. ``sign`` "": the usual."""

    code: str
    params: Mapping[str, int] = field(default_factory=dict)
    sign: str = ""


class VoiceTemplate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approved speech. With ``keys`` (digit → what is said after it) a notice that wants an answer asks for one."""

    code: str
    params: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    goodbye: str = ""


class AliyunSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``sms`` and ``voice`` are by template name, or ``name.language`` where the languages differ.

    ``show_number`` is the number that calls come from ("" for the public pool, which key presses cannot use).
    ``callback_token_file`` holds the secret part of the address that receipts are pushed to.
    """

    access_key_id: str = ""
    access_key_secret_file: str = ""
    sign_name: str = ""
    show_number: str = ""
    callback_token_file: str = ""
    sms: Mapping[str, SmsTemplate] = field(default_factory=dict)
    voice: Mapping[str, VoiceTemplate] = field(default_factory=dict)
    sms_base_url: str = "https://dysmsapi.aliyuncs.com"
    voice_base_url: str = "https://dyvmsapi.aliyuncs.com"
    timeout_s: float = 10.0
    play_times: int = 2
    speed: int = -100
    key_timeout_ms: int = 8_000
    sms_quota: tuple[Window, ...] = SMS_QUOTA
    voice_quota: tuple[Window, ...] = VOICE_QUOTA


class _Call(Struct, frozen=True):
    call_id: str
    product: str
    at_us: int


class AliyunProvider:
    """A Provider for ``sms`` and ``voice``. Credentials that do not work make notices wait, not fail."""

    def __init__(self, settings: AliyunSettings, clock: Clock, *, tls: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._http = HttpRequester("Aliyun", settings.timeout_s, tls=tls)
        self._quotas: Mapping[str, Quota] = {
            "sms": Quota(settings.sms_quota, "Aliyun messages to this number"),
            "voice": Quota(settings.voice_quota, "Aliyun calls to this number"),
        }
        self._calls: OrderedDict[str, _Call] = OrderedDict()

    @property
    def name(self) -> str:
        return aliyun_reports.PROVIDER

    @property
    def media(self) -> frozenset[Medium]:
        served: list[Medium] = []
        if self._settings.sms:
            served.append("sms")
        if self._settings.voice:
            served.append("voice")
        return frozenset(served)

    def caller(self, medium: Medium) -> str:
        """The number that people see; of a message the signature in front of it."""
        return self._settings.sign_name if medium == "sms" else self._settings.show_number

    def ready(self) -> bool:
        settings = self._settings
        return bool(settings.access_key_id and settings.access_key_secret_file and self.media)

    async def close(self) -> None:
        await self._http.close()

    async def send(self, notice: Notice) -> Receipt:
        """See Provider. A number whose quota is used up is deferred without asking."""
        if notice.medium == "sms":
            action, parameters, base_url = "SendSms", self._message(notice), self._settings.sms_base_url
        elif notice.medium == "voice":
            action, parameters = self._call(notice)
            base_url = self._settings.voice_base_url
        else:
            raise DeliveryRefusedError(f"Aliyun carries no {notice.medium}")
        quota = self._quotas[notice.medium]
        quota.take(notice.to, self._clock.monotonic_s())
        try:
            answer = await self._ask(base_url, action, parameters)
        except (DeliveryDeferredError, DeliveryRefusedError) as error:
            quota.give_back(notice.to)
            if isinstance(error, LimitReachedError):
                quota.close(notice.to, self._clock.monotonic_s() + (error.retry_after_s or 0.0))
            raise
        reference = answer.get("BizId" if action == "SendSms" else "CallId")
        if not isinstance(reference, str) or not 0 < len(reference) <= 200:
            raise DeliveryUnknownError("Aliyun took the notice but its answer names none")
        if notice.medium == "voice":
            self._remember(notice.attempt_id, reference, action)
        return Receipt(reference, {"action": action})

    async def find(self, notice: Notice) -> Told | None:
        """By ``OutId`` among the number's messages of today (and of yesterday, shortly after midnight in Beijing).

        A call can be asked for only by its own id, so one whose id was never heard of is unknown until it is told of.
        """
        if notice.medium == "voice":
            call = self._calls.get(notice.attempt_id)
            return None if call is None else await self._find_call(notice.attempt_id, call)
        now = from_us(self._clock.now_us()).astimezone(_BEIJING)
        days = [now] if now.hour >= 1 else [now, now - timedelta(days=1)]
        for day in days:
            for page in range(1, PAGES + 1):
                answer = await self._ask(
                    self._settings.sms_base_url,
                    "QuerySendDetails",
                    {
                        "PhoneNumber": callee(notice.to, "sms"),
                        "SendDate": day.strftime("%Y%m%d"),
                        "PageSize": str(PAGE_SIZE),
                        "CurrentPage": str(page),
                    },
                )
                told = aliyun_reports.sent_message(answer, notice.attempt_id, self._clock.now_us())
                if told is not None:
                    return told
                total = answer.get("TotalCount")
                count = int(total) if isinstance(total, int) or (isinstance(total, str) and total.isdecimal()) else 0
                if count <= page * PAGE_SIZE:
                    break
        return None

    def handle(self, path: str, body: bytes) -> tuple[int, str, bytes, list[Told | IncomingMessage]]:
        """Answer one pushed batch: status, content type, body, and what was told. ``path`` from /callbacks/aliyun/ on.

        The caller stores what was told before it sends the answer: what was not answered is pushed again.
        """
        try:
            told = self.parse_callback(path.removeprefix(PREFIX), body)
        except NotFoundError:
            return 404, "text/plain", b"unknown", []
        except UsageError:
            return 400, "text/plain", b"not a batch of receipts", []
        return 200, "application/json", aliyun_reports.CALLBACK_ANSWER, told

    def parse_callback(self, token: str, body: bytes) -> list[Told | IncomingMessage]:
        """What a batch tells that was pushed to the address with ``token``. Alibaba Cloud does not sign what it pushes.

        Raises NotFoundError when the token is not ours, UsageError when the body is no batch of receipts.
        """
        if not self._authentic(token):
            raise NotFoundError("no such callback")
        told, unusable = aliyun_reports.parse_reports(body, self._clock.now_us())
        if unusable:
            _log.warning("receipts_unusable", channel=self.name, count=unusable)
        return told

    def _authentic(self, token: str) -> bool:
        if not self._settings.callback_token_file:
            return False
        try:
            expected = read_secret(self._settings.callback_token_file, "the Aliyun callback token")
        except DeliveryDeferredError as error:
            _log.error("callback_token_unreadable", channel=self.name, error=str(error))
            return False
        return hmac.compare_digest(token.encode(), expected.encode())

    async def _find_call(self, attempt_id: str, call: _Call) -> Told | None:
        answer = await self._ask(
            self._settings.voice_base_url,
            "QueryCallDetailByCallId",
            {"CallId": call.call_id, "ProdId": call.product, "QueryDate": str(call.at_us // 1000)},
        )
        return aliyun_reports.call_detail(answer, attempt_id, call.call_id, self._clock.now_us())

    def _remember(self, attempt_id: str, call_id: str, action: str) -> None:
        product = _PRODUCT_IVR if action == "IvrCall" else _PRODUCT_NOTICE
        self._calls[attempt_id] = _Call(call_id, product, self._clock.now_us())
        if len(self._calls) > MAX_REMEMBERED:
            self._calls.popitem(last=False)

    def _message(self, notice: Notice) -> dict[str, str]:
        template = _template(self._settings.sms, notice)
        return {
            "PhoneNumbers": callee(notice.to, "sms"),
            "SignName": template.sign or self._settings.sign_name,
            "TemplateCode": template.code,
            "TemplateParam": _params(template.params, notice),
            "OutId": notice.attempt_id,
        }

    def _call(self, notice: Notice) -> tuple[str, dict[str, str]]:
        template = _template(self._settings.voice, notice)
        settings = self._settings
        parameters = {
            "CalledNumber": callee(notice.to, "voice"),
            "PlayTimes": str(settings.play_times),
            "Speed": str(settings.speed),
            "OutId": notice.attempt_id,
        }
        if settings.show_number:
            parameters["CalledShowNumber"] = settings.show_number
        speech = _params(template.params, notice)
        if not (notice.wants_answer and template.keys):
            return "SingleCallByTts", parameters | {"TtsCode": template.code, "TtsParam": speech}
        del parameters["Speed"]  # not known to IvrCall
        parameters |= {"StartCode": template.code, "StartTtsParams": speech, "Timeout": str(settings.key_timeout_ms)}
        for number, (key, code) in enumerate(sorted(template.keys.items()), start=1):
            parameters |= {f"MenuKeyMap.{number}.Key": key, f"MenuKeyMap.{number}.Code": code}
        if template.goodbye:
            parameters["ByeCode"] = template.goodbye
        return "IvrCall", parameters

    async def _ask(self, base_url: str, action: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        secret = read_secret(self._settings.access_key_secret_file, "the Aliyun access key secret")
        headers = signed_headers(
            key_id=self._settings.access_key_id,
            key_secret=secret,
            host=urlsplit(base_url).netloc,
            action=action,
            version=VERSION,
            parameters=parameters,
            date=from_us(self._clock.now_us() // US_PER_S * US_PER_S).strftime("%Y-%m-%dT%H:%M:%SZ"),
            nonce=secrets.token_hex(16),
        )
        headers["Accept"] = "application/json"
        answer = await self._http.ask("POST", f"{base_url}/?{canonical_query(parameters)}", headers=headers)
        said = answer.json()
        said = said if isinstance(said, dict) else {}
        code = said.get("Code")
        if code == "OK":
            return said
        message = said.get("Message")
        raise aliyun_reports.failure(
            code if isinstance(code, str) else "", message if isinstance(message, str) else "", answer.status
        )


def callee(number: str, medium: Medium) -> str:
    """An E.164 number as Alibaba Cloud writes it: mainland numbers nationally, others with country code and no plus.

    Raises DeliveryRefusedError for what is no number, a landline for messages, and calls abroad.
    """
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException as error:
        raise DeliveryRefusedError("the contact's number is not an international number") from error
    if not phonenumbers.is_possible_number(parsed):
        raise DeliveryRefusedError("the contact's number cannot be a number")
    kind = phonenumbers.number_type(parsed)
    if medium == "sms" and kind == phonenumbers.PhoneNumberType.FIXED_LINE:
        raise DeliveryRefusedError("a landline takes no messages")
    national = phonenumbers.national_significant_number(parsed)
    if parsed.country_code != _MAINLAND:
        if medium == "voice":
            raise DeliveryRefusedError("Aliyun calls only numbers in mainland China")
        return f"{parsed.country_code}{national}"
    return f"0{national}" if kind == phonenumbers.PhoneNumberType.FIXED_LINE else national


def _template(templates: Mapping[str, T], notice: Notice) -> T:
    """That of the notice's own kind (``fall.zh``, ``fall``), else the one for everything (``alert.zh``, ``alert``)."""
    for name in (notice.template, GENERAL):
        found = templates.get(f"{name}.{notice.language}", templates.get(name))
        if found is not None:
            return found
    raise DeliveryRefusedError(f"Aliyun has no {notice.medium} template for {notice.template!r}, and none for all")


def _params(limits: Mapping[str, int], notice: Notice) -> str:
    missing = sorted(set(limits) - set(notice.params))
    if missing:
        raise DeliveryRefusedError(f"template {notice.template!r} lacks {', '.join(missing)}")
    values = {name: _shortened(notice.params[name], limit) for name, limit in limits.items()}
    return msgspec.json.encode(values).decode()


def _shortened(value: str, limit: int) -> str:
    """A value that is too long would be refused whole; what fits of it is sent."""
    value = " ".join(value.split())
    return value if len(value) <= limit else f"{value[: max(limit - 1, 0)]}…"
