"""What the ladders may and may not do: suppression, quiet hours, snapshots, severity, the auditor, failover in time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from alerts import auditor, ladders, suppression, timers
from alerts.channel import Receipt
from alerts.desk import show_alert
from alerts.lifecycle import apply_effects, transition
from alerts.notice import Notice
from alerts.policy import MINUTE_US, Policy
from gateway.clock import US_PER_S
from gateway.errors import DeliveryUnknownError, NotFoundError, UsageError
from gateway.model import Actor, Severity
from tests.alerts_support import FAMILY, OPERATOR, committed, sos
from tests.drills.language import play, run_story
from tests.drills.world import SITE, Carrier, World

INSTALLER = Actor("operator", "I-1", role="installer")
SUPERVISOR = Actor("operator", "S-1", role="supervisor")


async def _play(world: World, story: str) -> None:
    await play(world, story)


def start(world: World, kind: Any, actor: Actor, minutes: int, subject: str = "device/D-0001") -> int:
    now_us = world.clock.now_us()
    return committed(
        world.store.connection,
        lambda c: suppression.start(
            c, kind, subject, now_us + minutes * MINUTE_US, actor=actor, reason="new button", now_us=now_us
        ),
    )


def test_mode_keeps_an_emergency_to_itself_and_ends_by_itself(tmp_path: Path) -> None:
    world = World(tmp_path)
    start(world, "test", INSTALLER, 30)
    assert [each["kind"] for each in suppression.in_force(world.store.connection, world.clock.now_us())] == ["test"]
    story = """
    at 00:10:00 press
    until 00:29:59 nobody is told
    expect state raised
    expect 0 orders
    until 00:30:05 nobody is told
    expect state resolved
    at 00:50:00 press
    expect 00:50:00 order
    expect 00:50:30 call contact 1
    """
    run_story(world, story)


def test_a_press_behind_the_test_mode_is_real(tmp_path: Path) -> None:
    """The gateway was away when test mode ended; the press that came meanwhile is no test."""
    world = World(tmp_path)
    start(world, "test", INSTALLER, 5)
    asyncio.run(_play(world, "at 00:01:00 press"))
    world.clock.pass_us(10 * MINUTE_US)
    effect = sos(99, at_us=world.clock.now_us())
    policy = world.escalation.policy
    committed(world.store.connection, lambda c: apply_effects(c, [effect], world.clock.now_us(), policy))
    run_story(
        world, "at 00:11:00 console shows it\nexpect state raised\nexpect 00:11:30 call contact 1\nexpect 1 order"
    )


@pytest.mark.parametrize(
    ("kind", "actor", "minutes", "subject"),
    [
        ("test", INSTALLER, 31, "device/D-0001"),
        ("test", INSTALLER, 0, "device/D-0001"),
        ("test", FAMILY, 5, "device/D-0001"),
        ("test", INSTALLER, 5, "site/default"),
        ("maintenance", INSTALLER, 5, "device/D-0001"),
        ("maintenance", SUPERVISOR, 24 * 60 + 1, "site/default"),
        ("silence", SUPERVISOR, 5, "site/default"),
    ],
)
def test_suppression_is_bounded(kind: str, actor: Actor, minutes: int, subject: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(UsageError):
        start(world, kind, actor, minutes, subject)
    world.store.close()


def test_maintenance_never_hides_an_emergency(tmp_path: Path) -> None:
    world = World(tmp_path)
    number = start(world, "maintenance", SUPERVISOR, 60, "site/default")
    story = """
    at 00:10:00 press water_leak P2
    until 00:20:00 nobody is told
    at 00:21:00 press
    expect 00:21:00 order
    expect 00:21:30 call contact 1
    """
    asyncio.run(_play(world, story))
    now_us = world.clock.now_us()
    committed(world.store.connection, lambda c: suppression.stop(c, number, actor=SUPERVISOR, now_us=now_us))
    with pytest.raises(NotFoundError):
        committed(world.store.connection, lambda c: suppression.stop(c, number, actor=SUPERVISOR, now_us=now_us))
    before = len(world.platform.orders)
    run_story(world, "at 00:21:35 clock jumps +0")
    assert len(world.platform.orders) == before + 1, "the leak is an order as soon as maintenance has ended"


def test_a_masked_alert_waits_for_its_mask_and_no_longer(tmp_path: Path) -> None:
    world = World(tmp_path)
    story = """
    at 00:10:00 press device_removed P3
    at 00:11:00 press heart_rate_low P2
    until 00:15:00 nobody is told
    """
    asyncio.run(_play(world, story))
    alert = world.alert()
    assert show_alert(world.store.connection, alert.id)["suppressed"]
    (other,) = world.store.connection.execute("SELECT id FROM alert WHERE kind = 'device_removed'").fetchone() or ("",)
    policy = world.escalation.policy
    committed(
        world.store.connection,
        lambda c: transition(
            c, str(other), "resolve", expected_version=None, actor=OPERATOR, now_us=world.clock.now_us(),
            policy=policy, outcome="technical",
        ),
    )  # fmt: skip
    run_story(world, "expect 00:21:00 tell center city\nexpect 00:22:00 sms contact 1")


def test_quiet_hours_hold_for_less_than_an_emergency(tmp_path: Path) -> None:
    world = World(tmp_path, contacts=1)
    world.people.changes["P-0001.1"] = {"quiet_from": "22:00", "quiet_to": "07:00"}
    story = """
    at 02:00:00 press water_leak P2
    until 02:59:00 no sms
    at 03:00:00 press
    expect 03:00:00 sms contact 1
    expect 03:00:30 call contact 1
    """
    run_story(world, story)


def test_a_running_alert_keeps_its_policy(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(_play(world, "at 22:04:00 press\nexpect 22:04:30 call contact 1"))
    alert = world.alert()
    before = ladders.view(world.store.connection, alert.id)
    changed = SITE.replace('webhook = "city"', 'webhook = "elsewhere"').replace('version = "drill"', 'version = "new"')
    again = World(tmp_path, site=changed)
    world.store.close()
    again.clock, again.presses = world.clock, world.presses
    again.reopen()
    story = "expect 22:07:00 tell center city\nat 22:08:00 press fall P1\nexpect 22:08:00 tell center elsewhere"
    asyncio.run(_play(again, story))
    after = ladders.view(again.store.connection, alert.id)
    assert before is not None
    assert after is not None
    assert after["policy_hash"] == before["policy_hash"]
    again.store.close()


def test_a_rise_to_an_emergency_starts_its_ladders(tmp_path: Path) -> None:
    world = World(tmp_path)
    story = """
    at 10:00:00 press water_leak P3
    until 10:05:00 nobody is told
    at 10:05:00 press water_leak P1
    expect 10:05:00 tell center city
    expect 10:05:30 call contact 1
    """
    run_story(world, story)


def _try(world: World, action: str, actor: Actor) -> None:
    alert, policy = world.alert(), world.escalation.policy
    committed(
        world.store.connection,
        lambda c: transition(
            c, alert.id, action, expected_version=None, actor=actor, now_us=world.clock.now_us(), policy=policy,
            outcome="false_press",
        ),
    )  # fmt: skip


def test_a_family_member_never_ends_an_emergency(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(_play(world, "at 22:04:00 press"))
    contact = Actor("contact", "P-0001.1", "family")
    for actor in (FAMILY, contact, Actor("device", "D-0001"), Actor("system", "timer")):
        for action in ("resolve", "close", "accept"):
            with pytest.raises(UsageError):
                _try(world, action, actor)
    world.store.close()


def test_family_first(tmp_path: Path) -> None:
    default = (Path(__file__).resolve().parents[2] / "alerts/policies/default.toml").read_text("utf-8")
    policy = default[default.index("[[policy]]") :].replace("family_hold_s = 900", "family_first = true")
    world = World(tmp_path, site=SITE + policy)
    story = """
    at 22:04:00 press
    expect 22:04:30 call contact 1
    at 22:04:40 contact 1 presses 1 and it is accepted
    expect state accepted
    expect owner P-0001.1
    until 22:09:39 nobody is told
    expect 22:09:40 tell center city
    expect state raised
    """
    run_story(world, story)


def test_the_auditor_gives_a_lost_ladder_its_step_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(_play(world, "at 22:04:00 press\nexpect 22:04:30 call contact 1"))
    connection, policy = world.store.connection, world.escalation.policy
    alert = world.alert()
    committed(connection, lambda c: timers.cancel(c, alert.id, ("ladder_family",)))
    assert [each.id for each in auditor.without_next_step(connection)] == [alert.id]
    committed(connection, lambda c: auditor.restore(c, world.clock.now_us(), policy))
    assert auditor.without_next_step(connection) == []
    run_story(world, "until 22:05:00 no email\nexpect ladder family running")
    assert ("22:04:30", "call contact 2") in world.told("call contact")


def test_an_alert_of_a_process_without_ladders_gets_them(tmp_path: Path) -> None:
    """A command raised it, or an older carebell."""
    world = World(tmp_path)
    committed(world.store.connection, lambda c: apply_effects(c, [sos(1)], world.clock.now_us(), Policy()))
    run_story(world, "expect 00:00:00 tell center city\nexpect 00:00:30 call contact 1")


def test_a_center_out_of_hours_leaves_it_to_the_citys(tmp_path: Path) -> None:
    site = (
        SITE + '[center.west]\nwebhook = "west"\ndistricts = ["西区"]\nhours = [{start = "08:00", until = "20:00"}]\n'
    )
    (tmp_path / "day").mkdir()
    world = World(tmp_path / "day", site=site)
    world.people.place = {"district": "西区"}
    run_story(world, "at 12:00:00 press\nexpect 12:00:00 tell center west\nexpect 12:03:00 tell center city")
    assert ("12:00:00", "tell center city") not in world.told()
    (tmp_path / "night").mkdir()
    world = World(tmp_path / "night", site=site)
    world.people.place = {"district": "西区"}
    run_story(world, "at 21:00:00 press\nexpect 21:00:00 tell center city")
    assert ("21:00:00", "tell center west") not in world.told()


class Slow(Carrier):
    """Takes the request and does not answer."""

    async def send(self, notice: Notice) -> Receipt:
        await asyncio.sleep(60)
        raise DeliveryUnknownError("never")


def test_a_provider_that_hangs_is_left_for_the_next_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.first = Slow("first", ("voice", "sms"), world)
    world.carriers = [world.first, world.second]
    world.reopen()
    begun = time.monotonic()
    asyncio.run(_play(world, "at 22:04:00 press\nexpect 22:04:00 sms contact 1"))
    assert time.monotonic() - begun < 50  # a hanging provider would keep it for a minute
    attempts = show_alert(world.store.connection, world.alert().id)["attempts"]
    states = {(each["provider"], each["state"]) for each in attempts if each["medium"] == "sms"}
    assert states == {("first", "unknown"), ("second", "queued")}
    world.store.close()


def test_the_marks_of_an_acceptance_that_comes_late(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(_play(world, "at 22:04:00 press\nat 22:04:40 operator accepts"))
    shown = ladders.view(world.store.connection, world.alert().id)
    assert shown is not None
    assert shown["target_missed_at"] is not None
    assert shown["sla_missed_at"] is None
    assert shown["accepted_at"] is not None
    told = [each["action"] for each in show_alert(world.store.connection, world.alert().id)["transitions"]]
    assert told.count("accept_late") == 1
    assert world.clock.monotonic_s() * US_PER_S > 0
    assert Severity.P1 is world.alert().severity
    world.store.close()
