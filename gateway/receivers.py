"""The alarm receivers of ``[dc09]`` and ``[scaip]`` in the daemon: built, started, announced, counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway.clock import Clock
from gateway.config import Settings
from gateway.config_house import Dc09Section
from gateway.ports import Codec, Directory, Ingest, TerminalCodec
from gateway.supervise import keep_running
from gateway.tls import server_context
from protocols.codecs.dc09 import NO_KEYS, Dc09Codec
from protocols.codecs.dc09_frame import load_keys
from protocols.codecs.scaip import Dialect, ScaipCodec
from protocols.transports.datagram import DatagramListener
from protocols.transports.stream import StreamListener
from protocols.transports.terminal_talk import Limits

Listener = StreamListener | DatagramListener
UDP: Final = "/udp"


class ReceiverCodecs:
    """The receivers' codecs with what a site has told them. ``dialect_of`` tells how a SCAIP unit is answered.

    Raises ConfigError.
    """

    def __init__(self, settings: Settings, dialect_of: Callable[[str], Mapping[str, str] | None]) -> None:
        self.dc09 = _dc09(settings.dc09)

        def dialect(cid: str) -> Dialect | None:
            found = dialect_of(cid)
            return None if found is None else msgspec.convert(found, Dialect)

        self.scaip = ScaipCodec(
            dialect_of=dialect,
            default=Dialect(reply=settings.scaip.reply),
            transfer_to=settings.scaip.transfer_to,
        )
        scaip = settings.scaip
        self.scaip_tls = server_context("scaip", scaip.tls_listen, scaip.certificate_file, scaip.key_file)

    def by_name(self) -> Mapping[str, Codec]:
        return {codec.name: codec for codec in (self.dc09, self.scaip)}


class Receivers:
    """Every listener for alarm units. A ``HealthPart``."""

    name: Final = "receivers"

    def __init__(
        self, settings: Settings, codecs: ReceiverCodecs, *, ingest: Ingest, directory: Directory, clock: Clock
    ) -> None:
        self.listeners: dict[str, Listener] = {}
        dc09, scaip = settings.dc09, settings.scaip

        def listen(name: str, address: str, codec: TerminalCodec, limits: Limits) -> None:
            if not address:
                return
            kinds: tuple[tuple[str, type[Listener]], ...] = ((name, StreamListener), (name + UDP, DatagramListener))
            for key, kind in kinds:
                self.listeners[key] = kind(
                    listen=address, codec=codec, ingest=ingest, directory=directory, clock=clock, limits=limits
                )

        listen("dc09", dc09.listen, codecs.dc09, Limits(connections=dc09.max_connections, idle_s=dc09.idle_s))
        bounds = Limits(connections=scaip.max_connections, idle_s=scaip.idle_s)
        listen("scaip", scaip.listen, codecs.scaip, bounds)
        if scaip.tls_listen:
            self.listeners["scaips"] = StreamListener(
                listen=scaip.tls_listen,
                codec=codecs.scaip,
                ingest=ingest,
                directory=directory,
                clock=clock,
                limits=bounds,
                ssl_context=codecs.scaip_tls,
            )

    async def start(self) -> None:
        """Bind. Raises TransportError."""
        for listener in self.listeners.values():
            await listener.start()

    async def run(self) -> None:
        """Serve until cancelled; each listener by itself."""
        async with asyncio.TaskGroup() as group:
            for name, listener in self.listeners.items():
                group.create_task(keep_running(name, listener.run))

    def announce(self, say: Callable[[str], None]) -> None:
        """One line for each address; TCP and UDP of one port share theirs."""
        for name, listener in self.listeners.items():
            if not name.endswith(UDP):
                both = " tcp+udp" if name + UDP in self.listeners else ""
                say(f"{name:<8} {listener.address}{both}")

    def state(self) -> tuple[bool, str]:
        absent = [name for name, listener in self.listeners.items() if not listener.address]
        if absent:
            return False, f"not listening: {', '.join(absent)}"
        if not self.listeners:
            return True, "off"
        return True, f"{sum(listener.switchboard.live() for listener in self.listeners.values())} units connected"

    def counters(self) -> Mapping[str, int]:
        """By listener and what: ``dc09_frames`` ..."""
        return {
            f"{name.replace('/', '_')}_{what.removesuffix('_total')}": count
            for name, listener in self.listeners.items()
            for what, count in listener.counters().items()
            if what.endswith("_total")
        }


def _dc09(section: Dc09Section) -> Dc09Codec:
    return Dc09Codec(keys=load_keys(section.keys_file, "dc09.keys_file") if section.keys_file else NO_KEYS)
