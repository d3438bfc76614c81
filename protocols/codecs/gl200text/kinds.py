"""Queclink: what each kind of report means beside its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from protocols.codecs.gl200text.blocks import Fix
from protocols.codecs.terminal import Draft, decimal, number

Reader = Callable[[Sequence[str], Draft], None]

ALARMS: Final = {
    "SOS": "sos", "EMG": "sos", "FAL": "fall", "CRA": "accident", "BPL": "low_battery", "PNA": "power_on",
    "PFA": "power_off", "MPN": "power_restored", "MPF": "power_cut", "EPN": "power_restored", "EPF": "power_cut",
    "GIN": "fence_enter", "GOT": "fence_exit", "SPD": "overspeed", "TOW": "motion", "JDR": "jamming", "ANT": "fault",
}  # fmt: skip
"""Kinds that are an alarm by their name."""

_TIME: Final = re.compile(r"\d{14}")
_VOLTS: Final = re.compile(r"[2-5]\.\d{1,2}")
_STATUS: Final = re.compile(r"[0-9A-F]{6}(?:[0-9A-F]{4})?")
_DECIMAL: Final = re.compile(r"\d{1,10}\.\d{1,3}")
_BEHAVIOUR: Final = {0: "braking", 3: "braking", 1: "acceleration", 4: "acceleration", 2: "cornering"}
_MOVING: Final = {"11": False, "21": False, "41": False, "12": True, "22": True, "42": True, "16": True, "1A": True}


def read_kind(
    kind: str, body: Sequence[str], draft: Draft, *, fix: Fix | None = None, only_alarms: bool = False
) -> None:  # fmt: skip
    """``body`` stands between identity and time of sending, its first field is the terminal's own name."""
    name = ALARMS.get(kind)
    if name is not None:
        draft.alarm(name)
    if only_alarms:
        return
    before = list(body[: fix.begin] if fix is not None else body)
    reader = _READERS.get(kind)
    if reader is not None:
        reader(before, draft)
    elif fix is None and any(before[1:]):
        draft.keep("fields", ",".join(before[1:]).strip(","))


def tail_battery(tail: Sequence[str]) -> int | None:
    """The battery in what follows the last place, in percent; None when it says none.

    Small terminals end with it. Some put signal and supply before it, and charging behind. Vehicle terminals have a
    word of states behind it, or count six fields.
    """
    fields = list(tail)
    if _is_small(fields):
        return int(fields[3])
    if 1 <= len(fields) <= 3:
        return int(fields[-1]) if _is(fields[-1], 0, 100) else None
    for index in range(3, len(fields)):
        if _STATUS.fullmatch(fields[index]):
            return int(fields[index - 1]) if _is(fields[index - 1], 0, 100) else None
    if len(fields) > 5 and _DECIMAL.fullmatch(fields[1]) and _is(fields[5], 0, 100):
        return int(fields[5])
    return None


def lone_battery(body: Sequence[str]) -> int | None:
    """The battery of a report without any place or cell, where the small terminals' end can be told."""
    for index in range(len(body) - 5, 0, -1):
        if _is_small(body[index : index + 5]):
            return int(body[index + 3])
    return None


def _is_small(fields: Sequence[str]) -> bool:
    """Signal, supply, kilometres, battery, charging."""
    return (
        len(fields) >= 5
        and _is(fields[0], 0, 99)
        and fields[1] in ("0", "1")
        and (not fields[2] or _DECIMAL.fullmatch(fields[2]) is not None)
        and _is(fields[3], 0, 100)
        and fields[4] in ("", "0", "1")
    )


def _is(text: str, lowest: int, highest: int) -> bool:
    value = number(text)
    return value is not None and str(value) == text and lowest <= value <= highest


def _report_type(before: Sequence[str]) -> int | None:
    """The report's type: its own field (id, type, count), or the second digit of one field (id and type, count)."""
    fields = [field for field in before[1:] if field]
    if len(fields) >= 3 and all(_is(field, 0, 99) for field in fields[-3:]):
        return int(fields[-2])
    if len(fields) >= 2 and len(fields[-2]) == 2 and number(fields[-2], base=16) is not None:
        return int(fields[-2][1], 16)
    return None


# ---- kinds -----------------------------------------------------------------------------------------------------------


def _fence(before: Sequence[str], draft: Draft) -> None:
    """GEO, SWG: 0 left, 1 entered."""
    kind = _report_type(before)
    draft.alarm("fence_enter" if kind == 1 else "fence_exit" if kind == 0 else "fence")


def _movement(before: Sequence[str], draft: Draft) -> None:
    """NMR: 0 came to rest for longer than it should, 1 moves again."""
    kind = _report_type(before)
    if kind is not None:
        draft.signal("motion" if kind == 1 else "no_motion")


def _state(before: Sequence[str], draft: Draft) -> None:
    """STT: the first digit is the ignition (4: none), the second whether it moves."""
    state = before[1] if len(before) > 1 else ""
    draft.keep("state", state)
    moving = _MOVING.get(state.upper())
    if moving is not None:
        draft.signal("motion", active=moving)


def _low_battery(before: Sequence[str], draft: Draft) -> None:
    for field in before[1:]:
        if _VOLTS.fullmatch(field):
            draft.measure("battery_volts", decimal(field))
            return


def _temperature(before: Sequence[str], draft: Draft) -> None:
    """TEM: 1 too cold, 2 as it should be, 3 too hot; then degrees."""
    fields = list(before[1:])
    if len(fields) >= 2:
        if fields[0] in ("1", "3"):
            draft.alarm("temperature")
        draft.measure("temperature_celsius", decimal(fields[1]))


def _temperature_old(before: Sequence[str], draft: Draft) -> None:
    fields = list(before[1:])
    if len(fields) >= 2:
        draft.keep("temperature_report", fields[0])
        draft.measure("temperature_celsius", decimal(fields[1]))


def _behaviour(before: Sequence[str], draft: Draft) -> None:
    kind = _report_type(before)
    name = _BEHAVIOUR.get(kind) if kind is not None else None
    if name is not None:
        draft.alarm(name)


def _ignition(*, on: bool) -> Reader:
    def read(before: Sequence[str], draft: Draft) -> None:
        del before
        draft.keep("ignition", on)

    return read


def _ignition_place(before: Sequence[str], draft: Draft) -> None:
    kind = _report_type(before)
    if kind is not None:
        draft.keep("ignition", kind == 1)


def _charging(*, on: bool) -> Reader:
    def read(before: Sequence[str], draft: Draft) -> None:
        del before
        draft.keep("charging", on)

    return read


def _power(before: Sequence[str], draft: Draft) -> None:
    """BAT: the battery's voltage, behind its percentage."""
    fields = list(before[1:])
    for index, field in enumerate(fields):
        if _VOLTS.fullmatch(field):
            draft.measure("battery_volts", decimal(field))
            if index and _is(fields[index - 1], 0, 100):
                draft.measure("battery_percent", int(fields[index - 1]))
            return
    draft.keep("fields", ",".join(fields).strip(","))


def _cells(before: Sequence[str], draft: Draft) -> None:
    """LBS: three fields, then cells; the third is the battery."""
    fields = list(before[1:])
    if len(fields) > 2 and _is(fields[2], 0, 100) and fields[2]:
        draft.measure("battery_percent", int(fields[2]))


def _access_points(before: Sequence[str], draft: Draft) -> None:
    """WIF: access points, then the battery."""
    if len(before) > 2 and _is(before[-1], 0, 100):
        draft.measure("battery_percent", int(before[-1]))


def _tamper(before: Sequence[str], draft: Draft) -> None:
    draft.keep("switch", before[1] if len(before) > 1 else "")


def _accessory(before: Sequence[str], draft: Draft) -> None:
    """BID: a Bluetooth accessory: number, model, mask, address, millivolts."""
    draft.keep("accessory", ",".join(before[1:]))
    millivolts = number(before[5]) if len(before) > 5 else None
    if millivolts is not None:
        draft.keep("accessory_volts", millivolts / 1000)


def _warning(before: Sequence[str], draft: Draft) -> None:
    draft.keep("warning_type", number(before[1]) if len(before) > 1 else None)


def _information(before: Sequence[str], draft: Draft) -> None:
    """INF: state, ICCID, signal, errors, supply, its volts, ..., battery volts, charging, ..., last fix, percent."""
    fields = list(before[1:])
    while fields and fields[0] and not re.fullmatch(r"[0-9A-F]{2}", fields[0]):
        fields.pop(0)  # a vehicle's number before the terminal's name
    draft.keep("information", ",".join(fields).strip(","))
    if len(fields) < 8:
        return
    moving = _MOVING.get(fields[0])
    if moving is not None:
        draft.signal("motion", active=moving)
    draft.keep("iccid", fields[1])
    draft.keep("gsm_signal", number(fields[2]))
    supply = number(fields[5])
    if supply is not None and supply >= 1000 and len(fields[5]) <= 6:
        draft.measure("external_power_volts", supply / 1000)
    for index in range(6, min(10, len(fields))):
        if _VOLTS.fullmatch(fields[index]):
            draft.measure("battery_volts", decimal(fields[index]))
            if index + 1 < len(fields) and fields[index + 1] in ("0", "1"):
                draft.keep("charging", fields[index + 1] == "1")
            break
    last = next((index for index in range(8, len(fields)) if _TIME.fullmatch(fields[index])), None)
    if last is None:
        return
    behind = [field for field in fields[last + 1 : last + 3] if _is(field, 0, 100)]
    if len(behind) == 2 and behind[0] in ("0", "1") and int(behind[1]) > 1:
        draft.measure("battery_percent", int(behind[1]))
    elif fields[last + 1 : last + 2] == behind[:1] and behind and int(behind[0]) > 1:
        draft.measure("battery_percent", int(behind[0]))


_READERS: Final[dict[str, Reader]] = {
    "GEO": _fence,
    "SWG": _fence,
    "NMR": _movement,
    "STT": _state,
    "BPL": _low_battery,
    "TEM": _temperature,
    "TMP": _temperature_old,
    "HBM": _behaviour,
    "IGN": _ignition(on=True),
    "VGN": _ignition(on=True),
    "IGF": _ignition(on=False),
    "VGF": _ignition(on=False),
    "IGL": _ignition_place,
    "VGL": _ignition_place,
    "BTC": _charging(on=True),
    "STC": _charging(on=False),
    "BAT": _power,
    "LBS": _cells,
    "WIF": _access_points,
    "LSW": _tamper,
    "TSW": _tamper,
    "BID": _accessory,
    "DAR": _warning,
    "INF": _information,
}
