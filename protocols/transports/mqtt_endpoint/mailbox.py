"""The endpoint as the way back to devices: what has to wait is queued, what must never run twice is sent once."""

from __future__ import annotations

import apsw

from protocols.transports.mqtt_endpoint import queue
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.session import Sessions


class Mailbox:
    """Messages to ``carebell/<device_id>/down``. ``send`` is ``ports.Downlink``, at most once."""

    def __init__(self, sessions: Sessions, limits: Limits) -> None:
        self._sessions = sessions
        self._limits = limits

    def reachable(self, device_id: str) -> bool:
        """Whether the device is connected and listens."""
        return self._sessions.listening(device_id)

    def put(
        self, connection: apsw.Connection, device_id: str, payload: bytes, *, now_us: int, expires_at_us: int
    ) -> int:
        """Queue a message at QoS 1 in the caller's transaction; its number. Raises UsageError, ConflictError."""
        return queue.add_down(
            connection,
            device_id,
            payload,
            created_at_us=now_us,
            expires_at_us=expires_at_us,
            limits=self._limits,
        )

    async def deliver(self) -> None:
        """Look at what was put, now. Raises StorageError."""
        await self._sessions.admit()

    async def send(self, device_id: str, payload: bytes) -> bool:
        """On the live connection at QoS 0, or not at all. Raises UsageError when it is too long for the device."""
        return self._sessions.send_once(device_id, payload)
