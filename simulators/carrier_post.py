"""How the simulated carrier calls back: signed as Twilio signs, tried again as the address asks, wrong on demand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import parse_qs, urldefrag

import httpx2
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped] # ships no types

from simulators.carrier_state import Fault


class Posted(Exception):  # noqa: N818 - an outcome, not an error
    """A callback was not answered with success. ``status`` 0: no answer at all. Handler: the caller's script."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class CallbackPoster:
    """``late_s`` and ``pause_s`` are real seconds. ``log`` keeps url, form and answer of the last ten thousand."""

    def __init__(
        self,
        auth_token: str,
        client: httpx2.AsyncClient,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        late_s: float,
        pause_s: float = 0.2,
    ) -> None:
        self.log: deque[tuple[str, dict[str, str], int]] = deque(maxlen=10_000)
        self.late_s = late_s
        self._validator = RequestValidator(auth_token)
        self._client = client
        self._spawn = spawn
        self._pause_s = pause_s

    def tell(self, url: str, form: Mapping[str, str], fault: Fault | None) -> None:
        """A report that nobody waits for."""
        if url and fault is not Fault.NO_CALLBACK:
            self._spawn(self._tell(url, dict(form), fault))

    async def ask(self, url: str, form: Mapping[str, str], fault: Fault | None = None) -> str:
        """A request whose answer is TwiML. Raises Posted when there is none."""
        status, answer = await self._post(url, dict(form))
        if fault is Fault.TWICE:
            status, answer = await self._post(url, dict(form))
        if not 200 <= status < 300:
            raise Posted(status)
        return answer

    async def _tell(self, url: str, form: dict[str, str], fault: Fault | None) -> None:
        if fault is Fault.LATE:
            await asyncio.sleep(self.late_s)
        await self._post(url, form)
        if fault is Fault.TWICE:
            await self._post(url, form)

    async def _post(self, url: str, form: dict[str, str]) -> tuple[int, str]:
        """Tries again as the fragment of the address says: ``rc`` times, after any failure with ``rp=all``."""
        address, fragment = urldefrag(url)
        overrides = parse_qs(fragment)
        tries = 1 + min(int(overrides.get("rc", ["1"])[0]), 5)
        after_any = "all" in overrides.get("rp", [""])[0]
        headers = {"X-Twilio-Signature": self._validator.compute_signature(address, form)}
        status, answer = 0, ""
        for attempt in range(tries):
            if attempt:
                await asyncio.sleep(self._pause_s * attempt)
            try:
                response = await self._client.post(address, data=form, headers=headers)
                status, answer = response.status_code, response.text
            except httpx2.HTTPError:
                status, answer = 0, ""
            self.log.append((address, form, status))
            if 200 <= status < 300 or (status and not after_any):
                break
        return status, answer
