"""What a simulated native device does with a command: it remembers which it has carried out, and answers each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from simulators.payloads import Place

KNOWN: Final = frozenset(
    {"locate", "ring", "call_back", "interval", "thresholds", "contacts", "volume", "silence", "restart", "power_off"}
)
REMEMBERED: Final = 32


class Obedience:
    """One device's memory. ``done`` lists the names of what it carried out, each command once however often it came."""

    def __init__(
        self, where: Callable[[], Place | None], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.done: list[str] = []
        self._where = where
        self._now = now
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def answer(self, payload: bytes) -> bytes | None:
        """The message that tells what became of a command; None for what is not one of the native protocol."""
        try:
            command = msgspec.json.decode(payload)
            command_id, name = command["command"], command["name"]
            late = datetime.fromisoformat(command["expires_at"]) <= self._now()
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            return None
        known = self._answers.get(command_id)
        if known is None:
            known = self._answers[command_id] = {"command": command_id, **self._carry_out(name, late=late)}
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        return msgspec.json.encode(known)

    def _carry_out(self, name: str, *, late: bool) -> dict[str, Any]:
        if name not in KNOWN:
            return {"result": "unknown"}
        if late:
            return {"result": "refused", "detail": "expired"}
        place = self._where() if name == "locate" else None
        if name == "locate" and place is None:
            return {"result": "refused", "detail": "no fix"}
        self.done.append(name)
        return {"result": "done"} if place is None else {"result": "done", "position": msgspec.to_builtins(place)}
