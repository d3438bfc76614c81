"""What one connection brought, until it is on disk: batches in, acknowledgements out, in order.

A packet identifier means something on its own connection alone (its epoch), so an inbox lives and ends with one. No
task and no future of its own for a message: what one turn of the loop brought goes to ingest in one offer, and one
commit acknowledges all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from gateway.model import Frame, Verdict
from gateway.ports import Ingest

MAX_REMEMBERED: Final = 65_535
FULL: Final = 20_000  # frames under way: QoS 0, and MQTT 3.1.1, have no receive maximum
ROOM_AGAIN: Final = 10_000


class Unacknowledged:
    """Messages that are on disk and whose connection ended before their acknowledgement was sent.

    The broker still has them under the same packet identifier and will send them again, marked as duplicates. Only
    such a one may be acknowledged without being taken in: the broker cannot have given its number to another message.
    """

    def __init__(self) -> None:
        self._digests: dict[int, int] = {}

    def remember(self, ids: Sequence[int], digests: Sequence[int]) -> None:
        for packet_id, digest in zip(ids, digests, strict=True):
            if len(self._digests) < MAX_REMEMBERED:
                self._digests[packet_id] = digest

    def take(self, packet_id: int, digest: int) -> bool:
        """Whether this message, which came as a duplicate, is on disk."""
        return self._digests.pop(packet_id, None) == digest

    def forget(self) -> None:
        """The broker has lost the session: its numbers mean nothing any more."""
        self._digests.clear()


class _Batch(Struct):
    verdict: asyncio.Future[Verdict]
    ids: list[int]
    digests: list[int]
    frames: int
    offered_s: float


class Inbox:
    """``acknowledge`` sends acknowledgements now; ``fail`` ends the connection, so that the broker sends again.

    ``pause`` stops the reading while there is no room, and starts it again.
    """

    def __init__(
        self,
        ingest: Ingest,
        known: Unacknowledged,
        *,
        acknowledge: Callable[[Sequence[int]], None],
        fail: Callable[[str], None],
        pause: Callable[[bool], None] = lambda _on: None,
    ) -> None:
        self._ingest = ingest
        self._known = known
        self._acknowledge = acknowledge
        self._fail = fail
        self._pause = pause
        self._paused = False
        self._under_way = 0
        self._loop = asyncio.get_running_loop()
        self._frames: list[Frame] = []
        self._ids: list[int] = []
        self._digests: list[int] = []
        self._pending: deque[_Batch] = deque()
        self._open = True
        self.acknowledged = 0
        self.duplicates = 0

    def add(self, packet_id: int, frame: Frame | None, digest: int, *, duplicate: bool) -> None:
        """Take a message; ``frame`` None: it needs no more than an acknowledgement. ``packet_id`` 0 is QoS 0."""
        if packet_id:
            self._ids.append(packet_id)
            self._digests.append(digest)
            if duplicate and frame is not None and self._known.take(packet_id, digest):
                self.duplicates += 1
                return
        if frame is not None:
            self._frames.append(frame)

    def offer(self) -> None:
        """Hand over what this turn brought."""
        if not self._frames and not self._ids:
            return
        frames, ids, digests = self._frames, self._ids, self._digests
        self._frames, self._ids, self._digests = [], [], []
        if frames:
            verdict = self._ingest.offer(frames)
        else:  # nothing to keep, but what is before it is acknowledged first
            verdict = self._loop.create_future()
            verdict.set_result(Verdict.ACCEPTED)
        self._pending.append(_Batch(verdict, ids, digests, len(frames), self._loop.time()))
        self._under_way += len(frames)
        if self._under_way >= FULL and not self._paused:
            self._paused = True
            self._pause(True)
        verdict.add_done_callback(self._settle)

    def waiting(self) -> int:
        """Messages without an acknowledgement."""
        return len(self._ids) + sum(len(batch.ids) for batch in self._pending)

    def oldest_s(self) -> float:
        """For how long the oldest batch waits."""
        return self._loop.time() - self._pending[0].offered_s if self._pending else 0.0

    def close(self) -> None:
        """The connection has ended: nothing is acknowledged any more; what is committed yet is remembered."""
        self._open = False
        self._frames, self._ids, self._digests = [], [], []

    def _settle(self, _verdict: object) -> None:
        """MQTT wants acknowledgements in the order of the messages (MQTT 5, 4.6)."""
        ready: list[int] = []
        while self._pending and self._pending[0].verdict.done():
            batch = self._pending.popleft()
            self._under_way -= batch.frames
            stored = batch.verdict.result() is Verdict.ACCEPTED
            if self._open and not stored:
                self._open = False
                self._fail("what it brought could not be stored")
            if self._open:
                ready += batch.ids
            elif stored:
                self._known.remember(batch.ids, batch.digests)
        if ready:
            self.acknowledged += len(ready)
            self._acknowledge(ready)
        if self._paused and self._open and self._under_way <= ROOM_AGAIN:
            self._paused = False
            self._pause(False)
