"""JT/T 808 location reports: the body of 0200, its alarm and status words (JT/T 808-2019, tables 23 to 25)."""

from __future__ import annotations

from typing import Final

from gateway.errors import ParseError
from protocols.bits import Cursor, bcd_time_us, bit_set
from protocols.codecs.fixes import fix
from protocols.codecs.jt808.items import read_items
from protocols.codecs.terminal import KMH_M_PER_S, Draft

ZONE_S: Final = 8 * 3600  # the standard's clock is GMT+8 everywhere

ALARM_BITS: Final = {
    0: "sos", 1: "overspeed", 2: "fatigue", 3: "danger", 4: "fault", 5: "fault", 6: "fault", 7: "low_power",
    8: "power_cut", 9: "fault", 10: "fault", 11: "fault", 12: "fault", 13: "overspeed_warning", 14: "fatigue_warning",
    15: "vibration", 16: "tamper", 17: "tamper", 18: "low_battery", 19: "parking", 20: "fence", 21: "route",
    22: "route_time", 23: "off_route", 24: "speed_sensor", 25: "fuel", 26: "stolen", 27: "illegal_ignition",
    28: "motion", 29: "accident", 30: "fall", 31: "door",
}  # fmt: skip
"""15 to 18 are vehicle matters in the standard and these in personal terminals; a person's rollover is a fall."""

_DOORS: Final = 1 << 13 | 1 << 14 | 1 << 16 | 1 << 17  # the third one's bit 15 is a padlock's own in many terminals
_KNOWN_STATUS: Final = 0b1111 | 0xF << 18  # ignition, fix, south, west; which satellites the fix used
_TAIL: Final = 18  # what some terminals send behind the body instead of items


def read_location(body: bytes, draft: Draft) -> None:
    """A 0200 body. What is there counts, however early it ends; an alarm needs its first four bytes only.

    Raises ParseError when not even those are there.
    """
    cursor = Cursor(body)
    alarms = cursor.u32()
    names = bit_set(alarms, ALARM_BITS)
    if alarms:
        draft.keep("alarm_word", f"{alarms:08x}")
    try:
        _read_base(cursor, draft)
        if not _read_tail(body, cursor, draft):
            read_items(cursor, draft)
    except ParseError as error:
        draft.fault("location", error)
    if "fence" in names and {"geofence_exit", "geofence_enter"} & set(draft.signals):
        names.remove("fence")  # an item has said which way
    draft.alarm(*names)


def _read_base(cursor: Cursor, draft: Draft) -> None:
    status = cursor.u32()
    _read_status(status, draft)
    latitude = cursor.u32() / 1e6
    longitude = cursor.u32() / 1e6
    motion = cursor.take(6)
    time = cursor.take(6)
    try:
        draft.at_us = bcd_time_us(time, ZONE_S)
    except ValueError as error:
        draft.fault("time", error)
    valid = bool(status & 2)
    fix(draft, -latitude if status & 4 else latitude, -longitude if status & 8 else longitude, valid=valid)
    if draft.position is not None and draft.position.valid:
        draft.measure("altitude_m", int.from_bytes(motion[:2], "big", signed=True))
        draft.measure("speed_m_per_s", int.from_bytes(motion[2:4], "big") / 10 * KMH_M_PER_S)
        course = int.from_bytes(motion[4:], "big")
        if course <= 360:
            draft.measure("course_degrees", course)


def _read_status(status: int, draft: Draft) -> None:
    draft.keep("ignition", bool(status & 1))
    if status & ~_KNOWN_STATUS:
        draft.keep("status_word", f"{status:08x}")
    if status & _DOORS:
        draft.signal("door_open")


def _read_tail(body: bytes, cursor: Cursor, draft: Draft) -> bool:
    """The fixed tail of some terminals, where the bytes are not whole items."""
    if cursor.left != _TAIL or _are_items(body, cursor.at):
        return False
    draft.keep("remaining", cursor.take(4))
    draft.measure("odometer_m", cursor.u32() * 1000)
    draft.measure("battery_volts", cursor.u16() / 10)
    draft.keep("area", cursor.u32())
    draft.keep("gsm_signal", cursor.u8())
    return True


def _are_items(body: bytes, at: int) -> bool:
    """Whether id, length, value fit to the last byte."""
    while at + 2 <= len(body):
        at += 2 + body[at + 1]
    return at == len(body)
