"""What the tests of kill -9 share: senders that repeat everything until it is acknowledged, and deaths among them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from gateway import crashpoints
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import ACTOR, Daemon

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
ENOUGH = 40
"""Acknowledged messages, of all senders, after the last death."""
DEADLINE_S = 90.0

BEFORE_COMMIT = {"CAREBELL_CRASH": f"{crashpoints.BEFORE_COMMIT}:8"}
AFTER_COMMIT = {"CAREBELL_CRASH": f"{crashpoints.AFTER_COMMIT}:8"}
"""Between a commit and the acknowledgements."""


class Sender(Protocol):
    """A device that sends what it has until it is acknowledged, however often the gateway dies."""

    acknowledged: set[str]

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, and then until nothing is unacknowledged."""
        ...


def provision_by_imei(data_dir: Path, profiles: Sequence[str]) -> dict[str, str]:
    """Persons P-1... with a device D-1... each, of these profiles; device ids by IMEI."""
    connection = open_database(data_dir / FILE_NAME)
    found = {}
    with connection:
        for count, profile in enumerate(profiles, 1):
            imei, at_us = f"86000000000{count:04d}", time.time_ns() // 1000
            add_person(connection, f"P-{count}", {"name": f"测试{count}"}, at_us=at_us, actor=ACTOR)
            values = {"profile": profile, "person_id": f"P-{count}", "imei": imei}
            add_device(connection, f"D-{count}", values, known_profiles=[profile], at_us=at_us, actor=ACTOR)
            found[imei] = f"D-{count}"
    connection.close()
    return found


async def survive(
    daemon: Daemon,
    senders: Sequence[Sender],
    death: dict[str, str],
    seed: int,
    *,
    seen: Callable[[], bool] = lambda: True,
) -> None:
    """The daemon dies at this place (in the long form at both, and at any moment) while the senders send.

    Behind the last death they go on until ENOUGH is acknowledged and ``seen`` says that what the test is about was.
    """
    rng = random.Random(seed)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(sender.run(stop))
        for place in (BEFORE_COMMIT, AFTER_COMMIT) if LONG else (death,):
            await asyncio.to_thread(daemon.start, place)
            assert await asyncio.to_thread(daemon.wait) == -9, "it did not come to the place where it dies"
        for _ in range(40 if LONG else 0):
            await asyncio.to_thread(daemon.start)
            await asyncio.sleep(0.3 + rng.random())
            await asyncio.to_thread(daemon.kill)
        await asyncio.to_thread(daemon.start)
        before = _acknowledged(senders)
        async with asyncio.timeout(DEADLINE_S):
            while _acknowledged(senders) < before + ENOUGH or not seen():
                await asyncio.sleep(0.05)
        stop.set()
    assert await asyncio.to_thread(daemon.stop) == 0


def _acknowledged(senders: Sequence[Sender]) -> int:
    return sum(len(sender.acknowledged) for sender in senders)
