"""A telephone system that tells of calls: what a PBX or a SIP trunk posts to ``/cti/v1/call``."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx2


def ring(
    url: str, caller: str, token: str = "", *, event: str = "ring", device: str = "", call_id: str = ""
) -> httpx2.Response:
    """Tell that somebody calls; the gateway's answer. ``token`` is an API key, or the token of ``device``."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if call_id:
        headers["Idempotency-Key"] = call_id
    body = {"caller": caller, "callee": "+862299999999", "at": datetime.now(UTC).isoformat(), "event": event}
    return httpx2.post(
        f"{url}/cti/v1/call", json=body, headers=headers, params={"device": device} if device else {}, timeout=60
    )
