"""Who is who: the machines of persons and devices, made of plans and rules when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gateway.care import CarePlan, DeviceCare
from gateway.errors import ConfigError
from rules.compile import Compiler
from rules.kinds.threshold import URGENT
from rules.loader import RuleSet
from rules.ordinary import Ordinary
from rules.runtime import PLAN_WAKE, Device, Person, Slot
from rules.states import States


class PeopleView(Protocol):
    """What rules ask of the registry. In memory and synchronous; the engine is told of changes by ``reload``."""

    def plan(self, person_id: str) -> CarePlan | None: ...

    def device_care(self, device_id: str) -> DeviceCare | None:
        """How a known device is supervised; None for one that the registry does not know."""
        ...

    def plans(self) -> Iterable[CarePlan]:
        """Every plan that has expectations (others may be left out)."""
        ...


class Roster:
    """Persons and devices with their machines.

    ``wake`` is given when a validity begins or ends, as a time, PLAN_WAKE and the person's subject: ``renew`` then.
    Raises ConfigError for a time zone that is none.
    """

    def __init__(
        self,
        rules: RuleSet,
        people: PeopleView,
        site_timezone: str,
        states: States,
        ordinary: Ordinary,
        wake: Callable[[int, str, str], None],
    ) -> None:
        self.people = people
        self._site_timezone = site_timezone
        try:
            self._compiler = Compiler(rules, site_timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ConfigError(f"site time zone {site_timezone!r} is not an IANA name such as Asia/Shanghai") from error
        self._states = states
        self._devices = states.devices
        self._ordinary = ordinary
        self._wake = wake
        self._persons: dict[str, Person] = {}

    def reload(self, rules: RuleSet | None) -> None:
        """Make every machine anew when it is next asked for; of these rules, or (None) of those of before."""
        if rules is not None:
            self._compiler = Compiler(rules, self._site_timezone)
        for device in self._devices.values():
            device.person = None
            device.calm = False
        self._persons.clear()

    def limits(self, person_id: str, at_us: int) -> list[dict[str, Any]]:
        """As ``RulesEngine.limits``."""
        plan = self.people.plan(person_id) or CarePlan(person_id=person_id)
        return [
            {
                "metric": limit.metric,
                "side": "high" if limit.high else "low",
                "level": "urgent" if limit.level == URGENT else "advisory",
                "limit": limit.value,
                "inclusive": limit.inclusive,
                "own": limit.override is not None,
            }
            for limit in self._compiler.limits(plan, at_us)
        ]

    def device(self, device_id: str, person_id: str, now_us: int) -> Device:
        """The device, as this person's from now on."""
        device = self._devices.get(device_id)
        if device is None:
            device = self._devices[device_id] = Device(device_id)
        elif device.waiting:
            self._states.touch_device(device)
        if device.person is None or device.person_id != person_id:
            if device.person is not None:
                device.person.devices.remove(device)
            person = self.person(person_id, device_id, now_us)
            care = self.people.device_care(device_id) or DeviceCare(device_id=device_id)
            device.settle(person, self._compiler.device(care, person.plan))
            self._ordinary.index(person, device.by_metric)
            self._ordinary.index_places(device, person)
        return device

    def device_of(self, slot: Slot, now_us: int) -> Device | None:
        """The device that a state speaks of; None when it has none or the device belongs to somebody else by now."""
        if not slot.device_id:
            return None
        device = self._devices.get(slot.device_id)
        if device is None or device.person is None:
            return self.device(slot.device_id, slot.person_id, now_us)
        return device if device.person_id == slot.person_id else None

    def person(self, person_id: str, device_id: str, now_us: int) -> Person:
        """The machines of a person; of the device alone where it belongs to nobody."""
        key = person_id or f"device:{device_id}"
        person = self._persons.get(key)
        if person is None:
            plan = (self.people.plan(person_id) if person_id else None) or CarePlan(person_id=person_id)
            compiled = self._compiler.person(plan, now_us)
            person = self._persons[key] = Person(person_id, key, plan, compiled)
            if compiled.until_us is not None:
                self._wake(compiled.until_us, PLAN_WAKE, key)
        return person

    def renew(self, person_key: str, now_us: int) -> None:
        """A validity began or ended: make the person's machines anew."""
        person = self._persons.get(person_key)
        if person is None or person.until_us != now_us:
            return
        del self._persons[person_key]
        for device in person.devices:
            device.person = None
            device.calm = False
        self.person(person.person_id, person.subject.removeprefix("device:"), now_us)
