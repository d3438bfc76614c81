"""The CoAP endpoint: a plain listener, and one with DTLS-PSK, over the same resources."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.errors import ConfigError
from gateway.ports import Directory, Ingest
from protocols.transports.coap.credentials import CoapCredentials
from protocols.transports.coap.down import Downs
from protocols.transports.coap.site import Handler, Site
from protocols.transports.coap.stack import PlainInterface, Stack, bind_udp, is_private
from protocols.transports.coap.uplink import DOUBTFUL_WORKERS, TokenCredentials, Uplink

SWEEP_S: Final = 5.0

log = structlog.get_logger("coap")


class CoapOptions(Struct, frozen=True):
    """Where it listens, and who has which key. An empty address is no listener."""

    listen: str = ""
    dtls_listen: str = ""
    credentials_file: str = ""
    dtls_sessions: int = 2000


class CoapEndpoint:
    """Implements ``ports.Transport`` and, by ``downs``, ``ports.Downlink``. ``start`` before ``run``.

    ``serve`` adds resources (LwM2M) before ``start``; ``on_response`` sees responses of devices to requests that are
    not aiocoap's.
    """

    def __init__(
        self,
        options: CoapOptions,
        *,
        ingest: Ingest,
        credentials: TokenCredentials,
        directory: Directory,
        clock: Clock,
        state_dir: Path,
        observe_ack: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._directory = directory
        self.keys = CoapCredentials()
        if options.credentials_file:
            self.keys.load(Path(options.credentials_file), state_dir / "oscore")
        self.downs = Downs()
        self._parts: Callable[[bool], Uplink] = lambda tokens_allowed: Uplink(
            ingest=ingest, credentials=credentials, directory=directory, clock=clock,
            tokens_allowed=tokens_allowed, secured=self.keys.secured, observe_ack=observe_ack,
        )  # fmt: skip
        self._extra: dict[str, Handler] = {}
        self._uplinks: list[Uplink] = []
        self.stacks: dict[str, Stack] = {}
        self.plain: PlainInterface | None = None
        self.dtls: Any = None
        self.on_response: Callable[[Any, Any], bool] = lambda _message, _messages: False

    def serve(self, segment: str, handler: Handler) -> None:
        self._extra[segment] = handler

    @property
    def tokens_allowed(self) -> bool:
        """Whether a token in a query speaks for a device: on the plain listener, when it is private."""
        return bool(self._options.listen) and is_private(self._options.listen)

    @property
    def addresses(self) -> dict[str, str]:
        found = {}
        if self.plain is not None:
            found["coap"] = self.plain.address
        if self.dtls is not None:
            found["coaps"] = self.dtls.address
        return found

    async def start(self) -> None:
        """Open the listeners. Raises TransportError (an address), ConfigError (something is not installed)."""
        if self._options.listen and self.plain is None:
            sock = bind_udp(self._options.listen)
            uplink = self._parts(self.tokens_allowed)
            stack, _ = self._stack(uplink)
            self.plain = PlainInterface(sock, stack.messages, uplink.take, uplink.turn_ends)
            stack.attach(self.plain)
            uplink.plain, uplink.stack = self.plain, stack
            self.stacks["coap"] = stack
        if self._options.dtls_listen and self.dtls is None:
            from protocols.transports.coap.dtls import DtlsInterface  # noqa: PLC0415 - optional

            stack, _ = self._stack(self._parts(False))
            self.dtls = await DtlsInterface.listen(
                self._options.dtls_listen, stack.messages, self.keys, self._clock, self._options.dtls_sessions
            )
            stack.attach(self.dtls)
            self.stacks["coaps"] = stack

    def _stack(self, uplink: Uplink) -> tuple[Stack, Site]:
        site = Site(uplink=uplink, downs=self.downs, directory=self._directory, clock=self._clock)
        for segment, handler in self._extra.items():
            site.add(segment, handler)
        outer: Any = site
        if self.keys.has_oscore:
            from aiocoap.oscore_sitewrapper import OscoreSiteWrapper  # noqa: PLC0415 - optional

            outer = OscoreSiteWrapper(site, self.keys)
        stack = Stack(outer, self.keys)
        site.messages = stack.messages
        stack.messages.on_response = self.on_response
        self._uplinks.append(uplink)
        return stack, site

    async def run(self) -> None:
        """Serve until cancelled; then close the listeners and write down OSCORE's sequence numbers."""
        await self.start()
        try:
            async with asyncio.TaskGroup() as group:
                for uplink in self._uplinks:
                    for _ in range(DOUBTFUL_WORKERS):
                        group.create_task(uplink.judge_doubtful())
                while True:
                    await asyncio.sleep(SWEEP_S)
                    now_s = asyncio.get_running_loop().time()
                    for interface in (self.plain, self.dtls):
                        if interface is not None:
                            interface.exchanges.sweep(now_s)
        finally:
            await self.close()

    async def close(self) -> None:
        stacks, self.stacks = self.stacks, {}
        self.plain = self.dtls = None
        self._uplinks.clear()
        for stack in stacks.values():
            await stack.shutdown()
        self.keys.close()

    def counters(self) -> dict[str, int]:
        """Monotonic counters with closed names, over both listeners."""
        total: dict[str, int] = {}
        for uplink in self._uplinks:
            for name, count in uplink.counts.items():
                total[name] = total.get(name, 0) + count
        for interface in (self.plain, self.dtls):
            if interface is not None:
                total["datagrams"] = total.get("datagrams", 0) + interface.received
                total["resends"] = total.get("resends", 0) + interface.resent
        return total


def check_options(options: CoapOptions) -> None:
    """Raises ConfigError for options that cannot work together, before anything is opened."""
    if options.dtls_listen and not options.credentials_file:
        raise ConfigError("coap.dtls_listen: needs coap.credentials_file with the keys of the devices")
    if options.dtls_listen:
        from protocols.transports.coap.dtls import check_available  # noqa: PLC0415 - optional

        check_available()
