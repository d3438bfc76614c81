"""Theengs Gateway: decoded BLE advertisements, ``home/<gateway>/BTtoMQTT/<MAC>``, and the gateway's ``LWT``.

Everything of it is QoS 0 and told again at the next advertisement. A device is its MAC address. Members with a common
meaning become observations; all are fields besides, for the device's profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.terminal import Draft
from protocols.codecs.topic_message import identity, number, read_object, split, text

NAME: Final = "theengs"

_NUMBERS: Final[Mapping[str, str]] = {
    "batt": "battery_percent",
    "volt": "battery_volts",
    "tempc": "temperature_celsius",
    "hum": "humidity_percent",
    "rssi": "rssi_dbm",
}
_ABOUT: Final = ("name", "model", "model_id", "brand", "type")


class TheengsCodec:
    """``ports.Codec``. The text of a frame: see protocols.codecs.topic_message."""

    name = NAME

    def parse(self, frame: Frame) -> Sequence[Report]:
        message = split(frame.payload)
        levels = message.topic.split("/")
        if len(levels) >= 2 and levels[-1] == "LWT":
            return [_gateway(frame, "/".join(levels[:-1]), message.payload)]
        if len(levels) < 3 or levels[-2] != "BTtoMQTT":
            raise ParseError("not a topic like home/<gateway>/BTtoMQTT/<MAC>")
        members, faults = read_object(message.payload)
        draft = Draft(frame, identity(levels[-1]) or identity(members.get("id")))
        draft.faults = list(faults or ())
        draft.model_hint = text(members.get("model_id"))
        if message.retained:
            draft.keep("retained", True)
            return [draft.report()]
        for name, metric in _NUMBERS.items():
            draft.measure(metric, number(members.get(name)))
        opened = members.get("open")
        if isinstance(opened, bool):
            draft.signal("door_open" if opened else "door_closed")
        draft.keep("theengs", {name: text(members.pop(name)) for name in _ABOUT if name in members})
        members.pop("id", None)
        report = draft.report()
        report.fields = members or None
        return [report]


def _gateway(frame: Frame, key: str, payload: bytes) -> Report:
    word = payload.decode("utf-8", "replace").strip()
    if word not in ("online", "offline"):
        raise ParseError("neither online nor offline")
    draft = Draft(frame, key)
    draft.signal("connection_lost", active=word == "offline")
    return draft.report()
