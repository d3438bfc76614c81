"""The daemon's side of history: keeps the worker process running and knows how far it is."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.storage.history.worker import Settings, Status
from gateway.supervise import end_child

RESTART_FIRST_S: Final = 0.2
RESTART_MAX_S: Final = 10.0
STOP_S: Final = 10.0

logger = structlog.get_logger(__name__)


class HistoryProcess:
    """Supervises ``python -m gateway.storage.history.worker``.

    ``dsn`` gives PostgreSQL's connection string, None while there is no server yet. ``run`` must be called from the
    main thread: the kernel ends the worker when the thread that forked it ends.
    """

    name: Final = "history"

    def __init__(
        self,
        journal_path: Path,
        dsn: Callable[[], str | None],
        site: str,
        *,
        retention_days: int = 400,
        maintain_every_s: float = 60.0,
    ) -> None:
        self._journal_path = journal_path.absolute()
        self._dsn = dsn
        self._site = site
        self._retention_days = retention_days
        self._maintain_every_s = maintain_every_s
        self._status = Status(text="waiting for PostgreSQL")
        self.pid: int | None = None

    def bookmark(self) -> int:
        """The last sequence number whose row can be queried; 0 until the worker has said so."""
        return self._status.bookmark

    def durable(self) -> int:
        """The last sequence number that the journal may forget: PostgreSQL has flushed it to disk."""
        return self._status.durable

    def status(self) -> Status:
        """What the worker said last."""
        return self._status

    def state(self) -> tuple[bool, str]:
        """Whether rows are being copied, and a sentence on it."""
        status = self._status
        behind = max(0, status.journal_seq - status.bookmark)
        text = f"{status.text}, {behind} behind" if behind else status.text
        return status.ok, text

    async def run(self) -> None:
        """Keep the worker running until cancelled; then let it finish its transaction, within bounds."""
        delay_s = RESTART_FIRST_S
        while True:
            dsn = self._dsn()
            if dsn is None:
                await asyncio.sleep(0.05)
                continue
            started_s = time.monotonic()
            code = await self._run_once(dsn)
            self._change(msgspec.structs.replace(self._status, ok=False, text=f"the worker ended with code {code}"))
            if time.monotonic() - started_s > 60:  # it ran: begin small again
                delay_s = RESTART_FIRST_S
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay_s = min(delay_s * 2, RESTART_MAX_S)

    async def _run_once(self, dsn: str) -> int:
        settings = Settings(
            journal=str(self._journal_path),
            dsn=dsn,
            site=self._site,
            parent_pid=os.getpid(),
            retention_days=self._retention_days,
            maintain_every_s=self._maintain_every_s,
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "gateway.storage.history.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is ours to handle
        )  # fmt: skip
        self.pid = process.pid
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(msgspec.json.encode(settings) + b"\n")
                await process.stdin.drain()
            async for line in process.stdout:
                try:
                    self._change(msgspec.json.decode(line, type=Status))
                except msgspec.DecodeError:
                    logger.warning("history_worker_talks", length=len(line))
            return await process.wait()
        finally:
            await end_child(process, STOP_S)
            self.pid = None

    def _change(self, status: Status) -> None:
        before, self._status = self._status, status
        if (before.ok, before.text) != (status.ok, status.text):
            log = logger.info if status.ok else logger.warning
            log("history", ok=status.ok, state=status.text, bookmark=status.bookmark)
        if status.refused > before.refused:
            logger.error("history_refused", total=status.refused)
