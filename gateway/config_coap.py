"""``[coap]``, ``[lwm2m]`` and ``[push.*]``: terminals of the mobile Internet of Things (docs/configuration.md)."""

from __future__ import annotations

from pydantic import Field

from gateway.config_types import ListenAddress, Section

COAP_LISTEN = "127.0.0.1:5683"


class CoapSection(Section):
    """The CoAP listeners. Tokens count on a private plain listener alone; elsewhere a key of credentials_file."""

    listen: ListenAddress = COAP_LISTEN
    dtls_listen: ListenAddress = ""
    credentials_file: str = ""
    dtls_sessions: int = Field(2000, ge=1, le=100_000)


class Lwm2mSection(Section):
    """The LwM2M server on the CoAP listeners."""

    enabled: bool = True
    max_registrations: int = Field(20_000, ge=1, le=1_000_000)
    observe: tuple[str, ...] = ("/3/0", "/4/0", "/6/0", "/3300", "/3302", "/3303", "/3320", "/3323", "/3346", "/3347")
    pmin_s: int = Field(0, ge=0, le=86_400)
    pmax_s: int = Field(3600, ge=0, le=604_800)
    awake_s: float = Field(93.0, gt=0, le=3600)


class OneNetSection(Section):
    """Pushes of China Mobile's OneNET to POST /push/onenet. On when there is a token_file."""

    token_file: str = ""
    aes_key_file: str = ""


class CtwingSection(Section):
    """Pushes of China Telecom's CTWing (AEP) to POST /push/ctwing/<token>. On when there is a token_file."""

    token_file: str = ""


class PushReceivers(Section):
    """Operators' platforms that push what their NB-IoT terminals say."""

    onenet: OneNetSection = OneNetSection()
    ctwing: CtwingSection = CtwingSection()
