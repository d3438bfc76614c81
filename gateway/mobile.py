"""CoAP, LwM2M and the operators' pushes in the daemon: built from the configuration, started, announced, counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from gateway.clock import Clock
from gateway.config import Settings, read_secret
from gateway.config_coap import COAP_LISTEN
from gateway.errors import TransportError
from gateway.ports import Directory, Ingest, Store
from gateway.registry.directory import Registry
from gateway.supervise import keep_running
from protocols.transports.coap.endpoint import CoapEndpoint, CoapOptions, check_options
from protocols.transports.lwm2m.server import Lwm2mOptions, Lwm2mServer
from protocols.transports.operator_push import Ctwing, OneNet, PushReceivers


def push_receivers(settings: Settings, *, ingest: Ingest, directory: Directory, clock: Clock) -> PushReceivers | None:
    """What receives the operators' pushes, None when none is configured. Raises ConfigError."""
    onenet, ctwing = settings.push.onenet, settings.push.ctwing
    if not onenet.token_file and not ctwing.token_file:
        return None
    key = read_secret(onenet.aes_key_file, "push.onenet.aes_key_file") if onenet.aes_key_file else ""
    return PushReceivers(
        onenet=OneNet(read_secret(onenet.token_file, "push.onenet.token_file"), key) if onenet.token_file else None,
        ctwing=Ctwing(read_secret(ctwing.token_file, "push.ctwing.token_file")) if ctwing.token_file else None,
        ingest=ingest,
        directory=directory,
        clock=clock,
    )


log = structlog.get_logger("coap")


class MobileLinks:
    """The CoAP listeners with what is served on them. Implements ``ports.Downlink``. A ``HealthPart``."""

    name = "coap"

    def __init__(self, settings: Settings, *, ingest: Ingest, registry: Registry, store: Store, clock: Clock) -> None:
        """Raises ConfigError."""
        section = settings.coap
        options = CoapOptions(section.listen, section.dtls_listen, section.credentials_file, section.dtls_sessions)
        check_options(options)
        self._listens = bool(section.listen or section.dtls_listen)
        self._chosen = bool(section.dtls_listen) or section.listen != COAP_LISTEN
        self._absent = ""
        self.coap = CoapEndpoint(
            options,
            ingest=ingest,
            credentials=registry,
            directory=registry,
            clock=clock,
            state_dir=Path(settings.data_dir),
        )
        self.lwm2m: Lwm2mServer | None = None
        if settings.lwm2m.enabled and self._listens:
            limits = settings.lwm2m
            self.lwm2m = Lwm2mServer(
                Lwm2mOptions(limits.max_registrations, limits.observe, limits.pmin_s, limits.pmax_s, limits.awake_s),
                coap=self.coap,
                ingest=ingest,
                credentials=registry,
                directory=registry,
                store=store,
                clock=clock,
            )

    async def start(self) -> None:
        """Bind. Raises TransportError for an address that somebody chose; the well-known port, when another program
        has it, is said by ``announce`` and by the health, and tried again.
        """
        if self.lwm2m is not None:
            await self.lwm2m.load()
        try:
            await self.coap.start()
        except TransportError as error:
            if self._chosen:
                raise
            self._absent = str(error)
            log.error("coap_port_taken", error=str(error))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._listens:
                group.create_task(keep_running("coap", self.coap.run))
            if self.lwm2m is not None:
                group.create_task(keep_running("lwm2m", self.lwm2m.run))

    def announce(self, say: Callable[[str], None]) -> None:
        for name, address in self.coap.addresses.items():
            say(f"{name:<8} {address}")
        if self._absent:
            say(f'NOTE     {self._absent}; set coap.listen to another address or to ""')

    async def send(self, device_id: str, payload: bytes) -> bool:
        """``ports.Downlink``: to a client of LwM2M, else to a device that waits at ``/down``."""
        if self.lwm2m is not None and await self.lwm2m.send(device_id, payload):
            return True
        return await self.coap.downs.send(device_id, payload)

    def state(self) -> tuple[bool, str]:
        addresses = self.coap.addresses
        if self._listens and not addresses:
            return False, "not listening"
        return True, ", ".join(addresses) or "off"

    def counters(self) -> Mapping[str, int]:
        return self.coap.counters()

    def lwm2m_counters(self) -> Mapping[str, int]:
        return {} if self.lwm2m is None else self.lwm2m.counters()
