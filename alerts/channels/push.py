"""Push to phones and browsers through a webhook: the platform's push service shows the text to one of its users."""

from __future__ import annotations

from typing import Final

import msgspec

from alerts.channel import Receipt
from alerts.channels.robots import clipped
from alerts.channels.webhook import WebhookSender
from alerts.notice import Medium, Notice, Told
from gateway.clock import Clock, iso

PUSH_TYPE: Final = "org.carebell.push.v1"
MAX_TITLE_BYTES: Final = 200
MAX_TEXT_BYTES: Final = 2_000
TIME_TO_LIVE_S: Final = 3_600


class PushProvider:
    """A Provider for ``push``. Best effort: what counts as an answer is a tapped link, never that it was shown."""

    def __init__(self, sender: WebhookSender, endpoint: str, clock: Clock) -> None:
        """``endpoint``: the name of the push service among the sender's endpoints; "" = not configured."""
        self._sender = sender
        self._endpoint = endpoint
        self._clock = clock

    @property
    def name(self) -> str:
        return "push"

    @property
    def media(self) -> frozenset[Medium]:
        return frozenset({"push"})

    def ready(self) -> bool:
        return bool(self._endpoint) and self._sender.ready()

    async def send(self, notice: Notice) -> Receipt:
        """``notice.to`` is the user's id at the push service."""
        return await self._sender.post(self._endpoint, notice.attempt_id, push_body(notice, self._clock.now_us()))

    async def find(self, notice: Notice) -> Told | None:
        """None: sent again, and the push service knows the id."""
        del notice
        return None

    async def close(self) -> None:
        await self._sender.close()


def push_body(notice: Notice, now_us: int) -> bytes:
    """What the push service needs to show it. Newer pushes of an alert replace older ones (``collapse_key``)."""
    data = {
        "to": notice.to,
        "title": clipped(notice.subject or notice.text, MAX_TITLE_BYTES),
        "body": clipped(notice.text, MAX_TEXT_BYTES),
        "link": notice.link,
        "alert_id": notice.alert_id,
        "attempt_id": notice.attempt_id,
        "priority": notice.priority,
        "urgency": "high" if notice.priority <= 2 else "normal",
        "collapse_key": notice.alert_id,
        "time_to_live_s": TIME_TO_LIVE_S,
    }
    return msgspec.json.encode({"type": PUSH_TYPE, "timestamp": iso(now_us), "data": data})
