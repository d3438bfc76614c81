"""A day in the neighbourhood, 06:00 to 22:00: what every device says when, ordinary things and incidents."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from simulators.geography import moved
from simulators.neighbourhood import Resident, ResidentDevice
from simulators.payloads import Place, Statement

DAWN_S: Final = 6 * 3600
DUSK_S: Final = 22 * 3600
STEP_M: Final = 50  # between fixes of the walk: also in compressed time no impossible jump
_WALK_M: Final = (*range(0, 451, STEP_M), *range(400, -1, -STEP_M), 3)


class Moment(Struct, frozen=True):
    """``at_s`` is in seconds of the day. ``note`` tells the audience of an incident, Chinese first."""

    at_s: float
    person_id: str
    device_id: str
    statement: Statement
    note: str = ""
    breaks_off: bool = False


def clock(at_s: float) -> str:
    """Seconds of the day as ``hh:mm``."""
    minutes = int(at_s) // 60
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def plan(people: Sequence[Resident]) -> list[Moment]:
    """The whole day, in order; the same every time. It needs all thirty persons."""
    draw = random.Random("一天")
    moments = [moment for person in people for moment in _ordinary(person, draw)]
    moments += _incidents(people)
    return sorted(moments, key=lambda moment: moment.at_s)


# ---- ordinary things -------------------------------------------------------------------------------------------------


def _ordinary(person: Resident, draw: random.Random) -> Iterator[Moment]:
    for device in person.devices:
        yield from (
            Moment(at_s, person.person_id, device.device_id, statement)
            for at_s, statement in _ordinary_of(device, person, draw)
        )


def _ordinary_of(device: ResidentDevice, person: Resident, draw: random.Random) -> Iterator[tuple[float, Statement]]:
    match device.kind:
        case "watch":
            for at_s in _every(2400, draw):
                yield at_s, Statement(measurements=_vitals(at_s, draw), position=_at_home(person, draw))
        case "pendant":
            if person.person_id != "P-0003":  # whose walk is an incident
                for at_s in _every(3600, draw):
                    yield at_s, Statement(measurements={"battery_percent": 71}, position=_at_home(person, draw))
        case "cuff":
            for at_s in (7.5 * 3600, 19.0 * 3600):
                systolic = draw.randint(112, 136)
                yield (
                    at_s + draw.uniform(-1800, 1800),
                    Statement(
                        measurements={
                            "systolic_mmhg": systolic,
                            "diastolic_mmhg": systolic - draw.randint(48, 58),
                            "heart_rate_bpm": draw.randint(62, 82),
                        }
                    ),
                )
        case "bed":
            yield DAWN_S + draw.uniform(600, 3600), Statement(("bed_exit",))
            for at_s in _every(7200, draw):
                yield at_s, Statement(("motion",))
            yield DUSK_S - draw.uniform(60, 1800), Statement(("bed_return",), measurements=_asleep(draw))
        case "smoke":
            yield (
                DAWN_S + draw.uniform(0, 7200),
                Statement(measurements={"battery_percent": 88, "temperature_celsius": round(draw.uniform(17, 24), 1)}),
            )
        case _:  # a button
            yield DAWN_S + draw.uniform(0, 7200), Statement(measurements={"battery_percent": draw.randint(55, 95)})


def _every(seconds: float, draw: random.Random) -> Iterator[float]:
    at_s = DAWN_S + draw.uniform(0, seconds)
    while at_s < DUSK_S:
        yield at_s
        at_s += seconds * draw.uniform(0.8, 1.2)


def _vitals(at_s: float, draw: random.Random) -> dict[str, float]:
    return {
        "heart_rate_bpm": draw.randint(62, 88),
        "spo2_percent": draw.randint(95, 99),
        "steps": int((at_s - DAWN_S) / 12),
        "battery_percent": max(40, 98 - int((at_s - DAWN_S) / 1500)),
    }


def _asleep(draw: random.Random) -> dict[str, float]:
    return {"heart_rate_bpm": draw.randint(55, 64), "respiratory_rate_per_min": draw.randint(13, 16)}


def _at_home(person: Resident, draw: random.Random) -> Place:
    spot = moved(person.home, draw.uniform(-12, 12), draw.uniform(-12, 12))
    return Place(spot.latitude, spot.longitude, 8.0)


# ---- incidents -------------------------------------------------------------------------------------------------------


def _incidents(people: Sequence[Resident]) -> Iterator[Moment]:
    def happens(
        at: str, number: int, kind: str, statement: Statement, note: str, *, breaks_off: bool = False
    ) -> Moment:
        person = people[number - 1]
        hours, minutes = at.split(":")
        at_s = int(hours) * 3600 + int(minutes) * 60
        device_id = person.device(kind).device_id
        return Moment(at_s, person.person_id, device_id, statement, f"{person.name} {note}", breaks_off=breaks_off)

    pressure = {"systolic_mmhg": 182, "diastolic_mmhg": 98, "heart_rate_bpm": 84}
    yield happens("06:50", 6, "cuff", Statement(measurements=pressure), "血压 182/98,请复测 182/98, measure again")
    pressure = {"systolic_mmhg": 198, "diastolic_mmhg": 110, "heart_rate_bpm": 92}
    yield happens("07:20", 6, "cuff", Statement(measurements=pressure), "复测 198/110 measured again: 198/110")
    yield happens("08:15", 10, "button", Statement(("service_call",)), "请人送餐 asks for a meal to be brought")
    yield from _walk(people[2])
    yield happens("10:40", 2, "button", Statement(("sos",)), "长按求助,没有定位 presses SOS, no position")
    yield happens("11:30", 7, "smoke", Statement(("smoke",)), "厨房冒烟 smoke in the kitchen")
    yield happens("11:48", 7, "smoke", Statement(cleared=("smoke",)), "烟散了 the smoke is gone")
    yield happens("13:10", 5, "button", Statement(("sos",)), "碰到了按钮 touches the button")
    yield happens("13:12", 5, "button", Statement(("call_cancelled",)), "取消呼叫 cancels the call")
    yield happens("14:30", 11, "watch", Statement(("fall",), measurements={"heart_rate_bpm": 118}), "跌倒 falls")
    flat = Statement(("sos", "low_battery"), measurements={"battery_percent": 4})
    yield happens("15:45", 8, "pendant", flat, "低电量时求助 presses SOS with an almost flat battery")
    yield happens("17:00", 14, "watch", Statement(), "手表断线 the watch loses its connection", breaks_off=True)
    yield happens("18:20", 19, "bed", Statement(("sos",)), "按床头呼叫 presses the call at the bed")
    yield happens("18:24", 19, "bed", Statement(("sos",)), "又按了一次 presses again")


def _walk(person: Resident) -> Iterator[Moment]:
    device_id = person.device("pendant").device_id
    begins_s, every_s = 9 * 3600, 240
    notes = {
        0: f"{person.name} 出门散步 goes for a walk",
        450: f"{person.name} 走出围栏三百多米 is more than 300 m beyond the fence",
        3: f"{person.name} 回到家 is home again",
    }
    for index, east_m in enumerate(_WALK_M):
        spot = moved(person.home, east_m, 0)
        fix = Place(spot.latitude, spot.longitude, 10.0)
        note = notes.get(east_m, "") if east_m or not index else ""
        yield Moment(begins_s + index * every_s, person.person_id, device_id, Statement(position=fix), note)
