"""Two operators, two processes, one file: a thousand alerts that both accept at once. One owner each, and no error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from alerts import rows
from alerts.lifecycle import apply_effects
from alerts.policy import Policy
from gateway import audit
from gateway.storage.database import FILE_NAME, open_database
from tests.alerts_support import sos
from tests.factory import T0_US

RACES = 1000
ROOT = Path(__file__).resolve().parents[2]


def racer(folder: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.accept_racer", str(folder), name], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def test_of_two_who_accept_at_once_one_has_it_and_the_other_is_told_who(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    connection.pragma("synchronous", "off")  # what is tested here is not the disk
    with connection:
        effects = [sos(number, person_id=f"P-{number:04d}") for number in range(RACES)]
        ids = apply_effects(connection, effects, T0_US, Policy()).raised
    names = ("U-1", "U-2")
    racers = [racer(tmp_path, name) for name in names]
    wins = dict.fromkeys(names, 0)
    try:
        for process in racers:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for place, alert_id in enumerate(ids):
            for process in racers if place % 2 else reversed(racers):
                assert process.stdin is not None
                process.stdin.write(f"{alert_id}\n")
                process.stdin.flush()
            told = []
            for process in racers:
                assert process.stdout is not None
                told.append(json.loads(process.stdout.readline()))
            assert sorted(each == "won" for each in told) == [False, True], told
            winner = names[told.index("won")]
            wins[winner] += 1
            (lost,) = (each for each in told if each != "won")
            assert f"owner {winner}," in lost
            assert rows.get(connection, alert_id).owner == winner
    finally:
        for process in racers:
            process.kill()
            process.communicate()
    accepted = connection.execute("SELECT count(*) FROM audit WHERE body ->> 'action' = 'accept'").fetchone()
    assert accepted == (RACES,)
    assert min(wins.values()) > 0, "no race at all"
    assert list(audit.verify(connection)) == []
    connection.close()
