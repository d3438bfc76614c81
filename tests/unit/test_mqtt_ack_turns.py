"""Acknowledgements have turns too: a great commit is written to its connections bit by bit, a small one at once, and
on each connection they come in the order of its publishes.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.model import Verdict
from gateway.ports import VerdictFuture
from protocols.transports.mqtt_endpoint.acks import FEW, SLICE, Acks


class Peer:
    """A connection: what was written to it, and when its ``refuse`` came."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.refused: list[bytes] = []

    def acknowledge(self, acks: list[bytes]) -> None:
        assert not self.refused
        self.written += acks

    def refuse(self, acks: list[bytes]) -> None:
        self.refused += acks


def verdict() -> VerdictFuture:
    return VerdictFuture(loop=asyncio.get_running_loop())


def test_a_great_commit_is_written_in_slices_and_a_small_one_at_once() -> None:
    async def main() -> None:
        acks = Acks(asyncio.get_running_loop())
        crowd, few = [Peer() for _ in range(3 * SLICE)], [Peer() for _ in range(FEW)]
        great, small = verdict(), verdict()
        for peer in crowd:
            acks.add(great, peer, [b"r"])
        for peer in few:
            acks.add(small, peer, [b"p"])
        great.set_result(Verdict.ACCEPTED)
        assert not any(peer.written for peer in crowd)
        small.set_result(Verdict.ACCEPTED)
        assert all(peer.written == [b"p"] for peer in few), "before the turn of the loop ends"
        turns = 0
        while not all(peer.written for peer in crowd):
            before = sum(map(len, (peer.written for peer in crowd)))
            await asyncio.sleep(0)
            assert sum(map(len, (peer.written for peer in crowd))) - before <= SLICE
            turns += 1
        assert turns >= 3
        assert all(peer.written == [b"r"] for peer in crowd)
        await acks.idle()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_each_connection_gets_its_own_in_order_whatever_the_sizes_of_commits(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        acks = Acks(asyncio.get_running_loop())
        peers = [Peer() for _ in range(4 * SLICE)]
        earned: dict[Peer, list[bytes]] = {peer: [] for peer in peers}
        for number in range(60):
            future: asyncio.Future[Verdict] = verdict() if chance.random() < 0.8 else asyncio.Future()
            prompt = isinstance(future, VerdictFuture)
            for peer in chance.sample(peers, chance.choice([1, FEW, FEW + 1, SLICE, 3 * SLICE])):
                for part in range(chance.randint(1, 3)):
                    ack = b"%d/%d" % (number, part)
                    acks.add(future, peer, [ack])
                    earned[peer].append(ack)
            future.set_result(Verdict.ACCEPTED)
            if chance.random() < 0.5 or not prompt:  # callbacks of ordinary futures come with the next turn
                await asyncio.sleep(0)
        await acks.idle()
        assert all(peer.written == earned[peer] for peer in peers)

    asyncio.run(main())


def test_what_was_earned_is_written_before_a_refusal() -> None:
    async def main() -> None:
        acks = Acks(asyncio.get_running_loop())
        peers = [Peer() for _ in range(3 * SLICE)]
        kept, lost = verdict(), verdict()
        for peer in peers:
            acks.add(kept, peer, [b"kept"])
        acks.add(lost, peers[-1], [b"lost"])
        kept.set_result(Verdict.ACCEPTED)
        lost.set_result(Verdict.RETRY)
        assert peers[-1].written == [b"kept"]
        assert peers[-1].refused == [b"lost"]
        await acks.idle()
        assert all(peer.written == [b"kept"] for peer in peers)
        assert acks.retried == 1

    asyncio.run(main())


def test_who_comes_when_the_verdict_is_known_hears_it_all_the_same() -> None:
    async def main() -> None:
        future, told = verdict(), []
        future.promptly(lambda _future: told.append(1))
        future.promptly(lambda _future: told.append(2))
        future.add_done_callback(lambda _future: told.append(3))
        future.set_result(Verdict.ACCEPTED)
        assert told == [1]
        future.promptly(lambda _future: told.append(4))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert told == [1, 2, 3, 4]

    asyncio.run(main())
