"""The commands of operations as scripts call them: journal, audit, tail, backup, restore, keys, alerts, outbox."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import typer
from typer.testing import CliRunner, Result

from alerts import outbox_rows
from alerts.lifecycle import apply_effects
from alerts.policy import Policy
from gateway import audit
from gateway.cli.main import COMMANDS, build
from gateway.model import Actor, Record
from gateway.storage import journal
from gateway.storage.database import FILE_NAME, open_database
from tests.alerts_support import sos
from tests.factory import T0_US, record

Carebell = Callable[..., Result]
MINE = ("journal", "audit", "tail", "backup", "restore", "keys", "alerts", "outbox")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "a data dir"


@pytest.fixture
def carebell(data_dir: Path) -> Carebell:
    runner = CliRunner()

    def run(*arguments: str | Path, code: int = 0) -> Result:
        result = runner.invoke(build(str(arguments[0])), [*map(str, arguments), "--data-dir", str(data_dir)])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr, result.exception)
        return result

    return run


@pytest.fixture
def file(data_dir: Path) -> Iterator[apsw.Connection]:
    connection = open_database(data_dir / FILE_NAME)
    yield connection
    connection.close()


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def fill(connection: apsw.Connection) -> None:
    """Two records, one that nobody can read, an alert (3 and so on), and a reader."""
    bad = Record(T0_US + 9, "http", "native", "::1", b"\xff\0", "", "K-1", "", "", False, 0, "", None, "not JSON")
    with connection:
        journal.insert(connection, [record(1), record(2, signal="sos")])
        journal.insert(connection, [bad])
        journal.set_reader(connection, "rules", 2, T0_US)
        apply_effects(connection, [sos(2)], T0_US, Policy())


# ---- every command ---------------------------------------------------------------------------------------------------


def commands_of(name: str) -> Iterator[tuple[str, str]]:
    """The words of each command, and its help text."""
    root: Any = typer.main.get_command(build(name))
    found = root.commands[name]
    for inner, command in getattr(found, "commands", {"": found}).items():
        yield f"{name} {inner}".strip(), command.help or ""


@pytest.mark.parametrize("name", MINE)
def test_every_command_has_help_with_an_example(name: str, carebell: Carebell) -> None:
    assert name in COMMANDS
    for words, told in commands_of(name):
        assert f"Example: carebell {words}" in told.replace("`", ""), words
        result = CliRunner().invoke(build(name), [*words.split(), "--help"])
        assert result.exit_code == 0
        assert "Example" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("journal", "stat"), ("journal", "list"), ("audit", "verify"), ("audit", "list"), ("tail", "--no-follow"),
        ("keys", "list"), ("alerts", "list"), ("outbox", "list"),
    ],
)  # fmt: skip
def test_on_an_empty_site_and_with_bad_settings(
    arguments: tuple[str, ...], carebell: Carebell, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carebell(*arguments)
    carebell(*arguments, "--no-such-option", code=2)
    (data_dir / "bad.toml").write_text("nonsense = 1")
    result = carebell(*arguments, "-c", data_dir / "bad.toml", code=78)
    assert "unknown key" in result.stderr
    assert "Traceback" not in result.stderr
    (data_dir / FILE_NAME).write_bytes(b"no database" * 1000)
    for suffix in ("-wal", "-shm"):
        (data_dir / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
    result = carebell(*arguments, code=75)
    assert str(data_dir) in result.stderr


# ---- journal ---------------------------------------------------------------------------------------------------------


def test_journal_stat(carebell: Carebell, file: apsw.Connection) -> None:
    fill(file)
    (told,) = lines(carebell("journal", "stat", "--json"))
    assert set(told) == {"first_seq", "last_seq", "records", "bytes", "readers"}
    assert (told["first_seq"], told["records"], told["readers"]) == (1, 3, {"rules": 2})
    assert told["bytes"] > 0
    assert "rules 2" in carebell("journal", "stat").stdout


def test_journal_list(carebell: Carebell, file: apsw.Connection) -> None:
    fill(file)
    rows = lines(carebell("journal", "list", "--json"))
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert {"seq", "received_at", "device_id", "person_id", "dedup_key", "fault", "observations"} <= set(rows[0])
    assert rows[0]["received_at"] == "2026-11-18T11:06:40.000Z"
    assert [item.get("signal") for item in rows[1]["observations"]] == ["sos", None]
    assert (rows[2]["device_id"], rows[2]["device_key"], rows[2]["fault"]) == (None, "K-1", "not JSON")
    assert "payload" not in rows[2]
    with_payload = lines(carebell("journal", "list", "--payload", "--device", "K-1", "--json"))
    assert [base64.b64decode(row["payload"]) for row in with_payload] == [b"\xff\0"]
    assert [row["seq"] for row in lines(carebell("journal", "list", "--from", "2", "--json"))] == [2, 3]
    assert [row["seq"] for row in lines(carebell("journal", "list", "--from", "2", "--limit", "1", "--json"))] == [2]
    assert [row["seq"] for row in lines(carebell("journal", "list", "--device", "D-0001", "--json"))] == [1, 2]
    text = carebell("journal", "list").stdout
    assert "sos heart_rate_bpm=62" in text
    assert "not JSON" in text


def test_journal_list_tells_of_damage_and_shows_the_rest(carebell: Carebell, file: apsw.Connection) -> None:
    fill(file)
    file.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE first_seq = 1")
    result = carebell("journal", "list", "--json", code=1)
    assert [row["seq"] for row in lines(result)] == [3]
    assert "sequence numbers 1 to 2" in result.stderr


# ---- audit -----------------------------------------------------------------------------------------------------------


def test_audit(carebell: Carebell, file: apsw.Connection) -> None:
    for number in range(3):
        with file:
            audit.append(
                file, at_us=T0_US, actor=Actor("system", "t"), action="noted", subject=f"key/{number}", reason="why"
            )
    (told,) = lines(carebell("audit", "verify", "--json"))
    assert (told["rows"], told["head_seq"], told["faults"]) == (3, 3, [])
    assert len(told["head_hash"]) == 64
    assert "3 audit rows, unbroken" in carebell("audit", "verify").stdout
    rows = lines(carebell("audit", "list", "--json"))
    assert [(row["seq"], row["subject"], row["reason"]) for row in rows] == [
        (n + 1, f"key/{n}", "why") for n in range(3)
    ]
    assert rows[0]["at"] == "2026-11-18T11:06:40.000Z"
    assert [row["seq"] for row in lines(carebell("audit", "list", "--subject", "key/1", "--json"))] == [2]
    assert "system/t  noted  key/0  why" in carebell("audit", "list", "--limit", "1").stdout
    file.execute("UPDATE audit SET body = replace(body, 'why', 'not') WHERE seq = 2")
    file.execute("DELETE FROM audit WHERE seq = 1")
    result = carebell("audit", "verify", "--json", code=1)
    (told,) = lines(result)
    assert len(told["faults"]) == 2
    assert "audit row 2" in result.stderr


# ---- tail ------------------------------------------------------------------------------------------------------------


def test_tail(carebell: Carebell, file: apsw.Connection) -> None:
    fill(file)
    assert lines(carebell("tail", "--no-follow")) == [], "from now on"
    events = lines(carebell("tail", "--from", "1", "--no-follow"))
    assert [event["id"] for event in events][:3] == ["1-0", "2-0", "2-1"]
    assert {event["type"] for event in events} == {"org.carebell.observation.v1", "org.carebell.alert.v1"}
    signals = lines(carebell("tail", "--from", "1", "--no-follow", "--kind", "signal"))
    assert [event["data"]["signal"] for event in signals] == ["sos"]
    alerts = lines(carebell("tail", "--from", "1", "--no-follow", "--kind", "alert", "--person", "P-0001"))
    assert alerts
    assert {event["subject"] for event in alerts} == {"person/P-0001"}
    assert lines(carebell("tail", "--from", "1", "--no-follow", "--device", "D-none")) == []
    assert [event["id"] for event in lines(carebell("tail", "--from", "2", "--no-follow"))][:1] == ["2-0"]


# ---- backup and restore ----------------------------------------------------------------------------------------------


def test_backup_and_restore(carebell: Carebell, file: apsw.Connection, data_dir: Path, tmp_path: Path) -> None:
    fill(file)
    copy = tmp_path / "today.db"
    assert "checked" in carebell("backup", copy).stdout
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.partial*"))
    before = copy.read_bytes()
    assert "never overwrites" in carebell("backup", copy, code=2).stderr
    assert copy.read_bytes() == before
    assert "nothing is overwritten" in carebell("restore", copy, code=2).stderr
    told = carebell("journal", "list", "--json").stdout, carebell("alerts", "list", "--json").stdout

    file.close()
    elsewhere = data_dir.with_name("moved away")
    data_dir.rename(elsewhere)
    data_dir.mkdir()
    (data_dir / f"{FILE_NAME}-wal").write_bytes(b"of the one that is away")
    result = carebell("restore", copy, code=2)
    assert f"{FILE_NAME}-wal exists" in result.stderr, "SQLite would play it into the restored file"
    (data_dir / f"{FILE_NAME}-wal").unlink()
    carebell("restore", copy)
    assert (carebell("journal", "list", "--json").stdout, carebell("alerts", "list", "--json").stdout) == told
    assert "unbroken" in carebell("audit", "verify").stdout
    assert stat.S_IMODE((data_dir / FILE_NAME).stat().st_mode) == 0o600


def test_what_is_no_backup_is_refused(carebell: Carebell, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    other = apsw.Connection(str(tmp_path / "other.db"))
    other.execute("CREATE TABLE t (a)")
    other.close()
    for name, says in (("text", "not a database"), ("other.db", "not a backup of carebell"), ("none", "none")):
        result = carebell("restore", tmp_path / name, code=1)
        assert says in result.stderr
        assert not (data_dir / FILE_NAME).exists()


def test_a_backup_of_a_newer_carebell_is_refused(carebell: Carebell, data_dir: Path, tmp_path: Path) -> None:
    newer = open_database(tmp_path / "newer.db")
    newer.pragma("user_version", 9999)
    newer.close()
    assert "9999" in carebell("restore", tmp_path / "newer.db", code=1).stderr
    assert not (data_dir / FILE_NAME).exists()


def test_a_backup_that_cannot_be_written(carebell: Carebell, tmp_path: Path) -> None:
    result = carebell("backup", tmp_path / "no" / "such" / "folder" / "x.db", code=75)
    assert "cannot be written" in result.stderr


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_keys(carebell: Carebell) -> None:
    (made,) = lines(carebell("keys", "add", "--role", "operator", "--label", "night shift", "--json"))
    assert made["key"].startswith(f"carebell_{made['key_id']}_")
    assert carebell("keys", "add", "--role", "admin").stdout.startswith("carebell_")
    listed = carebell("keys", "list", "--json")
    assert made["key"].rpartition("_")[2] not in listed.stdout, "the secret is shown once"
    assert [row["role"] for row in lines(listed) if row["label"] == "night shift"] == ["operator"]
    carebell("keys", "revoke", made["key_id"], "--reason", "lost laptop")
    assert "revoked" in carebell("keys", "list").stdout
    assert "lost laptop" in carebell("audit", "list", "--subject", f"key/{made['key_id']}").stdout
    carebell("keys", "revoke", "no-such-key", code=1)
    assert "role" in carebell("keys", "add", "--role", "king", code=2).stderr
    carebell("keys", "add", code=2)


# ---- alerts ----------------------------------------------------------------------------------------------------------


def test_alerts_from_raised_to_resolved(carebell: Carebell, file: apsw.Connection) -> None:
    fill(file)
    (alert,) = lines(carebell("alerts", "list", "--json"))
    expected = {
        "id", "version", "kind", "severity", "condition", "handling", "person_id", "device_id", "occurrences",
        "raised_at", "order",
    }  # fmt: skip
    assert expected <= set(alert)
    assert (alert["kind"], alert["severity"], alert["handling"], alert["occurrences"]) == ("sos", "P1", "raised", 1)
    name = alert["id"]
    assert name in carebell("alerts", "list").stdout
    assert lines(carebell("alerts", "list", "--person", "P-none", "--json")) == []
    (accepted,) = lines(carebell("alerts", "accept", name, "--as", "li", "--version", str(alert["version"]), "--json"))
    assert accepted["handling"] == "accepted"
    lost = carebell("alerts", "accept", name, "--as", "wang", "--version", str(alert["version"]), code=1)
    assert "li" in lost.stderr, "a lost race names the owner"
    carebell("alerts", "progress", name, "--step", "talking", "--as", "li")
    carebell("alerts", "note", name, "neighbour has the key", "--as", "li")
    assert "outcome" in carebell("alerts", "resolve", name, "--outcome", "boredom", "--as", "li", code=2).stderr
    (resolved,) = lines(carebell("alerts", "resolve", name, "--outcome", "assistance", "--as", "li", "--json"))
    assert resolved["handling"] == "resolved"
    assert lines(carebell("alerts", "list", "--open", "--json")) == []
    shown = json.loads(carebell("alerts", "show", name).stdout)
    assert "neighbour has the key" in json.dumps(shown, ensure_ascii=False)
    carebell("alerts", "show", "no-such-alert", code=1)
    carebell("alerts", "accept", "no-such-alert", code=1)
    carebell("alerts", "resolve", name, code=2)
    assert "unbroken" in carebell("audit", "verify").stdout


def test_alerts_release(carebell: Carebell, file: apsw.Connection) -> None:
    fill(file)
    (alert,) = lines(carebell("alerts", "list", "--json"))
    carebell("alerts", "accept", alert["id"], "--as", "li")
    (released,) = lines(carebell("alerts", "release", alert["id"], "--as", "li", "--note", "end of shift", "--json"))
    assert released["handling"] == "raised"


# ---- outbox ----------------------------------------------------------------------------------------------------------


def test_outbox(carebell: Carebell, file: apsw.Connection) -> None:
    fill(file)
    (waiting,) = lines(carebell("outbox", "list", "--json"))
    number = str(waiting["id"])
    assert waiting["state"] in ("pending", "retry")
    assert waiting["state"] in carebell("outbox", "retry", number, code=1).stderr, "retry is for dead ones"
    with file:
        outbox_rows.finish_dead(file, waiting["id"], "410 Gone", T0_US)
    (dead,) = lines(carebell("outbox", "list", "--state", "dead", "--json"))
    assert dead["error"] == "410 Gone"
    assert "410 Gone" in carebell("outbox", "list", "--state", "dead").stdout
    (again,) = lines(carebell("outbox", "retry", number, "--reason", "the platform is back", "--json"))
    assert again["state"] in ("pending", "retry")
    assert again["idempotency_key"] == dead["idempotency_key"]
    with file:
        outbox_rows.finish_dead(file, waiting["id"], "410 Gone", T0_US)
    carebell("outbox", "discard", number, code=2)
    carebell("outbox", "discard", number, "--reason", " ", code=2)
    carebell("outbox", "discard", number, "--reason", "handled by telephone")
    assert lines(carebell("outbox", "list", "--state", "dead", "--json")) == []
    assert "handled by telephone" in carebell("audit", "list", "--subject", f"outbox/{number}").stdout
    carebell("outbox", "retry", "99999", code=1)
    carebell("outbox", "retry", "x", code=2)
    result = carebell("outbox", "list", "--state", "lost", code=2)
    assert "lost" in result.stderr
