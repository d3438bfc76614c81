"""The stories in ``stories/``, and drills that need more than a story: no provider, a power cut at every step."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.drills.language import count_keys, play, run_story
from tests.drills.world import PowerCut, World, clock_of

STORIES = Path(__file__).parent / "stories"


@pytest.mark.parametrize("name", sorted(path.stem for path in STORIES.glob("*.drill")))
def test_story(name: str, tmp_path: Path) -> None:
    run_story(World(tmp_path), (STORIES / f"{name}.drill").read_text("utf-8"))


def test_a_story_can_fail(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run_story(World(tmp_path), "at 22:04:00 press\nexpect 22:04:10 call contact 1")
    assert caught.group_contains(AssertionError, match="line 2")


def test_one_contact_is_not_redialled_within_a_minute(tmp_path: Path) -> None:
    world = run_story(World(tmp_path, contacts=1), "at 22:04:00 press\nuntil 23:04:00 no push")
    calls = [at for at, what in world.told("call contact")]
    assert calls[:2] == ["22:04:30", "22:06:00"]
    to_contact = [[n for n in each.calls if n.to == "+8613900000001"] for each in (world.first, world.second)]
    assert [len([n for n in calls if n.medium == "voice"]) for calls in to_contact] == [5, 5], "five an hour at each"


def test_without_providers_nothing_piles_up(tmp_path: Path) -> None:
    story = """
    at 22:04:00 press
    expect 22:04:00 order
    until 22:34:00 no call
    expect state raised
    expect ladder family running
    expect site alert nobody_can_be_called
    """
    world = World(tmp_path, providers=False)
    asyncio.run(play(world, story))
    lanes = world.store.connection.execute("SELECT count(*) FROM outbox WHERE lane = 'notify'").fetchone()
    assert lanes == (0,)
    assert world.escalation.findings()[0].startswith("nobody can be called")
    world.store.close()


async def _with_cut(world: World) -> None:
    """The story up to 22:05:16, started again after the power cut from where the file is."""
    steps = [("22:04:00", "press"), ("22:04:30", ""), ("22:05:16", "")]
    place = 0
    while place < len(steps):
        try:
            await play(world, "\n".join(f"at {at} {what or 'first provider works'}" for at, what in steps[place:]))
            place = len(steps)
        except* PowerCut:
            world.reopen()
            place = next((n for n, (at, _) in enumerate(steps) if at > clock_of(world.clock.now_us())), len(steps) - 1)
            if not world.store.connection.execute("SELECT 1 FROM alert").fetchone():
                place = 0  # nothing was acknowledged to the device: it says it again


@pytest.mark.parametrize("place", ["before_commit", "after_commit", "before_provider", "after_provider"])
def test_power_cut_at_every_step(place: str, tmp_path: Path) -> None:
    """Orders exactly once, each message and call at least once, and at most one twice for a cut."""
    (tmp_path / "quiet").mkdir()
    quiet = World(tmp_path / "quiet", contacts=2)
    asyncio.run(_with_cut(quiet))
    expected = count_keys(quiet.happened)
    times = quiet.passed[place]
    quiet.store.close()
    assert times >= 5
    for number in range(1, times + 1):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        world = World(folder, contacts=2)
        world.cut_at = (place, number)
        asyncio.run(_with_cut(world))
        counts = count_keys(world.happened)
        assert world.cuts == 1 or world.passed[place] < number, (place, number)  # how commits gather varies
        assert len(world.platform.orders) == 1
        assert {key[0] for key in counts} == {key[0] for key in expected}, (place, number)
        assert sum(counts.values()) <= sum(expected.values()) + 1, (place, number)
        world.check()
        world.store.close()
