"""Topic names and filters: what is valid (3.1.1 and 5.0 section 4.7), and what is a device's own."""

from __future__ import annotations

import functools


def up_topic(device_id: str) -> str:
    return f"carebell/{device_id}/up"


def down_topic(device_id: str, suffix: str = "") -> str:
    return f"carebell/{device_id}/down/{suffix}" if suffix else f"carebell/{device_id}/down"


def own(device_id: str, name: str) -> bool:
    """Whether a topic name or filter lies under the device's own prefix, wildcards only behind it."""
    return name.startswith(f"carebell/{device_id}/")


def valid_name(name: str) -> bool:
    """At least one character, no wildcards ([MQTT-4.7.3-1], [MQTT-3.3.2-2])."""
    return bool(name) and "+" not in name and "#" not in name


def valid_filter(pattern: str) -> bool:
    """``#`` only as the last level, ``+`` only as a whole level ([MQTT-4.7.1-1], [MQTT-4.7.1-2])."""
    if not pattern:
        return False
    levels = pattern.split("/")
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels):
        return False
    return "#" not in levels[:-1]


@functools.lru_cache(maxsize=4096)
def matches(pattern: str, name: str) -> bool:
    """Whether a valid filter covers a topic name (4.7.1; a trailing ``/#`` covers its parent too)."""
    wanted = pattern.split("/")
    given = name.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(given) or level not in ("+", given[position]):
            return False
    return len(wanted) == len(given)
