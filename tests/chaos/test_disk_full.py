"""A disk fills up: telemetry is refused, emergencies use the reserve, and all is well once there is space."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import StorageError, StorageFullError
from gateway.model import Record
from gateway.storage.writer import JournalWriter
from tests.factory import record


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def submit(writer: JournalWriter, records: list[Record], *, emergency: bool = False) -> int | StorageError:
    done: asyncio.Future[int | StorageError] = asyncio.get_running_loop().create_future()
    writer.submit(records, done.set_result, emergency=emergency)
    return await done


def test_emergencies_are_kept_when_nothing_else_fits(small_disk: Path) -> None:
    async def main() -> None:
        writer = JournalWriter(small_disk, on_broken=lambda error: pytest.fail(str(error)), reserve_bytes=1 << 20)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            size = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 300_000
            file.write(bytes(size))
        kept = 0
        outcome: int | StorageError = 0
        for number in range(100_000):
            outcome = await submit(writer, [record(number) for _ in range(50)])
            if isinstance(outcome, StorageError):
                break
            kept += 50
        assert isinstance(outcome, StorageFullError)
        assert kept > 0
        full = writer.full
        assert full
        for number in range(50):
            first: asyncio.Future[int | StorageError] = asyncio.get_running_loop().create_future()
            writer.submit([record(number)], first.set_result, emergency=False)
            pressed = await submit(writer, [record(number, signal="sos")], emergency=True)
            assert isinstance(pressed, int), "an emergency found no room"
            await first
        filler.unlink()
        writer.restore_reserve()
        full = writer.full
        assert not full
        assert isinstance(await submit(writer, [record(1)]), int)
        await writer.close()

    asyncio.run(main())
