"""Programs of others: Debian's bluetoothctl looks at our BlueZ, bumble's peripheral speaks to our codec."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.model import Frame
from protocols.codecs.gatt import GattCodec, packed
from simulators.bluez import peripherals
from simulators.bluez.bus import PrivateBus
from simulators.bluez.service import SimulatedBluez
from tests.live.ble_harness import needs_dbus

pytestmark = pytest.mark.live

CUFF = "AA:BB:CC:DD:EE:01"


def test_bluetoothctl_sees_what_we_see(tmp_path: Path) -> None:
    needs_dbus()
    if not shutil.which("bluetoothctl"):
        pytest.skip("bluetoothctl is missing: apt-get install bluez")

    async def main() -> str:
        with PrivateBus(tmp_path) as bus:
            async with SimulatedBluez(bus.address) as bluez:
                cuff = peripherals.cuff(CUFF)
                process = await asyncio.create_subprocess_exec(
                    "bluetoothctl",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
                )
                assert process.stdin is not None
                assert process.stdout is not None
                output = b""

                async def see(wanted: bytes) -> None:
                    nonlocal output
                    async with asyncio.timeout(60):
                        while wanted not in output:
                            assert process.stdout is not None
                            output += await process.stdout.read(4096)

                await see(b"Agent registered")
                for line, wanted in (
                    (b"list\n", b"Controller 00:00:5E:00:53:00 carebell"),
                    (b"scan on\n", b"Discovery started"),
                ):
                    process.stdin.write(line)
                    await see(wanted)
                assert bluez.advertise(cuff)
                await see(b"[NEW] Device" if b"[NEW] Device" in output else b"Device " + CUFF.encode() + b" Cuff")
                for line, wanted in (
                    (f"info {CUFF}\n".encode(), b"Paired: no"),
                    (f"pair {CUFF}\n".encode(), b"Pairing successful"),
                    (f"info {CUFF}\n".encode(), b"Paired: yes"),
                    (f"connect {CUFF}\n".encode(), b"Connection successful"),
                ):
                    process.stdin.write(line)
                    await see(wanted)
                process.stdin.write(b"quit\n")
                async with asyncio.timeout(60):
                    await process.wait()
                assert cuff.paired
                return output.decode("utf-8", "replace")

    assert "UUID: Blood Pressure" in asyncio.run(main())


def test_values_of_another_bluetooth_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """bumble's peripheral and central over its own link: what comes out of its ATT is what our codec reads."""
    pytest.importorskip("bumble", reason="bumble is missing: pip install bumble")
    received = asyncio.run(_bumble())
    codec = GattCodec()

    def fields(uuid: int, value: bytes) -> dict[str, Any]:
        (report,) = codec.parse(Frame("test", "gatt", "bumble", packed(uuid, value), 1_795_309_323_000_000))
        assert report.faults is None
        assert report.fields is not None
        return report.fields

    rates = [fields(0x2A37, value) for value in received[0x2A37]]
    assert [said["heart_rate"] for said in rates] == [72, 300]
    assert rates[0]["contact"] is True
    assert rates[0]["energy_kj"] == 1200
    assert rates[0]["rr_ms"] == pytest.approx([833.0, 812.5], abs=1)
    assert fields(0x2A19, received[0x2A19][0]) == {"battery": 65}
    assert fields(0x2A35, received[0x2A35][0])["systolic"] == 121


def _keep(heard: list[bytes], value: bytes) -> None:
    heard.append(bytes(value))


async def _bumble() -> dict[int, list[bytes]]:
    """What a central of bumble's hears from a peripheral of bumble's, by characteristic."""
    from bumble.controller import Controller
    from bumble.core import UUID
    from bumble.device import Device, Peer
    from bumble.gatt import Characteristic, Service
    from bumble.hci import Address
    from bumble.host import Host
    from bumble.link import LocalLink
    from bumble.profiles.battery_service import BatteryService
    from bumble.profiles.heart_rate_service import HeartRateService

    link = LocalLink()  # type: ignore[no-untyped-call]  # bumble leaves the annotation out
    devices = []
    for name, address in (("central", "F0:F1:F2:F3:F4:F5"), ("peripheral", "F5:F4:F3:F2:F1:F0")):
        controller = Controller(name, link=link)
        host = Host(controller, controller)
        devices.append(Device(name=name, address=Address(address), host=host))
    central, peripheral = devices
    measurement = HeartRateService.HeartRateMeasurement
    rate = HeartRateService(read_heart_rate_measurement=lambda _: measurement(72, sensor_contact_detected=True))
    pressure = Characteristic(
        UUID.from_16_bits(0x2A35), Characteristic.Properties.INDICATE, Characteristic.READABLE, b""
    )
    battery = BatteryService(lambda _: 65)
    peripheral.add_services([rate, battery, Service(UUID.from_16_bits(0x1810), [pressure])])
    received: dict[int, list[bytes]] = {}
    async with asyncio.timeout(60):
        for device in devices:
            await device.power_on()
        await peripheral.start_advertising()
        connection = await central.connect(peripheral.random_address)
        peer = Peer(connection)
        await peer.discover_services()
        await peer.discover_characteristics()
        for service in peer.services:
            for characteristic in service.characteristics:
                uuid = struct.unpack("<H", characteristic.uuid.to_bytes())[0]
                heard = received.setdefault(uuid, [])
                if characteristic.properties & (Characteristic.Properties.NOTIFY | Characteristic.Properties.INDICATE):
                    await characteristic.subscribe(partial(_keep, heard))
                elif characteristic.properties & Characteristic.Properties.READ:
                    heard.append(bytes(await characteristic.read_value()))
        for said in (
            measurement(72, sensor_contact_detected=True, energy_expended=1200, rr_intervals=[0.833, 0.8125]),
            measurement(300),
        ):
            await peripheral.notify_subscribers(rate.heart_rate_measurement_characteristic, said)
        await peripheral.indicate_subscribers(pressure, bytes.fromhex("00790050005d00"))
        if not received[0x2A19]:
            await peripheral.notify_subscribers(battery.battery_level_characteristic, 65)
        while len(received[0x2A37]) < 2 or not received[0x2A35] or not received[0x2A19]:
            await asyncio.sleep(0.01)
    return received
