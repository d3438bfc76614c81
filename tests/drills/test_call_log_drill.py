"""What a whole alert leaves in the call log, and what the people in it were told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.storage.calls import Question, search
from tests.drills.language import play
from tests.drills.world import World

STORY = """
at 22:04:00 press
expect 22:04:30 call contact 1
at 22:04:50 contact 1 presses 2
expect 22:04:50 call contact 2
at 22:05:00 contact 2 presses 1
"""


def test_every_message_and_call_of_a_story_is_in_the_log(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(play(world, STORY))
    views = search(world.store.connection, Question(person_id="P-0001"))
    world.store.close()
    told = {(view["medium"], view["callee"], view["role"], view["answer"]) for view in views}
    assert ("voice", "+8613900000001", "contact", "declined") in told
    assert ("voice", "+8613900000002", "contact", "accepted") in told
    assert ("sms", "+8613900000003", "contact", None) in told
    assert ("webhook", "city", "center", None) in told
    assert {view["attempt_id"] for view in views} == {
        notice.attempt_id for carrier in (world.first, world.second) for notice in carrier.calls
    }
    assert all(view["created_at"] <= view["sent_at"] for view in views)
    call = next(notice for notice in world.first.calls if (notice.medium, notice.to) == ("voice", "+8613900000001"))
    assert call.speech.splitlines()[:3] == ["联系人1，您好。", "这里是安心铃，紧急情况。", "王秀英老人按了紧急呼叫。"]
