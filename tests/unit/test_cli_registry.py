"""``carebell persons``, ``devices`` and ``contacts`` as scripts call them: output, exit codes, files."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner, Result

from gateway import audit, security
from gateway.cli.main import build
from gateway.registry import unknown
from gateway.storage.database import FILE_NAME, open_database

Carebell = Callable[..., Result]


@pytest.fixture
def carebell(tmp_path: Path) -> Carebell:
    runner = CliRunner()

    def run(*arguments: str | Path, code: int = 0) -> Result:
        result = runner.invoke(build(str(arguments[0])), [*map(str, arguments), "--data-dir", str(tmp_path / "data")])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr, result.exception)
        return result

    return run


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILE_NAME


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def add_both(carebell: Carebell) -> str:
    carebell("persons", "add", "--id", "P-0001", "--name", "王秀英", "--phone", "+8613800000001")
    result = carebell(
        "devices", "add", "--id", "D-0001", "--profile", "carebell.native", "--person", "P-0001", "--json"
    )
    return str(parsed(result)["token"])


def digests(database: Path) -> list[bytes]:
    connection = apsw.Connection(str(database))
    found = [bytes(row[0]) for row in connection.execute("SELECT digest FROM credential WHERE revoked_at_us IS NULL")]
    connection.close()
    return found


def test_the_commands_of_the_contract(carebell: Carebell, database: Path) -> None:
    token = add_both(carebell)
    assert security.is_one_of(token, digests(database))
    assert token.encode() not in database.read_bytes()
    shown = parsed(carebell("devices", "show", "D-0001", "--json"))
    assert (shown["device_id"], shown["person_id"], shown["state"]) == ("D-0001", "P-0001", "active")
    renewed = parsed(carebell("devices", "credentials", "D-0001", "--json"))["token"]
    assert security.is_one_of(renewed, digests(database))
    assert not security.is_one_of(token, digests(database))
    for action, state in (("suspend", "suspended"), ("resume", "active"), ("retire", "retired")):
        assert parsed(carebell("devices", action, "D-0001", "--json"))["state"] == state
    carebell("devices", "suspend", "D-0001", code=1)
    connection = open_database(database, read_only=True)
    assert list(audit.verify(connection)) == []
    connection.close()


def test_every_command_has_help_with_an_example(carebell: Carebell) -> None:
    commands = {"add", "list", "show", "update", "import", "export"}
    more = {"credentials", "suspend", "resume", "retire", "replace", "claim", "unknown", "fault"}
    runner = CliRunner()
    for group, names in (("persons", commands), ("contacts", commands), ("devices", commands | more)):
        for name in names:
            result = runner.invoke(build(group), [group, name, "--help"])
            assert result.exit_code == 0
            assert f"carebell {group} {name}" in " ".join(result.stdout.split()), (group, name)


def test_mistakes_have_exit_codes_and_clear_words(carebell: Carebell) -> None:
    add_both(carebell)
    result = carebell("devices", "add", "--id", "D-2", "--profile", "carebell.nativ", code=2)
    assert "did you mean 'carebell.native'" in result.stderr
    assert "phone" in carebell("persons", "add", "--id", "P-2", "--name", "a", "--phone", "12", code=2).stderr
    assert "exists already" in carebell("persons", "add", "--id", "P-0001", "--name", "a", code=1).stderr
    assert "no person 'P-9'" in carebell("persons", "show", "P-9", code=1).stderr
    assert "FIELD=VALUE" in carebell("persons", "update", "P-0001", "--set", "note", code=2).stderr
    assert "did you mean 'note'" in carebell("persons", "update", "P-0001", "--set", "noet=x", code=2).stderr
    carebell("persons", "add", "--name", "a", code=2)
    carebell("persons", "import", "/no/such/file.csv", code=2)
    assert len(parsed(carebell("persons", "list", "--json"))) == 1


def test_tables_show_names_and_numbers_in_part(carebell: Carebell) -> None:
    add_both(carebell)
    carebell("contacts", "add", "--person", "P-0001", "--name", "王芳", "--phone", "13900001234")
    for table in (carebell("persons", "list"), carebell("contacts", "list")):
        assert "王*" in table.stdout
        assert "****" in table.stdout
        for personal in ("王秀英", "王芳", "13800000001", "13900001234"):
            assert personal not in table.stdout
    assert "王秀英" in carebell("persons", "show", "P-0001").stdout
    assert "D-0001" in carebell("devices", "list", "--search", "D-0").stdout


def test_update_clears_and_sets(carebell: Carebell, tmp_path: Path) -> None:
    add_both(carebell)
    plan = tmp_path / "plan.json"
    plan.write_text('{"expectations": [{"type": "check_in", "expectation_id": "e", "by": "09:00"}]}', encoding="utf-8")
    options = ("--phone", "", "--set", "note=独居", "--condition", "copd", "--care-plan", str(plan), "--high-risk")
    view = parsed(carebell("persons", "update", "P-0001", *options, "--reason", "visit", "--json"))
    assert (view["phone"], view["note"], view["conditions"], view["high_risk"]) == (None, "独居", ["copd"], True)
    assert view["care_plan"]["expectations"][0]["by"] == "09:00"
    plan.write_text('{"expectation": []}', encoding="utf-8")
    assert "care_plan" in carebell("persons", "update", "P-0001", "--care-plan", plan, code=2).stderr


def test_import_is_all_or_nothing_and_dry_run_changes_nothing(carebell: Carebell, tmp_path: Path) -> None:
    path = tmp_path / "persons.csv"
    path.write_text("person_id,name,phone\nP-1,王秀英,13800000001\nP-2,,12\n", encoding="utf-8")
    result = carebell("persons", "import", path, code=1)
    assert "line 3, name: is required" in result.stderr
    assert "line 3, phone:" in result.stderr
    told = parsed(carebell("persons", "import", path, "--json", code=1))
    assert [(problem["line"], problem["column"]) for problem in told["problems"]] == [(3, "name"), (3, "phone")]
    assert parsed(carebell("persons", "list", "--json")) == []
    path.write_text("person_id,name,phone\nP-1,王秀英,13800000001\n", encoding="gb18030")
    told = parsed(carebell("persons", "import", path, "--dry-run", "--json"))
    assert (told["applied"], told["added"], told["encoding"]) == (False, 1, "gb18030")
    assert parsed(carebell("persons", "list", "--json")) == []
    result = carebell("persons", "import", path)
    assert "GB18030" in result.stderr
    assert [row["name"] for row in parsed(carebell("persons", "list", "--json"))] == ["王秀英"]


def test_tokens_go_into_a_private_file_when_the_import_counts(
    carebell: Carebell, tmp_path: Path, database: Path
) -> None:
    path, tokens = tmp_path / "devices.csv", tmp_path / "tokens.csv"
    path.write_text("device_id,profile,serial\nD-1,carebell.native,S\nD-2,carebell.native,S\n", encoding="utf-8")
    carebell("devices", "import", path, "--credentials-out", tokens, code=1)
    path.write_text("device_id,profile,serial\nD-1,carebell.native,S1\nD-2,carebell.native,S2\n", encoding="utf-8")
    carebell("devices", "import", path, "--credentials-out", tokens, "--dry-run")
    assert list(tmp_path.glob("tokens*")) == []
    assert digests(database) == []
    carebell("devices", "import", path, "--credentials-out", tokens)
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    lines = tokens.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "device_id,token"
    assert [line.split(",")[0] for line in lines[1:]] == ["D-1", "D-2"]
    kept = digests(database)
    assert all(security.is_one_of(line.split(",")[1], kept) for line in lines[1:])
    carebell("devices", "import", path, "--credentials-out", tokens, code=2)  # tokens are never overwritten
    assert list(tmp_path.glob("tokens*")) == [tokens]
    carebell("devices", "import", path, "--credentials-out", tmp_path / "no" / "dir.csv", code=2)


def test_an_export_is_private_and_comes_back(carebell: Carebell, tmp_path: Path) -> None:
    add_both(carebell)
    path = tmp_path / "out.csv"
    for table in ("persons", "devices"):
        carebell(table, "export", "-o", path, "--bom")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes().startswith(b"\xef\xbb\xbf")
        told = parsed(carebell(table, "import", path, "--json"))
        assert (told["added"], told["updated"], told["unchanged"]) == (0, 0, 1)
    assert carebell("persons", "export").stdout.splitlines()[1].startswith("P-0001,王秀英,+8613800000001,")


def test_unknown_devices_can_be_claimed(carebell: Carebell, database: Path) -> None:
    add_both(carebell)
    connection = open_database(database)
    with connection:
        unknown.note_unknown(connection, {"861234567890123": unknown.Sighting("tcp", "gt06", 1, 2, 3, 4, 5)})
    connection.close()
    assert [row["device_key"] for row in parsed(carebell("devices", "unknown", "--json"))] == ["861234567890123"]
    claimed = parsed(
        carebell(
            "devices",
            "claim",
            "861234567890123",
            "--id",
            "D-7",
            "--profile",
            "carebell.native",
            "--kind",
            "imei",
            "--json",
        )
    )
    assert (claimed["device_id"], claimed["first_seq"], claimed["last_seq"]) == ("D-7", 4, 5)
    assert parsed(carebell("devices", "unknown", "--json")) == []
    assert parsed(carebell("devices", "show", "D-7", "--json"))["imei"] == "861234567890123"


def test_a_reported_fault_opens_a_repair_ticket(carebell: Carebell, database: Path) -> None:
    add_both(carebell)
    carebell("devices", "fault", "D-0001", "--note", "cracked")
    connection = open_database(database, read_only=True)
    found = connection.execute("SELECT kind, severity, person_id, device_id FROM alert").fetchall()
    connection.close()
    assert found == [("device_fault", 4, "P-0001", "D-0001")]


def test_replacing_a_device(carebell: Carebell) -> None:
    add_both(carebell)
    told = parsed(carebell("devices", "replace", "D-0001", "--by", "D-0002", "--serial", "S-2", "--json"))
    assert (told["device_id"], told["person_id"], len(told["token"])) == ("D-0002", "P-0001", 43)
    assert parsed(carebell("devices", "show", "D-0001", "--json"))["replaced_by"] == "D-0002"


def test_a_locked_journal_is_a_temporary_failure(
    carebell: Carebell, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carebell("persons", "add", "--id", "P-1", "--name", "a")
    monkeypatch.setattr("gateway.storage.database.BUSY_TIMEOUT_MS", 50)
    holder = apsw.Connection(str(database))
    holder.execute("BEGIN IMMEDIATE")
    assert "try again" in carebell("persons", "add", "--id", "P-2", "--name", "b", code=75).stderr
    assert [row["person_id"] for row in parsed(carebell("persons", "list", "--json"))] == ["P-1"]  # reading goes on
    holder.execute("ROLLBACK")
    holder.close()
    carebell("persons", "add", "--id", "P-2", "--name", "b")


def test_a_file_may_come_by_standard_input(tmp_path: Path) -> None:
    code = "from gateway.cli.main import main; main()"
    command = [sys.executable, "-c", code, "persons", "import", "-", "--json", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, input="person_id,name\nP-1,王\n".encode(), capture_output=True, check=True)
    assert json.loads(done.stdout)["added"] == 1
