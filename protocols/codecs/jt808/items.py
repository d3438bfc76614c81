"""JT/T 808: the items behind a location, of the standard (tables 26 and 27) and of makers of personal terminals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import ParseError
from protocols.bits import Cursor
from protocols.codecs.jt808.extended import is_extended, read_extended
from protocols.codecs.terminal import Draft, number

Reader = Callable[[Cursor, Draft], None]

_EVENTS: Final = {
    0x0C01: "sos", 0x0C02: "low_power", 0x0C05: "general", 0x0C0E: "power_cut", 0x0C0F: "low_battery",
    0x0C10: "power_off", 0x0C12: "tamper", 0x0405: "accident", 0x0416: "accident", 0x0417: "accident",
    0x0406: "vibration", 0x0408: "fence_enter", 0x0409: "fence_exit", 0x0401: "acceleration", 0x0402: "braking",
    0x0403: "cornering", 0x0404: "overspeed",
}  # fmt: skip
_EVENT_STATUS: Final = 0x2003
_LEVELS: Final = {1: 5, 2: 20, 3: 40, 4: 60, 5: 80, 6: 100}


def read_items(cursor: Cursor, draft: Draft) -> None:
    """Items until the end. One that is not what it should be stays raw with a fault, and the next ones count."""
    while cursor.left >= 2:
        item, length = cursor.u8(), cursor.u8()
        if length > cursor.left:
            draft.fault(f"item {item:02x}", f"{length} bytes stated, {cursor.left} left")
            _keep_raw(draft, item, cursor.rest())
            return
        value = cursor.take(length)
        reader = ITEMS.get(item)
        try:
            if reader is None:
                raise ParseError("not known")  # noqa: TRY301 - kept like one that has another length
            reader(Cursor(value), draft)
        except ParseError as error:
            if reader is not None and length:
                draft.fault(f"item {item:02x}", error)
            _keep_raw(draft, item, value)
    if cursor.left:
        draft.keep("tail", cursor.rest())


def _keep_raw(draft: Draft, item: int, value: bytes) -> None:
    if any(value):
        draft.keep(f"item_{item:02x}", value)


# ---- simple values ---------------------------------------------------------------------------------------------------


def _other(item: int, cursor: Cursor, draft: Draft) -> None:
    """An item in a length that has no meaning here."""
    _keep_raw(draft, item, cursor.rest())


def _measured(item: int, metric: str, size: int, scale: float = 1.0) -> Reader:
    def read(cursor: Cursor, draft: Draft) -> None:
        if cursor.left != size:
            _other(item, cursor, draft)
            return
        raw = cursor.uint(size)
        draft.measure(metric, raw if scale == 1.0 else raw * scale)

    return read


def _kept(name: str, size: int, scale: float = 1.0, *, zero: bool = False) -> Reader:
    def read(cursor: Cursor, draft: Draft) -> None:
        if cursor.left != size:
            raise ParseError(f"{cursor.left} bytes, not {size}")
        raw = cursor.uint(size)
        if raw or zero:
            draft.keep(name, raw if scale == 1.0 else round(raw * scale, 4))

    return read


def _text(name: str) -> Reader:
    def read(cursor: Cursor, draft: Draft) -> None:
        text = cursor.rest().strip(b"\0 ").decode("gb18030", "replace")
        if text:
            draft.keep(name, text)

    return read


def _battery(item: int, *, scale: int = 1) -> Reader:
    """Percent in one byte (a second one is reserved); FF: on the charger."""

    def read(cursor: Cursor, draft: Draft) -> None:
        if cursor.left not in (1, 2) or (cursor.left == 2 and scale == 1):
            _other(item, cursor, draft)
            return
        percent = cursor.u8()
        if percent == 0xFF:
            draft.keep("charging", value=True)
        elif percent * scale <= 100:
            draft.measure("battery_percent", percent * scale)
        else:
            draft.fault("battery_percent", f"{percent * scale} is more than 100")

    return read


# ---- the standard's own ----------------------------------------------------------------------------------------------


def _event_to_confirm(cursor: Cursor, draft: Draft) -> None:
    draft.keep("alarm_event", cursor.u16())


def _battery_or_carriage(cursor: Cursor, draft: Draft) -> None:
    """06: the temperature of a carriage in two bytes (2019); the battery in one (personal terminals)."""
    if cursor.left == 2:
        celsius = cursor.i16()
        if celsius != -1 and abs(celsius) < 1000:
            draft.measure("temperature_celsius", celsius)
        return
    _battery(0x06)(cursor, draft)


def _area(cursor: Cursor, draft: Draft) -> None:
    """12: type, area, direction of an entry or exit."""
    kind, area, leaving = cursor.u8(), cursor.u32(), cursor.u8()
    draft.keep("area", area)
    if kind in (1, 2, 3):
        draft.alarm("fence_exit" if leaving else "fence_enter")


# ---- makers' ---------------------------------------------------------------------------------------------------------


def _lock_text(cursor: Cursor, draft: Draft) -> None:
    """33: ``*M00,type,state...``; characters 2 to 4 of the third field are the battery in 0.01 V."""
    text = cursor.rest().decode("latin-1")
    draft.keep("lock", text)
    fields = text.split(",")
    if len(fields) > 2 and "M00" in fields[0]:
        hundredths = number(fields[2][2:5])
        if hundredths is not None:
            draft.measure("battery_volts", hundredths / 100)


def _wifi(item: int) -> Reader:
    """Access points: MAC 6, signal 1."""

    def read(cursor: Cursor, draft: Draft) -> None:
        if cursor.left % 7:
            _other(item, cursor, draft)
            return
        while cursor.left:
            address = cursor.take(6)
            draft.wifi(address, cursor.i8())

    return read


def _counted_wifi(cursor: Cursor, draft: Draft) -> None:
    """54: how many access points, then MAC 6 and signal 1 of each."""
    if cursor.peek() * 7 + 1 != cursor.left:
        _other(0x54, cursor, draft)
        return
    for _ in range(cursor.u8()):
        address = cursor.take(6)
        draft.wifi(address, cursor.i8())


def _engine(cursor: Cursor, draft: Draft) -> None:
    """91: tenths of a volt of the vehicle, then its engine."""
    draft.measure("external_power_volts", cursor.u16() / 10)
    draft.keep("engine", cursor.rest())


def _user_states(cursor: Cursor, draft: Draft) -> None:
    """D0: states of the terminal's own; bit 3 is vibration."""
    states = cursor.u32()
    draft.keep("user_states", states)
    if states & 1 << 3:
        draft.alarm("vibration")


def _temperatures(cursor: Cursor, draft: Draft) -> None:
    """51: tenths of a degree, sign and magnitude; FFFF is no sensor."""
    values: list[float | None] = []
    while cursor.left >= 2:
        raw = cursor.u16()
        tenths = -(raw & 0x7FFF) if raw & 0x8000 else raw
        values.append(None if raw == 0xFFFF else tenths / 10)
    first = next((value for value in values if value is not None), None)
    draft.measure("temperature_celsius", first)
    if len(values) > 1 and first is not None:
        draft.keep("temperatures", values)


def _driving(cursor: Cursor, draft: Draft) -> None:
    raw = cursor.rest()
    if any(raw):
        draft.keep("driving", raw)
    alarms = int.from_bytes(raw[:2], "big")
    draft.alarm(*(name for bit, name in ((8, "acceleration"), (9, "braking"), (10, "cornering")) if alarms >> bit & 1))


def _event_60(cursor: Cursor, draft: Draft) -> None:
    """60: event; those of cards carry 6 bytes of the lock and the card's text."""
    event = cursor.u16()
    draft.keep("event", event)
    if 0x61 <= event <= 0x66 and cursor.left > 6:
        cursor.skip(6)
        draft.keep("driver", cursor.rest().decode("latin-1"))


def _cells_66(cursor: Cursor, draft: Draft) -> None:
    """66: MCC, then signal, MNC, CID, LAC of each cell."""
    mcc = cursor.u16()
    while cursor.left >= 9:
        rssi, mnc = cursor.i8(), cursor.u16()
        cid = cursor.u32()
        draft.cell(mcc, mnc, cursor.u16(), cid, rssi or None)


def _nested(cursor: Cursor, draft: Draft) -> None:
    """80: a vehicle's speed in one byte, or items within the item."""
    if cursor.left == 1:
        draft.keep("obd_speed_kmh", cursor.u8())
        return
    nested = cursor.take(cursor.left)
    if len(nested) >= 4 and nested[0] == 0x61 and nested[1] == 2:
        draft.measure("external_power_volts", int.from_bytes(nested[2:4], "big") / 100)
        nested = nested[4:]
    read_items(Cursor(nested), draft)


def _codes(cursor: Cursor, draft: Draft) -> None:
    draft.keep("dtcs", " ".join(cursor.rest().decode("latin-1").replace(",", " ").split()))


def _battery_or_locks(cursor: Cursor, draft: Draft) -> None:
    if cursor.left == 2:
        draft.measure("battery_volts", cursor.u16() / 100)
    else:
        draft.keep("locks", cursor.rest())


def _battery_or_cells(cursor: Cursor, draft: Draft) -> None:
    """E1: battery; or MCC, MNC (2), a byte, LAC, CID, signal."""
    if cursor.left >= 12:
        mcc, mnc = cursor.u16(), cursor.u16()
        cursor.skip(1)
        lac, cid = cursor.u16(), cursor.u32()
        draft.cell(mcc, mnc, lac, cid, cursor.i8() or None)
        return
    _battery(0xE1)(cursor, draft)


def _battery_e3(cursor: Cursor, draft: Draft) -> None:
    """E3: reserved, percent, volts/100. Vehicles put their supply here, and no percentage."""
    if cursor.left < 4:
        _other(0xE3, cursor, draft)
        return
    cursor.skip(1)
    percent, hundredths = cursor.u8(), cursor.u16()
    if hundredths > 600:
        draft.measure("external_power_volts", hundredths / 100)
        return
    draft.measure("battery_percent", percent)
    draft.measure("battery_volts", hundredths / 100)


def _battery_e4(cursor: Cursor, draft: Draft) -> None:
    if cursor.left != 2:
        _other(0xE4, cursor, draft)
        return
    draft.keep("charging", cursor.u8() == 0)
    _battery(0xE4)(Cursor(cursor.take(1)), draft)


def _beacons_or_obd(cursor: Cursor, draft: Draft) -> None:
    """E6: OBD text, or sensors (index, MAC 6, temperature, humidity, each a whole byte and 255ths)."""
    if cursor.peek() == ord("$"):
        obd_text(cursor.rest().decode("latin-1"), draft)
        return
    if not cursor.left or cursor.left % 11:
        _other(0xE6, cursor, draft)
        return
    sensors = []
    while cursor.left:
        index, address = cursor.u8(), cursor.take(6).hex(":")
        whole, parts = cursor.i8(), cursor.u8()
        celsius = whole + (parts if whole >= 0 else -parts) / 255
        humidity = cursor.u8() + cursor.u8() / 255
        sensors.append({"index": index, "address": address, "celsius": round(celsius, 4), "humidity": humidity})
    draft.keep("sensors", sensors)


def obd_text(text: str, draft: Draft) -> None:
    """``$OBD-RT,...``: rates of a vehicle, kept as they are."""
    draft.keep("obd", text.strip("\r\n\0"))


def _states_e7(cursor: Cursor, draft: Draft) -> None:
    """E7: alarms of buttons."""
    if cursor.left != 8:
        _other(0xE7, cursor, draft)
        return
    alarms = cursor.u16()
    rest = cursor.rest()
    if alarms & 0b1110:
        draft.alarm("sos")
    if alarms & 1:
        draft.alarm("vibration")
    if any(rest):
        draft.keep("item_e7", rest)


def _event_e8(cursor: Cursor, draft: Draft) -> None:
    """E8: an event with its own time, or the state of the supply (2003)."""
    if cursor.left < 4:
        _other(0xE8, cursor, draft)
        return
    event = cursor.u16()
    if event == _EVENT_STATUS and cursor.left >= 8:
        cursor.skip(1)
        draft.keep("charging", cursor.u8() == 1)
        draft.measure("battery_percent", _LEVELS.get(cursor.u8()))
        draft.measure("battery_volts", cursor.u16() / 100)
        draft.keep("gsm_signal", cursor.u8())
        draft.measure("external_power_volts", cursor.u16() / 100)
        return
    draft.keep("event", f"{event:04x}")
    name = _EVENTS.get(event)
    if name is not None:
        draft.alarm(name)


def _cells_or_extended(cursor: Cursor, draft: Draft) -> None:
    """EB: cells (MCC first), or a list of the maker's own."""
    if is_extended(cursor):
        read_extended(cursor, draft)
        return
    mcc, mnc = cursor.u16(), cursor.u8()
    while cursor.left >= 5:
        lac, cid = cursor.u16(), cursor.u16()
        draft.cell(mcc, mnc, lac, cid, cursor.i8() or None)


def _cell_ee(cursor: Cursor, draft: Draft) -> None:
    """EE: MCC, MNC and cells; in six bytes signal, supply and battery in millivolts, satellites."""
    if cursor.left == 6:
        draft.keep("gsm_signal", cursor.u8())
        draft.measure("external_power_volts", cursor.u16() / 1000)
        draft.measure("battery_volts", cursor.u16() / 1000)
        draft.keep("satellites", cursor.u8())
        return
    mcc, mnc = cursor.u16(), cursor.u8()
    while cursor.left >= 7:
        lac, cid = cursor.u16(), cursor.u32()
        draft.cell(mcc, mnc, lac, cid, (cursor.i8() or None) if cursor.left else None)


def _power_f1(cursor: Cursor, draft: Draft) -> None:
    if cursor.left != 4:
        _other(0xF1, cursor, draft)
        return
    draft.measure("external_power_volts", cursor.u32() / 1000)


def _sensors_f6(cursor: Cursor, draft: Draft) -> None:
    """F6: event, mask; light, temperature, humidity, acceleration as the mask says."""
    if cursor.left < 2:
        _other(0xF6, cursor, draft)
        return
    draft.keep("sensor_event", cursor.u8())
    mask = cursor.u8()
    if mask & 1:
        draft.keep("light", cursor.u16())
    if mask & 2:
        draft.measure("temperature_celsius", cursor.i16() / 10)
    if mask & 4:
        draft.measure("humidity_percent", cursor.u16() / 10)
    if mask & 8:
        draft.keep("acceleration", [cursor.i16(), cursor.i16(), cursor.i16()])


def _battery_f7(cursor: Cursor, draft: Draft) -> None:
    """F7: millivolts, state of charging, percent."""
    draft.measure("battery_volts", cursor.u32() / 1000)
    if cursor.left:
        draft.keep("charging", cursor.u8() in (2, 3))
    if cursor.left:
        _battery(0xF7)(Cursor(cursor.take(1)), draft)


def _steps_f8(cursor: Cursor, draft: Draft) -> None:
    if cursor.left == 2:
        draft.measure("steps", cursor.u16())
    else:
        _other(0xF8, cursor, draft)


def _cell_ff(cursor: Cursor, draft: Draft) -> None:
    """FF: MCC, MNC, LAC (4), CID (4)."""
    if cursor.left != 12:
        _other(0xFF, cursor, draft)
        return
    mcc, mnc = cursor.u16(), cursor.u16()
    lac = cursor.u32()
    draft.cell(mcc, mnc, lac, cursor.u32())


ITEMS: Final[dict[int, Reader]] = {
    0x01: _measured(0x01, "odometer_m", 4, 100),
    0x02: _kept("fuel_l", 2, 0.1),
    0x03: _kept("recorder_speed_kmh", 2, 0.1),
    0x04: _event_to_confirm,
    0x06: _battery_or_carriage,
    0x12: _area,
    0x25: _kept("vehicle_signals", 4),
    0x2A: _kept("io_state", 2),
    0x2B: _kept("analog", 4),
    0x30: _kept("gsm_signal", 1, zero=True),
    0x31: _kept("satellites", 1, zero=True),
    0x33: _lock_text,
    0x50: _wifi(0x50),
    0x51: _temperatures,
    0x56: _battery(0x56, scale=10),
    0x57: _driving,
    0x54: _counted_wifi,
    0x60: _event_60,
    0x61: _measured(0x61, "external_power_volts", 2, 0.01),
    0x66: _cells_66,
    0x68: _measured(0x68, "battery_percent", 2, 0.01),
    0x69: _measured(0x69, "battery_volts", 2, 0.01),
    0x80: _nested,
    0x82: _measured(0x82, "external_power_volts", 2, 0.1),
    0x8C: _measured(0x8C, "odometer_m", 4, 100),
    0x91: _engine,
    0xA0: _codes,
    0xAC: _measured(0xAC, "odometer_m", 4),
    0xBC: _text("driver"),
    0xBD: _text("license"),
    0xCC: _text("iccid"),
    0xD0: _user_states,
    0xD3: _measured(0xD3, "external_power_volts", 2, 0.1),
    0xD4: _battery(0xD4),
    0xD5: _battery_or_locks,
    0xE1: _battery_or_cells,
    0xE3: _battery_e3,
    0xE4: _battery_e4,
    0xE6: _beacons_or_obd,
    0xE7: _states_e7,
    0xE8: _event_e8,
    0xE9: _battery(0xE9),
    0xEB: _cells_or_extended,
    0xEC: _wifi(0xEC),
    0xEE: _cell_ee,
    0xF1: _power_f1,
    0xF2: _text("firmware"),
    0xF4: _wifi(0xF4),
    0xF6: _sensors_f6,
    0xF7: _battery_f7,
    0xF8: _steps_f8,
    0xFC: _kept("fence", 4),
    0xFE: _battery(0xFE),
    0xFF: _cell_ff,
}
