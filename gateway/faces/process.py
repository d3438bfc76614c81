"""The gateway's side of the process of pages and streams: starts it with the first visitor, and keeps it running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.config_console import AccessSection, ConsoleSection
from gateway.errors import TransportError
from gateway.faces import passage
from gateway.faces.division import is_face
from gateway.faces.errands import LONGEST_LINE, Answerer, Errand
from gateway.faces.task import Task
from gateway.supervise import end_child, keep_running

RESTART_FIRST_S: Final = 0.2
RESTART_MAX_S: Final = 10.0
STOP_S: Final = 7.0
"""A little longer than its streams have to end."""
LOOK_S: Final = 0.5
STUCK_S: Final = 30.0
"""It tells how it is every second; one that has said nothing for so long is ended, and its successor serves."""
log = structlog.get_logger("faces")


class Faces:
    """gateway.api.passing.Switch, and a ports.HealthPart. ``errands`` is what the process may ask for, by name.

    ``run`` must be called from the main thread: the kernel ends the process when the thread that forked it ends.
    """

    name: Final = "faces"

    def __init__(
        self,
        journal: Path,
        site: str,
        console: ConsoleSection,
        access: AccessSection,
        *,
        log_format: str,
        conferences: bool,
        errands: Mapping[str, Errand],
        dsn: Callable[[], str | None],
        adopt: passage.Adopt,
    ) -> None:
        self._journal = journal.absolute()
        self._site = site
        self._console = console
        self._access = access
        self._log_format = log_format
        self._conferences = conferences
        self._errands = errands
        self._dsn = dsn
        self._adopt = adopt
        self._waiting = passage.Waiting()
        self._wanted = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._closed = asyncio.Event()
        self._gone = asyncio.Event()
        self._gone.set()
        self._counts: dict[str, int] = {}
        self._told_s = 0.0
        self.restarts = 0

    # ---- for the listener --------------------------------------------------------------------------------------------

    def is_elsewhere(self, method: str, path: str) -> bool:
        return is_face(method, path)

    def take(self, descriptor: int, begun: bytes) -> bool:
        if self._closed.is_set():
            return False
        self._wanted.set()
        return self._waiting.take(descriptor, begun)

    # ---- for those who ask how it is ---------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """What the process told last, how many connections wait for it, and how often it was started again."""
        return {**self._counts, "waiting": len(self._waiting), "restarts": self.restarts}

    def state(self) -> tuple[bool, str]:
        if not self._wanted.is_set():
            return True, "nobody has asked for a page yet"
        if self._process is None or not self._counts:
            return False, "starting"
        return True, f"{self._counts['screens']} screens, {self._counts['event_streams']} event streams"

    def _note(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self._told_s = asyncio.get_running_loop().time()

    # ---- its life ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Streams end, what is under way gets its answer; then ``run`` returns."""
        self._closed.set()
        self._wanted.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def run(self) -> None:
        """Until ``close`` or cancellation."""
        try:
            await self._wanted.wait()
            async with asyncio.TaskGroup() as group:
                kept = group.create_task(
                    keep_running(
                        self.name,
                        self._serve,
                        first_pause_s=RESTART_FIRST_S,
                        longest_pause_s=RESTART_MAX_S,
                        on_failure=self._ended,
                    )
                )
                await self._closed.wait()
                await self._gone.wait()
                kept.cancel()
        finally:
            self._waiting.close()

    def _ended(self, _reason: str) -> None:
        self.restarts += not self._closed.is_set()

    async def _serve(self) -> None:
        self._gone.clear()
        try:
            code = await self._run_once()
        finally:
            self._counts = {}
            self._gone.set()
        if self._closed.is_set():
            await asyncio.Event().wait()  # that was its end: there is nothing to start again, and ``run`` knows
        raise TransportError(f"exit code {code}")

    async def _run_once(self) -> int:
        ours, theirs = passage.pair()
        asked, asking = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=asked, limit=LONGEST_LINE)
        process: asyncio.subprocess.Process | None = None
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "gateway.faces.worker",
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(), asking.fileno()),
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle
            )  # fmt: skip
            if self._closed.is_set():
                process.terminate()
            await self._give(process, theirs.fileno(), asking.fileno())
            theirs.close()
            asking.close()
            answerer = Answerer(reader, writer, self._errands, self._note)
            self._waiting.use(ours)
            async with asyncio.TaskGroup() as group:
                around = [
                    group.create_task(passage.receive(ours, self._adopt)),
                    group.create_task(answerer.run()),
                    group.create_task(self._look(answerer)),
                ]
                code = await process.wait()
                for each in around:
                    each.cancel()
            return code
        finally:
            self._waiting.use(None)
            writer.close()
            for end in (ours, theirs, asking):
                end.close()
            self._process = None
            if process is not None:
                await end_child(process, STOP_S)

    async def _give(self, process: asyncio.subprocess.Process, passage_end: int, errands_end: int) -> None:
        task = Task(
            journal=str(self._journal),
            site=self._site,
            parent_pid=os.getpid(),
            passage=passage_end,
            errands=errands_end,
            log_format=self._log_format,
            console=self._console.model_dump(mode="json"),
            access=self._access.model_dump(mode="json"),
            conferences=self._conferences,
        )
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            await process.stdin.drain()

    async def _look(self, answerer: Answerer) -> None:
        """Tell where the history is, let nobody wait for ever, and end a process that hangs."""
        told: str | None = None
        loop = asyncio.get_running_loop()
        self._told_s = loop.time()
        while True:
            if loop.time() - self._told_s > STUCK_S and self._process is not None:
                log.error("faces_stuck", pid=self._process.pid)
                self._process.kill()
            dsn = self._dsn()
            if dsn != told:
                told = dsn
                answerer.tell(dsn)
            self._waiting.expire()
            await asyncio.sleep(LOOK_S)
