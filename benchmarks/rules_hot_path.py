"""What an ordinary record costs the rules: six measurements, a position within a home fence, nothing pending.

Usage: python benchmarks/rules_hot_path.py [devices] [records]. Prints the median of five rounds in µs per record.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Iterable

from gateway.care import CarePlan, Circle, DeviceCare, Fence
from gateway.model import Committed, Position, Reading, Record
from rules.engine import RulesEngine
from rules.loader import load_rules

_HOME = (39.1235, 117.2011)
_START_US = 1_795_000_000_000_000


class _Town:
    """Everybody has a home fence."""

    def plan(self, person_id: str) -> CarePlan | None:
        fence = Fence(
            fence_id="home", kind="home", shape=Circle(center=(_HOME[1], _HOME[0]), radius_m=200), consent=True
        )
        return CarePlan(person_id=person_id, fences=(fence,))

    def device_care(self, device_id: str) -> DeviceCare | None:
        return DeviceCare(device_id=device_id, heartbeat_s=3600)

    def plans(self) -> Iterable[CarePlan]:
        return ()


def _record(device: int, at_us: int) -> Record:
    measurements = {
        "heart_rate_bpm": 72.0 + device % 7, "spo2_percent": 97.0, "systolic_mmhg": 128.0, "diastolic_mmhg": 79.0,
        "body_temperature_celsius": 36.6, "battery_percent": 81.0,
    }  # fmt: skip
    position = Position(_HOME[0] + 1e-5, _HOME[1] + 1e-5, at_us, 12.0)
    reading = Reading(observed_at_us=at_us, measurements=measurements, position=position)
    return Record(
        received_at_us=at_us, transport="mqtt", codec="native", source="", payload=b"", device_id=f"D-{device:06}",
        device_key="", person_id=f"P-{device:06}", profile="carebell.native", verified=True, urgency=0, dedup_key="",
        reading=reading,
    )  # fmt: skip


def main() -> None:
    devices = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    records = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    engine = RulesEngine(load_rules(), _Town())
    engine.tick(_START_US)
    seq = 1
    started = time.perf_counter()
    engine.observe(Committed(seq, [_record(device, _START_US) for device in range(devices)]))
    first_us = (time.perf_counter() - started) / devices * 1e6
    seq += devices
    rounds = []
    gc.freeze()
    for number in range(1, 6):
        batch = 200
        commits = []
        for start in range(0, records, batch):
            at_us = _START_US + number * 1_000_000 + start
            commits.append(Committed(seq, [_record((start + i) % devices, at_us) for i in range(batch)]))
            seq += batch
        slow = engine.slow_records
        started = time.perf_counter()
        for committed in commits:
            engine.observe(committed)
        rounds.append((time.perf_counter() - started) / (len(commits) * batch) * 1e6)
        assert engine.slow_records == slow, "an ordinary record was looked at"
    print(f"{statistics.median(rounds):.2f} µs/record (first record of a device: {first_us:.0f} µs; {devices} devices)")


if __name__ == "__main__":
    main()
