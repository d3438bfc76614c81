"""SMS and voice through Twilio, or through a carrier that speaks its API (``base_url``).

Twilio knows no idempotency key. What keeps an attempt single is: its id stands in the callback addresses, so that a
callback finds it after any crash; and ``find`` looks for it before it is sent again.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from alerts.channel import Receipt
from alerts.channels import twilio_twiml
from alerts.channels.twilio_twiml import VOICES, Language, Voice
from alerts.notice import Medium, Notice, Told
from gateway.clock import US_PER_S, Clock, to_us
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError

if TYPE_CHECKING:
    from alerts.channels.twilio_callbacks import TwilioCallbacks

RING_S: Final = 25
CALL_LIMIT_S: Final = 300
MAX_SMS_CHARACTERS: Final = 1600
SMS_VALID_S: Final = 4 * 3600
LOOK_BACK_S: Final = 15 * 60
"""How far back ``find`` looks when nobody says when the attempt was made."""
CLOCKS_APART_S: Final = 30
"""Twilio's times have whole seconds, and its clock is not ours."""
FOUND_LIMIT: Final = 50
REMEMBERED: Final = 10_000


class TwilioProvider:
    """A Provider. ``from_number`` is an E.164 number, or for SMS the SID of a messaging service (MG...) in ``sender``.

    Without ``public_url`` nobody can press a key and no receipt comes: then it sends SMS only.
    ``timeout_s`` bounds each request. Made before the loop serves: with an account given it reads in the SDK (0.3 s).
    """

    def __init__(
        self,
        account_sid: str,
        auth_token: str,
        from_number: str,
        *,
        clock: Clock,
        base_url: str = "https://api.twilio.com",
        public_url: str = "",
        messaging_service_sid: str = "",
        capability_secret: str = "",
        machine_detection: bool = True,
        timeout_s: float = 10.0,
        voices: Mapping[Language, Voice] = VOICES,
    ) -> None:
        self._configured = bool(account_sid and auth_token and (from_number or messaging_service_sid))
        self._ready = self._configured and importlib.util.find_spec("twilio") is not None
        if self._ready:
            importlib.import_module("alerts.channels.twilio_http")
        self._account_sid = account_sid
        self._auth_token = auth_token
        self._from_number = from_number
        self._clock = clock
        self._base_url = base_url
        self._public_url = public_url
        self._messaging_service_sid = messaging_service_sid
        self._capability_secret = capability_secret
        self._machine_detection = machine_detection
        self._timeout_s = timeout_s
        self._voices = voices
        self._client: Any = None
        self._callbacks: TwilioCallbacks | None = None
        self._sent: OrderedDict[str, str] = OrderedDict()  # provider id → attempt id

    @property
    def name(self) -> str:
        return "twilio"

    @property
    def media(self) -> frozenset[Medium]:
        return frozenset({"sms", "voice"} if self._public_url else {"sms"})

    def caller(self, medium: Medium) -> str:
        """The number that people see; a messaging service chooses one of its own."""
        return (self._messaging_service_sid if medium == "sms" else "") or self._from_number

    def ready(self) -> bool:
        return self._ready

    @property
    def callbacks(self) -> TwilioCallbacks:
        """What answers ``/callbacks/twilio/``. Needs ``ready()`` and a public URL."""
        if self._callbacks is None:
            from alerts.channels.twilio_callbacks import TwilioCallbacks  # noqa: PLC0415 - the SDK, only where used

            self._callbacks = TwilioCallbacks(
                account_sid=self._account_sid,
                auth_token=self._auth_token,
                public_url=self._public_url,
                clock=self._clock,
                capability_secret=self._capability_secret,
            )
        return self._callbacks

    def client(self) -> Any:
        """The SDK's client, made on the loop that uses it first."""
        if self._client is None:
            from alerts.channels.twilio_http import client  # noqa: PLC0415 - the SDK, only where used

            self._client = client(self._account_sid, self._auth_token, self._base_url, self._timeout_s)
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.http_client.close()

    async def send(self, notice: Notice) -> Receipt:
        if not self._ready:
            missing = "the extra carebell[twilio] is not installed" if self._configured else "Twilio is not configured"
            raise DeliveryDeferredError(missing)
        if notice.medium not in self.media:
            raise DeliveryRefusedError(f"Twilio is not set up for {notice.medium}")
        if not notice.to.startswith("+"):
            raise DeliveryRefusedError("not an international number")
        made = await (self._send_sms(notice) if notice.medium == "sms" else self._send_call(notice))
        if not made.sid:
            raise DeliveryUnknownError("Twilio took it but its answer names nothing")
        self._remember(made.sid, notice.attempt_id)
        return Receipt(made.sid, {"status": str(made.status or "")})

    async def find(self, notice: Notice) -> Told | None:
        """The newest message or call to this number that can be this attempt and is no other one that we know.

        Messages are told apart by their text, calls by the addresses in their event log.
        """
        if not self._ready:
            return None
        since_us = self._clock.now_us() - LOOK_BACK_S * US_PER_S
        if notice.since_us:
            since_us = notice.since_us - CLOCKS_APART_S * US_PER_S
        return await (self._find_sms(notice, since_us) if notice.medium == "sms" else self._find_call(notice, since_us))

    # ---- sending -----------------------------------------------------------------------------------------------------

    async def _send_sms(self, notice: Notice) -> Any:
        sender = (
            {"messaging_service_sid": self._messaging_service_sid}
            if self._messaging_service_sid
            else {"from_": self._from_number}
        )
        receipts = {"status_callback": self.callbacks.url(notice.attempt_id, "sms")} if self._public_url else {}
        return await self.client().messages.create_async(
            to=notice.to, body=_sms_text(notice), validity_period=SMS_VALID_S, **sender, **receipts
        )

    async def _send_call(self, notice: Notice) -> Any:
        url = self.callbacks.url
        asked = {"l": notice.language, "n": "1"} | ({} if notice.question == "take" else {"q": notice.question})
        detection: dict[str, Any] = {}
        if self._machine_detection:  # beside the message: nobody waits in silence for its result
            detection = {
                "machine_detection": "Enable",
                "async_amd": "true",
                "async_amd_status_callback": url(notice.attempt_id, "amd"),
                "async_amd_status_callback_method": "POST",
            }
        return await self.client().calls.create_async(
            to=notice.to,
            from_=self._from_number,
            twiml=twilio_twiml.call(notice, url(notice.attempt_id, "gather", **asked), self._voices),
            timeout=RING_S,
            time_limit=CALL_LIMIT_S,
            status_callback=url(notice.attempt_id, "call"),
            status_callback_event=["initiated", "ringing", "answered", "completed"],
            status_callback_method="POST",
            **detection,
        )

    # ---- looking for what was sent -----------------------------------------------------------------------------------

    async def _find_sms(self, notice: Notice, since_us: int) -> Told | None:
        messages = await self.client().messages.list_async(to=notice.to, limit=FOUND_LIMIT, page_size=FOUND_LIMIT)
        for message in self._possible(messages, notice, since_us):
            if message.body == _sms_text(notice) and str(message.direction or "").startswith("outbound"):
                form = {"MessageSid": message.sid, "MessageStatus": str(message.status or "")}
                if message.error_code:
                    form["ErrorCode"] = str(message.error_code)
                return self._found(notice, "sms", form)
        return None

    async def _find_call(self, notice: Notice, since_us: int) -> Told | None:
        calls = await self.client().calls.list_async(
            to=notice.to, from_=self._from_number, limit=FOUND_LIMIT, page_size=FOUND_LIMIT
        )
        for call in self._possible(calls, notice, since_us):
            if self._sent.get(call.sid) != notice.attempt_id and not await self._is_of(call, notice.attempt_id):
                continue
            form = {"CallSid": call.sid, "CallStatus": str(call.status or ""), "CallDuration": str(call.duration or "")}
            if call.answered_by:
                form["AnsweredBy"] = str(call.answered_by)
            return self._found(notice, "call", form)
        return None

    async def _is_of(self, call: Any, attempt_id: str) -> bool:
        """Whether a request that belongs to this call (its making, its callbacks) names the attempt."""
        events = await call.events.list_async(limit=FOUND_LIMIT, page_size=FOUND_LIMIT)
        return any(f"/{attempt_id}/" in str(event.request) for event in events)

    def _possible(self, made: list[Any], notice: Notice, since_us: int) -> list[Any]:
        return [
            each
            for each in made
            if each.sid
            and self._sent.get(each.sid, notice.attempt_id) == notice.attempt_id
            and _created_us(each.date_created, since_us) >= since_us
        ]

    def _found(self, notice: Notice, kind: str, form: Mapping[str, str]) -> Told | None:
        from alerts.channels.twilio_callbacks import told_of  # noqa: PLC0415 - the SDK, only where used

        told = told_of(notice.attempt_id, kind, form, self._clock.now_us())
        if told is not None:
            self._remember(told.provider_id, notice.attempt_id)
        return told

    def _remember(self, provider_id: str, attempt_id: str) -> None:
        self._sent[provider_id] = attempt_id
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)


def _sms_text(notice: Notice) -> str:
    """The text, cut to what Twilio takes: a cut message is told, one that is too long is not."""
    text = notice.text.strip()
    return text if len(text) <= MAX_SMS_CHARACTERS else text[: MAX_SMS_CHARACTERS - 1] + "…"


def _created_us(created: Any, unknown_us: int) -> int:
    return to_us(created) if isinstance(created, datetime) and created.tzinfo is not None else unknown_us
