"""Time-based one-time passwords: RFC 6238 over HOTP (RFC 4226), HMAC-SHA-1, 30 s, six digits. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final
from urllib.parse import quote, urlencode

STEP_S: Final = 30
DIGITS: Final = 6
SECRET_BYTES: Final = 20
WINDOW: Final = 1  # steps to either side: clocks of phones differ (RFC 6238, 5.2)


def new_secret() -> str:
    """160 random bits in base32, as authenticator apps take them."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def code_at(secret: bytes, step: int, *, digits: int = DIGITS, algorithm: str = "sha1") -> str:
    """The code of one time step (RFC 4226, 5.3)."""
    digest = hmac.new(secret, step.to_bytes(8), getattr(hashlib, algorithm)).digest()
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4]) & 0x7FFF_FFFF
    return f"{number % 10**digits:0{digits}d}"


def matching_step(secret: str, presented: str, now_s: int, after_step: int) -> int | None:
    """The time step whose code was presented, later than ``after_step``; None when the code is wrong or was used."""
    key = base64.b32decode(secret)
    now_step = now_s // STEP_S
    found = None
    for step in range(now_step - WINDOW, now_step + WINDOW + 1):
        fits = hmac.compare_digest(code_at(key, step).encode(), presented.strip().encode("utf-8", "replace"))
        if fits and step > after_step:
            found = step
    return found


def provisioning_uri(secret: str, login: str, issuer: str) -> str:
    """What an authenticator app reads from a QR code (Key URI format)."""
    query = urlencode({"secret": secret, "issuer": issuer, "digits": DIGITS, "period": STEP_S}, quote_via=quote)
    return f"otpauth://totp/{quote(issuer)}:{quote(login)}?{query}"
