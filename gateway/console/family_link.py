"""Addresses of the family's page: one alert, one contact, thirty minutes, signed. Nothing of them is stored."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import uuid
from typing import Final

from msgspec import Struct

from gateway.clock import US_PER_S, Clock
from gateway.errors import ConflictError, NotFoundError

VALID_S: Final = 30 * 60
PURPOSE: Final = "family-link"
PREFIX: Final = "/f/"
LONGEST: Final = 200
_SIGNATURE: Final = 16  # bytes of HMAC-SHA256: a guess succeeds once in 2^128


class Pass(Struct, frozen=True):
    """What a link opens."""

    alert_id: str
    contact_id: str
    until_us: int


class FamilyLinks:
    """Signs and reads addresses. ``key`` is the site's secret for PURPOSE; without it none is made, and none fits."""

    def __init__(self, public_url: str, clock: Clock, key: bytes = b"") -> None:
        self.public_url = public_url
        self._clock = clock
        self.key = key

    @property
    def ready(self) -> bool:
        return bool(self.public_url and self.key)

    def make(self, alert_id: str, contact_id: str) -> str:
        """The whole address. Its end counts from now."""
        return f"{self.public_url}{PREFIX}{self.token(alert_id, contact_id)}"

    def token(self, alert_id: str, contact_id: str) -> str:
        """Base64url of: the alert's 16 bytes, the end in seconds (4 bytes), the contact's id, 16 bytes of signature."""
        until_s = self._clock.now_us() // US_PER_S + VALID_S
        body = uuid.UUID(alert_id).bytes + until_s.to_bytes(4) + contact_id.encode()
        return base64.urlsafe_b64encode(body + self._sign(body)).rstrip(b"=").decode()

    def read(self, token: str) -> Pass:
        """Raises NotFoundError for one that we did not make, ConflictError for one that is over."""
        try:
            raw = base64.b64decode(token[:LONGEST] + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raw = b""
        body, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        if not self.key or len(body) <= 20 or not hmac.compare_digest(self._sign(body), signature):
            raise NotFoundError("this is not a link of ours")
        until_us = int.from_bytes(body[16:20]) * US_PER_S
        if self._clock.now_us() >= until_us:
            raise ConflictError("this link has expired")
        return Pass(str(uuid.UUID(bytes=body[:16])), body[20:].decode(), until_us)

    def _sign(self, body: bytes) -> bytes:
        return hmac.new(self.key, body, hashlib.sha256).digest()[:_SIGNATURE]
