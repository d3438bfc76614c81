"""What notification providers are given, and what they tell back. Every provider adapter speaks these shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from msgspec import Struct, field

from alerts.channel import Receipt

Medium = Literal["sms", "voice", "email", "chat", "push", "webhook"]
Question = Literal["take", "well"]
"""Which keys a call asks for. ``take``: who takes an alert; ``well``: 1 I am well, 2 I need help, 9 wrong number."""
AttemptState = Literal[
    "queued", "sent", "delivered", "undelivered", "ringing", "answered", "no_answer", "busy", "machine", "failed",
]  # fmt: skip


class Notice(Struct, frozen=True, kw_only=True):
    """One message or call to one person, composed when it is sent. Personal data: never logged, never stored.

    ``attempt_id`` is the dispatch's idempotency key: it goes into callback paths and provider tags, so that a
    callback finds its attempt even when the process died before the provider's id was written down.
    ``to`` is what the medium needs: an E.164 number, an e-mail address, a URL. ``text`` is the plain message,
    ``speech`` what a voice says (slow, plain, to be said twice). ``template`` and ``params`` are for providers that
    only send texts they approved before. ``html`` is the same for an e-mail, "" for none. ``wants_answer``: a call asks
    for a key (1 I take it, 2 I cannot, 9 wrong number). ``since_us`` is when the attempt was made: nothing older is
    taken for it; 0 when nobody knows.
    """

    attempt_id: str
    alert_id: str
    medium: Medium
    to: str
    language: Literal["zh", "en"]
    text: str
    subject: str = ""
    speech: str = ""
    html: str = ""
    template: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    priority: int = 1
    wants_answer: bool = False
    question: Question = "take"
    link: str = ""
    since_us: int = 0


class Told(Struct, frozen=True, kw_only=True):
    """What a provider told of an attempt, in a callback or when asked. A key press is the only answer that counts.

    ``at_us`` is when we heard it. ``digits`` is "" when no key was pressed. ``recording`` is the provider's reference.
    """

    attempt_id: str
    provider: str
    provider_id: str
    state: AttemptState
    at_us: int
    digits: str = ""
    duration_s: int | None = None
    recording: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


class IncomingMessage(Struct, frozen=True, kw_only=True):
    """A message that somebody sent to one of our numbers. Personal data: kept in the journal, never logged.

    ``key`` is the same when the provider tells of the same message again. ``sender`` is the number as the provider
    writes it, ``to`` ours, "" when it does not say. ``received_us`` is when we heard of it.
    """

    provider: str
    key: str
    sender: str
    text: str
    received_us: int
    to: str = ""


class Provider(Protocol):
    """A way to reach people. One instance for the life of the process."""

    @property
    def name(self) -> str:
        """The provider's name in configuration, metrics and the call log: ``twilio``, ``aliyun``, ``modem`` ..."""
        ...

    @property
    def media(self) -> frozenset[Medium]: ...

    def ready(self) -> bool:
        """False while it is not configured."""
        ...

    async def send(self, notice: Notice) -> Receipt:
        """Hand one notice to the provider; bounded in time. ``Receipt.reference`` is the provider's id for it.

        Raises DeliveryDeferredError (quota, outage: ``retry_after_s``), DeliveryRefusedError (a bad number, a template
        that was not approved: the next contact or provider is to be tried), DeliveryUnknownError (no answer came).
        """
        ...

    async def find(self, notice: Notice) -> Told | None:
        """After an unknown outcome: what the provider knows of this attempt, None for nothing."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Numbered(Protocol):
    """A provider that knows what people see as its number or address; for the call log."""

    def caller(self, medium: Medium) -> str:
        """An E.164 number, a sender's name or an e-mail address; "" when it does not know."""
        ...


def caller_of(provider: Provider, medium: Medium) -> str:
    """By which number or address this provider reaches people; "" when it does not say."""
    return provider.caller(medium) if isinstance(provider, Numbered) else ""
