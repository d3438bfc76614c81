"""The listeners of ``[trackers]``: one port for each codec of terminals, and the way back to who is connected."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.config import TrackersSection
from gateway.errors import ConfigError, TransportError
from gateway.ports import Directory, Ingest, Resolver
from gateway.supervise import keep_running
from protocols.codecs.jt808.codec import Jt808Codec
from protocols.locating import CsvResolver, HttpResolver, Locator
from protocols.registry import TERMINALS
from protocols.transports.datagram import DatagramListener
from protocols.transports.stream import StreamListener
from protocols.transports.terminal_talk import Limits

Listener = StreamListener | DatagramListener

log: Final = structlog.get_logger("trackers")


class Place(Struct, frozen=True):
    """Where a codec listens. ``chosen``: somebody wrote that down; else it is the well-known port."""

    codec: str
    listen: str
    chosen: bool


def places(section: TrackersSection) -> list[Place]:
    """Where each codec of terminals listens. Raises ConfigError for a codec that there is not."""
    found: list[Place] = []
    stray = sorted(set(section.listen) - set(TERMINALS))
    if stray:
        close = difflib.get_close_matches(stray[0], TERMINALS, n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(sorted(TERMINALS))}"
        raise ConfigError(f"trackers.{stray[0]}: unknown key; {hint}")
    for name, codec in sorted(TERMINALS.items()):
        listen = section.listen.get(name)
        if listen is None and section.host:
            host = f"[{section.host}]" if ":" in section.host else section.host
            found.append(Place(name, f"{host}:{codec.default_port}", False))
        elif listen:
            found.append(Place(name, listen, True))
    return found


class Terminals:
    """Every listener for terminals. Implements ``ports.Downlink``. A ``HealthPart``."""

    name = "trackers"

    def __init__(self, section: TrackersSection, *, ingest: Ingest, directory: Directory, clock: Clock) -> None:
        """Raises ConfigError."""
        limits = Limits(
            connections=section.max_connections,
            unknown_per_address=section.max_unknown_per_address,
            idle_s=section.idle_s,
        )
        self.listeners: dict[str, Listener] = {}
        self._chosen: set[str] = set()
        self._absent: dict[str, str] = {}
        for place in places(section):
            codec = TERMINALS[place.codec]
            kinds: list[type[Listener]] = [StreamListener, *([DatagramListener] if codec.datagrams else [])]
            for kind in kinds:
                name = place.codec if kind is StreamListener else f"{place.codec}/udp"
                self.listeners[name] = kind(
                    listen=place.listen, codec=codec, ingest=ingest, directory=directory, clock=clock, limits=limits
                )
                if place.chosen:
                    self._chosen.add(name)
        self.locator = _locator(section, ingest, clock)

    def use_secret(self, secret: bytes) -> None:
        """What codes for terminals are made from, at least 16 bytes; before ``start``."""
        for codec in TERMINALS.values():
            if isinstance(codec, Jt808Codec):
                codec.use_secret(secret)

    async def start(self) -> None:
        """Bind. Raises TransportError for an address that somebody chose; a well-known port that another program has
        is said by ``announce`` and by the health, and tried again.
        """
        for name, listener in self.listeners.items():
            try:
                await listener.start()
            except TransportError as error:
                if name in self._chosen:
                    raise
                self._absent[name] = str(error)
                log.error("tracker_port_taken", listener=name, error=str(error))

    async def run(self) -> None:
        """Serve until cancelled; each listener by itself."""
        async with asyncio.TaskGroup() as group:
            for name, listener in self.listeners.items():
                group.create_task(keep_running(name, listener.run))
            if self.locator is not None:
                group.create_task(keep_running("locator", self.locator.run))

    def announce(self, say: Callable[[str], None]) -> None:
        """One line for each address; TCP and UDP of one port share theirs."""
        for name, listener in self.listeners.items():
            if name.endswith("/udp") or not listener.address:
                continue
            both = " tcp+udp" if f"{name}/udp" in self.listeners else ""
            say(f"{name:<8} {listener.address}{both}")
        for error in self._absent.values():
            say(f'NOTE     {error}; set [trackers] to other ports or to ""')

    async def send(self, device_id: str, payload: bytes) -> bool:
        """``ports.Downlink``: on whichever listener the device is connected to."""
        for listener in self.listeners.values():
            if await listener.send(device_id, payload):
                return True
        return False

    def state(self) -> tuple[bool, str]:
        absent = [name for name, listener in self.listeners.items() if not listener.address]
        if absent:
            return False, f"not listening: {', '.join(absent)}"
        return True, f"{sum(listener.switchboard.live() for listener in self.listeners.values())} devices connected"

    def counters(self) -> Mapping[str, int]:
        """Totals over all listeners, for the metrics."""
        return _summed([listener.counters() for listener in self.listeners.values()])

    def frames(self) -> Mapping[str, int]:
        """Frames by listener."""
        return {name: listener.switchboard.counts["frames"] for name, listener in self.listeners.items()}


def _summed(all_counters: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counters in all_counters:
        for name, value in counters.items():
            total[name] = total.get(name, 0) + value
    return total


def _locator(section: TrackersSection, ingest: Ingest, clock: Clock) -> Locator | None:
    resolver: Resolver
    if section.resolver_file:
        resolver = CsvResolver.load(section.resolver_file)
    elif section.resolver_url:
        resolver = HttpResolver(section.resolver_url, section.resolver_timeout_s)
    else:
        return None
    return Locator(resolver, ingest, clock)
