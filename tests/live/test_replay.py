"""A profile that was wrong is corrected, and the journal repaired: without a daemon, through its death, beside it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import structs

from gateway import crashpoints
from gateway.replaying.compare import names
from gateway.replaying.frames import Kept, pages
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import Daemon, carebell, provision

pytestmark = pytest.mark.live

PROFILE = """
id = "site.band"
vendor = "site"
model = "band"
kind = "watch"
codec = "json"
transports = ["http"]
raises = ["sos"]
ignore = ["n"]
title = { zh = "手环", en = "Band" }
"""
WRONG = (
    PROFILE
    + """
[fields.pulse]
metric = "heart_rate_bpm"

[fields.alarm]
values = { press = "sos" }
"""
)
RIGHT = (
    PROFILE
    + """
[fields.hr]
metric = "heart_rate_bpm"

[fields.alarm]
values = { press = "sos", help = "sos" }
"""
)
MORE = (
    RIGHT
    + """
[fields.oxygen]
metric = "spo2_percent"
"""
)


class Site:
    """A data directory, its folder of profiles, and its daemon."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "var"
        self.profiles = folder / "profiles.d"
        self.profiles.mkdir()
        self.write(WRONG)
        self.tokens = provision(self.data_dir, 1, profile="site.band")
        self.daemon = Daemon(self.data_dir)

    def write(self, profile: str) -> None:
        (self.profiles / "band.toml").write_text(profile, encoding="utf-8")

    def post(self, body: dict[str, Any]) -> None:
        url = f"{self.daemon.url}/ingest/v1/D-1"
        answer = httpx2.post(url, json=body, headers={"Authorization": f"Bearer {self.tokens['D-1']}"}, timeout=60)
        assert answer.status_code == 202, answer.text

    def replay(self, *arguments: str, code: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What differs, and the totals."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "replay", *arguments, "--json", "--data-dir", str(self.data_dir)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return rows[:-1], rows[-1]["totals"]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = open_database(self.data_dir / FILE_NAME, read_only=True)
        try:
            return list(connection.execute(sql))
        finally:
            connection.close()

    def until(self, sql: str, expected: list[tuple[Any, ...]]) -> None:
        deadline = time.monotonic() + 90
        while (found := self.rows(sql)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def repaired(self) -> None:
        """Wait until nothing waits."""
        self.until("SELECT count(*) FROM replay WHERE done_at_us IS NULL", [(0,)])

    def journal(self) -> list[Kept]:
        """Every frame with its records."""
        connection = open_database(self.data_dir / FILE_NAME, read_only=True)
        try:
            return [kept for page in pages(connection, 0, 1 << 60) for kept in page.frames]
        finally:
            connection.close()


def said(kept: Kept) -> list[str]:
    return names(kept.records[0].reading)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setenv("CAREBELL_PROFILES_DIR", str(made.profiles))
    return made


def test_a_corrected_profile_repairs_what_was_not_understood(site: Site) -> None:
    with site.daemon:
        site.post({"n": 1, "hr": 72, "oxygen": 96})
        site.post({"n": 2, "alarm": "help"})
        site.post({"n": 3, "alarm": "press"})
        before = site.journal()
        assert [kept.records[0].fault is None for kept in before] == [True, False, True]
        site.write(RIGHT)
        differing, _ = site.replay(code=1)
        assert [(row["seq"], row["repair"]) for row in differing] == [(before[0].seq, True), (before[1].seq, True)]
        assert differing[1]["was"] == {"fault": before[1].records[0].fault, "observations": []}
        assert [each["signal"] for each in differing[1]["now"]["observations"]] == ["sos"]
        assert site.journal() == before, "a look changes nothing"
        site.daemon.kill()
    _, totals = site.replay("--apply", "--reason", "band corrected")
    assert (totals["queued"], totals["waiting"], totals["daemon_runs"]) == (2, 2, False)

    site.daemon.start({"CAREBELL_CRASH": f"{crashpoints.REPLAY_COMMITTED}:1"})
    assert site.daemon.wait() == -signal.SIGKILL
    with site.daemon:
        site.repaired()
        after = site.journal()
        assert after[: len(before)] == before, "what was said then stays as it was written"
        new = {kept.records[0].dedup_key: kept for kept in after[len(before) :]}
        assert len(after) - len(before) == len(new) == 2, "each is repaired once"
        for old, expected in ((before[0], ["heart_rate_bpm"]), (before[1], ["sos"])):
            repair = new[f"key:replay:{old.seq}"]
            assert said(repair) == expected
            told_of, was = repair.records[0], old.records[0]
            assert structs.replace(told_of, dedup_key="", reading=None, urgency=0) == structs.replace(
                was, dedup_key="", reading=None, urgency=0, fault=None
            ), "the same bytes, device, person, transport and time of reception"
        # one alert: the press that was understood, and the late one
        site.until("SELECT late FROM occurrence ORDER BY late", [(0,), (1,)])
        assert site.rows("SELECT kind, occurrences FROM alert") == [("sos", 2)]

        site.write(MORE)  # a running daemon has the profiles of its start: the command tells it what it found
        _, totals = site.replay("--apply", "--reason", "and the oxygen")
        assert (totals["queued"], totals["daemon_runs"]) == (1, True)
        site.repaired()
        (last,) = site.journal()[len(after) :]
        assert (said(last), last.records[0].dedup_key) == (["spo2_percent"], f"key:replay:{before[0].seq}:2")
        assert site.replay("--apply", "--reason", "again")[1]["queued"] == 0
        told = carebell("tail", "--no-follow", "--from", "1", data_dir=site.data_dir)
        events = [json.loads(line) for line in told.splitlines()]
        assert len({event["id"] for event in events}) == len(events)
        metrics = sorted(event["data"]["metric"] for event in events if event["data"].get("kind") == "measurement")
        assert metrics == ["heart_rate_bpm", "spo2_percent"]
    audit = [json.loads(body) for (body,) in site.rows("SELECT body FROM audit WHERE action = 'journal.replay'")]
    assert [(row["reason"], row["after"]["repairs"]) for row in audit] == [("band corrected", 2), ("and the oxygen", 1)]
    assert {row["actor"]["id"] for row in audit} == {"cli"}
