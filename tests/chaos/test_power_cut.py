"""A power cut at any moment: with synchronous=FULL nothing acknowledged is missing; with NORMAL the same test loses."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gateway.errors import StorageError
from gateway.model import Committed
from gateway.storage import journal
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.writer import JournalWriter
from tests.factory import record
from tests.power_cut import LossyVFS

CUTS = 12
ENOUGH = 50
"""Acknowledged records for each cut, at least."""


async def run_and_cut(folder: Path, vfs: LossyVFS, rng: random.Random, *, synchronous: str) -> list[set[int]]:
    """Append records without pause, cut the power CUTS times; return what was acknowledged before each cut."""
    acknowledged: set[int] = set()
    writer = JournalWriter(folder, on_broken=lambda _error: None, vfs=vfs.name, reserve_bytes=4096)
    await writer.write(lambda _connection: None)
    writer._connection.pragma("synchronous", synchronous)
    number = 0

    def submit() -> None:
        nonlocal number
        batch = [record(number + offset) for offset in range(1, rng.randrange(2, 40))]
        number += len(batch)
        numbers = {int(item.dedup_key) for item in batch}

        def done(outcome: int | StorageError) -> None:
            assert isinstance(outcome, int)
            acknowledged.update(numbers)

        writer.submit(batch, done, emergency=False)

    before: list[set[int]] = []
    for cut in range(CUTS):
        rounds = rng.randrange(5, 40)
        async with asyncio.timeout(60):
            while rounds > 0 or len(acknowledged) < ENOUGH * (cut + 1):  # however slow this machine's disk is
                rounds -= 1
                submit()
                await asyncio.sleep(rng.random() * 0.002)
        if cut % 4 == 3:
            writer._checkpoint_now.set()  # also in the middle of a checkpoint
            submit()
        before.append(set(acknowledged))
        vfs.cut(folder / f"cut{cut}", rng)
    await writer.close()
    return before


def survivors(folder: Path) -> set[int]:
    connection = open_database(folder / FILE_NAME)
    assert connection.pragma("integrity_check") == "ok"
    found: list[int] = []
    for part in journal.read_after(connection, 0, 1_000_000):
        assert isinstance(part, Committed)
        found += [int(item.dedup_key) for item in part.records]
    connection.close()
    assert len(found) == len(set(found)), "a record came twice"
    return set(found)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_full_keeps_everything_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    vfs = LossyVFS(f"full-{seed}")
    before = asyncio.run(run_and_cut(tmp_path, vfs, random.Random(seed), synchronous="full"))
    assert len(before[-1]) >= CUTS * ENOUGH
    for cut, acknowledged in enumerate(before):
        assert acknowledged <= survivors(tmp_path / f"cut{cut}")


def test_the_same_test_catches_a_journal_that_does_not_sync(tmp_path: Path) -> None:
    vfs = LossyVFS("normal")
    before = asyncio.run(run_and_cut(tmp_path, vfs, random.Random(4), synchronous="normal"))
    lost = sum(len(acknowledged - survivors(tmp_path / f"cut{cut}")) for cut, acknowledged in enumerate(before))
    assert lost > 0
