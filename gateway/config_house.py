"""``[dc09]``, ``[scaip]``, ``[[serial]]`` and ``[cti]``: alarm receivers, serial lines, telephones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config_types import ListenAddress, Section


class Dc09Section(Section):
    """The SIA DC-09 receiver, over TCP and UDP on one port. ``keys_file``: a line ``account key`` for each account."""

    listen: ListenAddress = ""
    keys_file: str = ""
    max_connections: int = Field(5000, ge=1, le=100_000)
    idle_s: float = Field(900.0, ge=1, le=86_400)


class ScaipSection(Section):
    """The SCAIP receiver: SIP over UDP and TCP on one port, over TLS on another."""

    listen: ListenAddress = ""
    tls_listen: ListenAddress = ""
    certificate_file: str = ""
    key_file: str = ""
    reply: Literal["separate", "inline"] = "separate"
    transfer_to: str = Field("", pattern=r"^$|^(sips?|tel|gsm):[^\s<>]{1,200}$")
    max_connections: int = Field(5000, ge=1, le=100_000)
    idle_s: float = Field(900.0, ge=1, le=86_400)
