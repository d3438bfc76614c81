"""ChirpStack v4's MQTT integration in JSON: ``application/<id>/device/<devEUI>/event/<event>``.

A device is its DevEUI, as the topic says it. ``deduplicationId`` names an uplink: ChirpStack has already merged what
several gateways heard, and the id makes a second delivery of it a duplicate. ``object`` (what the codec in ChirpStack
made of the bytes) or the bytes themselves become fields for the device's profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.lorawan import kept, place, reception, uplink_fields
from protocols.codecs.terminal import Draft
from protocols.codecs.topic_message import identity, member, number, read_object, split, stated_us, text

NAME: Final = "chirpstack"
CONFIRMED: Final = "done"

Members = dict[str, Any]


class ChirpStackCodec:
    """``ports.Codec``. The text of a frame: see protocols.codecs.topic_message."""

    name = NAME

    def parse(self, frame: Frame) -> Sequence[Report]:
        message = split(frame.payload)
        levels = message.topic.split("/")
        if len(levels) < 6 or levels[-4] != "device" or levels[-2] != "event":
            raise ParseError("not a topic like application/<id>/device/<devEUI>/event/<event>")
        members, faults = read_object(message.payload)
        draft = Draft(frame, identity(levels[-3]))
        draft.faults = list(faults or ())
        info = members.get("deviceInfo")
        stated = identity(member(info, "devEui"))
        if stated and stated != draft.device_key:
            draft.fault("deviceInfo.devEui", "another device than the topic's")
        draft.at_us = stated_us(members.get("time"))
        draft.model_hint = text(member(info, "deviceProfileName"))
        named = text(members.get("deduplicationId"))
        draft.dedup_key = f"chirpstack:{levels[-1]}:{named}"[:200] if named else ""
        event = levels[-1]
        if message.retained:
            draft.keep("retained", event)
            return [draft.report()]
        handler = _EVENTS.get(event)
        fields = {} if handler is None else handler(draft, members)
        if handler is None:
            kept(draft, event, members, ())
        report = draft.report()
        report.fields = fields or None
        return [report]


def _up(draft: Draft, members: Members) -> Members:
    reception(draft, members.get("rxInfo"))
    fields = uplink_fields(draft, members.get("object"), members.get("fPort"), members.get("data"))
    kept(draft, "up", members, ("fCnt", "fPort", "dr", "confirmed"))
    return fields


def _join(draft: Draft, members: Members) -> Members:
    kept(draft, "join", members, ("devAddr",))
    draft.signal("connection_lost", active=False)
    return {}


def _ack(draft: Draft, members: Members) -> Members:
    """What the device itself confirmed. One that stayed silent leaves the command to its own time limit."""
    queue_id = text(members.get("queueItemId"))
    kept(draft, "ack", members, ("queueItemId", "acknowledged", "fCntDown"))
    if queue_id and members.get("acknowledged") is True:
        draft.keep("command_reply", {"command": queue_id, "result": CONFIRMED})
    return {}


def _txack(draft: Draft, members: Members) -> Members:
    """A gateway has sent it; that the device has it, only ``ack`` says."""
    kept(draft, "txack", members, ("queueItemId", "downlinkId", "fCntDown", "gatewayId"))
    return {}


def _status(draft: Draft, members: Members) -> Members:
    draft.measure("x_margin_db", number(members.get("margin")))
    level = number(members.get("batteryLevel"))
    unknown = members.get("batteryLevelUnavailable") is True or members.get("externalPowerSource") is True
    if not unknown:
        draft.measure("battery_percent", level)
    kept(draft, "status", members, ("externalPowerSource", "batteryLevelUnavailable"))
    return {} if unknown or level is None else {"status": {"batteryLevel": level}}


def _location(draft: Draft, members: Members) -> Members:
    place(draft, members.get("location"))
    kept(draft, "location", members, ())
    return {}


def _log(draft: Draft, members: Members) -> Members:
    kept(draft, "log", members, ("level", "code", "description"))
    return {}


_EVENTS: Final[Mapping[str, Callable[[Draft, Members], Members]]] = {
    "up": _up, "join": _join, "ack": _ack, "txack": _txack, "status": _status, "location": _location, "log": _log,
}  # fmt: skip
