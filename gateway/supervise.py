"""Who restarts whom, and how a child process ends.

Core tasks end the process when they fail; transports at the edge are started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import structlog

from gateway.errors import StorageBrokenError

log = structlog.get_logger("supervise")


async def end_child(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Ask a child process to end, and end it when it has not within that time. Returns when it is gone."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def keep_running(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    first_pause_s: float = 0.5,
    longest_pause_s: float = 30.0,
    on_failure: Callable[[str], None] = lambda _reason: None,
) -> None:
    """Run it for ever: after an end or a failure pause (doubling, with jitter) and run it again.

    Only cancellation and StorageBrokenError get out.
    """
    pause_s = first_pause_s
    while True:
        started_s = asyncio.get_running_loop().time()
        reason = "ended"
        try:
            await run()
        except StorageBrokenError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge must not take the core along
            reason = f"{type(error).__name__}: {error}"
        if asyncio.get_running_loop().time() - started_s > longest_pause_s:
            pause_s = first_pause_s
        on_failure(reason)
        log.error("part_restarts", part=name, reason=reason, pause_s=round(pause_s, 1))
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        pause_s = min(longest_pause_s, pause_s * 2)
