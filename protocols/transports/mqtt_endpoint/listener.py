"""What the connections of one listener share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog

from gateway.clock import Clock
from gateway.model import DeviceBinding
from gateway.ports import Credentials, Directory, Ingest
from protocols.transports.mqtt_endpoint.acks import Acks
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.session import Sessions
from protocols.transports.mqtt_endpoint.turns import Turns
from protocols.transports.mqtt_endpoint.wheel import Wheel

Stands = Callable[[str, bytes, str], bool]
"""Whether what let a connection in is still good: device id, SHA-256 of its token (empty: none), certificate name."""

UrgentMarks = Callable[[DeviceBinding], tuple[bytes, ...] | None]
"""One of these bytes is in every payload by which the device tells of something urgent; None when nobody knows."""

TOLD_MAX: Final = 10_000

log = structlog.get_logger(__name__)


class Waiting(Protocol):
    """A connection that is not authenticated yet."""

    address: str

    def finish(self) -> None: ...


class Listener:
    """The collaborators, the bounds and the counters of one listener."""

    def __init__(
        self,
        *,
        transport: str,
        ingest: Ingest,
        credentials: Credentials,
        directory: Directory,
        sessions: Sessions,
        clock: Clock,
        limits: Limits,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        stands: Stands = lambda _device_id, _proof, _common_name: True,
        urgent_marks: UrgentMarks = lambda _binding: None,
    ) -> None:
        self.stands = stands
        self.urgent_marks = urgent_marks
        self.transport = transport
        self.ingest = ingest
        self.credentials = credentials
        self.directory = directory
        self.sessions = sessions
        self.clock = clock
        self.limits = limits
        self.spawn = spawn
        self.authenticating = asyncio.Semaphore(limits.authentications)
        loop = asyncio.get_running_loop()
        self.acks = Acks(loop)
        self.turns = Turns(loop)
        self.wheel = Wheel(clock.monotonic_s())
        self.connections: set[Any] = set()
        self.pending = 0  # publishes that wait for their commit
        self.accepted = 0
        self.authenticated = 0
        self.received = 0
        self.acked = 0
        self.closed: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.closing = False
        self._waiting: dict[Waiting, None] = {}  # oldest first
        self._by_address: dict[str, int] = {}
        self._handshakes = 0
        self._told: set[tuple[str, str]] = set()

    def admit(self, connection: Waiting, *, few_left: bool = False) -> bool:
        """Whether a new connection may stay. At the bound of all, or with few descriptors left, it displaces the
        oldest that is not authenticated.
        """
        self.accepted += 1
        if self.closing:
            return False
        of_address = self._by_address.get(connection.address, 0)
        if of_address >= self.limits.unauthenticated_per_address:
            self.count(self.refused, "address")
            self.tell_once("mqtt_unauthenticated_per_address", connection.address)
            return False
        if few_left or len(self.connections) >= self.limits.connections:
            self.tell_once("mqtt_connections", "limit")
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                self.count(self.refused, "connections")
                return False
            self.leave_waiting(oldest)
            self.count(self.closed, "displaced")
            oldest.finish()
        self.connections.add(connection)
        self._waiting[connection] = None
        self._by_address[connection.address] = of_address + 1
        return True

    def leave_waiting(self, connection: Waiting) -> None:
        """The connection is authenticated or gone. Idempotent."""
        if connection not in self._waiting:
            return
        del self._waiting[connection]
        self._leave_address(connection.address)

    def reserve(self, address: str) -> bool:
        """Whether a socket may begin a TLS handshake; it counts as unauthenticated until ``release``."""
        if self.closing:
            return False
        of_address = self._by_address.get(address, 0)
        if of_address >= self.limits.unauthenticated_per_address:
            self.count(self.refused, "address")
            self.tell_once("mqtt_unauthenticated_per_address", address)
            return False
        if self._handshakes >= self.limits.tls_handshakes:
            self.count(self.refused, "connections")
            self.tell_once("mqtt_tls_handshakes", "limit")
            return False
        self._handshakes += 1
        self._by_address[address] = of_address + 1
        return True

    def release(self, address: str) -> None:
        """The handshake has ended, either way."""
        self._handshakes -= 1
        self._leave_address(address)

    def _leave_address(self, address: str) -> None:
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    @staticmethod
    def count(counter: dict[str, int], reason: str) -> None:
        counter[reason] = counter.get(reason, 0) + 1

    def tell_once(self, event: str, subject: str, **details: Any) -> None:
        """Log a warning the first time that it concerns this device or address."""
        if (event, subject) in self._told:
            return
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told.add((event, subject))
        log.warning(event, subject=subject, transport=self.transport, **details)
