"""Alerts that nothing loses: the auditor, a disk that fails, a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from alerts import auditor, rows, timers
from alerts.dossier import load
from alerts.lifecycle import apply_effects
from alerts.policy import Policy
from alerts.service import PACE_S, POLL_S, AlertService
from gateway import audit
from gateway.clock import US_PER_S, VirtualClock, to_us
from gateway.errors import StorageBrokenError, StorageError
from tests.alerts_site import POLICY, START, Site
from tests.alerts_support import NowhereToGo, committed, sos


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    assert list(audit.verify(made.connection)) == []
    made.store.close()


@pytest.mark.parametrize("handling", ["raised", "accepted"])
def test_the_auditor_finds_an_emergency_without_a_next_step_and_acts(site: Site, handling: str) -> None:
    alert = site.press()
    if handling == "accepted":
        site.do(alert, "accept")
    assert auditor.without_next_step(site.connection) == []
    site.connection.execute("DELETE FROM timer")
    assert [each.id for each in auditor.without_next_step(site.connection)] == [alert.id]
    with site.connection:
        assert auditor.restore(site.connection, site.clock.now_us(), POLICY) == [alert.id]
    assert timers.has_any(site.connection, alert.id)
    assert site.actions(alert)[-1] == "restore"


def test_waiting_for_an_order_is_no_next_step(tmp_path: Path) -> None:
    """An emergency of which only the platform's promise is timed would be heard of by nobody: the auditor acts."""
    site = Site(tmp_path)
    now_us = site.clock.now_us()
    (alert_id,) = committed(site.connection, lambda c: apply_effects(c, [sos(1)], now_us, Policy())).raised
    site.connection.execute("DELETE FROM timer WHERE kind = 'remind'")
    kinds = [kind for (kind,) in site.connection.execute("SELECT kind FROM timer ORDER BY kind")]
    assert kinds == ["order_accept", "order_due"]
    assert [each.id for each in auditor.without_next_step(site.connection)] == [alert_id]

    async def main() -> None:
        service = AlertService(site.store, site.clock, Policy(), outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            while auditor.without_next_step(site.connection):
                await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(main())
    assert load(site.connection, alert_id).timers.find("remind") is not None
    site.store.close()


def test_a_store_that_cannot_write_at_the_start_does_not_end_the_service(site: Site) -> None:
    async def main() -> None:
        site.store.fail_with = [StorageError("the disk is full")]
        service = AlertService(site.store, site.clock, POLICY, outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            await asyncio.sleep(0.01)
            service.submit([sos(1)])
            async with asyncio.timeout(60):
                await service.drained()
            task.cancel()

    asyncio.run(main())
    assert len(rows.list_alerts(site.connection)) == 1


def test_a_transaction_that_fails_leaves_nothing(site: Site) -> None:
    def dies(connection: apsw.Connection) -> None:
        apply_effects(connection, [sos(1)], site.clock.now_us(), POLICY)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        committed(site.connection, dies)
    for table in ("alert", "occurrence", "timer", "outbox", "order_request", "audit"):
        assert site.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_effects_survive_a_store_that_fails_for_a_while(site: Site) -> None:
    async def main() -> None:
        service = AlertService(site.store, site.clock, POLICY, outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            await asyncio.sleep(0.01)
            site.store.fail_with = [StorageError("full"), StorageError("full")]
            service.submit([sos(1)])
            await service.drained()
            task.cancel()
        assert len(rows.list_alerts(site.connection)) == 1

    asyncio.run(main())


def test_a_broken_disk_ends_the_service(site: Site) -> None:
    async def main() -> None:
        service = AlertService(site.store, site.clock, POLICY, outbox=NowhereToGo())
        site.store.fail_with = [StorageBrokenError("io")]
        await service.run()

    with pytest.raises(StorageBrokenError):
        asyncio.run(main())


class JumpyClock(VirtualClock):
    """A wall clock that can be set while the monotonic one goes on."""

    offset_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.offset_us


@pytest.mark.parametrize("jump_s", [-3600, 3600, 90 * 86_400])
def test_reminders_survive_a_wall_clock_that_jumps(site: Site, jump_s: int) -> None:
    clock = JumpyClock(START)

    async def main() -> None:
        service = AlertService(site.store, clock, POLICY, outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            service.submit([sos(1, at_us=clock.now_us())])
            await service.drained()
            clock.offset_us = jump_s * US_PER_S
            await asyncio.sleep(0.3)
            clock.advance(31)
            async with asyncio.timeout(60):
                while not reminded():
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.6)
            task.cancel()

    def reminded() -> int:
        (shown,) = rows.list_alerts(site.connection)
        return [each["action"] for each in rows.show_alert(site.connection, shown["id"])["transitions"]].count("remind")

    asyncio.run(main())
    assert reminded() == 1
    jumps: list[Any] = site.connection.execute("SELECT count(*) FROM audit WHERE action = 'clock_jumped'").fetchall()
    assert jumps[0][0] >= 1


def test_a_timer_that_a_wrong_clock_set_is_pulled_in(site: Site) -> None:
    alert = site.press()
    far = to_us(START + timedelta(days=365))
    site.connection.execute("UPDATE timer SET due_at_us = ?", (far,))
    assert timers.pull_in(site.connection, site.clock.now_us(), POLICY.longest_us) == 1
    assert site.wait(600) == 1
    assert site.actions(alert)[-1] == "remind"


def test_it_sleeps_until_the_next_timer_is_due_and_never_long(site: Site) -> None:
    alert = site.press()
    service = AlertService(site.store, site.clock, POLICY, outbox=NowhereToGo())

    async def look() -> float:
        await service._fire()
        return service._wait_s()

    async def main() -> None:
        site.connection.execute("DELETE FROM timer")
        assert await look() == POLL_S
        now_us = site.clock.now_us()
        timers.arm(site.connection, alert.id, "remind", now_us + 3600 * 1_000_000)
        assert await look() == POLL_S
        timers.arm(site.connection, alert.id, "remind", now_us + 100_000)
        assert await look() == pytest.approx(0.1)
        timers.arm(site.connection, alert.id, "remind", now_us + 1)
        assert await look() == PACE_S
        site.clock.advance(0.1)
        assert await look() == POLL_S  # fired, and armed anew for later
        assert site.actions(alert)[-1] == "remind"

    asyncio.run(main())
