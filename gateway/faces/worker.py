"""The process of pages and streams: ``python -m gateway.faces.worker``.

A thousand screens and the people who work at them cost more of an interpreter than the devices do. Here they have one
of their own, so that no page stands before an acknowledgement. It reads the journal file and never writes it.
Its task comes as one line of JSON on standard input. It ends with its parent, or on SIGTERM when its streams have.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import apsw
import msgspec
import uvloop

from alerts.desk import Desk
from alerts.order_desk import OrderDesk
from alerts.policy import Policy
from gateway.api.app import build_faces
from gateway.api.passing import PassingProtocol
from gateway.api.server import ApiServer
from gateway.api.services import Shared
from gateway.clock import Clock, SystemClock
from gateway.config_console import AccessSection, ConsoleSection
from gateway.console.app import build_console
from gateway.console.board import Board
from gateway.errors import StorageError
from gateway.faces import passage
from gateway.faces.compose import page_frame, token_verifier
from gateway.faces.division import is_face
from gateway.faces.errands import LONGEST_LINE, Asker
from gateway.faces.task import Task
from gateway.logs import configure_logs
from gateway.model import Actor
from gateway.ports import NearStore
from gateway.registry.keys import ApiKey, key_in_force
from gateway.storage import launch
from gateway.storage.feed import JournalFeed
from gateway.storage.history.queries import PostgresHistory
from gateway.storage.readers import Readers
from gateway.supervise import keep_running

T = TypeVar("T")
NICENESS: Final = 5
"""Behind the gateway, before the history."""
FEED_POLL_S: Final = 0.05
STATUS_S: Final = 1.0
EXPIRE_S: Final = 1.0


class ReadOnlyStore(Readers):
    """ports.NearStore whose file another process writes."""

    async def write(self, fn: Callable[[apsw.Connection], T]) -> NoReturn:
        """Raises StorageError: what reaches this belongs to gateway.faces.division or to the errands."""
        raise StorageError(f"the process of pages writes nothing ({getattr(fn, '__qualname__', fn)})")


class FarDesk(Desk):
    """Alerts are read here and acted on by the gateway."""

    def __init__(self, store: NearStore, clock: Clock, policy: Policy, asker: Asker) -> None:
        super().__init__(store, clock, policy, wake=lambda: None)
        self._asker = asker

    async def act(
        self,
        alert_id: str,
        action: str,
        *,
        actor: Actor,
        version: int | None,
        outcome: str = "",
        note: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        done: dict[str, Any] = await self._asker.ask(
            "act", alert_id=alert_id, action=action, actor=msgspec.structs.asdict(actor), version=version,
            outcome=outcome, note=note, detail=detail,
        )  # fmt: skip
        return done


class FarAttendance:
    """Who is there is written down by the gateway."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def seen(self, token: str) -> None:
        await self._asker.ask("seen", token=token)

    async def watched(self, tokens: Sequence[str]) -> None:
        await self._asker.ask("watched", tokens=tokens)


class KeysInFile:
    """API keys, looked up in the file each time."""

    def __init__(self, store: NearStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def api_key(self, presented: str) -> ApiKey | None:
        now_us = self._clock.now_us()
        return await self._store.glance(lambda c: key_in_force(c, presented, now_us))


class FarSwitch:
    """What is not served here goes back to the gateway."""

    def __init__(self, waiting: passage.Waiting) -> None:
        self._waiting = waiting

    def is_elsewhere(self, method: str, path: str) -> bool:
        return not is_face(method, path)

    def take(self, descriptor: int, begun: bytes) -> bool:
        return self._waiting.take(descriptor, begun)


class Worker:
    """Everything of this process, wired."""

    def __init__(self, task: Task, asker: Asker, dsn: Callable[[], str | None]) -> None:
        clock = SystemClock()
        store = ReadOnlyStore(Path(task.journal))
        policy = Policy(site=task.site)
        console, access = ConsoleSection(**task.console), AccessSection(**task.access)
        self.asker = asker
        self.waiting = passage.Waiting()
        self.feed = JournalFeed(store, task.site, poll_s=FEED_POLL_S)
        self.board = Board(store, clock)
        self.closing = asyncio.Event()

        async def limits(person_id: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = await asker.ask("limits", person_id=person_id)
            return found

        shared = Shared(
            store=store,
            keys=KeysInFile(store, clock),
            desk=FarDesk(store, clock, policy, asker),
            history=PostgresHistory(dsn),
            feed=self.feed,
            clock=clock,
            orders=OrderDesk(store, clock, policy, wake=lambda: None),
            limits=limits,
            tokens=token_verifier(access, clock),
            closing=self.closing,
        )
        frame = page_frame(
            shared, self.board, console, access, conferences=task.conferences, attendance=FarAttendance(asker)
        )
        switch = FarSwitch(self.waiting)
        app, self.streams = build_faces(shared, build_console(frame), switch.is_elsewhere)
        self.server = ApiServer(app, host=None, on_drain=self.closing.set, protocol=PassingProtocol, switch=switch)
        self.screens = frame.screens

    async def run(self, channel: socket.socket) -> None:
        """Until SIGTERM, or until the gateway closes its ends."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.server.close)
        self.waiting.use(channel)
        async with asyncio.TaskGroup() as group:
            server = group.create_task(self.server.run())
            await self.server.started.wait()
            around = [
                group.create_task(work)
                for work in (
                    keep_running("board", self.board.run),
                    keep_running("feed", self.feed.run),
                    self._until_closed(passage.receive(channel, self.server.adopt)),
                    self._until_closed(self.asker.run()),
                    self._report(),
                )
            ]
            await asyncio.wait([server])
            for each in around:
                each.cancel()

    async def _until_closed(self, work: Any) -> None:
        await work
        self.server.close()

    async def _report(self) -> None:
        while True:
            http = {f"http_{name}": value for name, value in self.server.counters().items()}
            streams = {"screens": len(self.screens.open), "event_streams": self.streams.open}
            await self.asker.report(http | streams)
            self.waiting.expire()
            await asyncio.sleep(STATUS_S)


async def serve(task: Task) -> None:
    """Raises ConfigError when a file of the site cannot be read any more, StorageError for the journal."""
    dsn: str | None = None

    def use_dsn(told: str | None) -> None:
        nonlocal dsn
        dsn = told

    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=task.errands), limit=LONGEST_LINE)
    channel = socket.socket(fileno=task.passage)
    channel.setblocking(False)
    worker = Worker(task, Asker(reader, writer, use_dsn), lambda: dsn)
    gc.collect()
    gc.freeze()
    await worker.run(channel)


def main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    launch.die_with_parent(signal.SIGKILL, task.parent_pid)
    launch.give_way(os.getpriority(os.PRIO_PROCESS, task.parent_pid) + NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    configure_logs(task.log_format)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a sandbox may refuse it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a screen is a file
    uvloop.run(serve(task))


if __name__ == "__main__":
    main()
