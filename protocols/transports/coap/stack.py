"""aiocoap, bounded and fitted in: our own sockets, our own deduplication, acknowledgement after the commit.

aiocoap keeps every request for four minutes and reads one datagram a turn of the loop; here a socket is read until it
is empty, what the hot path can do itself never reaches aiocoap, and nothing grows without a bound.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiocoap import error, interfaces
from aiocoap.message import Message
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers import codes
from aiocoap.numbers.constants import TransportTuning
from aiocoap.numbers.types import ACK, CON, RST
from aiocoap.protocol import Context
from aiocoap.tokenmanager import TokenManager
from aiocoap.util import hostportjoin

from gateway.address import host_and_port
from gateway.errors import TransportError
from protocols.transports.coap.exchanges import Exchanges

MAX_DATAGRAMS_PER_TURN: Final = 256
MAX_REQUESTS: Final = 2048  # under way in aiocoap at one time, observations included
RECEIVE_BUFFER: Final = 4 << 20
EMPTY_ACK_DELAY_S: Final = 1.5

log = structlog.get_logger("coap")
_library_log = logging.getLogger("carebell.coap")
_library_log.setLevel(logging.CRITICAL)  # its texts may hold what devices say; what matters is logged here


class Answering(TransportTuning):  # type: ignore[misc]  # aiocoap is not typed
    """For requests of devices: the commit comes first, and an early empty ACK would end the device's resends."""

    EMPTY_ACK_DELAY = EMPTY_ACK_DELAY_S


class Asking(TransportTuning):  # type: ignore[misc]
    """For requests to devices: a round trip of NB-IoT may take ten seconds."""

    ACK_TIMEOUT = 5.0
    MAX_RETRANSMIT = 3
    reliability = True


ANSWERING: Final = Answering()
ASKING: Final = Asking()

TakeDatagram = Callable[[bytes, Any], bool]
"""Whether the hot path took this datagram."""


class PlainAddress(interfaces.EndpointAddress):  # type: ignore[misc]
    """Where a datagram came from, on a listener without encryption."""

    __slots__ = ("interface", "sockaddr")

    scheme = "coap"
    is_multicast = False
    is_multicast_locally = False
    maximum_block_size_exp = 6

    def __init__(self, sockaddr: Any, interface: PlainInterface) -> None:
        self.sockaddr = sockaddr
        self.interface = interface

    def __hash__(self) -> int:
        return hash(self.sockaddr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlainAddress) and other.sockaddr == self.sockaddr

    @property
    def host(self) -> str:
        return plain_host(self.sockaddr[0])

    @property
    def hostinfo(self) -> str:
        return str(hostportjoin(self.host, self.sockaddr[1]))

    @property
    def hostinfo_local(self) -> str:
        return self.interface.address

    @property
    def uri_base(self) -> str:
        return f"coap://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        return f"coap://{self.hostinfo_local}"

    @property
    def blockwise_key(self) -> Any:
        return self.sockaddr

    def send(self, data: bytes) -> None:
        self.interface.send_bytes(data, self.sockaddr)


def plain_host(host: str) -> str:
    """An address without what IPv6 sockets add to one of IPv4."""
    return host.removeprefix("::ffff:")


def bind_udp(listen: str) -> socket.socket:
    """A bound, non-blocking UDP socket. Raises TransportError.

    Without SO_REUSEADDR and SO_REUSEPORT: two processes on one port would share its datagrams silently.
    """
    host, port = host_and_port(listen)
    if host == "localhost":
        host = "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((host, port))
    except OSError as fault:
        sock.close()
        raise TransportError(f"CoAP cannot listen on {listen}: {fault.strerror}") from fault
    return sock


def is_private(listen: str) -> bool:
    """Whether a listener's address can be reached only from this machine or a private network."""
    host, _ = host_and_port(listen)
    if host == "localhost":
        return True
    address = ipaddress.ip_address(host)
    return not address.is_unspecified and (address.is_loopback or address.is_private or address.is_link_local)


class Messages(MessageManager):  # type: ignore[misc]
    """aiocoap's message layer, with hooks: ``on_response`` sees responses first, and says whether they are its own."""

    def __init__(self, tokens: TokenManager) -> None:
        super().__init__(tokens)
        self.on_response: Callable[[Message, Messages], bool] = lambda _message, _messages: False
        self.refused = 0

    def dispatch_message(self, message: Message) -> None:
        message.transport_tuning = ANSWERING
        if message.code.is_response() and self.on_response(message, self):
            if message.mtype in (ACK, RST):
                self._remove_exchange(message)
            return
        if message.code.is_request() and len(self.token_manager.incoming_requests) >= MAX_REQUESTS:
            self.refused += 1
            return  # its sender comes again
        super().dispatch_message(message)

    def acknowledge(self, message: Message) -> None:
        """Send the empty ACK of a confirmable response that ``on_response`` has taken."""
        if message.mtype is CON:
            self._send_empty_ack(message.remote, message.mid, reason="stored")

    def reset(self, message: Message) -> None:
        """Tell a sender that nobody wants what it sends."""
        if message.mtype is CON:
            answer = Message(_mtype=RST, _mid=message.mid, code=codes.EMPTY)
            answer.remote = message.remote.as_response_address()
            self._send_initially(answer)

    def give_up(self, remote: Any) -> None:
        """Stop sending again what this peer does not acknowledge: only one message at a time goes to a peer."""
        for key in [key for key in self._active_exchanges if key[0] == remote]:
            _, resending = self._active_exchanges.pop(key)
            resending.cancel()
        if remote in self._backlogs:
            self._continue_backlog(remote)

    def _deduplicate_message(self, message: Message) -> bool:
        del message
        return False  # the listener did that

    def _remove_exchange(self, message: Message) -> None:
        if (message.remote, message.mid) in self._active_exchanges:
            super()._remove_exchange(message)


class PlainInterface(interfaces.MessageInterface):  # type: ignore[misc]
    """The UDP listener. ``take`` is the hot path; ``turn_ends`` is called once all that waited has been read."""

    def __init__(
        self, sock: socket.socket, messages: Messages, take: TakeDatagram, turn_ends: Callable[[], None]
    ) -> None:
        self._socket = sock
        self._messages = messages
        self._take = take
        self._turn_ends = turn_ends
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(65_536))
        self.exchanges = Exchanges()
        self.received = self.resent = self.unparsable = self.not_sent = 0
        self.is_ipv6 = sock.family == socket.AF_INET6
        host, port = sock.getsockname()[:2]
        self.address: str = hostportjoin(host, port)
        self._loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        receive, buffer = self._socket.recvfrom_into, self._buffer
        for _ in range(MAX_DATAGRAMS_PER_TURN):
            try:
                length, sockaddr = receive(buffer)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # what an earlier send met (ICMP)
            self.received += 1
            self._datagram(bytes(buffer[:length]), sockaddr)
        self._turn_ends()

    def _datagram(self, data: bytes, sockaddr: Any) -> None:
        if len(data) < 4:
            self.unparsable += 1
            return
        if 0 < data[1] < 0x20:  # a request: resends are answered without asking anybody
            mid = data[2] << 8 | data[3]
            known = self.exchanges.seen(sockaddr, mid, data, self._loop.time())
            if known is not None:
                self.resent += 1
                if known.answer is not None:
                    self.send_bytes(known.answer, sockaddr)
                return
            if self._take(data, sockaddr):
                return
        self._slowly(data, sockaddr)

    def _slowly(self, data: bytes, sockaddr: Any) -> None:
        try:
            message = Message.decode(data, remote=PlainAddress(sockaddr, self))
        except (error.Error, ValueError, IndexError, UnicodeDecodeError):
            self.unparsable += 1
            return
        self._messages.dispatch_message(message)

    def send_bytes(self, data: bytes, sockaddr: Any) -> None:
        """Write a datagram; one that cannot be written now is lost, as any may be."""
        try:
            self._socket.sendto(data, sockaddr)
        except OSError:
            self.not_sent += 1

    def answered(self, data: bytes, sockaddr: Any, mid: int) -> None:
        """Send an answer, and keep it for resends of its request."""
        self.exchanges.answered(sockaddr, mid, data)
        self.send_bytes(data, sockaddr)

    # ---- aiocoap's side ----------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        data = message.encode()
        if message.mtype in (ACK, RST):
            self.answered(data, message.remote.sockaddr, message.mid)
        else:
            self.send_bytes(data, message.remote.sockaddr)

    async def shutdown(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    async def recognize_remote(self, remote: Any) -> bool:
        return isinstance(remote, PlainAddress) and remote.interface is self

    async def determine_remote(self, message: Message) -> None:
        """Requests go to addresses that a device came from, and to no names."""
        del message


class Stack(Context):  # type: ignore[misc]
    """aiocoap's context for one listener."""

    def __init__(self, site: Any, credentials: Any) -> None:
        super().__init__(
            loop=asyncio.get_running_loop(),
            serversite=site,
            loggername="carebell.coap",
            server_credentials=credentials,
        )
        self.tokens = TokenManager(self)
        self.messages = Messages(self.tokens)
        self.tokens.token_interface = self.messages
        self.request_interfaces.append(self.tokens)

    def attach(self, interface: Any) -> None:
        """Finish the construction: an interface needs ``messages`` before it can be made."""
        self.messages.message_interface = interface
