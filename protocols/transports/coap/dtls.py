"""The DTLS-PSK listener: aiocoap's server over tinydtls, with bounds of its own.

Optional (``carebell[dtls]``): DTLSSocket comes as source and needs autoconf, automake, libtool and a C compiler.
tinydtls speaks TLS_PSK_WITH_AES_128_CCM_8 only, without Connection ID and without resumption.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from aiocoap import error
from aiocoap.transports import tinydtls_server
from aiocoap.util import hostportjoin

from gateway.clock import Clock
from gateway.errors import ConfigError
from protocols.transports.coap.credentials import CoapCredentials
from protocols.transports.coap.exchanges import Exchanges
from protocols.transports.coap.stack import Messages, bind_udp
from protocols.transports.http_ingest import SourceLimiter

HANDSHAKE_RECORD: Final = 22
HANDSHAKES_PER_MINUTE: Final = 60  # of one address
HANDSHAKES_TOTAL_PER_MINUTE: Final = 3000
MAX_SESSIONS: Final = 2000
MAX_EXCHANGES: Final = 16_384

log = structlog.get_logger("coap")


class _Pool(tinydtls_server._DatagramServerSocketSimpleDTLS):  # type: ignore[misc]  # noqa: SLF001 - aiocoap's seam
    """Sessions by address, the one used longest ago making room; new ones only by handshakes, and not too many."""

    limiter: SourceLimiter
    max_sessions = MAX_SESSIONS
    refused = 0

    def datagram_received(self, data: bytes, sockaddr: Any) -> None:
        if sockaddr not in self._connections:
            if not data or data[0] != HANDSHAKE_RECORD or not self.limiter.allow(sockaddr[0]):
                self.refused += 1
                return
            while len(self._connections) >= self.max_sessions:
                oldest = next(iter(self._connections.values()))
                oldest._inject_error(error.LibraryShutdown("another session took its place"))  # noqa: SLF001
        super().datagram_received(data, sockaddr)


class DtlsInterface(tinydtls_server.MessageInterfaceTinyDTLSServer):  # type: ignore[misc]
    """aiocoap's message interface, with our deduplication in front."""

    exchanges: Exchanges
    address: str
    received = resent = 0

    @classmethod
    async def listen(
        cls, listen: str, messages: Messages, credentials: CoapCredentials, clock: Clock, max_sessions: int
    ) -> DtlsInterface:
        """Raises ConfigError (DTLSSocket is not installed, a wildcard address) and TransportError."""
        check_available()
        host = listen.rpartition(":")[0].strip("[]")
        if host in ("0.0.0.0", "::"):  # noqa: S104 - refused here
            raise ConfigError("coap.dtls_listen: tinydtls needs one address of this machine, not every interface")
        loop = asyncio.get_running_loop()
        self = cls(messages, messages.log, loop)
        self.exchanges = Exchanges(MAX_EXCHANGES)
        decrypting = tinydtls_server.GoingThroughMessageDecryption(self)
        _, pool = await loop.create_datagram_endpoint(
            lambda: _Pool(lambda _pool: None, decrypting, messages.log), sock=bind_udp(listen)
        )
        pool._loop = loop  # noqa: SLF001 - as aiocoap's own constructor does
        pool._server_credentials = credentials  # noqa: SLF001
        pool.max_sessions = max_sessions
        pool.limiter = SourceLimiter(
            clock, per_minute=HANDSHAKES_PER_MINUTE, total_per_minute=HANDSHAKES_TOTAL_PER_MINUTE
        )
        bound = pool._transport.get_extra_info("socket").getsockname()  # noqa: SLF001
        pool.hostinfo_local = self.address = hostportjoin(bound[0], bound[1])
        self._pool = pool
        return self

    @property
    def sessions(self) -> int:
        return len(self._pool._connections)  # noqa: SLF001

    @property
    def handshakes_refused(self) -> int:
        return int(self._pool.refused)

    def _received_datagram(self, address: Any, datagram: bytes) -> None:
        """A decrypted datagram."""
        self.received += 1
        if len(datagram) >= 4 and 0 < datagram[1] < 0x20:
            mid = datagram[2] << 8 | datagram[3]
            known = self.exchanges.seen(address, mid, datagram, self._loop.time())
            if known is not None:
                self.resent += 1
                if known.answer is not None:
                    address.send(known.answer)
                return
        super()._received_datagram(address, datagram)

    def send(self, message: Any) -> None:
        if message.mtype is not None and message.mtype.value >= 2:  # ACK, RST
            self.exchanges.answered(message.remote, message.mid, message.encode())
        super().send(message)

    async def recognize_remote(self, remote: Any) -> bool:
        return getattr(remote, "_protocol", None) is self._pool


def check_available() -> None:
    """Raises ConfigError when DTLSSocket is not installed."""
    try:
        import DTLSSocket  # noqa: F401, PLC0415 - optional
    except ImportError as fault:
        text = "coap.dtls_listen: needs DTLSSocket: install autoconf, automake, libtool and gcc, then carebell[dtls]"
        raise ConfigError(text) from fault
