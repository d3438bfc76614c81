"""Hours around a busy adapter, made short: connections, presses, strangers under new addresses, an adapter that goes.

The daemon's resident memory is read from outside, and written to ``memory.json`` in the test's folder.
``CAREBELL_CHAOS=long`` lets it run for an hour, ``CAREBELL_CHAOS_BLE_S`` for so many seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from simulators.bluez import peripherals
from simulators.bluez.bus import PrivateBus
from simulators.bluez.service import SimulatedBluez
from tests.daemon import Daemon, carebell_json, provision
from tests.live.ble_harness import needs_dbus, until
from tests.live.test_ble_daemon import BUTTON, CUFF, KEY, register

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
CHURN_S = float(os.environ.get("CAREBELL_CHAOS_BLE_S", "3600" if LONG else "2"))
SETTLED_S = 720.0
CACHES_KIB = 20_480
"""What fills once, in the first eleven minutes (measured 16 MiB): SQLite's pages, what is remembered of each device."""
NOISE_KIB, MOST_KIB_AN_HOUR = 2048, 4096
"""What is allowed to the growth after that."""


def resident_kib(daemon: Daemon) -> int:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)  # pages of files are the kernel's to take back
    assert found is not None
    return int(found[1])


def kept_presses(data_dir: Path) -> list[dict[str, Any]]:
    return carebell_json("journal", "list", "--device", "BUTTON", data_dir=data_dir)


async def churn(bluez: SimulatedBluez, daemon: Daemon) -> tuple[list[tuple[float, int]], int]:
    """Memory over time (seconds, KiB), and how many presses were advertised."""
    rng = random.Random(8)
    cuff, button = peripherals.cuff(CUFF), peripherals.Button(BUTTON, KEY)
    begun_s = time.monotonic()
    seen: list[tuple[float, int]] = []
    turn = presses = 0
    while (age_s := time.monotonic() - begun_s) < CHURN_S or len(seen) < 2:
        turn += 1
        if turn % 20 == 0:
            presses += 1
            data = button.press()
            for _ in range(3):
                assert bluez.advertise(button, data)
        cuff.pending = [peripherals.pressure(100 + turn % 40, 60 + turn % 20, 80)]
        bluez.advertise(cuff)
        strangers = [
            peripherals.Peripheral(":".join(f"{rng.randrange(256):02X}" for _ in range(6)), "Phone") for _ in range(2)
        ]
        for stranger in strangers:  # phones that pass by, each under an address that never comes again
            bluez.advertise(stranger, rng.randbytes(12))
        await asyncio.sleep(0.02)
        for stranger in strangers:
            bluez.forget(stranger)
        if turn % 2000 == 0:  # so quickly that nobody may see it
            bluez.power(on=False)
            await asyncio.sleep(0.5)
            bluez.power(on=True)
            await until(bluez.discovering, 60)
        if turn % 50 == 0:
            seen.append((age_s, resident_kib(daemon)))
            bluez.connections.clear()
    return seen, presses


@pytest.mark.live
@pytest.mark.timeout(CHURN_S + 600)
def test_memory_is_flat_over_ble_churn(tmp_path: Path) -> None:
    needs_dbus()
    keys = tmp_path / "keys.toml"
    keys.write_text(f'"{BUTTON}" = "{KEY.hex()}"\n', encoding="utf-8")
    keys.chmod(0o600)
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    provision(data_dir, 1)
    register(data_dir)

    async def main() -> tuple[list[tuple[float, int]], int]:
        with PrivateBus(tmp_path) as bus:
            daemon = Daemon(
                data_dir,
                DBUS_SYSTEM_BUS_ADDRESS=bus.address,
                CAREBELL_BLE__ADAPTER="hci0",
                CAREBELL_BLE__BIND_KEYS_FILE=str(keys),
                CAREBELL_BLE__QUIET_S="0.5",
                CAREBELL_BLE__REST_S="0",
            )
            async with SimulatedBluez(bus.address) as bluez:
                await asyncio.to_thread(daemon.start)
                try:
                    await until(bluez.discovering, 60)
                    seen, presses = await churn(bluez, daemon)
                    async with asyncio.timeout(60):  # for the last of them
                        while len(await asyncio.to_thread(kept_presses, data_dir)) < presses:
                            await asyncio.sleep(0.1)
                    return seen, presses
                finally:
                    assert await asyncio.to_thread(daemon.stop) == 0

    seen, presses = asyncio.run(main())
    assert len(kept_presses(data_dir)) == presses, "a press that was advertised is not in the journal, or twice"
    long_enough = CHURN_S >= 1.5 * SETTLED_S
    settled = [kib for age_s, kib in seen if age_s >= SETTLED_S or not long_enough]
    early, late = min(settled[: max(1, len(settled) // 4)]), min(settled[-max(1, len(settled) // 4) :])
    by_minute = {int(age_s // 60): kib for age_s, kib in seen}
    found = {"seconds": CHURN_S, "presses": presses, "early_kib": early, "late_kib": late, "by_minute": by_minute}
    (tmp_path / "memory.json").write_text(json.dumps(found), encoding="utf-8")
    allowed = NOISE_KIB + MOST_KIB_AN_HOUR * CHURN_S / 3600 if long_enough else CACHES_KIB
    assert late - early < allowed, f"{late - early} KiB in {CHURN_S:.0f} s: {early} to {late}"
