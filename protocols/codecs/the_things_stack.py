"""The Things Stack v3's MQTT server in JSON: ``v3/<application>@<tenant>/devices/<device id>/<event>``.

A device is its DevEUI (``end_device_ids.dev_eui``), else the device id of the topic. The LoRaWAN session and its frame
counter name an uplink. Answers to commands are known by the correlation id ``carebell:<command id>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.lorawan import kept, place, reception, uplink_fields
from protocols.codecs.terminal import Draft
from protocols.codecs.topic_message import identity, member, number, read_object, split, stated_us, text

NAME: Final = "the_things_stack"
CORRELATION: Final = "carebell:"


class TheThingsStackCodec:
    """``ports.Codec``. The text of a frame: see protocols.codecs.topic_message."""

    name = NAME

    def parse(self, frame: Frame) -> Sequence[Report]:
        message = split(frame.payload)
        levels = message.topic.split("/")
        if len(levels) < 5 or levels[0] != "v3" or levels[2] != "devices":
            raise ParseError("not a topic like v3/<application>@<tenant>/devices/<device>/<event>")
        event = "/".join(levels[4:])
        members, faults = read_object(message.payload)
        ids = members.get("end_device_ids")
        draft = Draft(frame, identity(member(ids, "dev_eui")) or identity(levels[3]))
        draft.faults = list(faults or ())
        draft.at_us = stated_us(members.get("received_at"))
        if message.retained:
            draft.keep("retained", event)
            return [draft.report()]
        fields: dict[str, Any] = {}
        if event == "up":
            fields = _up(draft, members.get("uplink_message"))
        elif event == "join":
            draft.signal("connection_lost", active=False)
            kept(draft, event, {}, ())
        elif event == "location/solved":
            place(draft, member(members, "location_solved", "location"))
            kept(draft, event, {}, ())
        else:
            _down(draft, event, members)
        report = draft.report()
        report.fields = fields or None
        return [report]


def _up(draft: Draft, uplink: Any) -> dict[str, Any]:
    if not isinstance(uplink, dict):
        raise ParseError("an uplink without uplink_message")
    session, counter = text(uplink.get("session_key_id")), text(uplink.get("f_cnt", 0))
    port = uplink.get("f_port", 0)
    if session and counter:  # proto3: a counter of 0 is left out
        draft.dedup_key = f"tts:{session}:{counter}:{text(port)}"[:200]
    draft.at_us = stated_us(uplink.get("received_at")) or draft.at_us
    reception(draft, uplink.get("rx_metadata"))
    draft.measure("battery_percent", number(member(uplink, "last_battery_percentage", "value")))
    for found in _locations(uplink.get("locations")):
        place(draft, found)
    draft.model_hint = text(member(uplink, "version_ids", "model_id"))
    kept(draft, "up", uplink, ("f_cnt", "f_port", "confirmed"))
    return uplink_fields(draft, uplink.get("decoded_payload"), port, uplink.get("frm_payload"))


def _locations(found: Any) -> list[Any]:
    """Places of the device by their origin; one that was entered by hand counts only when there is no other."""
    if not isinstance(found, dict):
        return []
    return sorted(list(found.values())[:8], key=lambda one: text(member(one, "source")) != "SOURCE_REGISTRY")


def _down(draft: Draft, event: str, members: dict[str, Any]) -> None:
    """``down/ack`` is the device's word; ``down/sent`` only the gateway's, ``down/nack`` will be tried again."""
    kept(draft, event, {}, ())
    told = next((value for name, value in members.items() if name.startswith("downlink_")), None)
    named = [*_texts(member(told, "correlation_ids")), *_texts(members.get("correlation_ids"))]
    command = next((one.removeprefix(CORRELATION) for one in named if one.startswith(CORRELATION)), "")
    if command and event in ("down/ack", "down/failed"):
        result = "done" if event == "down/ack" else "refused"
        draft.keep("command_reply", {"command": command[:64], "result": result})


def _texts(value: Any) -> list[str]:
    return [one for one in value[:32] if isinstance(one, str)] if isinstance(value, list) else []
