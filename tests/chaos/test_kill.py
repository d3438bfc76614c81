"""kill -9 at named places and at any moment: nothing acknowledged is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway import crashpoints
from gateway.storage.database import FILE_NAME, open_database
from simulators.platform import SimulatedPlatform
from tests.chaos.mqtt_driver import Driver
from tests.daemon import Daemon, carebell, carebell_json, provision

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
DEVICES = 12
RANDOM_KILLS = 100 if LONG else 3
SETTLE_S = 90.0


async def until_settled(data_dir: Path, presses: int) -> None:
    """So many presses are occurrences, and every order has been sent, or this fails."""
    started_s = time.monotonic()
    connection = open_database(data_dir / FILE_NAME, read_only=True)
    while time.monotonic() - started_s < SETTLE_S:
        state = connection.execute(
            "SELECT (SELECT count(*) FROM occurrence WHERE alert_id IN (SELECT id FROM alert WHERE kind = 'sos')),"
            " (SELECT count(*) FROM outbox WHERE state IN ('pending', 'sending', 'retry'))"
        ).fetchone()
        if state == (presses, 0):
            connection.close()
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"presses and waiting orders: {state}, of {presses} presses")


def judge(data_dir: Path, driver: Driver, platform: SimulatedPlatform) -> None:
    """What must hold after any number of deaths."""
    records = carebell_json("journal", "list", data_dir=data_dir)
    seen = Counter((row["device_id"], int(row["dedup_key"])) for row in records)
    assert [key for key, count in seen.items() if count > 1] == [], "a message is in the journal twice"
    assert driver.acknowledged() <= set(seen), "an acknowledged message is not in the journal"
    seq_of = {(row["device_id"], int(row["dedup_key"])): row["seq"] for row in records}
    pressed = {seq_of[key] for key in driver.presses() if key in seq_of}
    alerts = [alert for alert in carebell_json("alerts", "list", data_dir=data_dir) if alert["kind"] == "sos"]
    connection = open_database(data_dir / FILE_NAME, read_only=True)
    occurrences = Counter(
        seq
        for (seq,) in connection.execute(
            "SELECT seq FROM occurrence WHERE alert_id IN (SELECT id FROM alert WHERE kind = 'sos')"
        )
    )
    connection.close()
    assert set(occurrences) == pressed, "every press is an occurrence, and nothing else is"
    assert [seq for seq, count in occurrences.items() if count > 1] == []
    assert Counter(alert["person_id"] for alert in alerts).most_common(1)[0][1] == 1, "one open alert a person"
    for alert in alerts:
        assert len(platform.orders_for(alert["id"])) == 1, "exactly one order for each alert"
    carebell("audit", "verify", data_dir=data_dir)


async def survive(tmp_path: Path, deaths: list[dict[str, str]], seed: int, lives_s: float) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    tokens = provision(data_dir, DEVICES)
    rng = random.Random(seed)
    async with SimulatedPlatform(token="chaos-token", say=lambda _line: None) as platform:
        (tmp_path / "token").write_text("chaos-token")
        daemon = Daemon(
            data_dir,
            CAREBELL_ORDER_API__BASE_URL=platform.url,
            CAREBELL_ORDER_API__TOKEN_FILE=str(tmp_path / "token"),
        )
        driver = Driver(daemon.mqtt_port, tokens, seed)
        async with asyncio.TaskGroup() as group:
            group.create_task(driver.run())
            for death in deaths:
                await asyncio.to_thread(daemon.start, death)
                if death:
                    assert await asyncio.to_thread(daemon.wait) == -9, "it did not come to the place where it dies"
                else:
                    await asyncio.sleep(rng.random() * lives_s)
                    await asyncio.to_thread(daemon.kill)
            await asyncio.to_thread(daemon.start)
            enough = max(100, len(driver.acknowledged())) + 20
            async with asyncio.timeout(90):
                while len(driver.acknowledged()) < enough:
                    await asyncio.sleep(0.05)
            driver.finish()
        await until_settled(data_dir, len(driver.presses() & driver.acknowledged()))
        assert await asyncio.to_thread(daemon.stop) == 0
        assert len(driver.acknowledged()) > 100
        judge(data_dir, driver, platform)


@pytest.mark.live
@pytest.mark.timeout(600)
def test_death_at_every_named_place(tmp_path: Path) -> None:
    counts = {crashpoints.BEFORE_COMMIT: 30, crashpoints.AFTER_COMMIT: 30, crashpoints.BEFORE_JUDGING: 30}
    # Backwards: an order is sent once for each person, and behind a slow disk all have pressed after the first lives.
    deaths = [{"CAREBELL_CRASH": f"{point}:{counts.get(point, 1)}"} for point in reversed(crashpoints.POINTS)]
    asyncio.run(survive(tmp_path, deaths, seed=1, lives_s=1))


@pytest.mark.live
@pytest.mark.timeout(3600 if LONG else 600)
def test_death_at_any_moment(tmp_path: Path) -> None:
    asyncio.run(survive(tmp_path, [{}] * RANDOM_KILLS, seed=2, lives_s=1.5))
