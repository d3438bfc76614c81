"""Thirty invented persons in one invented neighbourhood, and what hangs on their walls and wrists.

Names and addresses belong to nobody. The telephone numbers begin with 120, which no mobile network in China has.
"""

from __future__ import annotations

import random
from typing import Final

from msgspec import Struct

from simulators.geography import Spot, moved

CENTRE: Final = Spot(39.1172, 117.2021)
HOME_RADIUS_M: Final = 120.0

_NAMES: Final = (
    "王秀英", "李桂兰", "张德福", "刘淑珍", "陈玉珍", "杨宝山", "赵立民", "黄淑芬", "周建国", "吴美华",
    "徐长顺", "孙凤琴", "胡永年", "朱素梅", "高文斌", "林月娥", "何振东", "郭春兰", "马玉田", "罗慧敏",
    "梁守义", "宋桂芝", "郑福来", "谢兰香", "韩志远", "唐秋菊", "冯大成", "于淑贤", "董连生", "萧雅琴",
)  # fmt: skip

WATCH: Final = "carebell.native"
BUTTON: Final = "generic.json_button"
CUFF: Final = "generic.json_bp_cuff"
PENDANT: Final = "generic.json_gps_pendant"
SMOKE: Final = "generic.json_smoke_detector"
BED: Final = "generic.json_bed_sensor"

_HOUSEHOLDS: Final = (
    (("watch", WATCH, "mqtt"), ("cuff", CUFF, "http")),
    (("button", BUTTON, "mqtt"), ("smoke", SMOKE, "http")),
    (("pendant", PENDANT, "mqtt"),),
    (("watch", WATCH, "mqtt"), ("bed", BED, "mqtt")),
    (("button", BUTTON, "http"), ("cuff", CUFF, "mqtt")),
)


class ResidentDevice(Struct, frozen=True):
    """``kind`` is its name in the household: watch, button, cuff, pendant, smoke, bed."""

    device_id: str
    kind: str
    profile: str
    transport: str


class Relative(Struct, frozen=True):
    """A contact of a resident."""

    name: str
    relation: str
    phone: str


class Resident(Struct, frozen=True):
    person_id: str
    name: str
    phone: str
    address: str
    birth_year: int
    conditions: tuple[str, ...]
    home: Spot
    devices: tuple[ResidentDevice, ...]

    def relatives(self) -> tuple[Relative, Relative]:
        """Daughter and son, in the order in which they are told."""
        number = int(self.person_id[-4:])
        return (
            Relative(f"{self.name[0]}芳", "女儿", f"+861211{number:07d}"),
            Relative(f"{self.name[0]}强", "儿子", f"+861212{number:07d}"),
        )

    def device(self, kind: str) -> ResidentDevice:
        """The device of this kind. Raises KeyError when the household has none."""
        for device in self.devices:
            if device.kind == kind:
                return device
        raise KeyError(f"{self.person_id} has no {kind}")


def residents(count: int = len(_NAMES)) -> list[Resident]:
    """The first ``count`` (at most 30) of them; the same every time."""
    draw = random.Random("和平里")
    found = []
    for index in range(min(count, len(_NAMES))):
        number = index + 1
        home = moved(CENTRE, (index % 6 - 2.5) * 180 + draw.uniform(-30, 30), (index // 6 - 2) * 160.0)
        conditions = ("hypertension",) if draw.random() < 0.4 else ()
        found.append(
            Resident(
                person_id=f"P-{number:04d}",
                name=_NAMES[index],
                phone=f"+8612000000{number:03d}",
                address=f"示例市和平里 {index // 6 + 1} 号楼 {draw.randint(1, 6)}0{index % 6 + 1}",
                birth_year=draw.randint(1931, 1952),
                conditions=conditions,
                home=home,
                devices=tuple(
                    ResidentDevice(f"D-{number:04d}-{kind}", kind, profile, transport)
                    for kind, profile, transport in _HOUSEHOLDS[index % len(_HOUSEHOLDS)]
                ),
            )
        )
    return found
