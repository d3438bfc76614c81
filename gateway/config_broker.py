"""``[[broker]]``: connections to MQTT brokers that others run (docs/configuration.md)."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from gateway.config_types import Section

PORTS = {"mqtt": 1883, "mqtts": 8883}


def _broker_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        well = parts.scheme in PORTS and parts.hostname and not (parts.username or parts.query or parts.path.strip("/"))
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        well, port = False, 0
    if not well or not 0 < port <= 65_535:
        raise ValueError("write mqtt://host:port or mqtts://host:port; name and password have keys of their own")
    return value


class BrokerTopic(Section):
    """Topics of any maker, for a profile to explain. ``{device}`` in ``topic`` is the level that names the device."""

    topic: str = Field(min_length=1, max_length=1024)
    codec: str = "json"
    down: str = Field("", max_length=1024)
    retained: bool = False


class BrokerSection(Section):
    """One connection."""

    url: Annotated[str, AfterValidator(_broker_url)]
    client_id: str = Field("carebell-1", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    username: str = Field("", max_length=1024)
    password_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    share_group: str = Field("", pattern=r"^[^/+#\s]{0,64}$")
    codecs: tuple[str, ...] = ("zigbee2mqtt", "chirpstack")
    zigbee2mqtt_base: str = Field("zigbee2mqtt", pattern=r"^[^+#\s{}]{1,128}$")
    version: Literal["5", "3.1.1"] = "5"
    keepalive_s: int = Field(20, ge=1, le=600)
    session_expiry_s: int = Field(604_800, ge=3600, le=4_294_967_294)
    receive_maximum: int = Field(1000, ge=1, le=65_535)
    topics: list[BrokerTopic] = Field(default_factory=list)

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host, port, and whether TLS is spoken there."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or PORTS[parts.scheme], parts.scheme == "mqtts"
