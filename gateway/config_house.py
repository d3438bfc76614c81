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


class SerialSection(Section):
    """A line of ``[[serial]]``. ``device`` is the registry's id of what is at its other end."""

    port: str = Field(min_length=1)
    device: str = Field(min_length=1)
    codec: str
    baudrate: int = Field(9600, ge=50, le=4_000_000)
    bits: Literal[7, 8] = 8
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    delimiter: str = Field("", max_length=8)
    length: int = Field(0, ge=0, le=4096)
    silence_ms: int = Field(0, ge=0, le=60_000)
    reply: str = Field("", max_length=32, pattern=r"^[\x00-\xff]*$")
    point: str = ""
    encoding: Literal["utf-8", "gb18030", "latin-1", "ascii"] = "utf-8"
    every_s: float = Field(10.0, ge=0, le=86_400)
    read: tuple[str, ...] = ()
    poll_ms: int = Field(500, ge=50, le=600_000)


class CtiSection(Section):
    """``POST /cti/v1/call``: a telephone system tells who calls the number for help."""

    enabled: bool = True
