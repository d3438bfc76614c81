"""``carebell calls`` as scripts call it."""

from __future__ import annotations

import csv
import io
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import build
from gateway.storage.database import FILE_NAME, open_database
from tests.call_log import NUMBER, add_alert, begin, tell
from tests.factory import T0_US

Carebell = Callable[..., Result]


@pytest.fixture
def carebell(tmp_path: Path) -> Carebell:
    runner = CliRunner()

    def run(*arguments: str | Path, code: int = 0) -> Result:
        result = runner.invoke(build("calls"), ["calls", *map(str, arguments), "--data-dir", str(tmp_path)])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr, result.exception)
        return result

    return run


@pytest.fixture
def file(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / FILE_NAME)
    with connection:
        alert_id = add_alert(connection)
        begin(connection, "a1", alert_id)
        begin(connection, "a2", alert_id, medium="sms", at_us=T0_US + 1)
        tell(connection, "a1", "answered", T0_US, digits="2", recording="RE1")
    yield connection
    connection.close()


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_list_and_show(carebell: Carebell, file: apsw.Connection) -> None:
    assert [view["attempt_id"] for view in lines(carebell("list", "--json"))] == ["a2", "a1"]
    (view,) = lines(carebell("list", "--json", "--number", "139 0000 0001", "--medium", "voice"))
    assert (view["callee"], view["answer"]) == (NUMBER, "declined")
    assert NUMBER not in carebell("list", "--masked").stdout
    assert "+86139****0001" in carebell("list", "--masked").stdout
    assert "主叫 caller" in carebell("list").stdout
    assert lines(carebell("list", "--json", "--from", "2030-01-01")) == []
    assert len(lines(carebell("list", "--json", "--to", "2030-01-01T00:00:00Z", "--limit", "1"))) == 1
    assert lines(carebell("show", "1", "--json"))[0]["told"][0]["digits"] == "2"
    assert "RE1" in carebell("show", "1").stdout
    assert "there is no call 9" in carebell("show", "9", code=1).stderr
    assert "--from yesterday" in carebell("list", "--from", "yesterday", code=2).stderr
    assert "--medium fax" in carebell("list", "--medium", "fax", code=2).stderr


def test_export_is_whole_private_and_audited(carebell: Carebell, file: apsw.Connection, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(carebell("export").stdout, newline="")))
    assert [row["attempt_id"] for row in rows] == ["a2", "a1"]
    path = tmp_path / "calls.csv"
    carebell("export", "--person", "P-0001", "--output", path, "--bom", "--masked")
    assert path.read_bytes().startswith(b"\xef\xbb\xbfid,")
    assert NUMBER.encode() not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    bodies = [json.loads(row[0]) for row in file.execute("SELECT body FROM audit WHERE action = 'calls_exported'")]
    assert [(row["after"]["count"], row["after"]["narrowed_by"]) for row in bodies] == [(2, []), (2, ["person_id"])]


def test_holds(carebell: Carebell, file: apsw.Connection) -> None:
    assert "hold 1" in carebell("hold", "person/P-0001", "--reason", "complaint").stdout
    assert "held already" in carebell("hold", "person/P-0001", "--reason", "complaint", code=1).stderr
    assert "call/<id>" in carebell("hold", "P-0001", "--reason", "complaint", code=2).stderr
    assert lines(carebell("list", "--json"))[0]["held"] is True
    assert lines(carebell("holds", "--json"))[0]["subject"] == "person/P-0001"
    assert "complaint" in carebell("holds").stdout
    assert "released" in carebell("release", "1", "--reason", "closed").stdout
    assert lines(carebell("holds", "--json")) == []
    assert lines(carebell("holds", "--all", "--json"))[0]["released_by"] == "operator/cli"
    assert "no hold 7" in carebell("release", "7", "--reason", "closed", code=1).stderr
