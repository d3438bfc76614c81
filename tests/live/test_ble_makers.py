"""Sensors of other makers by their kept libraries: over BlueZ, encrypted, repeated, faulty; and without the library."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bleak.backends.scanner import AdvertisementData

from gateway.cli.check import check_profiles, check_registry
from gateway.config import load_settings
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs import ble_makers
from protocols.codecs.advertisement import packed
from protocols.codecs.ble_makers import MAKERS, MIBEACON, BleMakerCodec, missing
from protocols.transports.ble import adverts, makers
from protocols.transports.ble.delivery import Delivery
from protocols.transports.ble.makers import MakerAdverts
from protocols.transports.ble.options import BleOptions, address_key
from simulators.bluez.peripherals import Peripheral, mibeacon
from tests.daemon import carebell
from tests.live.ble_harness import House, Taken, until, world
from tests.live.test_ble_adverts import Played

pytestmark = pytest.mark.live
pytest.importorskip("xiaomi_ble", reason="needs the makers' libraries: pip install 'carebell[ble-makers]'")

BUTTON, ROOM, DOOR, OVEN = (f"A4:C1:38:00:00:{number:02X}" for number in (1, 2, 3, 4))
KEY = bytes(range(16))
HOUSE = {
    BUTTON: ("BUTTON", "xiaomi.button"),
    ROOM: ("ROOM", "xiaomi.sensor"),
    DOOR: ("DOOR", "xiaomi.sensor"),
    OVEN: ("OVEN", "govee.thermometer"),
}
SWITCH, DOOR_SENSOR, THERMOMETER = 0x1568, 0x098B, 0x01AA
PRESS = bytes.fromhex("011003000000")
OPENED, CLOSED = bytes.fromhex("19100100"), bytes.fromhex("19100101")


def climate(celsius: float, percent: float) -> bytes:
    return (
        b"\x0d\x10\x04"
        + round(celsius * 10).to_bytes(2, "little", signed=True)
        + round(percent * 10).to_bytes(2, "little")
    )


def govee(tenths: int) -> bytes:
    """Degrees and a humidity of 48.2 percent in one number, battery."""
    return b"\x00" + (tenths * 1000 + 482).to_bytes(3, "big") + b"\x64\x00"


def test_over_the_simulated_bluez(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed button and door, a plain thermometer of each kind; every advertisement comes several times."""

    async def main() -> None:
        keys = {address_key(BUTTON): KEY, address_key(DOOR): KEY}
        async with world(tmp_path, HOUSE, monkeypatch, bind_keys=keys, trust_plain_advertisements=True) as place:
            button, room, door, oven = (Peripheral(address, "x") for address in (BUTTON, ROOM, DOOR, OVEN))
            oven.name = "GVH5075_2762"
            for number in range(1, 6):
                for _ in range(3):
                    place.bluez.advertise(button, mibeacon(BUTTON, SWITCH, number, PRESS, key=KEY), service=0xFE95)
                    place.bluez.advertise(
                        room, mibeacon(ROOM, THERMOMETER, number, climate(20 + number, 50)), service=0xFE95
                    )
                    moved = OPENED if number % 2 else CLOSED
                    place.bluez.advertise(door, mibeacon(DOOR, DOOR_SENSOR, number, moved, key=KEY), service=0xFE95)
                    place.bluez.advertise(oven, manufacturer_data={0xEC88: govee(200 + number)})
            await until(lambda: len(place.taken.frames) >= 20)
            assert place.taken.signals("BUTTON") == ["sos"] * 5
            assert place.taken.signals("DOOR") == ["door_open", "door_closed"] * 2 + ["door_open"]
            assert place.taken.measured("temperature_celsius", "ROOM") == [21, 22, 23, 24, 25]
            assert place.taken.measured("temperature_celsius", "OVEN") == [20.1, 20.2, 20.3, 20.4, 20.5]
            assert all(frame.verified for frame in place.taken.frames)
            assert not place.bluez.connections  # nobody is connected to
            # What makes the library fail is a fault of its frame; the scanner and the next press are not touched.
            broken = SimpleNamespace(update=lambda _told: 1 // 0)
            with monkeypatch.context() as patched:
                patched.setattr(ble_makers, "_library", lambda _maker: (lambda _key: broken, lambda **_told: None))
                place.bluez.advertise(room, mibeacon(ROOM, THERMOMETER, 77, climate(20, 50)), service=0xFE95)
                await until(lambda: len(place.taken.frames) >= 21)
            assert place.taken.frames.pop().verified is False
            place.bluez.advertise(button, mibeacon(BUTTON, SWITCH, 78, PRESS, key=KEY), service=0xFE95)
            await until(lambda: place.taken.signals("BUTTON") == ["sos"] * 6)

    asyncio.run(main())


# ---- the codec -------------------------------------------------------------------------------------------------------


def parse(data: bytes, key: bytes | None = None) -> Report:
    payload = bytes.fromhex(address_key(DOOR)) + packed(service_data={MIBEACON: data})
    context = None if key is None else {"bindkey": key}
    (report,) = BleMakerCodec("ble_xiaomi").parse(Frame("test", "ble_xiaomi", "test", payload, 1, context=context))
    return report


def test_what_is_sealed_opens_with_its_key_alone() -> None:
    data = mibeacon(DOOR, DOOR_SENSOR, 9, OPENED, key=KEY, random=0x010203)
    report = parse(data, KEY)
    assert report.fields == {"opening": True, "packet_id": 9}
    assert report.proof is True
    assert parse(mibeacon(DOOR, DOOR_SENSOR, 9, OPENED), KEY).proof is None  # in the clear it proves nothing
    with pytest.raises(ParseError, match="no bind key"):
        parse(data)
    for wrong in (bytes(16), KEY[::-1]):
        with pytest.raises(ParseError, match="another key"):
            parse(data, wrong)
    for at in range(2, len(data)):  # no byte of it can be changed
        with pytest.raises(ParseError):
            parse(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], KEY)


def test_what_is_sealed_proves_nothing_of_what_stands_beside_it() -> None:
    """Somebody's recording of a beacon, and a weight of his own; and a beacon that is no beacon beside a weight."""
    weight = {"0000181d-0000-1000-8000-00805f9b34fb": bytes.fromhex("227035ea070b16010203")}
    for beacon in (mibeacon(DOOR, DOOR_SENSOR, 9, OPENED, key=KEY), b"\x48", b""):
        payload = bytes.fromhex(address_key(DOOR)) + packed(service_data={MIBEACON: beacon, **weight})
        frame = Frame("test", "ble_xiaomi", "test", payload, 1, context={"bindkey": KEY})
        (report,) = BleMakerCodec("ble_xiaomi").parse(frame)
        assert report.fields is not None
        assert report.fields["mass"] == 68.4
        assert report.proof is None


def test_the_encryption_of_old_versions_proves_nothing() -> None:
    """Its four bytes at the end hold no tag; who changes a bit changes what it says."""
    from Cryptodome.Cipher import AES

    head = (3 << 12 | 0x48).to_bytes(2, "little") + DOOR_SENSOR.to_bytes(2, "little") + b"\x09"
    more = bytes(3)
    cipher = AES.new(KEY, AES.MODE_CCM, nonce=head + more + bytes.fromhex(address_key(DOOR))[::-1][:-1], mac_len=4)
    cipher.update(b"\x11")
    report = parse(head + cipher.encrypt(OPENED) + more + b"\x00", KEY)
    assert report.fields == {"opening": True, "packet_id": 9}
    assert report.proof is None


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), RecursionError(), UnicodeError(), MemoryError()])
def test_whatever_the_library_raises_is_a_fault_of_the_frame(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(*_: object) -> None:
        raise error

    from xiaomi_ble import XiaomiBluetoothDeviceData

    monkeypatch.setattr(XiaomiBluetoothDeviceData, "update", update)
    with pytest.raises(ParseError, match=f"xiaomi-ble fails at it: {type(error).__name__}"):
        parse(mibeacon(DOOR, DOOR_SENSOR, 9, OPENED))


# ---- without a bus: time is played -----------------------------------------------------------------------------------


class Air:
    """Advertisements straight into our decoder."""

    def __init__(self, *, keys: dict[str, bytes] | None = None, trust_plain: bool = False) -> None:
        self.house = House(HOUSE)
        self.taken = Taken(self.house)
        self.clock = Played()
        self.counts = dict.fromkeys(("repeats_total", "unproved_total", "unreadable_total"), 0)
        options = BleOptions(bind_keys=keys or {}, trust_plain_advertisements=trust_plain)
        self.makers = MakerAdverts(options, Delivery(self.taken, 0.01), self.clock, self.counts)
        self.makers._ready.update(MAKERS)

    async def hear(self, address: str, data: bytes = b"", **said: Any) -> int:
        """How many frames there are after this one."""
        binding = self.house.device_by_key(address)
        assert binding is not None
        parts: Any = {
            "service_data": {MIBEACON: data} if data else {},
            "manufacturer_data": {},
            "local_name": None,
        } | said
        self.makers.heard(
            binding, address, AdvertisementData(service_uuids=[], tx_power=None, rssi=-60, platform_data=(), **parts)
        )
        await asyncio.sleep(0.001)
        return len(self.taken.frames)


def test_repeats_of_one_advertisement_are_one_record() -> None:
    async def main() -> None:
        air = Air(trust_plain=True)
        press = mibeacon(BUTTON, SWITCH, 1, PRESS)
        idle = bytes.fromhex("0050") + press[2:5]
        assert await air.hear(BUTTON, press) == 1
        for name in (None, "Button", "Button"):  # its name comes with another packet, and an idle one in between
            air.clock.at_s += 30
            assert await air.hear(BUTTON, idle) == 1
            assert await air.hear(BUTTON, press, local_name=name) == 1
        air.clock.at_s += adverts.NUMBERED_REPEAT_S + 1  # 256 presses later the number is there again
        assert await air.hear(BUTTON, press) == 2
        assert await air.hear(BUTTON, mibeacon(BUTTON, SWITCH, 2, PRESS)) == 3
        assert await air.hear(BUTTON, press) == 3  # the bus brought it late
        assert air.counts["repeats_total"] == 4
        assert air.taken.signals() == ["sos"] * 3
        # BlueZ may tell what it heard before together with what is new.
        first, second = {0xEC88: govee(200)}, {0xEC88: govee(201)}
        assert await air.hear(OVEN, local_name="GVH5075_2762", manufacturer_data=first) == 4
        assert await air.hear(OVEN, local_name="GVH5075_2762") == 4  # a scan response
        assert await air.hear(OVEN, local_name="GVH5075_2762", manufacturer_data=first | {0x4C: b"\x02\x15"}) == 5
        assert await air.hear(OVEN, local_name="GVH5075_2762", manufacturer_data=second | {0x4C: b"\x02\x15"}) == 6
        assert air.taken.frames[-1].payload.endswith(govee(201))
        assert b"\x4c\x00\x02\x15" not in air.taken.frames[-1].payload

    asyncio.run(main())


def test_what_proves_nothing_is_bounded_and_not_believed() -> None:
    async def main() -> None:
        air = Air()
        for number in range(30):
            await air.hear(BUTTON, mibeacon(BUTTON, SWITCH, number, PRESS))
            await air.hear(BUTTON, bytes([0x40, 0x50, number]))
        assert len(air.taken.frames) == 2 * adverts.DOUBTFUL
        assert not any(frame.verified for frame in air.taken.frames)
        # Who has a key and speaks in the clear is not believed, whatever is configured.
        spoofed = Air(keys={address_key(DOOR): KEY}, trust_plain=True)
        await spoofed.hear(DOOR, mibeacon(DOOR, DOOR_SENSOR, 1, CLOSED))
        await spoofed.hear(DOOR, mibeacon(DOOR, DOOR_SENSOR, 2, CLOSED, key=KEY))
        assert [frame.verified for frame in spoofed.taken.frames] == [False, True]

    asyncio.run(main())


def test_what_is_heard_while_the_library_is_imported_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        air = Air(trust_plain=True)
        air.makers._ready.clear()
        for number in range(makers.WAITING + 10):
            assert await air.hear(BUTTON, mibeacon(BUTTON, SWITCH, number, PRESS)) == 0
        async with asyncio.TaskGroup() as group:
            task = group.create_task(air.makers.prepare())
            await until(lambda: len(air.taken.frames) == makers.WAITING)
            assert not air.makers.troubles
            task.cancel()

    asyncio.run(main())


# ---- without the library ---------------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing of the extra were installed."""
    for maker in MAKERS.values():
        monkeypatch.setitem(sys.modules, maker.module, None)
    real = importlib.util.find_spec
    gone = {maker.module for maker in MAKERS.values()}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, package=None: None if name in gone else real(name, package)
    )
    ble_makers._library.cache_clear()


@pytest.mark.usefixtures("bare")
def test_without_the_library_the_frame_is_kept_and_the_state_says_what_to_install() -> None:
    async def main() -> None:
        air = Air(trust_plain=True)
        air.makers._ready.clear()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(air.makers.prepare())
            await air.hear(BUTTON, mibeacon(BUTTON, SWITCH, 1, PRESS))
            await until(lambda: air.taken.frames)
            task.cancel()
        assert "pip install 'carebell[ble-makers]'" in air.makers.troubles["ble_xiaomi"]
        with pytest.raises(ParseError, match="pip install"):
            air.taken.reports()

    asyncio.run(main())


def test_check_names_the_device_that_needs_the_library(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    config, var = tmp_path / "carebell.toml", tmp_path / "var"
    config.write_text(f'data_dir = "{var}"\n', encoding="utf-8")
    carebell("devices", "add", "--id", "ROOM", "--profile", "xiaomi.sensor", "--mac", ROOM, data_dir=var)
    settings = load_settings(config)
    assert check_registry(settings).problems == []
    request.getfixturevalue("bare")
    assert missing("ble_xiaomi")
    assert missing("bthome") == ""
    assert check_profiles(settings).problems == []  # who has no such device needs no library
    (problem,) = check_registry(settings).problems
    assert problem.startswith("device ROOM: its profile xiaomi.sensor cannot be read: xiaomi-ble is not installed; ")
    assert problem.endswith("pip install 'carebell[ble-makers]'")
