"""The whole way: a cuff and a button in the air, ``carebell run`` with unmodified bleak, the journal, an open alert."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.clock import from_us
from gateway.registry.devices import add_device
from gateway.storage.database import FILE_NAME, open_database
from simulators.bluez import peripherals
from simulators.bluez.bus import PrivateBus
from simulators.bluez.service import SimulatedBluez
from tests.daemon import ACTOR, Daemon, carebell_json, provision
from tests.live.ble_harness import needs_dbus, until

pytestmark = pytest.mark.live

CUFF, BUTTON, KEY = "AA:BB:CC:DD:EE:01", "AA:BB:CC:DD:EE:02", bytes(range(16))


def register(data_dir: Path) -> None:
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        for device_id, profile, mac in (("CUFF", "ble.blood_pressure", CUFF), ("BUTTON", "bthome.button", BUTTON)):
            add_device(
                connection,
                device_id,
                {"profile": profile, "person_id": "P-1", "mac": mac},
                known_profiles=[profile],
                at_us=time.time_ns() // 1000,
                actor=ACTOR,
            )
    connection.close()


@contextlib.asynccontextmanager
async def daemon(folder: Path) -> AsyncIterator[tuple[Daemon, SimulatedBluez]]:
    """A gateway with one person, a cuff and a button, on a bus of its own."""
    needs_dbus()
    keys = folder / "keys.toml"
    keys.write_text(f'"{BUTTON}" = "{KEY.hex()}"\n', encoding="utf-8")
    keys.chmod(0o600)
    data_dir = folder / "data"
    data_dir.mkdir()
    provision(data_dir, 1)
    register(data_dir)
    with PrivateBus(folder) as bus:
        running = Daemon(
            data_dir,
            DBUS_SYSTEM_BUS_ADDRESS=bus.address,
            CAREBELL_BLE__ADAPTER="hci0",
            CAREBELL_BLE__BIND_KEYS_FILE=str(keys),
            CAREBELL_BLE__QUIET_S="0.5",
        )
        async with SimulatedBluez(bus.address) as bluez:
            await asyncio.to_thread(running.start)
            try:
                await until(bluez.discovering)
                yield running, bluez
            finally:
                await asyncio.to_thread(running.stop)


def records(data_dir: Path, device_id: str) -> list[dict[str, Any]]:
    found = carebell_json("journal", "list", data_dir=data_dir)
    return [record for record in found if record["device_id"] == device_id]


def test_conformance_bluetooth(tmp_path: Path) -> None:
    """Bluetooth (DB15 section 4.2.4): a paired cuff is read when it wakes, a button raises its alert."""

    async def main() -> None:
        async with daemon(tmp_path) as (running, bluez):
            cuff = peripherals.cuff(CUFF)
            measured_us = time.time_ns() // 1000 - 5_000_000
            local = from_us(measured_us).astimezone(ZoneInfo("Asia/Shanghai"))
            cuff.pending = [peripherals.pressure(128, 79, 95, local, 72)]
            button = peripherals.Button(BUTTON, KEY)
            bluez.advertise(cuff)
            bluez.advertise(button, button.press())
            await until(lambda: cuff.clock and not cuff.connected)
            data_dir = running.data_dir
            cuffs: list[dict[str, Any]] = []
            async with asyncio.timeout(60):
                while len(cuffs) < 2:
                    cuffs = await asyncio.to_thread(records, data_dir, "CUFF")
            values = {each["metric"]: each for record in cuffs for each in record["observations"] if "metric" in each}
            assert (values["systolic_mmhg"]["value"], values["diastolic_mmhg"]["value"]) == (128, 79)
            assert values["systolic_mmhg"]["observed_at"][:19] == from_us(measured_us).isoformat()[:19]
            assert values["battery_percent"]["value"] == 85
            presses: list[dict[str, Any]] = []
            async with asyncio.timeout(60):
                while not presses:
                    presses = await asyncio.to_thread(records, data_dir, "BUTTON")
            (pressed,) = presses
            assert [each["signal"] for each in pressed["observations"]] == ["sos"]
            assert pressed["fault"] is None
            alerts: list[dict[str, Any]] = []
            async with asyncio.timeout(60):
                while not alerts:
                    alerts = await asyncio.to_thread(carebell_json, "alerts", "list", data_dir=data_dir)
            assert [(alert["kind"], alert["person_id"]) for alert in alerts] == [("sos", "P-1")]

    asyncio.run(main())
