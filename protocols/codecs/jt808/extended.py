"""JT/T 808, item EB: the list of 16-bit ids that several makers of personal terminals share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import ParseError
from protocols.bits import Cursor
from protocols.codecs.terminal import Draft, decimal, number

Reader = Callable[[bytes, Draft], None]
_LEAST_MCC: Final = 200


def is_extended(cursor: Cursor) -> bool:
    """Whether EB holds this list: its first length is small; otherwise an MCC stands there."""
    head = cursor.data[cursor.at : cursor.at + 2]
    return int.from_bytes(head, "big") <= _LEAST_MCC


def read_extended(cursor: Cursor, draft: Draft) -> None:
    """Entries of length (2, counts id and value), id (2), value."""
    while cursor.left >= 2:
        length = cursor.u16()
        if length < 2 or length > cursor.left:
            draft.fault("item eb", f"an entry of {length} bytes, {cursor.left} left")
            draft.keep("item_eb", cursor.rest())
            return
        identifier = cursor.u16()
        value = cursor.take(length - 2)
        reader = ENTRIES.get(identifier)
        try:
            if reader is None:
                raise ParseError("not known")  # noqa: TRY301 - kept like one that is too short
            reader(value, draft)
        except ParseError as error:
            if reader is not None:
                draft.fault(f"item eb {identifier:04x}", error)
            if any(value):
                draft.keep(f"item_eb_{identifier:04x}", value)


def _fuel(value: bytes, draft: Draft) -> None:
    draft.keep("fuel_1", round(Cursor(value).u16() * 0.1, 4))


def _fuel_text(value: bytes, draft: Draft) -> None:
    draft.keep("fuel_2", decimal(value.decode("latin-1")))


def _cells_text(value: bytes, draft: Draft) -> None:
    """``mcc;mnc;lac;cid``"""
    fields = [number(field) for field in value.decode("latin-1").split(";")[:4]]
    mcc, mnc, lac, cid = (field if field is not None else -1 for field in (fields + [None] * 4)[:4])
    if min(mcc, mnc, lac, cid) >= 0:
        draft.cell(mcc, mnc, lac, cid)


def _volts(value: bytes, draft: Draft) -> None:
    """Millivolts: of the supply in four bytes, of the cell in two."""
    volts = int.from_bytes(value, "big") / 1000
    draft.measure("battery_volts" if len(value) == 2 and volts < 6 else "external_power_volts", volts)


def _states(value: bytes, draft: Draft) -> None:
    """Alarms, active low."""
    states = Cursor(value).u32()
    if not states:
        raise ParseError("every alarm at once")
    if not states & 1:
        draft.alarm("power_off")
    if not states & 1 << 12:
        draft.alarm("removed")
    if states != 0xFFFFFFFF:
        draft.keep("states_0089", value)


def _more_states(value: bytes, draft: Draft) -> None:
    """States, active low: 6 vibration, 23 and 24 (both) moving."""
    states = Cursor(value).u32()
    if not states & 1 << 6:
        draft.alarm("vibration")
    moving = states >> 23 & 3
    if moving in (0, 3):
        draft.signal("motion", active=moving == 0)
    draft.keep("states_00c5", value)


def _battery_state(value: bytes, draft: Draft) -> None:
    state = Cursor(value).u8()
    if state in (3, 4):
        draft.alarm("low_battery")


def _percent(value: bytes, draft: Draft) -> None:
    draft.measure("battery_percent", Cursor(value).u8())


def _iccid(value: bytes, draft: Draft) -> None:
    if any(value):
        draft.keep("iccid", value.decode("latin-1") if len(value) > 10 else value.hex())


def _wifi_text(value: bytes, draft: Draft) -> None:
    """``mac,rssi,...``, at times behind a count."""
    fields = value.decode("latin-1").strip("\0 ,").split(",")
    if fields and ":" not in fields[0] and len(fields[0]) < 12:
        fields = fields[1:]
    for address, strength in zip(fields[::2], fields[1::2], strict=False):
        draft.wifi(address, number(strength))


def _power(value: bytes, draft: Draft) -> None:
    draft.measure("external_power_volts", Cursor(value).u16() / 100)


def _cell(value: bytes, draft: Draft) -> None:
    """MCC, MNC (2), a byte, LAC, CID, signal; shorter ones have an MNC of one byte and neither byte nor signal."""
    cursor = Cursor(value)
    mcc = cursor.u16()
    if cursor.left >= 10:
        mnc = cursor.u16()
        cursor.skip(1)
        lac, cid = cursor.u16(), cursor.u32()
        draft.cell(mcc, mnc, lac, cid, cursor.i8() or None)
    else:
        mnc, lac = cursor.u8(), cursor.u16()
        draft.cell(mcc, mnc, lac, cursor.uint(min(4, cursor.left)))


def _imei(value: bytes, draft: Draft) -> None:
    text = value.decode("latin-1")
    if text.strip("0\0"):
        draft.keep("imei", text)


ENTRIES: Final[dict[int, Reader]] = {
    0x0001: _fuel,
    0x0023: _fuel_text,
    0x0024: _cells_text,
    0x002D: _volts,
    0x0089: _states,
    0x00A8: _percent,
    0x00B2: _iccid,
    0x00B9: _wifi_text,
    0x00C5: _more_states,
    0x00C6: _battery_state,
    0x00CE: _power,
    0x00D5: _imei,
    0x00D8: _cell,
    0x00E1: _percent,
    0x00FB: _iccid,
}
