"""What is subscribed to on a broker, which codec reads a topic, and where a device is spoken to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.errors import ConfigError, UsageError
from protocols.codecs import chirpstack, the_things_stack, theengs, zigbee2mqtt
from protocols.codecs.topic_message import MAX_TOPIC, prefix_of

DEVICE: Final = "{device}"
MAX_ROUTES: Final = 50_000  # topics whose route is remembered

FILTERS: Final[Mapping[str, tuple[str, ...]]] = {
    zigbee2mqtt.NAME: ("{base}/#",),
    chirpstack.NAME: ("application/+/device/+/event/+",),
    the_things_stack.NAME: (
        "v3/+/devices/+/up", "v3/+/devices/+/join", "v3/+/devices/+/location/solved", "v3/+/devices/+/down/ack",
        "v3/+/devices/+/down/nack", "v3/+/devices/+/down/sent", "v3/+/devices/+/down/failed",
    ),
    theengs.NAME: ("home/+/BTtoMQTT/+", "home/+/LWT"),
}  # fmt: skip
"""The topics of each codec that knows its own."""


class TopicRule(Struct, frozen=True):
    """Topics of any maker. ``topic`` is a filter with ``{device}`` for the one level that names the device.

    ``codec`` reads the payload. ``down`` is where the device is spoken to. ``retained``: take retained messages too.
    """

    topic: str
    codec: str = "json"
    down: str = ""
    retained: bool = False


class Route(Struct, frozen=True, gc=False):
    """Where a topic leads. ``envelope``: the codec wants the topic before the payload. ``codec`` "": nowhere."""

    codec: str
    source: str
    device_key: str = ""
    prefix: bytes = b""
    retained_prefix: bytes = b""
    retained: bool = True
    names_devices: bool = False
    base: str = ""


class _Rule(Struct, frozen=True):
    rule: TopicRule
    pattern: re.Pattern[str]


class Topics:
    """The subscriptions of one connection, and the routes of what they bring. Raises ConfigError for what cannot be."""

    def __init__(
        self, codecs: Sequence[str], rules: Sequence[TopicRule], *, base: str, share_group: str, label: str
    ) -> None:
        self._base = base.strip("/")
        self._group = share_group
        self._label = label
        self._rules = [_Rule(rule, _pattern(rule.topic)) for rule in rules]
        self._routes: dict[bytes, Route] = {}
        stray = [name for name in codecs if name not in FILTERS]
        if stray:
            raise ConfigError(
                f"codecs: {stray[0]!r} has no topics of its own; known: {', '.join(sorted(FILTERS))};"
                " topics of others go into [[broker.topics]]"
            )
        self._codecs = {
            name: [(made, _pattern(made)) for made in (one.format(base=self._base) for one in FILTERS[name])]
            for name in codecs
        }

    def subscriptions(self) -> list[str]:
        """The filters, as they are subscribed to: within the shared group, if there is one.

        A shared subscription gets no retained messages, so the list of Zigbee devices is asked for beside it.
        """
        plain = [made for filters in self._codecs.values() for made, _ in filters]
        plain += [one.rule.topic.replace(DEVICE, "+") for one in self._rules]
        plain = list(dict.fromkeys(plain))
        if not self._group:
            return plain
        shared = [f"$share/{self._group}/{one}" for one in plain]
        return [*shared, f"{self._base}/bridge/devices"] if zigbee2mqtt.NAME in self._codecs else shared

    def route(self, topic: bytes) -> Route:
        """Where this topic leads. Remembered: a topic is looked at once."""
        found = self._routes.get(topic)
        if found is None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            found = self._routes[topic] = self._find(topic.decode("utf-8", "replace")[:MAX_TOPIC])
        return found

    def _find(self, topic: str) -> Route:
        source = f"{self._label} {topic}"
        for one in self._rules:
            match = one.pattern.fullmatch(topic)
            if match is not None:
                key = match["device"] if DEVICE in one.rule.topic else topic
                return Route(one.rule.codec, source, key, retained=one.rule.retained)
        for name, filters in self._codecs.items():
            if any(pattern.fullmatch(topic) for _, pattern in filters):
                zigbee = name == zigbee2mqtt.NAME
                if zigbee and zigbee2mqtt.not_for_us(topic, self._base):
                    break
                return Route(
                    name, source, prefix=prefix_of(topic), retained_prefix=prefix_of(topic, retained=True),
                    names_devices=zigbee and topic == f"{self._base}/bridge/devices", base=self._base if zigbee else "",
                )  # fmt: skip
        return Route("", source)

    def down(self, topic: str, payload: bytes) -> tuple[str, bytes] | None:
        """Where to speak to the device that spoke on ``topic``, and how ``payload`` is put there; None: nowhere.

        Raises UsageError for a payload that the other side would refuse in silence.
        """
        for one in self._rules:
            match = one.pattern.fullmatch(topic)
            if match is not None:
                return (one.rule.down.replace(DEVICE, match["device"]), payload) if one.rule.down else None
        levels = topic.split("/")
        if chirpstack.NAME in self._codecs and levels[-2:-1] == ["event"] and len(levels) >= 6:
            return "/".join([*levels[:-2], "command", "down"]), _with(payload, devEui=levels[-3])
        if the_things_stack.NAME in self._codecs and levels[0] == "v3" and len(levels) >= 5:
            members = _object(payload)
            pushed = members if "downlinks" in members else {"downlinks": [members]}
            return "/".join([*levels[:4], "down", "push"]), msgspec.json.encode(pushed)
        if zigbee2mqtt.NAME in self._codecs and topic.startswith(f"{self._base}/"):
            return self.zigbee_down(topic.removeprefix(f"{self._base}/").removesuffix("/availability")), payload
        return None

    def zigbee_down(self, name: str) -> str:
        """The topic that sets a Zigbee device of this friendly name."""
        return f"{self._base}/{name}/set"


def _object(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError("the network server takes a JSON object") from error


def _with(payload: bytes, **members: str) -> bytes:
    """ChirpStack refuses a command whose devEui is not the topic's with no more than a line in its own log."""
    return msgspec.json.encode({**_object(payload), **members})


def _pattern(made: str) -> re.Pattern[str]:
    """Raises ConfigError for what is no topic filter."""
    levels = made.split("/")
    wrong = ["#" in level and (level != "#" or index < len(levels) - 1) for index, level in enumerate(levels)]
    wrong += ["+" in level and level != "+" for level in levels]
    wrong += [DEVICE in level and level != DEVICE for level in levels]
    if not made or len(made) > MAX_TOPIC or "\0" in made or any(wrong) or levels.count(DEVICE) > 1:
        raise ConfigError(f"{made!r} is no topic filter; + and {DEVICE} stand for one whole level, # for the last ones")
    parts = []
    for index, level in enumerate(levels):
        if level == "#":
            parts.append("(?:/.*)?" if index else ".*")
            break
        kind = {"+": "[^/]*", DEVICE: "(?P<device>[^/]+)"}.get(level, re.escape(level))
        parts.append(("/" if index else "") + kind)
    return re.compile("".join(parts), re.DOTALL)
