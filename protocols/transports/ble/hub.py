"""One Bluetooth adapter and the registered devices around it: adverts are taken in, health devices read when they wake.

Everything that can happen to a radio is weather here: no D-Bus, no adapter, an adapter that is switched off or pulled
out, devices out of range, pairing that is refused. The state says which; the work goes on when it has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from gateway.clock import Clock
from gateway.model import DeviceBinding
from gateway.ports import Directory, Ingest
from protocols.codecs.ble_makers import MAKERS
from protocols.transports.ble.adverts import SERVICE, Adverts
from protocols.transports.ble.delivery import Delivery
from protocols.transports.ble.makers import MakerAdverts
from protocols.transports.ble.memory import Memory
from protocols.transports.ble.options import BleOptions
from protocols.transports.ble.turns import Turns, Wish

if TYPE_CHECKING:
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData

    from protocols.transports.ble.radio import Radio
    from protocols.transports.ble.session import Session

LONGEST_RETRY_S: Final = 30.0
LOOK_S: Final = 1.0
SAVE_S: Final = 5.0
START_S: Final = 15.0
REFUSED_PAUSE_S: Final = 60.0
SETTLE_S: Final = 3.0
DEAF_S: Final = 10.0
"""Nothing heard for so long while BlueZ does not scan: somebody has reset the adapter. A scan pauses for less."""
SAID: Final = 5  # devices that the health names

log: Final = structlog.get_logger("ble")


class BleHub:
    """``ports.Transport``; a ``HealthPart``. bleak is imported by ``run``."""

    name = "ble"

    def __init__(
        self,
        options: BleOptions,
        *,
        ingest: Ingest,
        directory: Directory,
        clock: Clock,
        state_file: Path,
        zone_of: Callable[[str], str],
    ) -> None:
        """``zone_of`` names the time zone of a person, "" for nobody."""
        self._options = options
        self._directory = directory
        self._clock = clock
        self._zone_of = zone_of
        self._memory = Memory(state_file)
        self._delivery = Delivery(ingest)
        self._adverts = Adverts(options, self._delivery, self._memory, clock)
        self._makers = MakerAdverts(options, self._delivery, clock, self._adverts.counts)
        self._turns: Turns | None = None
        self._sessions: set[Session] = set()
        self._pauses = 0  # connections that need the scan to be silent
        self._changed = asyncio.Event()
        self._silent = asyncio.Event()
        self._ok = False
        self._text = "not started"
        self._last_s = 0.0
        self._known: set[str] = set()
        self._troubled: dict[str, str] = {}
        self._counts = {
            "adverts_total": 0, "strangers_total": 0, "connections_total": 0, "connection_failures_total": 0,
            "pairing_refusals_total": 0, "values_total": 0, "scans_total": 0,
        }  # fmt: skip

    async def run(self) -> None:
        """Until cancelled; what was heard before that is committed and remembered first."""
        from protocols.transports.ble.radio import Radio  # noqa: PLC0415 - bleak costs memory and start-up time

        radio = Radio(self._options.adapter)
        turns = self._turns = Turns(self._options.rest_s)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._remember())
                group.create_task(self._makers.prepare())
                for _ in range(self._options.connections):
                    group.create_task(self._serve(radio, turns))
                await self._scan_for_ever(radio)
        finally:
            self._say(ok=False, text="stopped")
            await self._delivery.settled(SETTLE_S)
            self._memory.save()

    # ---- scanning ----------------------------------------------------------------------------------------------------

    async def _scan_for_ever(self, radio: Radio) -> None:
        from protocols.transports.ble.radio import WEATHER, in_words  # noqa: PLC0415 - as above

        pause_s = self._options.retry_s
        while True:
            try:
                reason = await self._scan(radio)
                if not reason:  # silence: a new scan helps a controller that has gone deaf, or was reset
                    await self._while_silent()
                    continue
                for session in self._sessions:
                    session.lost()
            except WEATHER as error:
                reason = in_words(error)
            if self._ok:  # it worked until now: it may come back at once
                pause_s = self._options.retry_s
            self._say(ok=False, text=reason)
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_RETRY_S, pause_s * 2)

    async def _scan(self, radio: Radio) -> str:
        """Scan until the adapter is in trouble, and say which; "" after a long silence."""
        from protocols.transports.ble.radio import WEATHER  # noqa: PLC0415 - as above

        async with asyncio.timeout(START_S):
            if trouble := await radio.trouble():
                return trouble
            scanner = radio.scanner(self._heard)
            await scanner.start()
        self._counts["scans_total"] += 1
        self._last_s = self._clock.monotonic_s()
        self._say(ok=True, text="scanning")
        try:
            while self._clock.monotonic_s() - self._last_s < self._options.silence_s:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(LOOK_S, self._options.retry_s)):
                        await self._changed.wait()
                if self._pauses:
                    return ""
                async with asyncio.timeout(START_S):
                    if trouble := await radio.trouble():
                        return trouble
                    if self._clock.monotonic_s() - self._last_s >= DEAF_S and not await radio.discovering():
                        return ""
            return ""
        finally:
            with contextlib.suppress(*WEATHER):
                async with asyncio.timeout(START_S):
                    await scanner.stop()

    async def _while_silent(self) -> None:
        """Let the connections go first that cannot be made beside a scan."""
        self._silent.set()
        while self._pauses:
            self._changed.clear()
            await self._changed.wait()
        self._silent.clear()

    @contextlib.asynccontextmanager
    async def _silence(self) -> AsyncIterator[Callable[[], None]]:
        """The scan stands still until the yielded function is called, at the latest until the end of the block."""
        self._pauses += 1
        self._changed.set()
        held = True

        def resume() -> None:
            nonlocal held
            if held:
                held = False
                self._pauses -= 1
                self._changed.set()

        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_S):
                    await self._silent.wait()
            yield resume
        finally:
            resume()

    def _heard(self, device: BLEDevice, advertisement: AdvertisementData) -> None:
        self._last_s = self._clock.monotonic_s()
        self._counts["adverts_total"] += 1
        binding = self._directory.device_by_key(device.address)
        if binding is None or binding.state != "active":
            self._counts["strangers_total"] += 1
            return
        self._known.add(binding.device_id)
        if binding.codec in MAKERS:
            self._makers.heard(binding, device.address, advertisement)
            return
        data = advertisement.service_data.get(SERVICE)
        if data is not None:
            self._adverts.heard(binding, device.address, data)
        elif binding.codec == "gatt" and self._turns is not None:
            self._turns.want(binding.device_id, device)

    # ---- connections -------------------------------------------------------------------------------------------------

    async def _serve(self, radio: Radio, turns: Turns) -> None:
        """One connection after the other."""
        while True:
            wish = await turns.next()
            binding = self._directory.device(wish.device_id)
            trouble, pause_s = "", 0.0
            try:
                if binding is not None:
                    trouble, pause_s = await self._connect(radio, turns, wish, binding)
            finally:
                turns.done(wish.device_id, failed=bool(trouble), pause_s=pause_s)
            self._note(wish.device_id, trouble)

    async def _connect(self, radio: Radio, turns: Turns, wish: Wish, binding: DeviceBinding) -> tuple[str, float]:
        """What went wrong, "" for nothing, and how long to leave the device alone then."""
        from protocols.transports.ble.radio import WEATHER, in_words, is_busy  # noqa: PLC0415 - as above
        from protocols.transports.ble.session import PairingRefusedError  # noqa: PLC0415

        try:
            try:
                await self._session(radio, turns, wish, binding, lambda: None)
            except WEATHER as error:
                if not is_busy(error):
                    raise
                async with self._silence() as resume:  # only to connect: a press must not fall into it
                    await self._session(radio, turns, wish, binding, resume)
        except PairingRefusedError as error:
            self._counts["pairing_refusals_total"] += 1
            return f"pairing refused ({error})", REFUSED_PAUSE_S
        except TimeoutError:
            self._counts["connection_failures_total"] += 1
            return "out of range", 0.0
        except WEATHER as error:
            self._counts["connection_failures_total"] += 1
            return in_words(error), 0.0
        return "", 0.0

    async def _session(
        self, radio: Radio, turns: Turns, wish: Wish, binding: DeviceBinding, connected: Callable[[], None]
    ) -> None:
        """Connect once, call ``connected`` then, and go on as long as the session lasts. Raises as Session does."""
        from protocols.transports.ble.session import Session  # noqa: PLC0415 - as above

        session = Session(
            binding,
            wish.target,
            radio=radio,
            options=self._options,
            delivery=self._delivery,
            memory=self._memory,
            clock=self._clock,
            zone=self._zone_of(binding.person_id),
            others_wait=lambda: turns.waiting > 0,
            connected=connected,
        )
        self._counts["connections_total"] += 1
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            self._counts["values_total"] += session.values

    def _note(self, device_id: str, trouble: str) -> None:
        """Remember what is wrong with a device; each change is logged once."""
        if trouble and self._troubled.get(device_id) != trouble:
            log.warning("ble_device_trouble", device=device_id, error=trouble)
        if trouble:
            self._troubled[device_id] = trouble
        else:
            self._troubled.pop(device_id, None)

    # ---- state -------------------------------------------------------------------------------------------------------

    async def _remember(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await asyncio.to_thread(self._memory.save)

    def _say(self, *, ok: bool, text: str) -> None:
        if (ok, text) != (self._ok, self._text):
            (log.info if ok else log.warning)("ble_state", ok=ok, text=text)
        self._ok, self._text = ok, text

    def state(self) -> tuple[bool, str]:
        parts = [self._text]
        if self._ok:
            connected = 0 if self._turns is None else self._turns.active
            parts.append(f"{len(self._known)} registered devices heard, {connected} connected")
        parts.extend(f"{codec}: {trouble}" for codec, trouble in sorted(self._makers.troubles.items()))
        named = sorted(self._troubled.items())
        parts.extend(f"{device_id}: {trouble}" for device_id, trouble in named[:SAID])
        if len(named) > SAID:
            parts.append(f"and {len(named) - SAID} more devices in trouble")
        return self._ok, "; ".join(parts)

    def counters(self) -> Mapping[str, int]:
        waiting = 0 if self._turns is None else self._turns.waiting
        connected = 0 if self._turns is None else self._turns.active
        return {
            **self._counts,
            **self._adverts.counts,
            **self._delivery.counts,
            "scanning": int(self._ok),
            "connected": connected,
            "waiting": waiting,
            "uncommitted": self._delivery.waiting,
        }
