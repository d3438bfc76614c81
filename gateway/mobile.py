"""CoAP, LwM2M and the operators' pushes in the daemon: built from the configuration, started, announced, counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from gateway.clock import Clock
from gateway.config import Settings
from gateway.config_coap import COAP_LISTEN
from gateway.errors import TransportError
from gateway.ports import Ingest
from gateway.registry.directory import Registry
from gateway.supervise import keep_running
from protocols.transports.coap.endpoint import CoapEndpoint, CoapOptions, check_options

log = structlog.get_logger("coap")


class MobileLinks:
    """The CoAP listeners with what is served on them. Implements ``ports.Downlink``. A ``HealthPart``."""

    name = "coap"

    def __init__(self, settings: Settings, *, ingest: Ingest, registry: Registry, clock: Clock) -> None:
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

    async def start(self) -> None:
        """Bind. Raises TransportError for an address that somebody chose; the well-known port, when another program
        has it, is said by ``announce`` and by the health, and tried again.
        """
        try:
            await self.coap.start()
        except TransportError as error:
            if self._chosen:
                raise
            self._absent = str(error)
            log.error("coap_port_taken", error=str(error))

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._listens:
            await keep_running("coap", self.coap.run)

    def announce(self, say: Callable[[str], None]) -> None:
        for name, address in self.coap.addresses.items():
            say(f"{name:<8} {address}")
        if self._absent:
            say(f'NOTE     {self._absent}; set coap.listen to another address or to ""')

    async def send(self, device_id: str, payload: bytes) -> bool:
        """``ports.Downlink``: to a device that waits at ``/down``."""
        return await self.coap.downs.send(device_id, payload)

    def state(self) -> tuple[bool, str]:
        addresses = self.coap.addresses
        if self._listens and not addresses:
            return False, "not listening"
        return True, ", ".join(addresses) or "off"

    def counters(self) -> Mapping[str, int]:
        return self.coap.counters()
