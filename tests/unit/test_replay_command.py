"""``carebell replay`` without a daemon: what it shows, refuses and queues."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from device_profiles.loader import load_profiles
from gateway import audit
from gateway.cli.main import build
from gateway.model import DeviceBinding, Frame
from gateway.replaying import queue
from gateway.storage import journal
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import provision
from tests.replay_world import AT_US, Devices, journalled

# ---- the command -----------------------------------------------------------------------------------------------------

BAND = """
id = "site.band"
vendor = "site"
model = "band"
kind = "watch"
codec = "json"
transports = ["http"]
raises = []
title = { zh = "手环", en = "Band" }

[fields.%s]
metric = "heart_rate_bpm"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with six frames of two devices: understood, not understood, and one that is no JSON."""
    profiles = tmp_path / "profiles.d"
    profiles.mkdir()
    band = profiles / "band.toml"
    band.write_text(BAND % "pulse", encoding="utf-8")
    provision(tmp_path, 2, profile="site.band")
    devices = Devices("site.band")
    devices.known["D-2"] = DeviceBinding("D-2", "site.band", "", "P-2")
    bodies = (b'{"pulse": 70}', b'{"hr": 71}', b"{")
    frames = [
        Frame("http", "json", "127.0.0.1:1", body, AT_US, device_id) for device_id in ("D-1", "D-2") for body in bodies
    ]
    kept = journalled(frames, devices, profiles=load_profiles([profiles]))
    connection = open_database(tmp_path / FILE_NAME)
    with connection:
        for one in kept:
            journal.insert(connection, one.records)
    connection.close()
    band.write_text((BAND % "hr") + '[fields.pulse]\nmetric = "heart_rate_bpm"\n', encoding="utf-8")
    monkeypatch.setenv("CAREBELL_PROFILES_DIR", str(profiles))
    monkeypatch.setattr(os, "nice", lambda _by: 0)
    return tmp_path


def run(site: Path, *arguments: str) -> Result:
    return CliRunner().invoke(build("replay"), ["replay", "--data-dir", str(site), *arguments])


def shown(site: Path, *arguments: str) -> list[int]:
    """The numbers that differ, from that of the first frame."""
    done = run(site, "--json", *arguments)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == (1 if rows[-1]["totals"]["differing"] else 0)
    assert len(rows) - 1 == rows[-1]["totals"]["differing"]
    first = journal_first(site)
    return [row["seq"] - first for row in rows[:-1]]


def journal_first(site: Path) -> int:
    connection = open_database(site / FILE_NAME, read_only=True)
    first: int = journal.stat(connection)["first_seq"]
    connection.close()
    return first


def test_the_command_shows_what_differs_and_narrows_it(site: Path) -> None:
    first = journal_first(site)
    before = (site / FILE_NAME).read_bytes()
    assert shown(site) == [1, 4]
    assert shown(site, "--device", "D-2") == [4]
    assert shown(site, "--from", str(first + 2)) == [4]
    assert shown(site, "--to", str(first + 3)) == [1]
    assert shown(site, "--faults") == []
    assert shown(site, "--to", str(first)) == []
    text = run(site)
    assert text.exit_code == 1
    assert "was  nothing\n            now  heart_rate_bpm=71" in text.stdout
    assert "6 frames, 2 are understood differently now, 2 of them better" in text.stdout
    assert (site / FILE_NAME).read_bytes() == before


def test_the_command_says_what_it_cannot_do(site: Path) -> None:
    for arguments, words in (
        (("--apply",), "--apply needs a --reason"),
        (("--from", "5", "--to", "4"), "--to 4 is before --from 5"),
    ):
        refused = run(site, *arguments)
        assert (refused.exit_code, words in refused.stderr) == (2, True), refused.stderr
    (site / "profiles.d" / "band.toml").write_text("id = 1", encoding="utf-8")
    assert run(site).exit_code == 78


def test_applying_twice_queues_once_and_the_audit_says_so(site: Path) -> None:
    done = run(site, "--apply", "--reason", "the band")
    assert done.exit_code == 0, done.stderr
    assert "2 repairs wait; no daemon runs: the next one takes them up" in done.stdout
    again = run(site, "--apply", "--reason", "again")
    assert (again.exit_code, "0 repairs queued" in again.stdout) == (0, True)
    connection = open_database(site / FILE_NAME, read_only=True)
    rows = [json.loads(body) for (body,) in connection.execute("SELECT body FROM audit WHERE action LIKE 'journal.%'")]
    assert [(row["reason"], row["after"]) for row in rows] == [("the band", {"repairs": 2, "left_alone": {}})]
    assert [
        sorted(found[0].reading.measurements.items()) for seq, (found,) in queue.known(connection, 0, 99).items()
    ] == [[("heart_rate_bpm", 71.0)]] * 2
    assert list(audit.verify(connection)) == []
    connection.close()
    assert shown(site) == [], "what waits is as good as done"
