"""What advertisements cost: from the service data to observations, and from D-Bus to ingest through bleak.

    .venv/bin/python benchmarks/ble.py decode
    .venv/bin/python benchmarks/ble.py radio [SECONDS]

``decode``: the codec with the profile, one core. ``heard``, part of it: what the hub does with an advert before ingest,
repeats told from presses and counters checked. ``radio``: a simulated BlueZ on a private D-Bus in this same process and
unmodified bleak, so that D-Bus is paid for twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from device_profiles.loader import load_profiles
from gateway.clock import SystemClock
from gateway.model import Frame
from protocols.codecs.bthome import BthomeCodec
from protocols.transports.ble.adverts import Adverts
from protocols.transports.ble.delivery import Delivery
from protocols.transports.ble.memory import Memory
from protocols.transports.ble.options import BleOptions, address_key
from simulators.bluez import peripherals
from simulators.bluez.bus import PrivateBus
from simulators.bluez.service import SimulatedBluez
from tests.live.ble_harness import House, Taken, hub_in, until

ADDRESS, KEY = "54:48:E6:8F:80:A5", bytes(range(16))
HOUSE = {ADDRESS: ("D-1", "bthome.button")}
ADVERTS = 20_000


def rate(work: Callable[[bytes], object], adverts: list[bytes]) -> int:
    """Adverts a second, the best of three runs."""
    best = 0.0
    for _ in range(3):
        started_s = time.perf_counter()
        for advert in adverts:
            work(advert)
        best = max(best, len(adverts) / (time.perf_counter() - started_s))
    return round(best)


def decode() -> dict[str, int]:
    codec, profiles = BthomeCodec(), load_profiles([])
    address = bytes.fromhex(address_key(ADDRESS))
    plain = [bytes([0x44, 0, number & 0xFF, 1, 0x5F, 0x3A, 1]) for number in range(ADVERTS)]
    button = peripherals.Button(ADDRESS, KEY)
    sealed = [button.press() for _ in range(ADVERTS)]
    context = {"bindkey": KEY}

    def explained(data: bytes) -> None:
        frame = Frame("ble", "bthome", ADDRESS, address + data, 1_795_309_323_000_000, "D-1", context=context)
        for report in codec.parse(frame):
            profiles.explain("bthome.button", report, frame.received_at_us)

    return {"plain": rate(explained, plain), "encrypted": rate(explained, sealed)} | asyncio.run(heard(sealed))


async def heard(sealed: list[bytes]) -> dict[str, int]:
    """The way of an advert up to ingest, which gets it as a batch each turn of the loop."""
    house = House(HOUSE)
    binding = house.device("D-1")
    assert binding is not None
    options = BleOptions(bind_keys={address_key(ADDRESS): KEY})
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("heard_encrypted", sealed), ("heard_repeats", [sealed[0]] * ADVERTS)):
            adverts = Adverts(options, Delivery(Taken(house)), Memory(Path(folder) / "ble.json"), SystemClock())
            started_s = time.perf_counter()
            for number, each in enumerate(data):
                adverts.heard(binding, ADDRESS, each)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            found[name] = round(len(data) / (time.perf_counter() - started_s))
    return found


async def radio(seconds: float) -> dict[str, int]:
    """Presses that came through D-Bus and bleak a second; each is another one."""
    with tempfile.TemporaryDirectory() as name, PrivateBus(Path(name)) as bus:
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = bus.address
        button = peripherals.Button(ADDRESS, KEY)
        async with (
            SimulatedBluez(bus.address) as bluez,
            hub_in(Path(name), House(HOUSE), bind_keys={address_key(ADDRESS): KEY}) as (hub, taken),
        ):
            await until(lambda: hub.state()[0])
            started_s, sent = time.perf_counter(), 0
            while time.perf_counter() - started_s < seconds:
                for _ in range(20):
                    bluez.advertise(button, button.press())
                sent += 20
                while len(taken.frames) < sent - 40:
                    await asyncio.sleep(0)
            await until(lambda: len(taken.frames) == sent)
            return {"radio": round(sent / (time.perf_counter() - started_s))}


def main() -> None:
    structlog.configure(processors=[lambda *_: ""], logger_factory=structlog.ReturnLoggerFactory())
    figure = sys.argv[1] if len(sys.argv) > 1 else "decode"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    print(json.dumps(decode() if figure == "decode" else asyncio.run(radio(seconds))))


if __name__ == "__main__":
    main()
