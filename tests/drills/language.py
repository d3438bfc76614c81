"""Stories of alerts on a virtual clock. One line is one sentence; times are Shanghai's on 22 November 2026.

    at 22:04:00 press
    expect 22:04:00 order
    expect 22:04:30 call contact 1
    at 22:04:50 contact 1 presses 2
    expect state raised

What is expected of a time happens once then; ``expect 22:04:00 first refuses sms times 3`` is three times.

The world behind it is ``tests.drills.world``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final, cast

from alerts import care_rows, ladders, outbox_rows, rows
from alerts.notice import AttemptState
from gateway.clock import US_PER_S
from gateway.errors import ConflictError
from gateway.model import Actor, Severity
from tests.drills.world import Happening, World, time_of

OPERATORS: Final = {"": "U-1", "1": "U-1", "2": "U-2"}
_ACTS: Final = {"accepts": "accept", "releases": "release", "progresses": "progress", "escalates": "escalate"}


async def _do(world: World, sentence: str) -> None:
    if sentence == "press":
        await world.press()
    elif match := re.fullmatch(r"press (\w+) (P\d)", sentence):
        await world.press(kind=match[1], severity=Severity[match[2]])
    elif match := re.fullmatch(r"operator ?(\d?) (accepts|releases|progresses|escalates)( and is too late)?", sentence):
        actor = Actor("operator", OPERATORS[match[1]], role="operator")
        try:
            await world.act(_ACTS[match[2]], actor)
            assert not match[3], f"{sentence}: was in time"
        except ConflictError:
            assert match[3], f"{sentence}: was too late"
    elif match := re.fullmatch(r"operator resolves as (\w+)", sentence):
        await world.act("resolve", Actor("operator", "U-1", role="operator"), outcome=match[1])
    elif sentence == "console shows it":
        await world.act("presented", Actor("operator", "U-1", role="operator"))
    elif match := re.fullmatch(r"((?:contact |staff )?\w+) presses (\d)(?: and it is (\w+))?", sentence):
        result = await world.tell(match[1], match[2])
        assert not match[3] or result == match[3], f"{sentence}: it was {result}"
    elif match := re.fullmatch(r"(contact \d) (no_answer|busy|machine|answered|failed)", sentence):
        await world.tell(match[1], "", cast("AttemptState", match[2]))
    elif match := re.fullmatch(r"care (message|check) by (sms|voice) at (\d\d:\d\d)(?: to contact (\d))?", sentence):
        await world.plan(match[1], match[2], match[3], f"P-0001.{match[4]}" if match[4] else "")
    elif match := re.fullmatch(r"(person|contact \d|staff \w+) replies (\S+) and it is (\w+)", sentence):
        result = await world.reply(match[1], match[2])
        assert result == match[3], f"{sentence}: it was {result}"
    elif sentence == "person says ok":
        await world.say_ok()
    elif match := re.fullmatch(r"(first|second) provider (fails|works)", sentence):
        getattr(world, match[1]).down = match[2] == "fails"
    elif match := re.fullmatch(r"clock jumps ([+-]\d+)", sentence):
        world.clock.wall_us += int(match[1]) * US_PER_S
        await world.settle()
    else:
        raise AssertionError(f"what does this mean? {sentence}")


def _holds(world: World, sentence: str) -> None:
    if match := re.fullmatch(r"check (\w+)", sentence):
        (newest,) = care_rows.list_occasions(world.store.connection, limit=1)
        assert newest["state"] == match[1], newest
        return
    if match := re.fullmatch(r"no alert|alert (\w+) (\w+)", sentence):
        shown = [(each["kind"], each["condition"]) for each in rows.list_alerts(world.store.connection, open_only=True)]
        assert shown == ([(match[1], match[2])] if match[1] else []), shown
        return
    alert = world.alert()
    if match := re.fullmatch(r"state (\w+)", sentence):
        assert alert.handling.value == match[1], alert.handling
    elif match := re.fullmatch(r"ladder (\w+) (\w+)", sentence):
        assert ladders.rungs(world.store.connection, alert.id)[match[1]].state == match[2]
    elif match := re.fullmatch(r"owner (\S+)", sentence):
        assert alert.owner == match[1], alert.owner
    elif match := re.fullmatch(r"site alert (\w+)", sentence):
        open_ones = rows.list_alerts(world.store.connection, open_only=True, kind=match[1])
        assert len(open_ones) == 1, open_ones
    elif match := re.fullmatch(r"(\d+) orders?", sentence):
        assert len(world.platform.orders) == int(match[1])
    else:
        raise AssertionError(f"what does this mean? {sentence}")


async def play(world: World, story: str) -> None:
    """Tell a story. Every sentence must come true; after ``at`` the order of time is that of the lines."""
    lines = [(number, line.strip()) for number, line in enumerate(story.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    place = 0
    if world.played:
        world.reopen()  # the outbox belongs to the loop that ran it
    world.played = True
    while place < len(lines):
        async with world.running():
            while place < len(lines):
                number, line = lines[place]
                place += 1
                try:
                    if not await _sentence(world, line):
                        break
                    world.check()
                except AssertionError as error:
                    happened = "\n".join(f"  {at} {what}" for at, what in world.told()[-30:])
                    raise AssertionError(f"line {number}: {line}: {error}\nwhat happened last:\n{happened}") from error
        if place < len(lines):
            world.reopen()


async def _sentence(world: World, line: str) -> bool:
    """False when the gateway has to be started again."""
    if match := re.fullmatch(r"at (\d\d:\d\d:\d\d(?:\+\d+)?) (.+)", line):
        await world.wait_until(time_of(match[1]))
        if match[2] == "gateway restarts":
            return False
        await _do(world, match[2])
    elif match := re.fullmatch(r"expect (\d\d:\d\d:\d\d(?:\+\d+)?) (.+)", line):
        at_us = time_of(match[1])
        await world.wait_until(at_us)
        found = [each.what for each in world.happened if each.at_us == at_us]
        what, _, times = match[2].partition(" times ")
        assert found.count(what) == int(times or 1), f"{found or 'nothing'} then"
    elif match := re.fullmatch(r"until (\d\d:\d\d:\d\d(?:\+\d+)?) nobody is told", line):
        before = len(world.happened)
        await world.wait_until(time_of(match[1]))
        assert world.happened[before:] == []
    elif match := re.fullmatch(r"until (\d\d:\d\d:\d\d(?:\+\d+)?) no (.+)", line):
        before = len(world.happened)
        await world.wait_until(time_of(match[1]))
        assert [each for each in world.happened[before:] if each.what.startswith(match[2])] == []
    elif match := re.fullmatch(r"until (\d\d:\d\d:\d\d(?:\+\d+)?) (.+) at least every (\d+) s", line):
        begun_us, before = world.clock.now_us(), len(world.happened)
        await world.wait_until(time_of(match[1]))
        times = [each.at_us for each in world.happened[before:] if each.what.startswith(match[2])]
        gaps = [b - a for a, b in zip([begun_us, *times], [*times, world.clock.now_us()], strict=True)]
        assert max(gaps) <= int(match[3]) * US_PER_S, f"a pause of {max(gaps) / US_PER_S:g} s"
    elif match := re.fullmatch(r"expect (.+)", line):
        _holds(world, match[1])
    else:
        raise AssertionError("a sentence begins with at, expect or until")
    return True


def run_story(world: World, story: str) -> World:
    """Play it, on a loop of its own."""
    try:
        asyncio.run(play(world, story))
    finally:
        world.store.close()
    return world


def count_keys(happened: Sequence[Happening]) -> dict[tuple[str, str], int]:
    """How often each order, message and call came."""
    counts: dict[tuple[str, str], int] = {}
    for each in happened:
        if "refuses" not in each.what:
            counts[each.what, each.key] = counts.get((each.what, each.key), 0) + 1
    return counts


def unfinished(world: World) -> int:
    return sum(outbox_rows.depth(world.store.connection).values())
