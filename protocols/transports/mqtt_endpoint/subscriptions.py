"""What a device may subscribe to."""

from __future__ import annotations

from protocols.transports.mqtt_endpoint import packets
from protocols.transports.mqtt_endpoint import properties as p
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.packets import Subscribe
from protocols.transports.mqtt_endpoint.queue import TOPIC_BYTES, Subscriptions
from protocols.transports.mqtt_endpoint.topics import own, valid_filter

REASON = "a device may subscribe under its own prefix only, without $share"


def grant(device_id: str, known: Subscriptions, packet: Subscribe, limits: Limits) -> tuple[Subscriptions, list[int]]:
    """The subscriptions to add, and the code for each filter: the granted QoS (at most 1) or an MQTT 5 reason."""
    identifier = packet.properties.get(p.SUBSCRIPTION_IDENTIFIER, [0])[0]
    granted: Subscriptions = {}
    codes = []
    for wanted in packet.filters:
        code = min(wanted.qos, 1)
        if wanted.pattern.startswith("$share/"):
            code = packets.SHARED_NOT_SUPPORTED
        elif not valid_filter(wanted.pattern) or len(wanted.pattern) > TOPIC_BYTES:
            code = packets.FILTER_NOT_VALID
        elif not own(device_id, wanted.pattern):
            code = packets.NOT_AUTHORIZED
        elif len(known.keys() | granted.keys() | {wanted.pattern}) > limits.subscriptions:
            code = packets.QUOTA_EXCEEDED
        else:
            granted[wanted.pattern] = (code, identifier)
        codes.append(code)
    return granted, codes
