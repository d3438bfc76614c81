"""What Twilio calls back: addresses that carry the attempt, the proof that it is Twilio, and what it told.

Nothing is kept here: the same callback gives the same Told, today or a week late, before or after a crash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec import Struct
from twilio.request_validator import (  # type: ignore[import-untyped] # ships no types
    SIGNATURE_HEADER,
    SIGNATURE_SETTINGS_HEADER,
    RequestValidator,
    get_signature_algorithm,
)

from alerts.channels import twilio_twiml
from alerts.channels.twilio_twiml import Language
from alerts.notice import AttemptState, IncomingMessage, Question, Told
from gateway.clock import Clock
from gateway.errors import NotFoundError, UsageError

PREFIX: Final = "/callbacks/twilio/"
INCOMING: Final = "incoming/message"
"""Where Twilio tells of messages that come in. It is set in Twilio's console, so it names no attempt of ours."""
KINDS: Final = frozenset({"sms", "call", "gather", "amd", "leg", "conference", "recording"})
OVERRIDES: Final = "#rc=5&rp=all"
"""Twilio tries a callback again up to five times; its default is once, and after a failed connection only."""
MAX_BODY_BYTES: Final = 64 * 1024
MAX_FIELDS: Final = 200
MAX_TEXT: Final = 2000
"""Characters of a message that are kept; Twilio joins the parts of a long one to 1,600 at most."""
ID: Final = re.compile(r"[A-Za-z0-9._-]{1,120}")
_PATH: Final = re.compile(PREFIX + r"([A-Za-z0-9._-]{1,120})/([a-z]{1,20})")
_XML: Final = "application/xml; charset=utf-8"
_TEXT: Final = "text/plain; charset=utf-8"
_NOTHING: Final = twilio_twiml.nothing().encode()

MESSAGE_STATES: Final[Mapping[str, AttemptState]] = {
    "accepted": "queued", "scheduled": "queued", "queued": "queued", "sending": "queued",
    "sent": "sent", "delivered": "delivered", "read": "delivered",
    "undelivered": "undelivered", "failed": "failed", "canceled": "failed",
}  # fmt: skip
CALL_STATES: Final[Mapping[str, AttemptState]] = {
    "queued": "queued", "initiated": "queued", "ringing": "ringing",
    "in-progress": "answered", "answered": "answered", "completed": "answered",
    "busy": "busy", "no-answer": "no_answer", "failed": "failed", "canceled": "failed",
}  # fmt: skip
_EVENT_STATES: Final[Mapping[str, AttemptState]] = {
    "participant-join": "answered", "participant-leave": "answered", "conference-start": "answered",
    "conference-end": "answered", "participant-mute": "answered", "participant-unmute": "answered",
    "participant-hold": "answered", "participant-unhold": "answered",
}  # fmt: skip
_DETAILS: Final = {
    "MessageStatus": "status", "CallStatus": "status", "ErrorCode": "error_code", "SipResponseCode": "sip_code",
    "AnsweredBy": "answered_by", "SequenceNumber": "sequence", "StatusCallbackEvent": "event",
    "ConferenceSid": "conference_id", "ParticipantLabel": "label", "ParticipantCallStatus": "leg_status",
    "ReasonParticipantLeft": "reason", "ReasonConferenceEnded": "reason", "RecordingStatus": "recording_status",
    "RecordingDuration": "recording_s", "Timestamp": "at",
}  # fmt: skip
"""What of a callback goes into Told.detail: nothing that names or numbers a person."""


class Heard(Struct, frozen=True):
    """A callback that was Twilio's: what it told (None: nothing new), and the TwiML to answer ("" for none)."""

    told: Told | None
    twiml: str


class TwilioCallbacks:
    """Makes the addresses, checks who calls them and reads what they say.

    ``public_url`` is where Twilio reaches us: signatures are made over it, whatever stands in between. The capability
    in each address is an HMAC of the attempt under ``capability_secret`` (from the auth token when empty: then a
    new token makes calls under way unknown to us).
    """

    def __init__(
        self, *, account_sid: str, auth_token: str, public_url: str, clock: Clock, capability_secret: str = ""
    ) -> None:
        self._account_sid = account_sid
        self._public_url = public_url.rstrip("/")
        self._clock = clock
        self._validator = RequestValidator(auth_token)
        secret = capability_secret or auth_token
        self._key = hmac.new(secret.encode(), b"carebell callback capability 1", hashlib.sha256).digest()

    def url(self, attempt_id: str, kind: str, **query: str) -> str:
        """The address for one kind of callback of one attempt. Raises UsageError for an id that is none of ours."""
        if not ID.fullmatch(attempt_id) or kind not in KINDS:
            raise UsageError("this attempt cannot be named in an address")
        asked = urlencode({"t": self._capability(attempt_id), **query})
        return f"{self._public_url}{PREFIX}{attempt_id}/{kind}?{asked}{OVERRIDES}"

    def handle(
        self, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, bytes, Told | IncomingMessage | None]:
        """Answer one POST: status, content type, body, and what was told. ``path`` from /callbacks/twilio/ on, raw.

        The caller stores what was told before it sends the answer: Twilio tries again what was not answered.
        """
        match = _PATH.fullmatch(path)
        if match is None or len(body) > MAX_BODY_BYTES:
            return (404, _TEXT, b"unknown", None) if match is None else (413, _TEXT, b"too long", None)
        url = f"{self._public_url}{path}" + (f"?{query}" if query else "")
        now_us = self._clock.now_us()
        try:
            form = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
            if path == PREFIX + INCOMING:
                return 200, _XML, _NOTHING, self.parse_message(url, headers, form, now_us)
            heard = self.parse_callback(match[2], url, headers, form, now_us)
        except NotFoundError:
            return 404, _TEXT, b"unknown", None
        except UsageError:
            return 403, _TEXT, b"refused", None
        except ValueError:
            return 400, _TEXT, b"not a form", None
        return 200, _XML, heard.twiml.encode() or _NOTHING, heard.told

    def parse_callback(
        self, kind: str, url: str, headers: Mapping[str, str], form: Mapping[str, str], now_us: int
    ) -> Heard:
        """Read one callback. ``url`` is the public one, with its query.

        Raises NotFoundError for an unknown kind, and UsageError when signature, capability or account is not right.
        """
        parts = urlsplit(url)
        match = _PATH.search(parts.path)
        if match is None or match[2] != kind or kind not in KINDS:
            raise NotFoundError("no such callback")
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=20))
        self._verify(match[1], url.partition("#")[0], query, headers, form)
        return self._read(match[1], kind, query, form, now_us)

    def parse_message(
        self, url: str, headers: Mapping[str, str], form: Mapping[str, str], now_us: int
    ) -> IncomingMessage:
        """Read a message that came in. ``url`` is the public one, with its query.

        The signature is the whole proof: there is no attempt whose capability could stand in the address. Raises
        UsageError when signature or account is not right, or what is told is no message.
        """
        named = _first(form, "MessageSid", "SmsSid")
        if not self._is_genuine(url.partition("#")[0], headers, form) or form.get("AccountSid") != self._account_sid:
            raise UsageError("a callback that is not Twilio's")
        if not ID.fullmatch(named):
            raise UsageError("a message without an id")
        return IncomingMessage(
            provider="twilio", key=f"twilio/{named}", sender=form.get("From", "")[:80],
            text=form.get("Body", "")[:MAX_TEXT], received_us=now_us, to=form.get("To", "")[:80],
        )  # fmt: skip

    def _verify(
        self, attempt_id: str, url: str, query: Mapping[str, str], headers: Mapping[str, str], form: Mapping[str, str]
    ) -> None:
        capability = hmac.compare_digest(query.get("t", "").encode(), self._capability(attempt_id).encode())
        account = form.get("AccountSid", self._account_sid) == self._account_sid
        if not (self._is_genuine(url, headers, form) and capability and account):
            raise UsageError("a callback that is not Twilio's")

    def _is_genuine(self, url: str, headers: Mapping[str, str], form: Mapping[str, str]) -> bool:
        lower = {name.lower(): value for name, value in headers.items()}
        signature = lower.get(SIGNATURE_HEADER.lower(), "")
        algorithm = get_signature_algorithm(lower.get(SIGNATURE_SETTINGS_HEADER.lower(), ""))
        return bool(self._validator.validate(url, dict(form), signature, algorithm))

    def _capability(self, attempt_id: str) -> str:
        digest = hmac.new(self._key, attempt_id.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:18]).decode()

    def _read(
        self, attempt_id: str, kind: str, query: Mapping[str, str], form: Mapping[str, str], now_us: int
    ) -> Heard:
        if kind == "gather":
            return self._gathered(attempt_id, query, form, now_us)
        told = told_of(attempt_id, kind, form, now_us)
        return Heard(told, "")

    def _gathered(self, attempt_id: str, query: Mapping[str, str], form: Mapping[str, str], now_us: int) -> Heard:
        digits = "".join(key for key in form.get("Digits", "") if key in "0123456789*#")[:8]
        language: Language = "en" if query.get("l") == "en" else "zh"
        tried = int(query.get("n", "1")) if query.get("n", "1") in "123456789" else twilio_twiml.MAX_KEY_TRIES
        question: Question = "well" if query.get("q") == "well" else "take"
        asked = {"q": "well"} if question == "well" else {}
        again = None
        if tried < twilio_twiml.MAX_KEY_TRIES:
            again = self.url(attempt_id, "gather", l=language, n=str(tried + 1), **asked)
        told = Told(
            attempt_id=attempt_id, provider="twilio", provider_id=form.get("CallSid", ""), state="answered",
            at_us=now_us, digits=digits, detail={**_details(form), "asked": tried},
        )  # fmt: skip
        return Heard(told, twilio_twiml.reply(digits, language, again, question=question))


def told_of(attempt_id: str, kind: str, form: Mapping[str, str], now_us: int) -> Told | None:
    """What the fields of a callback (or of a fetched resource, under the same names) tell; None for an unknown word.

    A call that was picked up is ``answered`` with ``digits`` "", and once it is over has ``duration_s``; picked up by
    a machine it is ``machine``. Only ``gather`` callbacks carry digits.
    """
    state = _state(kind, form)
    if state is None:
        return None
    recording = form.get("RecordingSid", "") if kind == "recording" or "RecordingSid" in form else ""
    over = kind in ("call", "leg") and form.get("CallStatus") in (
        "completed",
        "busy",
        "no-answer",
        "failed",
        "canceled",
    )
    return Told(
        attempt_id=attempt_id,
        provider="twilio",
        provider_id=_first(form, "MessageSid", "SmsSid", "CallSid", "ConferenceSid", "RecordingSid"),
        state=state,
        at_us=now_us,
        duration_s=_whole(_first(form, "CallDuration", "Duration")) or 0 if over else None,
        recording=recording,
        detail=_details(form),
    )


def _state(kind: str, form: Mapping[str, str]) -> AttemptState | None:
    if kind == "sms":
        return MESSAGE_STATES.get(_first(form, "MessageStatus", "SmsStatus"))
    if kind == "recording":
        return "answered"
    if kind == "conference":
        return _EVENT_STATES.get(form.get("StatusCallbackEvent", ""))
    by = form.get("AnsweredBy", "")
    if by.startswith("machine") or by == "fax":
        return "machine"
    if kind == "amd":
        return "answered"
    return CALL_STATES.get(form.get("CallStatus", ""))


def _details(form: Mapping[str, str]) -> dict[str, Any]:
    return {ours: form[theirs][:100] for theirs, ours in _DETAILS.items() if form.get(theirs)}


def _first(form: Mapping[str, str], *names: str) -> str:
    return next((form[name] for name in names if form.get(name)), "")


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else None
