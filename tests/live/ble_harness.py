"""A hub with unmodified bleak on a private D-Bus, with the simulated BlueZ on it, and an ingest that says what came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_profiles.loader import load_profiles
from gateway.clock import SystemClock
from gateway.model import DeviceBinding, Frame, Reading, Report, Verdict
from gateway.observations import observations
from protocols.registry import CODECS
from protocols.transports.ble.hub import BleHub
from protocols.transports.ble.options import BleOptions, address_key
from simulators.bluez.bus import PrivateBus, missing
from simulators.bluez.service import SimulatedBluez

QUICK = BleOptions(
    connect_s=20.0, quiet_s=0.15, turn_s=0.3, rest_s=0.05, silence_s=30.0, retry_s=0.05, bind_keys={}
)  # fmt: skip


PROFILES = load_profiles([])


class House:
    """``ports.Directory``: the devices of a house by their addresses."""

    def __init__(self, devices: dict[str, tuple[str, str]]) -> None:
        self._bindings = {
            address_key(address): DeviceBinding(device_id, profile, PROFILES.codec_of(profile), "P-1")
            for address, (device_id, profile) in devices.items()
        }

    def device(self, device_id: str) -> DeviceBinding | None:
        return next((each for each in self._bindings.values() if each.device_id == device_id), None)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return self._bindings.get(address_key(key))


class Taken:
    """``ports.Ingest``: keeps frames; ``refuse`` answers RETRY."""

    def __init__(self, house: House) -> None:
        self.frames: list[Frame] = []
        self.refuse = False
        self.batches: list[int] = []
        self._house = house
        self._profiles = PROFILES

    def offer(self, frames: Any) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        if not self.refuse:
            self.frames.extend(frames)
            self.batches.append(len(frames))
        future.set_result(Verdict.RETRY if self.refuse else Verdict.ACCEPTED)
        return future

    async def deliver(self, frames: Any) -> Verdict:
        return await self.offer(frames)

    def reports(self, device_id: str = "") -> list[tuple[Report, Reading]]:
        """What the frames mean by the profile of their device."""
        found = []
        for frame in self.frames:
            if device_id not in ("", frame.device_key):
                continue
            binding = self._house.device(frame.device_key)
            assert binding is not None
            for report in CODECS[frame.codec].parse(frame):
                explained = self._profiles.explain(binding.profile, report, frame.received_at_us)
                found.append((report, explained))
        return found

    def measured(self, metric: str, device_id: str = "") -> list[float]:
        return [
            seen["value"]
            for _, reading in self.reports(device_id)
            for seen in observations(reading)
            if seen.get("metric") == metric
        ]

    def signals(self, device_id: str = "") -> list[str]:
        return [signal for _, reading in self.reports(device_id) for signal in reading.signals]


class World:
    """What a test plays with."""

    def __init__(self, bluez: SimulatedBluez, bus: PrivateBus, taken: Taken, hub: BleHub) -> None:
        self.bluez = bluez
        self.bus = bus
        self.taken = taken
        self.hub = hub

    async def scanning(self) -> None:
        await until(lambda: self.hub.state()[0] and self.bluez.discovering())


async def until(happened: Callable[[], object], limit_s: float = 60.0) -> None:
    """Wait for something; fails after ``limit_s``."""
    async with asyncio.timeout(limit_s):
        while not happened():
            await asyncio.sleep(0.005)


def needs_dbus() -> None:
    if missing():
        pytest.skip(missing())


@contextlib.asynccontextmanager
async def world(
    folder: Path, devices: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch, **changed: Any
) -> AsyncIterator[World]:
    """A house with these devices (address: id, profile), and a hub that runs in it."""
    needs_dbus()
    with PrivateBus(folder) as bus:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        async with SimulatedBluez(bus.address) as bluez, hub_in(folder, House(devices), **changed) as (hub, taken):
            place = World(bluez, bus, taken, hub)
            await place.scanning()
            yield place


@contextlib.asynccontextmanager
async def hub_in(folder: Path, house: House, **changed: Any) -> AsyncIterator[tuple[BleHub, Taken]]:
    """A running hub, stopped at the end; and bleak's own connection to the bus is closed."""
    taken = Taken(house)
    hub = BleHub(
        msgspec.structs.replace(QUICK, **changed),
        ingest=taken,
        directory=house,
        clock=SystemClock(),
        state_file=folder / "ble.json",
        zone_of=lambda _person: "Asia/Shanghai",
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(hub.run())
        try:
            yield hub, taken
        finally:
            running.cancel()
    await close_bleak()


async def close_bleak() -> None:
    """bleak keeps one connection to the bus for the life of its loop; a test's loop is short."""
    from bleak.backends.bluezdbus import manager

    for loop, instance in list(manager._global_instances.items()):
        if loop is asyncio.get_running_loop():
            if instance._bus is not None:
                instance._bus.disconnect()
            await asyncio.sleep(0.02)
            del manager._global_instances[loop]
