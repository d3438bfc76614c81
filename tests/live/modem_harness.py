"""The modem provider at a simulated modem on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from alerts.channels.modem import Listeners, ModemProvider, ModemSettings
from alerts.channels.modem_inbox import IncomingCall, IncomingSms
from alerts.notice import Notice, Told
from gateway.clock import SystemClock
from gateway.errors import StorageError
from simulators.modem import Fault, SimulatedModem
from tests.provider_contract import Failure, until

CONTACT: Final = "+8613800000001"
FAULTS: Final = {
    Failure.OUTAGE: (Fault.BUSY,) * 3,
    Failure.QUOTA: (Fault.NETWORK,) * 3,
    Failure.BAD_NUMBER: (Fault.NUMBER,),
    Failure.NO_ANSWER: (Fault.SILENCE,),
    Failure.BROKEN_BEFORE: (Fault.NO_PROMPT,),
    Failure.SLOW: (Fault.LATE_ANSWER,),
}
MUTE: Final = frozenset({Fault.SILENCE, Fault.NO_PROMPT, Fault.LATE_ANSWER})
SHORT_S: Final = 1.0
LATE_S: Final = 1.1


class ModemHarness:
    """``refuses`` makes the listeners fail, as a full disk does."""

    def __init__(self, modem: SimulatedModem, group: asyncio.TaskGroup, settings: ModemSettings) -> None:
        self.modem = modem
        self.heard: list[Told] = []
        self.messages: list[IncomingSms] = []
        self.calls: list[IncomingCall] = []
        self.refuses = False
        self._group = group
        self._settings = settings
        self._runs: list[asyncio.Task[None]] = []
        self.provider = self.open()

    @property
    def cannot(self) -> dict[Failure | str, str]:
        process = "a modem keeps nothing: what another process sent is not known"
        return {
            "find": process,
            "receipts": "a receipt names a reference that only the process knows which sent it (test_channel_modem.py)",
            "forge": "a receipt comes from the network alone",
        }

    def open(self) -> ModemProvider:
        self.close()
        provider = ModemProvider(
            self._settings, SystemClock(), Listeners(told=self._told, sms=self._sms, call=self._call)
        )
        self._runs.append(self._group.create_task(provider.run()))
        return provider

    def close(self) -> None:
        for run in self._runs:
            run.cancel()

    async def ready(self) -> None:
        await until(lambda: self.provider.state()[0], "a modem that works")

    def notice(self, attempt_id: str, *, text: str = "紧急呼叫 emergency call", **members: Any) -> Notice:
        usual: dict[str, Any] = {
            "attempt_id": attempt_id, "alert_id": "17-0", "medium": "sms", "to": CONTACT, "language": "zh",
            "text": text,
        }  # fmt: skip
        return Notice(**(usual | members))

    def fail(self, failure: Failure) -> None:
        self.arrange(*FAULTS[failure])

    def arrange(self, *faults: Fault) -> None:
        """Let the modem fail so; it is not waited for long where it will say nothing, or too late."""
        if not MUTE.isdisjoint(faults):
            self._hurry()
        self.modem.fail(*faults)

    def _hurry(self) -> None:
        """The limits of the next part are short; those of what follows are as before."""
        link = self.provider._link
        assert link is not None
        usual, submit = (link._prompt_s, link._submit_s), link.submit

        async def hurried(pdu: str, length: int) -> int:
            link._prompt_s = link._submit_s = SHORT_S
            try:
                return await submit(pdu, length)
            finally:
                (link._prompt_s, link._submit_s), link.submit = usual, submit  # type: ignore[method-assign]  # as it was

        link.submit = hurried  # type: ignore[method-assign]  # on purpose

    def effects(self) -> int:
        return len(self.modem.sent)

    async def be_down(self) -> None:
        self.modem.unplug()
        await until(lambda: not self.provider.state()[0], "that it is away")

    async def be_up(self) -> None:
        self.modem.plug()
        await self.ready()

    async def reborn(self) -> ModemProvider:
        self.provider = self.open()
        await self.ready()
        return self.provider

    async def forge(self, attempt_id: str) -> None:
        raise NotImplementedError

    async def _told(self, told: Told) -> None:
        self._may_refuse()
        self.heard.append(told)

    async def _sms(self, message: IncomingSms) -> None:
        self._may_refuse()
        self.messages.append(message)

    async def _call(self, call: IncomingCall) -> None:
        self._may_refuse()
        self.calls.append(call)

    def _may_refuse(self) -> None:
        if self.refuses:
            raise StorageError("the disk is full")


SETTINGS: Final = ModemSettings(
    poll_s=0.2, inbox_s=0.3, reopen_s=0.05, retry_part_s=0.01, prompt_s=60.0, submit_s=60.0
)  # fmt: skip


@contextlib.asynccontextmanager
async def modem_harness(
    folder: Path, *, settings: ModemSettings = SETTINGS, ready: bool = True, **options: Any
) -> AsyncIterator[ModemHarness]:
    async with SimulatedModem(folder, **{"late_s": LATE_S, **options}) as modem, asyncio.TaskGroup() as group:
        harness = ModemHarness(modem, group, msgspec.structs.replace(settings, port=str(modem.port)))
        try:
            if ready:
                await harness.ready()
            yield harness
        finally:
            harness.close()
            await harness.provider.close()
