"""kill -9 under load over TCP: what a terminal saw answered is in the journal, every press is one occurrence."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway import crashpoints
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from gateway.storage.database import FILE_NAME, open_database
from tests.chaos.tracker_driver import TrackerDriver
from tests.daemon import ACTOR, Daemon, carebell_json, free_port

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
TERMINALS = 10
RANDOM_KILLS = 60
ENOUGH = 100


def provision_terminals(data_dir: Path) -> dict[str, str]:
    """Device ids by IMEI."""
    connection = open_database(data_dir / FILE_NAME)
    found = {}
    with connection:
        for number in range(1, TERMINALS + 1):
            imei, at_us = f"86000000000{number:04d}", time.time_ns() // 1000
            add_person(connection, f"P-{number}", {"name": f"测试{number}"}, at_us=at_us, actor=ACTOR)
            values = {"profile": "trackers.gt06", "person_id": f"P-{number}", "imei": imei}
            add_device(
                connection, f"T-{number}", values, known_profiles=["trackers.gt06"], at_us=at_us, actor=ACTOR
            )  # fmt: skip
            found[imei] = f"T-{number}"
    connection.close()
    return found


async def survive(tmp_path: Path, deaths: list[dict[str, str]], seed: int) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    devices = provision_terminals(data_dir)
    rng = random.Random(seed)
    port = free_port()
    daemon = Daemon(data_dir, CAREBELL_TRACKERS__GT06=f"127.0.0.1:{port}")
    driver = TrackerDriver(port, list(devices), seed)
    async with asyncio.TaskGroup() as group:
        group.create_task(driver.run())
        for death in deaths:
            await asyncio.to_thread(daemon.start, death)
            if death:
                assert await asyncio.to_thread(daemon.wait) == -9, "it did not come to the place where it dies"
            else:
                await asyncio.sleep(0.3 + rng.random() * 0.7)
                await asyncio.to_thread(daemon.kill)
        await asyncio.to_thread(daemon.start)
        async with asyncio.timeout(120):
            while len(driver.answered()) <= ENOUGH or not all(tracker.answered for tracker in driver.trackers):
                await asyncio.sleep(0.05)
        driver.finish()
    assert await asyncio.to_thread(daemon.stop) == 0
    judge(data_dir, driver, devices)


def judge(data_dir: Path, driver: TrackerDriver, devices: dict[str, str]) -> None:
    records = [row for row in carebell_json("journal", "list", data_dir=data_dir) if row["dedup_key"]]
    for row in records:
        row["dedup_key"] = row["dedup_key"].removeprefix("key:")
    seen = Counter((row["device_key"], row["dedup_key"]) for row in records)
    assert [key for key, count in seen.items() if count > 1] == [], "a frame is in the journal twice"
    assert len(driver.answered()) > ENOUGH
    assert driver.answered() <= set(seen), "an answered frame is not in the journal"
    seq_of = {(row["device_key"], row["dedup_key"]): row["seq"] for row in records}
    pressed = {(tracker.imei, name) for tracker in driver.trackers for name in tracker.presses}
    connection = open_database(data_dir / FILE_NAME, read_only=True)
    occurrences = Counter(
        seq
        for (seq,) in connection.execute(
            "SELECT seq FROM occurrence WHERE alert_id IN (SELECT id FROM alert WHERE kind = 'sos')"
        )
    )
    connection.close()
    assert set(occurrences) == {seq_of[key] for key in pressed if key in seq_of}
    assert pressed <= set(seq_of), "a press that was sent until it was answered is not in the journal"
    assert set(devices) == {imei for imei, _ in driver.answered()}


@pytest.mark.live
def test_death_around_the_commit(tmp_path: Path) -> None:
    points = [crashpoints.BEFORE_COMMIT, crashpoints.AFTER_COMMIT]
    asyncio.run(survive(tmp_path, [{"CAREBELL_CRASH": f"{point}:30"} for point in points], seed=1))


@pytest.mark.skipif(not LONG, reason="the places around the commit are above; any moment: make chaos")
@pytest.mark.live
@pytest.mark.timeout(3600 if LONG else 300)
def test_death_at_any_moment(tmp_path: Path) -> None:
    asyncio.run(survive(tmp_path, [{}] * RANDOM_KILLS, seed=2))
