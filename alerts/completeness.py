"""Whether an order says what whoever serves it has to know (DB12/T 1235 A.3: the review before dispatch). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

INCOMPLETE: Final = "incomplete: "
"""How the reason of a dead letter begins that was never sent because something is missing."""

CATEGORIES: Final = ("emergency", "service", "consultation", "maintenance")

_WANTED: Final[Mapping[str, tuple[str, ...]]] = {
    "emergency": ("person.id", "person.name", "person.phone", "person.address", "position"),
    "service": ("person.id", "person.name", "person.phone", "person.address"),
    "consultation": ("person.id", "person.name", "person.phone"),
    "maintenance": ("device.id", "device.model", "person.address", "person.phone"),
}
_NEEDED: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "emergency": (),
    "service": (("person.id",), ("person.phone", "person.address")),
    "consultation": (("person.id",), ("person.phone",)),
    "maintenance": (("device.id",),),
}
"""One of each group has to be known; an emergency is sent with whatever there is."""


class Completeness(Struct, frozen=True):
    """``missing``: what is not known, by its place in the order. ``held``: what it cannot go without, of that."""

    missing: tuple[str, ...]
    held: tuple[str, ...]

    def view(self) -> dict[str, Any]:
        """As the order says it."""
        return {"complete": not self.missing, "missing": list(self.missing)}


def check(category: str, order: Mapping[str, Any]) -> Completeness:
    """Look at an order's ``person``, ``device`` and ``position``."""
    missing = tuple(name for name in _WANTED[category] if not _known(order, name))
    held = tuple(" or ".join(group) for group in _NEEDED[category] if not any(_known(order, name) for name in group))
    return Completeness(missing, held)


def _known(order: Mapping[str, Any], name: str) -> bool:
    part, _, member = name.partition(".")
    value = order.get(part)
    return bool(value) if not member else bool((value or {}).get(member))


_HEALTH: Final = (
    "heart_rate_", "spo2_", "systolic_", "diastolic_", "blood_", "body_temperature_", "respiratory_", "weight_",
    "news2_", "mean_arterial_",
)  # fmt: skip


def intent_of(kind: str, category: str) -> str:
    """What the person wants: ``emergency``, ``life_help``, ``consultation``, ``maintenance`` or ``health_alarm``."""
    if category == "emergency":
        return "health_alarm" if kind.startswith(_HEALTH) else "emergency"
    return {"service": "life_help"}.get(category, category)
