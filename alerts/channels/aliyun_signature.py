"""Alibaba Cloud's signature version 3 (ACS3-HMAC-SHA256), for RPC-style operations whose parameters are the query."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

ALGORITHM: Final = "ACS3-HMAC-SHA256"
_SIGNED: Final = (
    "host",
    "x-acs-action",
    "x-acs-content-sha256",
    "x-acs-date",
    "x-acs-signature-nonce",
    "x-acs-version",
)


def canonical_query(parameters: Mapping[str, str]) -> str:
    """Sorted by name, names and values percent-encoded as RFC 3986 says. This is also the query that is sent."""
    return "&".join(f"{_escape(name)}={_escape(value)}" for name, value in sorted(parameters.items()))


def signed_headers(
    *,
    key_id: str,
    key_secret: str,
    host: str,
    action: str,
    version: str,
    parameters: Mapping[str, str],
    date: str,
    nonce: str,
    body: bytes = b"",
) -> dict[str, str]:
    """The headers of a POST to ``/``. ``date`` is UTC, ``YYYY-MM-DDThh:mm:ssZ``; ``nonce`` is new for each request."""
    digest = hashlib.sha256(body).hexdigest()
    headers = {
        "host": host,
        "x-acs-action": action,
        "x-acs-content-sha256": digest,
        "x-acs-date": date,
        "x-acs-signature-nonce": nonce,
        "x-acs-version": version,
    }
    names = ";".join(_SIGNED)
    canonical = "\n".join(
        (
            "POST",
            "/",
            canonical_query(parameters),
            "".join(f"{name}:{headers[name].strip()}\n" for name in _SIGNED),
            names,
            digest,
        )
    )
    to_sign = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(key_secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    headers["Authorization"] = f"{ALGORITHM} Credential={key_id},SignedHeaders={names},Signature={signature}"
    return headers


def _escape(text: str) -> str:
    return quote(text, safe="-_.~")
