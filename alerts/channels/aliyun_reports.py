"""What Alibaba Cloud tells back: answers with a code, pushed receipts of messages and calls, details on request.

Receipts are pushed over HTTP as JSON arrays (``SmsReport``, ``VoiceReport``, ``VoiceCallReport``) and carry the
``out_id`` that the request had, which is our attempt id. Messages that come in are pushed likewise (``SmsUp``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from alerts.channel import ServerFailedError
from alerts.channels.quota import LimitReachedError
from alerts.notice import AttemptState, IncomingMessage, Told
from gateway.errors import DeliveryDeferredError, DeliveryError, DeliveryRefusedError, UsageError

PROVIDER: Final = "aliyun"
MAX_CALLBACK_BYTES: Final = 1024 * 1024
MAX_REPORTS: Final = 2000
MAX_TEXT: Final = 2000
CALLBACK_ANSWER: Final = '{"code":0,"msg":"成功"}'.encode()
"""What a pushed batch has to be answered with; anything else and it is pushed again."""

_CALLEE_LIMIT: Final = re.compile(r"(?:BUSINESS_LIMIT|DAY_LIMIT|MONTH_LIMIT|CALL_?LIMIT|FREQUENCY)", re.IGNORECASE)
_BUSY: Final = re.compile(r"(?:FLOW_?CONTROL|Throttling|TOO_?MANY|ServiceUnavailable|CONCURREN)", re.IGNORECASE)
_HALF_DONE: Final = re.compile(r"(?:SYSTEM_ERROR|InternalError|UnknownError)", re.IGNORECASE)
_ACCOUNT: Final = re.compile(
    r"(?:AMOUNT_NOT_ENOUGH|OUT_OF_SERVICE|ACCOUNT_|UN_?SUBSCRI|RAM_PERMISSION|DENY_IP|Signature|InvalidAccessKey"
    r"|Forbidden|NoPermission|Time[sS]tamp|SecurityToken|Unauthorized)"
)
_PERIODS: Final = (("天级", 86_400.0), ("小时级", 3_600.0), ("分钟级", 60.0))
_CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,80}")

_ANSWERED: Final = "answered"
_NO_ANSWER: Final = "no_answer"
_FAILED: Final = "failed"
_CALL_STATES: Final[Mapping[str, AttemptState]] = {
    "200000": _ANSWERED,  # heard to the end
    "200001": _ANSWERED,  # hung up before the end
    "200002": "busy",
    "200003": _NO_ANSWER,
    "200005": _NO_ANSWER,  # the network could not connect, or the call was declined
    "200007": _NO_ANSWER,  # out of coverage
    "200008": _ANSWERED,  # no key in time
    "200010": _NO_ANSWER,  # switched off
    "200011": _FAILED,  # number out of service
    "200100": _ANSWERED,
    "200101": "ringing",
    "200102": "ringing",
    "200103": _ANSWERED,
    "200111": _NO_ANSWER,
    "200112": "busy",
    "200113": _NO_ANSWER,
    "200120": _NO_ANSWER,
    "300000": _ANSWERED,  # a key was pressed
}
_SEND_STATES: Final[Mapping[int, AttemptState]] = {1: "sent", 2: "undelivered", 3: "delivered"}


def failure(code: str, message: str, status: int) -> DeliveryError:
    """What an answer other than ``OK`` means. The provider's message is not repeated: it may hold a number."""
    shown = code if _CODE.fullmatch(code) else f"status {status}"
    if _CALLEE_LIMIT.search(code):
        return LimitReachedError(f"Aliyun limits this number: {shown}", pause_s(message))
    if _BUSY.search(code) or (not code and status in (429, 503)):
        return DeliveryDeferredError(f"Aliyun is busy: {shown}", 1.0)
    if _HALF_DONE.search(code) or (not code and status not in (401, 403)):
        return ServerFailedError(f"Aliyun failed: {shown}")
    if _ACCOUNT.search(code) or not code:
        return DeliveryDeferredError(f"Aliyun does not serve this account: {shown}")
    return DeliveryRefusedError(f"Aliyun refused: {shown}")


def pause_s(message: str) -> float:
    """How long a flow limit lasts, by the period that its message names; a minute when it names none."""
    return next((seconds for word, seconds in _PERIODS if word in message), 60.0)


def parse_reports(body: bytes, now_us: int) -> tuple[list[Told | IncomingMessage], int]:
    """What a pushed batch tells, and how many of its members could not be used (they are nobody's receipt).

    Messages that came in (``SmsUp``) are pushed in the same form. Raises UsageError when the body is no such batch.
    """
    if len(body) > MAX_CALLBACK_BYTES:
        raise UsageError("the batch of receipts is longer than 1 MiB")
    try:
        batch = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("the batch of receipts is no JSON") from error
    if isinstance(batch, dict):
        batch = [batch]
    if not isinstance(batch, list) or len(batch) > MAX_REPORTS:
        raise UsageError(f"receipts come as an array of at most {MAX_REPORTS}")
    heard = [_message(member, now_us) or _report(member, now_us) for member in batch]
    told = [each for each in heard if each is not None]
    return told, len(batch) - len(told)


def sent_message(answer: Any, attempt_id: str, now_us: int) -> Told | None:
    """The message of an attempt among the ``QuerySendDetails`` of a number and day."""
    details = _at(_at(answer, "SmsSendDetailDTOs"), "SmsSendDetailDTO")
    for detail in details if isinstance(details, list) else []:
        if _text(detail, "OutId") != attempt_id:
            continue
        status = _at(detail, "SendStatus")
        state = _SEND_STATES.get(status if isinstance(status, int) else 0, "sent")
        return Told(
            attempt_id=attempt_id,
            provider=PROVIDER,
            provider_id="",  # these details do not name it
            state=state,
            at_us=now_us,
            detail={"err_code": _text(detail, "ErrCode")},
        )
    return None


def call_detail(answer: Any, attempt_id: str, call_id: str, now_us: int) -> Told | None:
    """What ``QueryCallDetailByCallId`` says of a call; None while it says nothing (its data come minutes late)."""
    data = _at(answer, "Data")
    if isinstance(data, str):
        try:
            data = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return None
    code = _text(data, "state")
    if not code:
        return None
    return _call(attempt_id, call_id, code, digits=_text(data, "dtmf"), duration=_at(data, "duration"), now_us=now_us)


def _message(member: Any, now_us: int) -> IncomingMessage | None:
    """A member of ``SmsUp``. ``sequence_id`` is a number in some of its descriptions and text in others."""
    sender, content, sequence = _text(member, "phone_number"), _at(member, "content"), _at(member, "sequence_id")
    if not sender or not isinstance(content, str) or not isinstance(sequence, str | int) or _text(member, "out_id"):
        return None
    named = hashlib.sha256(f"{sequence}/{_text(member, 'send_time')}/{sender}".encode()).hexdigest()[:32]
    return IncomingMessage(
        provider=PROVIDER, key=f"{PROVIDER}/{named}", sender=sender, text=content[:MAX_TEXT], received_us=now_us,
        to=_text(member, "dest_code"),
    )  # fmt: skip


def _report(member: Any, now_us: int) -> Told | None:
    attempt_id = _text(member, "out_id")
    if not attempt_id:
        return None
    call_id = _text(member, "call_id")
    if call_id:
        return _call(
            attempt_id,
            call_id,
            _text(member, "status_code"),
            digits=_text(member, "dtmf"),
            duration=_at(member, "duration"),
            now_us=now_us,
        )
    success = _at(member, "success")
    if not isinstance(success, bool):
        return None
    return Told(
        attempt_id=attempt_id,
        provider=PROVIDER,
        provider_id=_text(member, "biz_id"),
        state="delivered" if success else "undelivered",
        at_us=now_us,
        detail={"err_code": _text(member, "err_code")},
    )


def _call(attempt_id: str, call_id: str, code: str, *, digits: str, duration: Any, now_us: int) -> Told:
    return Told(
        attempt_id=attempt_id,
        provider=PROVIDER,
        provider_id=call_id,
        state=_CALL_STATES.get(code, _FAILED),
        at_us=now_us,
        digits="".join(key for key in digits if key in "0123456789*#")[:20],
        duration_s=_seconds(duration),
        detail={"status_code": code},
    )


def _seconds(value: Any) -> int | None:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else None


def _at(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Any, name: str) -> str:
    found = _at(value, name)
    return found[:128] if isinstance(found, str) else ""
