"""``GET /down``: a device's commands. With Observe they are pushed; without, the answer waits a while for one.

Nothing is kept here: the ledger of commands keeps each until its device was in contact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiocoap.message import Message
from aiocoap.numbers import codes

from gateway.errors import UsageError
from protocols.transports.coap.blocks import in_blocks
from protocols.transports.coap.stack import ASKING

MAX_WAITING: Final = 16  # commands of one device on their way
MAX_LISTENING: Final = 2000  # devices at one time
MAX_PAYLOAD: Final = 1024  # a notification is one block
HOLD_S: Final = 10.0
KEEP_ALIVE_S: Final = 6 * 3600.0  # RFC 7641, section 4.5: at least once a day a confirmable notification


class Downs:
    """Devices that wait for commands now. Implements ``ports.Downlink``. ``on_contact`` hears who began to wait."""

    def __init__(self) -> None:
        self._listening: dict[str, asyncio.Queue[bytes]] = {}
        self.on_contact: Callable[[str], None] = lambda _device_id: None

    @property
    def listening(self) -> int:
        return len(self._listening)

    async def send(self, device_id: str, payload: bytes) -> bool:
        """Raises UsageError when it is longer than one block."""
        if len(payload) > MAX_PAYLOAD:
            raise UsageError(f"{len(payload)} bytes; a command over CoAP has at most {MAX_PAYLOAD}")
        queue = self._listening.get(device_id)
        if queue is None or queue.full():
            return False
        queue.put_nowait(payload)
        return True

    def _listen(self, device_id: str) -> asyncio.Queue[bytes] | None:
        """A queue of this device's own, in the place of an older one; None when too many listen."""
        if len(self._listening) >= MAX_LISTENING and device_id not in self._listening:
            return None
        queue: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self._listening[device_id] = queue
        self.on_contact(device_id)
        return queue

    def _leave(self, device_id: str, queue: asyncio.Queue[bytes]) -> None:
        if self._listening.get(device_id) is queue:
            del self._listening[device_id]

    async def poll(self, device_id: str) -> Message:
        """2.05 with a command, or with nothing after HOLD_S."""
        queue = self._listen(device_id)
        if queue is None:
            return Message(code=codes.SERVICE_UNAVAILABLE, max_age=60)
        payload = b""
        try:
            async with asyncio.timeout(HOLD_S):
                payload = await queue.get()
        except TimeoutError:
            pass
        finally:
            self._leave(device_id, queue)
        return Message(code=codes.CONTENT, payload=payload, max_age=0)

    async def serve(self, device_id: str, request: Message, pipe: Any) -> None:
        """An observation, until its device loses interest (aiocoap then cancels this) or begins another."""
        queue = self._listen(device_id)
        if queue is None:
            pipe.add_response(Message(code=codes.SERVICE_UNAVAILABLE, max_age=60), is_last=True)
            return
        number = 1
        try:
            pipe.add_response(in_blocks(request, _notification(b"", number)), is_last=False)
            while self._listening.get(device_id) is queue:
                payload = b""
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        payload = await queue.get()
                except TimeoutError:
                    pass  # an empty one shows whether the device is still there
                number = (number + 1) & 0xFFFFFF
                pipe.add_response(_notification(payload, number), is_last=False)
        finally:
            self._leave(device_id, queue)


def _notification(payload: bytes, number: int) -> Message:
    message = Message(code=codes.CONTENT, payload=payload, transport_tuning=ASKING, max_age=0)
    message.opt.observe = number
    return message
