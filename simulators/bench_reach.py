"""Benchmarks of escalation: how soon the first call leaves, and how late timers are when many alerts are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from gateway.clock import US_PER_S
from gateway.registry.contacts import add_contact
from gateway.storage.database import FILE_NAME, open_database
from simulators.bench import ACTOR, DRAIN_LIMIT_S, Bench, OrderSink
from simulators.carrier import ACCOUNT_SID, AUTH_TOKEN, NUMBER
from simulators.latency import Latencies

PRESSING_S: Final = 30.0
TARGET_S: Final = 30.0
STEPS_S: Final = {("family", 1): 30.0}
"""Of the default policy: when the operators' target is missed, and the step of the family's ladder that calls."""
CALL_AT_ONCE: Final = """
version = "bench"
[[policy]]
id = "default"
[[policy.ladder]]
name = "operator"
severities = ["P1"]
every_s = 180
longest_s = 180
[[policy.ladder.step]]
at_s = 60
tell = "console"
who = ["shift"]
[[policy.ladder]]
name = "family"
severities = ["P1"]
every_s = 180
longest_s = 180
[[policy.ladder.step]]
at_s = 0
tell = "next_contact"
media = ["voice"]
"""


def contact_number(device: int) -> str:
    return f"+86138{device:08d}"


class CallSink(OrderSink):
    """The smallest carrier: takes every call, and notes when the first one to each number came."""

    def take(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"POST"):
            number = parse_qs(body.decode())["To"][0]
            self.arrived_s.setdefault(number, time.perf_counter())
        return b'{"sid":"CA%032d","status":"queued"}' % len(self.arrived_s)


class CallingBench(Bench):
    """Each person has one contact, who is called at once; nobody ever answers."""

    policy = CALL_AT_ONCE

    def __init__(self, folder: Path, devices: int) -> None:
        super().__init__(folder, devices)
        self.calls = CallSink()
        connection = open_database(self.data_dir / FILE_NAME)
        now_us = time.time_ns() // 1000
        with connection:
            for device in range(devices):
                values = {
                    "person_id": f"P-{device:05d}", "name": "联系人", "phone": contact_number(device),
                    "channels": ["voice"],
                }  # fmt: skip
                add_contact(connection, "", values, at_us=now_us, actor=ACTOR)
        connection.close()
        (folder / "policies.d").mkdir()
        if self.policy:
            (folder / "policies.d" / "bench.toml").write_text(self.policy, encoding="utf-8")
        (folder / "token").write_text(AUTH_TOKEN)

    def environment(self) -> dict[str, str]:
        folder = self.data_dir.parent
        return super().environment() | {
            "CAREBELL_POLICIES_DIR": str(folder / "policies.d"),
            "CAREBELL_NOTIFY__TWILIO__ACCOUNT_SID": ACCOUNT_SID,
            "CAREBELL_NOTIFY__TWILIO__AUTH_TOKEN_FILE": str(folder / "token"),
            "CAREBELL_NOTIFY__TWILIO__FROM_NUMBER": NUMBER,
            "CAREBELL_NOTIFY__TWILIO__BASE_URL": self.calls.url,
            "CAREBELL_NOTIFY__TWILIO__PUBLIC_URL": f"http://127.0.0.1:{self.http_port}",
        }

    async def start_sinks(self) -> None:
        await super().start_sinks()
        await self.calls.start()

    async def stop_sinks(self) -> None:
        await super().stop_sinks()
        await self.calls.stop()

    def call_latency(self, press_due_s: Mapping[str, float], after_s: float) -> dict[str, float]:
        """From the moment when a call was due (so long after its press) to its request at the carrier."""
        latencies = Latencies()
        for device_id, due_s in press_due_s.items():
            arrived_s = self.calls.arrived_s.get(contact_number(int(device_id.removeprefix("D-"))))
            if arrived_s is not None:
                latencies.add(arrived_s - due_s - after_s)
        return latencies.summary() | {"missing": len(press_due_s) - latencies.count}


class LadderBench(CallingBench):
    """The same under the default policy."""

    policy = ""


async def first_call(bench: CallingBench, seconds: float, rate: float, presses: float) -> dict[str, Any]:
    """Open loop at a rate with presses in it: from the press to the first call's request."""
    ran = await bench.generator(1000).open_loop(seconds, rate, presses)
    started_s = time.perf_counter()
    while len(bench.calls.arrived_s) < len(ran.press_due_s) and time.perf_counter() - started_s < DRAIN_LIMIT_S:
        await asyncio.sleep(0.1)
    calls = bench.call_latency(ran.press_due_s, 0.0)
    return {
        "rate_per_s": rate, "sent": ran.sent, "unacked": ran.sent - ran.acked,
        "telemetry_ack": ran.telemetry, "sos_ack": ran.sos, "sos_first_call": calls,
    }  # fmt: skip


async def many_open(bench: LadderBench, presses: int) -> dict[str, Any]:
    """So many people press within 30 s and nobody accepts: how late are timers, and the calls that they lead to."""
    ran = await bench.generator(presses).open_loop(PRESSING_S, 1.0, presses / PRESSING_S)
    await asyncio.sleep(TARGET_S + 5.0)
    calls = bench.call_latency(ran.press_due_s, STEPS_S["family", 1])
    timers, open_alerts = _lateness(bench.data_dir / FILE_NAME)
    return {
        "presses": len(ran.press_due_s), "open_at_once": open_alerts, "sos_ack": ran.sos,
        "timers_fired": timers.count, "timer_late": timers.summary(), "call_late": calls,
    }  # fmt: skip


def _lateness(path: Path) -> tuple[Latencies, int]:
    """How late the timers were whose moment is known: targets missed and steps climbed, against the alert's beginning.

    Also how many alerts are open.
    """
    connection = open_database(path, read_only=True)
    latencies = Latencies()
    rows = connection.execute(
        "SELECT audit.at_us - started_at_us, audit.body FROM audit JOIN escalation USING (alert_id)"
        " WHERE action IN ('accept_late', 'ladder_step')"
    )
    for after_us, body in rows:
        row = msgspec.json.decode(body)
        evidence = row["evidence"] or {}
        if row["action"] == "accept_late":
            due_s = TARGET_S if evidence.get("mark") == "amber" else None
        else:
            due_s = (
                STEPS_S.get((str(evidence.get("ladder")), int(evidence.get("step", -1))))
                if evidence.get("loop") == 1
                else None
            )
        if due_s is not None:
            latencies.add(after_us / US_PER_S - due_s)
    found = connection.execute("SELECT count(*) FROM alert WHERE handling = 'raised'").fetchone()
    connection.close()
    assert found is not None
    return latencies, int(found[0])
