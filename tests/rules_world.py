"""A small world for tests of rules: people, a clock that moves when told, and records that arrive."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from math import cos, radians

from gateway.care import CarePlan, Circle, DeviceCare, Fence
from gateway.clock import US_PER_S, to_us
from gateway.model import Clear, Committed, Effect, Position, Raise, Reading, Record
from rules.engine import SETTLE_US, RulesEngine
from rules.loader import RuleSet, load_rules

HOME = (39.1235, 117.2011)
DEFAULTS = load_rules()
METRES_PER_DEGREE = 111_195.0


class People:
    """The registry, as rules see it."""

    def __init__(self, plans: Iterable[CarePlan] = (), devices: Iterable[DeviceCare] = ()) -> None:
        self.by_id = {plan.person_id: plan for plan in plans}
        self.devices = {device.device_id: device for device in devices}

    def plan(self, person_id: str) -> CarePlan | None:
        return self.by_id.get(person_id)

    def device_care(self, device_id: str) -> DeviceCare | None:
        return self.devices.get(device_id)

    def plans(self) -> Iterable[CarePlan]:
        return self.by_id.values()


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text))


def away(metres_north: float, metres_east: float = 0.0, origin: tuple[float, float] = HOME) -> tuple[float, float]:
    lat, lon = origin
    return lat + metres_north / METRES_PER_DEGREE, lon + metres_east / METRES_PER_DEGREE / cos(radians(lat))


def home_fence(radius_m: float = 200.0, **more: object) -> Fence:
    fence = Fence(
        fence_id="home",
        kind="home",
        shape=Circle(center=(HOME[1], HOME[0]), radius_m=radius_m),
        consent=True,
    )
    return Fence(**{**{name: getattr(fence, name) for name in fence.__struct_fields__}, **more})


def record(
    at_us: int,
    *,
    device: str = "D-1",
    person: str = "P-1",
    measurements: dict[str, float] | None = None,
    signals: dict[str, bool] | None = None,
    position: Position | None = None,
    observed_us: int | None = None,
    stored: bool = False,
    verified: bool = True,
) -> Record:
    reading = Reading(
        observed_at_us=at_us if observed_us is None else observed_us,
        measurements=measurements or {},
        signals=signals or {},
        position=position,
        stored=stored,
    )
    return Record(
        received_at_us=at_us, transport="mqtt", codec="native", source="", payload=b"", device_id=device,
        device_key=device, person_id=person, profile="carebell.native", verified=verified, urgency=0, dedup_key="",
        reading=reading,
    )  # fmt: skip


class World:
    """An engine, its people and its clock. ``say`` sends a record now, ``wait`` lets time pass; both return effects."""

    def __init__(
        self,
        plans: Iterable[CarePlan] = (),
        devices: Iterable[DeviceCare] = (),
        *,
        rules: RuleSet = DEFAULTS,
        start: str = "2026-11-22T08:00:00+08:00",
    ) -> None:
        self.people = People(plans, devices)
        self.rules = rules
        self.engine = RulesEngine(rules, self.people, "Asia/Shanghai")
        self.now_us = us(start)
        self.seq = 0
        self.all: list[Effect] = []
        self.engine.tick(self.now_us)

    def say(
        self,
        metric: str | None = None,
        value: float = 0.0,
        *,
        signal: str | None = None,
        at: tuple[float, float] | None = None,
        accuracy_m: float | None = 10.0,
        source: str = "gnss",
        ago_s: float = 0.0,
        stored: bool = False,
        device: str = "D-1",
        person: str = "P-1",
        verified: bool = True,
        **measurements: float,
    ) -> list[Effect]:
        observed_us = self.now_us - round(ago_s * US_PER_S)
        if metric is not None:
            measurements[metric] = value
        position = Position(at[0], at[1], observed_us, accuracy_m, source) if at else None
        return self.put(
            record(
                self.now_us,
                device=device,
                person=person,
                measurements=measurements,
                signals={signal: True} if signal else {},
                position=position,
                observed_us=observed_us,
                stored=stored,
                verified=verified,
            )
        )

    def put(self, *records: Record) -> list[Effect]:
        effects = self.engine.observe(Committed(self.seq + 1, list(records)))
        self.seq += len(records)
        self.all += effects
        return effects

    def wait(self, seconds: float) -> list[Effect]:
        end_us = self.now_us + round(seconds * US_PER_S)
        effects: list[Effect] = []
        while (wake_us := self.engine.next_wake_us()) is not None and wake_us - SETTLE_US <= end_us:
            effects += self.engine.tick(wake_us)
        self.now_us = end_us
        self.all += effects
        return effects

    def wait_until(self, text: str) -> list[Effect]:
        return self.wait((us(text) - self.now_us) / US_PER_S)


def raises(effects: Iterable[Effect]) -> list[tuple[str, str]]:
    """Kind and severity of what was raised."""
    return [(effect.kind, effect.severity.name) for effect in effects if isinstance(effect, Raise)]


def clears(effects: Iterable[Effect]) -> list[str]:
    return [effect.kind for effect in effects if isinstance(effect, Clear)]


def only(effects: list[Effect]) -> Raise:
    """The single Raise among effects."""
    found = [effect for effect in effects if isinstance(effect, Raise)]
    assert len(found) == 1, effects
    return found[0]
