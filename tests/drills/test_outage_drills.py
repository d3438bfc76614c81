"""Ways out that fail: a provider that hangs, on a clock that jumps; the Internet gone, with a modem on a pty."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alerts.channel import Receipt
from alerts.channels.twilio import TwilioProvider
from alerts.escalation import Escalation, build
from alerts.notice import Medium, Notice, Provider, Told
from alerts.notify import FAILOVER_S
from alerts.outbox import Outbox
from alerts.policy import Policy
from alerts.policy_files import load_policies
from alerts.service import AlertService
from gateway.clock import Clock, SystemClock
from gateway.model import Severity
from simulators.modem import SimulatedModem
from tests.alerts_support import FileStore, sos
from tests.drills.jumping_loop import LoopClock, play
from tests.drills.world import People
from tests.factory import T0_US
from tests.live.modem_harness import modem_harness
from tests.provider_contract import until


class Provided:
    """A provider that hangs, or that works, and knows when it was asked."""

    media: frozenset[Medium] = frozenset({"voice", "sms"})

    def __init__(self, name: str, clock: Clock, *, hangs: bool = False) -> None:
        self.name = name
        self._clock = clock
        self._hangs = hangs
        self.asked: list[tuple[float, Notice]] = []

    def ready(self) -> bool:
        return True

    async def send(self, notice: Notice) -> Receipt:
        self.asked.append((self._clock.monotonic_s(), notice))
        if self._hangs:
            await asyncio.sleep(3600)
        return Receipt(f"{self.name}-{len(self.asked)}")

    async def find(self, notice: Notice) -> Told | None:
        return None

    async def close(self) -> None:
        return


class Gateway:
    """Alerts, ladders and outbox of one person with contacts."""

    def __init__(
        self, store: FileStore, clock: Clock, providers: Sequence[Provider], *, failover_s: float = FAILOVER_S
    ) -> None:
        self.store = store
        self.clock = clock
        self.escalation: Escalation = build(
            policy=Policy(), book=load_policies(), providers=providers, source=People(3), store=store, clock=clock,
            rng=random.Random(7), failover_s=failover_s,
        )  # fmt: skip
        self.outbox = Outbox(
            store, self.escalation.channels, clock, handlers=self.escalation.handlers,
            technician=lambda connection, destination, reason, now_us: None, rng=random.Random(7),
        )  # fmt: skip
        self.service = AlertService(store, clock, self.escalation.policy, outbox=self.outbox)

    async def press_and_wait(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.outbox.run()), group.create_task(self.service.run())]
            self.service.submit([sos(1, severity=Severity.P1, at_us=self.clock.now_us())])
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()


def test_a_provider_that_hangs_costs_an_emergency_less_than_five_seconds(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.connection.pragma("synchronous", "off")  # what is tested here is not the disk
    clock = LoopClock(T0_US)
    first, second = Provided("first", clock, hangs=True), Provided("second", clock)
    begun_s = time.monotonic()
    play(Gateway(store, clock, [first, second]).press_and_wait(60))
    assert time.monotonic() - begun_s < 50, "the clock did not jump"
    for medium, expected in (("sms", 3), ("voice", 1)):
        hung = {n.attempt_id: at for at, n in first.asked if n.medium == medium}
        told = {n.attempt_id: at for at, n in second.asked if n.medium == medium}
        assert len(told) == expected
        assert all(told[attempt] - at <= 5.0 for attempt, at in hung.items() if attempt in told)
    # left alone after its failures: the later ones go to the second at once
    states = store.connection.execute("SELECT provider, state FROM attempt ORDER BY id").fetchall()
    assert ("first", "unknown") in states
    assert {state for provider, state in states if provider == "second"} == {"queued"}
    store.close()


def test_when_the_internet_is_gone_the_modem_tells_the_family(tmp_path: Path) -> None:
    """Twilio cannot be reached; the messages go over the modem's pseudo-terminal, each once to each contact."""
    pytest.importorskip("twilio", reason="needs the Twilio SDK: pip install 'carebell[twilio]'")

    async def main() -> None:
        store = FileStore(tmp_path)
        clock = SystemClock()
        twilio = TwilioProvider(
            "AC" + "0" * 32, "secret", "+15005550006", clock=clock, base_url="http://127.0.0.1:9", timeout_s=60
        )
        async with modem_harness(tmp_path / "modem") as harness:
            modem: SimulatedModem = harness.modem
            # Nobody listens there, which is known at once; it is not the time that a slow machine needs for that.
            gateway = Gateway(store, clock, [twilio, harness.provider], failover_s=60.0)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(gateway.outbox.run()), group.create_task(gateway.service.run())]
                gateway.service.submit([sos(1, at_us=clock.now_us())])

                def finished() -> bool:
                    (count,) = store.connection.execute(
                        "SELECT count(*) FROM outbox WHERE destination = 'notify_sms' AND state = 'done'"
                    ).fetchone() or (0,)
                    return bool(count == 3)

                await until(finished, "three messages by modem")
                for task in tasks:
                    task.cancel()
            assert len(modem.sent) >= 3
            told = store.connection.execute(
                "SELECT contact_id, provider, state FROM attempt WHERE medium = 'sms' AND provider = 'modem' ORDER BY 1"
            ).fetchall()
            assert [each[0] for each in told] == ["P-0001.1", "P-0001.2", "P-0001.3"]
            assert {each[2] for each in told} <= {"queued", "sent", "delivered"}
            failed = store.connection.execute(
                "SELECT count(*) FROM attempt WHERE provider = 'twilio' AND state = 'deferred' AND medium = 'sms'"
            ).fetchone()
            assert failed == (3,)
            kept: list[Any] = store.connection.execute(
                "SELECT attempt_id, loop, step FROM attempt WHERE provider = 'modem' AND medium = 'sms'"
                " AND attempt_id IN (SELECT attempt_id FROM attempt WHERE provider = 'twilio' AND state = 'deferred')"
            ).fetchall()
            assert len(kept) == 3, "the same messages in the same step: nobody waited for a later one"
            assert {(loop, step) for _, loop, step in kept} == {(1, 0)}
        await twilio.close()
        store.close()

    (tmp_path / "modem").mkdir()
    asyncio.run(main())
