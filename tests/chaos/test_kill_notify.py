"""Death around messages and calls: orders and events exactly once, each message or call at most once more a death."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway import crashpoints
from simulators.client import GatewayApi
from simulators.people import presses
from tests.daemon import carebell
from tests.live.escalation_daemon import POLICY, Town, by, contact_number, town

pytestmark = pytest.mark.live
pytest.importorskip("twilio", reason="needs the Twilio SDK: pip install 'carebell[twilio]'")

DEATHS = [
    f"{crashpoints.AFTER_EFFECTS}:1",  # the alert is durable, nobody was told
    f"{crashpoints.AFTER_SENDING}:2",  # of two messages and an order that leave at the same time
    f"{crashpoints.AFTER_SENDING}:4",  # the call has been made, and that is not written down
]
if os.environ.get("CAREBELL_CHAOS") == "long":
    DEATHS = [f"{point}:1" for point in crashpoints.POINTS] + [f"{crashpoints.AFTER_SENDING}:{n}" for n in range(2, 9)]


def attempts_made(place: Town) -> Counter[str]:
    """How often the carrier was asked for each attempt, by the id in its callback address."""
    made = [message.callback for message in place.carrier.messages] + [call.callback for call in place.carrier.calls]
    return Counter(re.search(r"/callbacks/twilio/([^/]+)/", url)[1] for url in made)  # type: ignore[index] # all have one


def of_one_mind(place: Town, alert: dict[str, Any]) -> bool:
    """Whether the file has the attempts that the carrier knows, and no others.

    One that the death left begun and not asked for is not made any more when somebody has accepted meanwhile.
    """
    made, written = set(attempts_made(place)), {each["attempt_id"]: each["state"] for each in alert["attempts"]}
    return made <= set(written) and all(written[each] == "sending" for each in set(written) - made)


async def one_life(place: Town, person: int, death: str) -> None:
    """A press, and the death that it leads to. Who pressed presses again until that is acknowledged."""
    await asyncio.to_thread(place.daemon.start, {"CAREBELL_CRASH": death})
    await place.press(person)
    assert await asyncio.to_thread(place.daemon.wait) == -9, f"{death}: it did not come to the place where it dies"
    await asyncio.to_thread(place.daemon.start)
    assert await place.press(person)


async def events_of(place: Town, alert_id: str, last: str) -> list[dict[str, Any]]:
    """The events of an alert up to the named transition."""
    found = []
    async with GatewayApi(place.daemon.url, place.operator) as api, asyncio.timeout(60):
        async for event in api.events(after="0-0"):
            if event["data"].get("id") == alert_id:
                found.append(event)
                if event["data"].get("action") == last:
                    break
    return found


async def story(folder: Path, death: str) -> None:
    async with town(folder, policy=POLICY.replace("at_s = 0.5", "at_s = 0.2")) as place:
        place.people.set(contact_number(1, 2), presses("1"))
        await one_life(place, 1, death)
        alert = await place.until(1, lambda a: bool(by(a, "family_accept")), 60)
        await place.until(1, lambda a: (a["order"] or {}).get("status") == "accepted")
        alert = await place.until(1, lambda a: of_one_mind(place, a))
        assert len(place.platform.orders_for(alert["id"])) == 1, "exactly one order"
        assert [len(by(alert, action)) for action in ("raise", "order_sent", "family_accept")] == [1, 1, 1]
        assert alert["occurrences"] == 1, "the same press, sent again"
        made = attempts_made(place)
        assert sum(made.values()) - len(made) <= 1, f"told more than once more: {made}"
        events = await events_of(place, alert["id"], "family_accept")
        ids = [event["id"] for event in events]
        assert len(ids) == len(set(ids)), "each event once"
        actions = Counter(event["data"]["action"] for event in events)
        assert (actions["raise"], actions["family_accept"]) == (1, 1)
        assert await asyncio.to_thread(place.daemon.stop) == 0
        carebell("audit", "verify", data_dir=place.data_dir)


@pytest.mark.timeout(600)
def test_death_around_messages_and_calls(tmp_path: Path) -> None:
    """Three lives at one time: most of each is waiting."""

    async def three(deaths: list[str]) -> None:
        async with asyncio.TaskGroup() as group:
            for death in deaths:
                group.create_task(story(tmp_path / death.replace(":", "-"), death))

    for death in DEATHS:
        (tmp_path / death.replace(":", "-")).mkdir()
    for first in range(0, len(DEATHS), 3):
        asyncio.run(three(DEATHS[first : first + 3]))
