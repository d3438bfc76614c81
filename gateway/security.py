"""Secrets that machines hold: device tokens and API keys; and how personal data look where only a hint is needed.

Tokens carry 256 random bits, so one round of SHA-256 protects them at rest: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Final

TOKEN_BYTES: Final = 32
ROLES: Final = frozenset({"admin", "operator", "supervisor", "installer", "backend", "family", "auditor"})

_KEY_ID_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_KEY = re.compile(r"carebell_([a-z0-9]{10})_([A-Za-z0-9_-]{43})")
_NO_DIGEST: Final = hashlib.sha256(secrets.token_bytes(TOKEN_BYTES)).digest()


def new_token() -> str:
    """A fresh 256-bit token, 43 characters of URL-safe base64. Show it once; store only ``digest_of`` it."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def digest_of(token: str | bytes) -> bytes:
    """SHA-256 of a token; bytes may be anything that a device sent."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token).digest()


def is_one_of(token: str | bytes, digests: Iterable[bytes]) -> bool:
    """Whether a token's digest is among these. The time it takes does not tell how near a guess came.

    With no digests at all it compares with one that fits nothing, so that an unknown id costs what a wrong token does.
    """
    presented = digest_of(token)
    found = hmac.compare_digest(presented, _NO_DIGEST)
    for digest in digests:
        found |= hmac.compare_digest(presented, digest)
    return found


def new_api_key() -> tuple[str, str]:
    """A fresh API key: its id, and the whole key ``carebell_<id>_<secret>`` that is shown once."""
    key_id = "".join(secrets.choice(_KEY_ID_ALPHABET) for _ in range(10))
    return key_id, f"carebell_{key_id}_{new_token()}"


def split_api_key(presented: str) -> tuple[str, str] | None:
    """The id and the secret of an API key, or None for a text that is none."""
    match = _KEY.fullmatch(presented)
    return None if match is None else (match[1], match[2])


def mask_phone(phone: str | None) -> str:
    """``+8613800008000`` as ``138****8000``; shorter numbers keep at most their last two digits."""
    if not phone:
        return ""
    digits = phone.removeprefix("+86").removeprefix("+")
    if len(digits) < 9:
        return "****" + digits[-2:]
    return f"{digits[:3]}****{digits[-4:]}"


def mask_name(name: str | None) -> str:
    """The first character and asterisks: ``王秀英`` as ``王**``."""
    return "" if not name else name[0] + "*" * min(len(name) - 1, 3)
