"""Health devices over Bluetooth: unmodified bleak, a simulated BlueZ on a private D-Bus, weather of every kind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from simulators.bluez import peripherals
from simulators.bluez.bus import PrivateBus
from simulators.bluez.service import SimulatedBluez
from tests.live.ble_harness import House, World, hub_in, needs_dbus, until, world

pytestmark = pytest.mark.live

CUFF, OTHER, METER = "AA:BB:CC:DD:EE:01", "AA:BB:CC:DD:EE:02", "AA:BB:CC:DD:EE:03"
ONE_CUFF = {CUFF: ("CUFF", "ble.blood_pressure")}
ONE_METER = {METER: ("METER", "ble.glucose_meter")}
SHANGHAI = ZoneInfo("Asia/Shanghai")


def now() -> datetime:
    return datetime.now(SHANGHAI).replace(microsecond=0)


async def served(place: World, peripheral: peripherals.Peripheral, times: int = 1) -> None:
    """Advertise until the device was connected so often; return when the hub has let it go again, and knows it."""

    def over() -> bool:
        if place.bluez.connections.count(peripheral.address) < times:
            place.bluez.advertise(peripheral)
            return False
        return not peripheral.connected and not place.hub.counters()["connected"]

    await until(over)


def test_a_cuff_is_paired_read_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch) as place:
            cuff = peripherals.cuff(CUFF)
            before = now()
            cuff.pending = [peripherals.pressure(128, 79, 95, before - timedelta(minutes=30), 72)]
            await served(place, cuff)
            assert cuff.paired
            assert place.taken.measured("systolic_mmhg") == [128]
            assert place.taken.measured("battery_percent") == [85]
            (report, reading) = place.taken.reports("CUFF")[0]
            assert report.stored
            assert reading.stored
            assert all(frame.verified for frame in place.taken.frames)
            # The clock was written in the person's local time: year and month of Shanghai, adjusted by reference.
            months = {at.year.to_bytes(2, "little") + bytes([at.month]) for at in (before, now())}
            assert cuff.clock[:3] in months
            assert cuff.clock[9] == 2

    asyncio.run(main())


def test_a_cuff_that_repeats_itself_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cuff = peripherals.cuff(CUFF)
        cuff.pending, cuff.repeats = [peripherals.pressure(128, 79, 95, now())], True
        needs_dbus()
        with PrivateBus(tmp_path) as bus:
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
            async with SimulatedBluez(bus.address) as bluez:
                seen = []
                for start in (1, 2):  # over a restart too
                    async with hub_in(tmp_path, House(ONE_CUFF)) as (hub, taken):
                        place = World(bluez, bus, taken, hub)
                        await place.scanning()
                        await served(place, cuff, 2 * start)
                        seen.append(taken.measured("systolic_mmhg"))
                assert seen == [[128], []]

    asyncio.run(main())


def test_many_devices_share_one_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oximeter that never stops does not keep five others waiting, and goes on afterwards."""

    async def main() -> None:
        makers = [peripherals.cuff, peripherals.thermometer, peripherals.scale] * 2
        names = ["blood_pressure", "thermometer", "scale"] * 2
        others = [make(f"AA:BB:CC:DD:EE:1{n}") for n, make in enumerate(makers)]
        house = {each.address: (f"D-{n}", f"ble.{names[n]}") for n, each in enumerate(others)}
        house[OTHER] = "OXI", "ble.oximeter"
        async with world(tmp_path, house, monkeypatch, connections=1, quiet_s=0.1) as place:
            oximeter = peripherals.oximeter(OTHER)
            for each in others:
                each.pending = [
                    {
                        "Cuff": peripherals.pressure(120, 80, 93),
                        "Thermometer": peripherals.temperature(366),
                        "Scale": b"\x00" + (12_700).to_bytes(2, "little"),
                    }[each.name]
                ]

            def all_served() -> bool:
                place.bluez.advertise(oximeter)
                for each in others:
                    if each.pending:
                        place.bluez.advertise(each)
                oximeter.pending = [peripherals.saturation(97, 72)]
                oximeter.tell()
                counted = place.bluez.connections
                return not any(each.pending for each in others) and counted.count(OTHER) >= 2

            await until(all_served)
            await until(lambda: not place.hub.counters()["connected"] and not place.hub.counters()["waiting"])
            assert place.bluez.most_connected == 1
            assert sorted(place.bluez.connections.count(each.address) for each in others) == [1] * 6
            assert place.taken.measured("weight_kg") == [63.5, 63.5]
            assert place.taken.measured("body_temperature_celsius") == [36.6, 36.6]
            assert place.taken.measured("systolic_mmhg") == [120, 120]
            assert set(place.taken.measured("spo2_percent")) == {97}

    asyncio.run(main())


# ---- stored records --------------------------------------------------------------------------------------------------


def test_a_meter_is_asked_for_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_METER, monkeypatch) as place:
            meter = peripherals.GlucoseMeter(METER)
            at = now() - timedelta(days=3)
            for number in range(1, 6):
                meter.store(number, at + timedelta(hours=number), 90 + number, meal=1)
            await served(place, meter)
            assert meter.requests == [bytes.fromhex("0101")]
            values = place.taken.measured("blood_glucose_mmol_per_l")
            assert values == [round((90 + n) * 10 / 180.156, 4) for n in range(1, 6)]
            assert place.taken.measured("x_meal") == [1] * 5
            assert all(report.stored for report, _ in place.taken.reports())
            first = place.taken.reports()[0][1].observed_at_us
            assert first == int((at + timedelta(hours=1)).astimezone(UTC).timestamp()) * 1_000_000

            meter.store(6, at + timedelta(hours=6), 96)
            meter.store(7, at + timedelta(hours=7), 97)
            await served(place, meter, 2)
            assert meter.requests[1:] == [bytes.fromhex("0106"), bytes.fromhex("0103010600")]
            assert len(place.taken.measured("blood_glucose_mmol_per_l")) == 7

            await served(place, meter, 3)  # nothing new
            assert meter.requests[3:] == [bytes.fromhex("0106")]
            assert len(place.taken.measured("blood_glucose_mmol_per_l")) == 7

            meter.records.clear()  # new batteries: it counts anew
            meter.store(1, now(), 101)
            await served(place, meter, 4)
            assert meter.requests[-2:] == [bytes.fromhex("0106"), bytes.fromhex("0101")]
            assert len(place.taken.measured("blood_glucose_mmol_per_l")) == 8

    asyncio.run(main())


def test_a_link_that_breaks_while_records_come_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_METER, monkeypatch) as place:
            meter = peripherals.GlucoseMeter(METER)
            for number in range(1, 41):
                meter.store(number, now() - timedelta(hours=41 - number), 80 + number)
            meter.breaks_after = 13
            meter.on_break = lambda: place.bluez.drop(meter)
            await served(place, meter, 2)
            values = place.taken.measured("blood_glucose_mmol_per_l")
            assert values == [round((80 + n) * 10 / 180.156, 4) for n in range(1, 41)]

    asyncio.run(main())


def test_what_is_not_committed_is_offered_again_and_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_METER, monkeypatch) as place:
            meter = peripherals.GlucoseMeter(METER)
            meter.store(1, now(), 90)
            place.taken.refuse = True
            await served(place, meter)
            assert place.hub.counters()["uncommitted"] == 1
            assert place.hub._memory.of("METER").sequence == -1
            place.taken.refuse = False
            await until(lambda: place.hub._memory.of("METER").sequence == 1)
            assert place.taken.frames

    asyncio.run(main())


# ---- weather ---------------------------------------------------------------------------------------------------------


def test_an_adapter_that_goes_and_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch) as place:
            cuff = peripherals.cuff(CUFF)
            place.bluez.power(on=False)
            await until(lambda: not place.hub.state()[0])
            assert "powered" in place.hub.state()[1].lower()
            place.bluez.power(on=True)
            await place.scanning()
            place.bluez.remove_adapter()
            await until(lambda: not place.hub.state()[0])
            assert "no bluetooth adapters" in place.hub.state()[1].lower()
            place.bluez.add_adapter()
            await place.scanning()
            cuff.pending = [peripherals.pressure(128, 79, 95)]
            await served(place, cuff)
            assert place.taken.measured("systolic_mmhg") == [128]

    asyncio.run(main())


def test_an_adapter_that_was_reset_so_quickly_that_nobody_saw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BlueZ ends a discovery when the power goes, and does not begin it again when the power is back."""
    monkeypatch.setattr("protocols.transports.ble.hub.DEAF_S", 0.1)

    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch) as place:
            place.bluez.power(on=False)
            place.bluez.power(on=True)
            cuff = peripherals.cuff(CUFF)
            cuff.pending = [peripherals.pressure(128, 79, 95)]
            await served(place, cuff)
            assert place.taken.measured("systolic_mmhg") == [128]

    asyncio.run(main())


def test_an_adapter_pulled_out_in_the_middle_of_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch, adapter="hci0", quiet_s=5.0) as place:
            cuff = peripherals.cuff(CUFF)
            place.bluez.advertise(cuff)
            await until(lambda: cuff.values.subscribed)
            place.bluez.remove_adapter()
            await until(lambda: not place.hub.state()[0])
            # Whether the cuff is in trouble too is told behind it: that depends on the step which was interrupted.
            await until(lambda: place.hub.state()[1].startswith("there is no adapter hci0"))
            place.bluez.add_adapter()
            await place.scanning()
            cuff.pending = [peripherals.pressure(128, 79, 95)]

            def read() -> bool:
                place.bluez.advertise(cuff)
                return bool(place.taken.measured("systolic_mmhg"))

            await until(read)

    asyncio.run(main())


def test_no_bus_then_no_bluez_then_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        needs_dbus()
        bus = PrivateBus(tmp_path)
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        async with hub_in(tmp_path, House(ONE_CUFF)) as (hub, taken):
            await until(lambda: hub.state()[1].startswith("no D-Bus"))
            bus.start()
            try:
                await until(lambda: hub.state()[1].startswith("no BlueZ"))
                async with SimulatedBluez(bus.address) as bluez:
                    place = World(bluez, bus, taken, hub)
                    await place.scanning()
                    bus.stop()  # and it dies under us
                    await until(lambda: not hub.state()[0])
                bus.start()
                async with SimulatedBluez(bus.address) as bluez:
                    place = World(bluez, bus, taken, hub)
                    await place.scanning()
                    cuff = peripherals.cuff(CUFF)
                    cuff.pending = [peripherals.pressure(128, 79, 95)]
                    await served(place, cuff)
                    assert taken.measured("systolic_mmhg") == [128]
            finally:
                bus.stop()

    asyncio.run(main())


def test_out_of_range_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch, connect_s=1.0) as place:
            cuff = peripherals.cuff(CUFF)
            cuff.out_of_range = True
            place.bluez.advertise(cuff)
            await until(lambda: "CUFF: out of range" in place.hub.state()[1])
            assert place.hub.state()[0]
            cuff.out_of_range = False
            cuff.pending = [peripherals.pressure(128, 79, 95)]

            def read() -> bool:
                place.bluez.advertise(cuff)
                return bool(place.taken.measured("systolic_mmhg"))

            await until(read)  # a second may be too short for this machine too
            await until(lambda: "out of range" not in place.hub.state()[1])

    asyncio.run(main())


def test_a_controller_that_cannot_connect_while_it_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch, quiet_s=60.0) as place:
            cuff = peripherals.cuff(CUFF)
            cuff.needs_silence = True
            cuff.pending = [peripherals.pressure(128, 79, 95)]
            assert place.bluez.advertise(cuff)
            await until(lambda: place.taken.frames)
            assert place.taken.measured("systolic_mmhg")[:1] == [128]
            await place.scanning()
            assert cuff.connected  # nobody waits for its end: presses are heard beside it
            place.bluez.drop(cuff)
            await until(lambda: not place.hub.counters()["connected"])
            assert "InProgress" not in place.hub.state()[1]

    asyncio.run(main())


def test_a_device_that_refuses_to_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        house = ONE_CUFF | {OTHER: ("WARM", "ble.thermometer")}
        async with world(tmp_path, house, monkeypatch, connections=1) as place:
            cuff, thermometer = peripherals.cuff(CUFF), peripherals.thermometer(OTHER)
            cuff.refuses_pairing = True
            thermometer.pending = [peripherals.temperature(372)]
            await served(place, cuff)
            await until(lambda: "CUFF: pairing refused" in place.hub.state()[1])
            await served(place, thermometer)  # the others go on
            assert place.taken.measured("body_temperature_celsius") == [37.2]
            for _ in range(20):  # and it is left alone for a while
                place.bluez.advertise(cuff)
                await asyncio.sleep(0.005)
            assert place.bluez.connections.count(CUFF) == 1

    asyncio.run(main())


def test_a_device_that_refuses_a_part_is_heard_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF | ONE_METER, monkeypatch) as place:
            cuff, meter = peripherals.cuff(CUFF), peripherals.GlucoseMeter(METER)
            for service in (0x180F, 0x1805):
                cuff.services[service][0].refuses = 0x80
            cuff.pending = [peripherals.pressure(128, 79, 95)]
            meter.control.refuses = 0xFD
            meter.services[0x180F] = [peripherals.Characteristic(0x2A19, ["read"], value=lambda: b"\x07")]
            await served(place, cuff)
            await served(place, meter)
            assert place.taken.measured("systolic_mmhg") == [128]
            assert place.taken.measured("battery_percent") == [7]
            assert place.hub.counters()["connection_failures_total"] == 0

    asyncio.run(main())


def test_values_that_make_no_sense_are_kept_and_harm_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch) as place:
            cuff = peripherals.cuff(CUFF)
            cuff.pending = [b"", b"\xff", bytes(400), peripherals.pressure(128, 79, 95), bytes(range(256))[:200]]
            await served(place, cuff)
            kept = [frame.payload for frame in place.taken.frames]
            assert peripherals.pressure(128, 79, 95) in [payload[3:] for payload in kept]
            assert kept[:2] == [bytes.fromhex("2A3500"), bytes.fromhex("2A3501FF")]

    asyncio.run(main())


def test_devices_that_are_not_registered_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, ONE_CUFF, monkeypatch) as place:
            place.bluez.advertise(peripherals.cuff("AA:BB:CC:DD:EE:99"))
            button = peripherals.Button("AA:BB:CC:DD:EE:98")
            place.bluez.advertise(button, button.press())
            await until(lambda: place.hub.counters()["strangers_total"] >= 2)
            await asyncio.sleep(0.1)
            assert place.bluez.connections == []
            assert place.taken.frames == []

    asyncio.run(main())
