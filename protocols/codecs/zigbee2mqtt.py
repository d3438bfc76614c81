"""Zigbee2MQTT: what its topics say. ``<base>/<friendly name>`` carries the state of a device as a JSON object.

Names are the site's own; ``<base>/bridge/devices`` says which device (IEEE address) each stands for. That list is
taught to the connection as ``Report.context``, ``{"names": {name: address}}``; a message under a name that nobody has
explained goes by the name. The base is the first level of the topic, or ``Frame.context["base"]``.

Members with a common meaning become observations here, whether or not the device is registered; all members are fields
besides, for the device's profile (what ``action`` means differs from button to button). A retained message tells
states, never a new press: its momentary members stay readable under ``retained`` and count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.terminal import Draft
from protocols.codecs.tolerant_json import Faults, clean, kind, load
from protocols.codecs.topic_message import Message, identity, member, number, read_object, split, stated_us, text

NAME: Final = "zigbee2mqtt"
MAX_DEVICES: Final = 1000
MAX_LIST_BYTES: Final = 4 << 20
EMERGENCY_ACTIONS: Final = frozenset({"emergency", "sos", "panic"})
MOMENTARY: Final = frozenset({"action", "sos", "emergency", "panic", "vibration", "occupancy", "presence", "test"})

_STATES: Final[Mapping[str, str]] = {
    "sos": "sos",
    "emergency": "sos",
    "panic": "sos",
    "smoke": "smoke",
    "gas": "gas",
    "carbon_monoxide": "carbon_monoxide",
    "water_leak": "water_leak",
    "tamper": "tamper",
    "battery_low": "low_battery",
    "vibration": "vibration",
    "occupancy": "motion",
    "presence": "motion",
    "test": "test",
}
_NUMBERS: Final[Mapping[str, str]] = {
    "battery": "battery_percent",
    "temperature": "temperature_celsius",
    "humidity": "humidity_percent",
    "co": "carbon_monoxide_ppm",
    "linkquality": "x_linkquality",
}
_OWN: Final = frozenset({"set", "get"})  # what is said to devices
_LARGE: Final = frozenset({"info", "groups", "definitions", "extensions", "converters", "logging", "log", "health"})
_KEPT: Final = ("friendly_name", "type", "supported", "disabled", "power_source", "interview_state", "network_address")


def not_for_us(topic: str, base: str) -> bool:
    """Topics that say nothing of a device: what is said to devices, and the bridge's large pages about itself."""
    levels = topic.removeprefix(f"{base}/").split("/")
    if levels[0] == "bridge":
        return len(levels) > 1 and (levels[1] in _LARGE or levels[1] == "request")
    return any(level in _OWN for level in levels[1:])


class Zigbee2MqttCodec:
    """``ports.Codec``. The text of a frame: see protocols.codecs.topic_message."""

    name = NAME

    def parse(self, frame: Frame) -> Sequence[Report]:
        message = split(frame.payload, most=MAX_LIST_BYTES if b"/bridge/devices " in frame.payload[:300] else 65_536)
        context = frame.context or {}
        base = text(context.get("base")) or message.topic.partition("/")[0]
        rest = message.topic.removeprefix(f"{base}/")
        if rest == message.topic or not rest:
            raise ParseError(f"not a topic below {base}/")
        names = context.get("names")
        names = names if isinstance(names, Mapping) else {}
        if rest.startswith("bridge/"):
            return _bridge(frame, message, base, rest.removeprefix("bridge/"))
        if rest.endswith("/availability"):
            draft = Draft(frame, key_of(rest.removesuffix("/availability"), names))
            return [_presence(draft, message.payload)]
        return [_state(frame, message, key_of(rest, names))]


def key_of(name: str, names: Mapping[str, str]) -> str:
    """The address of a friendly name; the name itself (which may be an address) when nobody has explained it."""
    known = names.get(name)
    return known if isinstance(known, str) and known else identity(name)


def _state(frame: Frame, message: Message, key: str) -> Report:
    if not message.payload:
        raise ParseError("an empty message: the broker was told to forget the topic")
    members, faults = read_object(message.payload)
    draft = Draft(frame, key)
    draft.at_us = stated_us(members.get("last_seen"))
    if message.retained:
        past = {name: value for name, value in members.items() if name in MOMENTARY}
        members = {name: value for name, value in members.items() if name not in MOMENTARY}
        if past:
            draft.keep("retained", past)
    for name, signal in _STATES.items():
        value = members.get(name)
        if isinstance(value, bool):
            draft.signal(signal, active=value)
    contact = members.get("contact")
    if isinstance(contact, bool):
        draft.signal("door_closed" if contact else "door_open")
    for name, metric in _NUMBERS.items():
        draft.measure(metric, number(members.get(name)))
    action = members.get("action")
    if isinstance(action, str) and action.strip().lower() in EMERGENCY_ACTIONS:
        draft.signal("sos")
    if action in ("", None):  # what old versions say when a button is let go
        members.pop("action", None)
    device = members.pop("device", None)  # include_device_information
    stated = identity(member(device, "ieeeAddr") or member(device, "ieee_address"))
    draft.device_key = stated or draft.device_key
    draft.model_hint = text(member(device, "model"))
    report = draft.report()
    report.fields = members
    report.faults = [*(report.faults or ()), *(faults or ())] or None
    return report


def _presence(draft: Draft, payload: bytes) -> Report:
    """``online`` and ``offline``, bare or as ``{"state": ...}``."""
    word = payload.decode("utf-8", "replace").strip()
    if word.startswith("{"):
        word = text(read_object(payload)[0].get("state"))
    if word not in ("online", "offline"):
        raise ParseError("neither online nor offline")
    draft.signal("connection_lost", active=word == "offline")
    return draft.report()


def _bridge(frame: Frame, message: Message, base: str, what: str) -> Sequence[Report]:
    """What the bridge says of itself goes by the key ``<base>/bridge``, so that it can be registered as a device."""
    bridge = Draft(frame, f"{base}/bridge")
    if what == "state":
        return [_presence(bridge, message.payload)]
    if what == "devices":
        return _devices(frame, message)
    members, faults = read_object(message.payload)
    bridge.faults = list(faults or ())
    if what == "event":
        data = members.get("data")
        bridge.device_key = identity(member(data, "ieee_address")) or bridge.device_key
        bridge.keep("zigbee", {"event": text(members.get("type")), "status": text(member(data, "status"))})
        if members.get("type") == "device_leave":
            bridge.signal("connection_lost")
        return [bridge.report()]
    if what.startswith("response/"):
        named = text(members.get("transaction"))
        bridge.device_key = identity(member(members, "data", "id")) or bridge.device_key
        bridge.keep("zigbee", {"response": what.removeprefix("response/"), "error": text(members.get("error"), 200)})
        if named:
            result = "done" if members.get("status") == "ok" else "refused"
            bridge.keep("command_reply", {"command": named, "result": result})
        return [bridge.report()]
    bridge.keep("zigbee", {"topic": f"bridge/{what}"[:128]})
    return [bridge.report()]


def _devices(frame: Frame, message: Message) -> Sequence[Report]:
    """One report for each device: those that are not registered are found among the unknown ones, to be claimed."""
    loaded, faults = load(message.payload)
    if not isinstance(loaded, list):
        raise ParseError(f"{kind(loaded)}, not a list of devices")
    notes = Faults("", faults)
    value: list[Any] = clean(loaded, 1, "", notes)
    faults = notes.texts() or []
    names: dict[str, str] = {}
    reports: list[Report] = []
    for device in value:
        address = identity(member(device, "ieee_address"))
        if not address or member(device, "type") == "Coordinator":
            continue
        if len(names) == MAX_DEVICES:
            faults.append(f"more than {MAX_DEVICES} devices; the others are not used")
            break
        name = text(member(device, "friendly_name"), 512)
        names[name or address] = address
        draft = Draft(frame, address)
        told = {known: member(device, known) for known in _KEPT}
        told |= {known: member(device, "definition", known) for known in ("model", "vendor")}
        draft.keep("zigbee", {known: _plain(value) for known, value in told.items() if _plain(value) is not None})
        reports.append(draft.report())
    if not reports:
        reports.append(Report())
    reports[-1].faults = faults or None
    reports[-1].context = {**(frame.context or {}), "names": names}
    return reports


def _plain(value: Any) -> str | int | bool | None:
    if isinstance(value, bool):
        return value
    return text(value) or None
