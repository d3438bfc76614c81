"""Buttons that advertise: no press missed, none counted twice, replays told from the real sender; memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from gateway.model import DeviceBinding
from protocols.transports.ble import adverts as module
from protocols.transports.ble.adverts import Adverts
from protocols.transports.ble.delivery import Delivery
from protocols.transports.ble.memory import Memory
from protocols.transports.ble.options import BleOptions, address_key
from simulators.bluez import peripherals
from tests.live.ble_harness import House, Taken, until, world

pytestmark = pytest.mark.live

BUTTON, CUFF = "AA:BB:CC:DD:EE:10", "AA:BB:CC:DD:EE:01"
KEY = bytes(range(16))
HOUSE = {BUTTON: ("BUTTON", "bthome.button"), CUFF: ("CUFF", "ble.blood_pressure")}
PRESSES = 1000


def test_a_thousand_presses_with_the_adapter_lost_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A press is advertised for a while; a hundred of them begin while nobody listens."""

    async def main() -> None:
        async with world(tmp_path, HOUSE, monkeypatch, bind_keys={address_key(BUTTON): KEY}) as place:
            button = peripherals.Button(BUTTON, KEY)
            for number in range(1, PRESSES + 1):
                data = button.press()
                if number % 100 == 0:
                    place.bluez.power(on=False)
                    await until(lambda: not place.hub.state()[0])
                    assert not place.bluez.advertise(button, data)  # nobody hears it
                    place.bluez.power(on=True)
                    await place.scanning()
                for _ in range(3):  # a button repeats itself
                    assert place.bluez.advertise(button, data)
                if number % 50 == 0:
                    await until(lambda wanted=number: len(place.taken.frames) >= wanted)  # type: ignore[misc]
            await until(lambda: len(place.taken.frames) >= PRESSES)
            assert place.taken.signals("BUTTON") == ["sos"] * PRESSES
            assert all(frame.verified for frame in place.taken.frames)
            assert len({report.dedup_key for report, _ in place.taken.reports()}) == PRESSES
            assert place.hub.counters()["scans_total"] == 1 + PRESSES // 100

    asyncio.run(main())


def test_memory_is_flat_over_connections_and_adverts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind by a connection, in bytes: bleak's and ours together."""

    async def main() -> None:
        async with world(tmp_path, HOUSE, monkeypatch, quiet_s=0.01, rest_s=0.0) as place:
            cuff, button = peripherals.cuff(CUFF), peripherals.Button(BUTTON)

            async def churn(connections: int) -> int:
                goal = len(place.bluez.connections) + connections
                while len(place.bluez.connections) < goal:
                    cuff.pending = [peripherals.pressure(128, 79, 95)]
                    place.bluez.advertise(cuff)
                    place.bluez.advertise(button, button.press())
                    await asyncio.sleep(0.001)
                    place.taken.frames.clear()
                    place.taken.batches.clear()
                await until(lambda: not cuff.connected)
                await asyncio.sleep(0.05)
                place.bluez.connections[:goal] = [""] * goal
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            await churn(10)
            tracemalloc.start()
            try:
                marks = [await churn(15) for _ in range(5)]
            finally:
                tracemalloc.stop()
            # What was under way at a mark comes and goes; what is left behind by connections is there every time.
            grown = [(after - before) / 15 for before, after in pairwise(marks)]
            assert min(grown) < 1000, f"bytes a connection: {grown}"

    asyncio.run(main())


# ---- without a bus: time is played -----------------------------------------------------------------------------------


class Played(SystemClock):
    """A clock whose monotonic half is set by the test."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def monotonic_s(self) -> float:
        return self.at_s


class Air:
    """Adverts of one button straight into our decoder."""

    def __init__(self, folder: Path, *, key: bytes = b"", trust_plain: bool = False) -> None:
        self.house = House(HOUSE)
        self.taken = Taken(self.house)
        self.clock = Played()
        self.memory = Memory(folder / "ble.json")
        keys = {address_key(BUTTON): key} if key else {}
        options = BleOptions(bind_keys=keys, trust_plain_advertisements=trust_plain)
        self.adverts = Adverts(options, Delivery(self.taken, 0.01), self.memory, self.clock)
        binding = self.house.device("BUTTON")
        assert binding is not None
        self.binding: DeviceBinding = binding

    async def hear(self, data: bytes) -> int:
        """How many frames there are after this one."""
        self.adverts.heard(self.binding, BUTTON, data)
        await asyncio.sleep(0.001)
        return len(self.taken.frames)


def test_two_presses_that_look_alike_are_two_presses(tmp_path: Path) -> None:
    async def main() -> None:
        air = Air(tmp_path, trust_plain=True)
        press = bytes.fromhex("443A01")
        assert await air.hear(press) == 1
        for _ in range(5):
            air.clock.at_s += 0.2
            assert await air.hear(press) == 1  # the same press, repeated
        air.clock.at_s += module.REPEAT_S + 0.1
        assert await air.hear(press) == 2
        numbered = bytes.fromhex("4400053A01")
        assert await air.hear(numbered) == 3
        air.clock.at_s += 30
        assert await air.hear(numbered) == 3
        air.clock.at_s += module.NUMBERED_REPEAT_S + 1
        assert await air.hear(numbered) == 4

    asyncio.run(main())


def test_plain_adverts_prove_nothing_and_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        air = Air(tmp_path)
        button = peripherals.Button(BUTTON)
        for _ in range(30):
            await air.hear(button.press())
        for number in range(30):  # rubbish does not use up the room of alarms, nor the other way round
            await air.hear(bytes([0x20, number]))
        assert len(air.taken.frames) == 2 * module.DOUBTFUL
        assert not any(frame.verified for frame in air.taken.frames)
        air.clock.at_s += module.DOUBTFUL_S + 1
        assert await air.hear(button.press()) == 2 * module.DOUBTFUL + 1
        # Who has a key and speaks in the clear is not believed, whatever is configured.
        spoofed = Air(tmp_path, key=KEY, trust_plain=True)
        await spoofed.hear(button.press())
        assert [frame.verified for frame in spoofed.taken.frames] == [False]

    asyncio.run(main())


def test_a_replay_is_not_the_sender_over_a_restart_too(tmp_path: Path) -> None:
    async def main() -> None:
        air = Air(tmp_path, key=KEY)
        button = peripherals.Button(BUTTON, KEY)
        old, new = button.press(), button.press()
        assert await air.hear(old) == 1
        assert await air.hear(new) == 2
        assert await air.hear(old) == 3  # played again: kept, and not believed
        assert [frame.verified for frame in air.taken.frames] == [True, True, False]
        air.memory.save()
        again = Air(tmp_path, key=KEY)
        await again.hear(new)  # the newest, once more
        await again.hear(old)
        await again.hear(button.press())
        assert [frame.verified for frame in again.taken.frames] == [False, True]
        other = bytes(16)
        renewed = Air(tmp_path, key=other)  # a new key begins a new count
        await renewed.hear(peripherals.Button(BUTTON, other).press())
        assert [frame.verified for frame in renewed.taken.frames] == [True]

    asyncio.run(main())


def test_a_counter_is_remembered_only_once_it_is_committed(tmp_path: Path) -> None:
    async def main() -> None:
        air = Air(tmp_path, key=KEY)
        air.taken.refuse = True
        await air.hear(peripherals.Button(BUTTON, KEY).press())
        assert air.memory.counter("BUTTON", KEY) == -1
        air.taken.refuse = False
        await until(lambda: air.memory.counter("BUTTON", KEY) == 1)
        assert [frame.verified for frame in air.taken.frames] == [True]

    asyncio.run(main())


def test_alarms_have_room_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("protocols.transports.ble.delivery.WAITING", 50)
        air = Air(tmp_path, key=KEY)
        air.taken.refuse = True
        button = peripherals.Button(BUTTON, KEY)
        await air.hear(button.press())
        for _ in range(200):
            button.counter += 1
            await air.hear(peripherals.sealed(BUTTON, KEY, button.counter, bytes.fromhex("02c409")))
        air.taken.refuse = False
        await until(lambda: not air.adverts._delivery.waiting)
        assert air.taken.signals() == ["sos"]
        assert len(air.taken.frames) <= 51
        assert len(air.taken.frames) + air.adverts._delivery.counts["shed_total"] == 201

    asyncio.run(main())
