"""Persons and contacts from a platform, by the command, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.registry import contacts, persons
from gateway.storage.database import FILE_NAME, open_database

pytestmark = pytest.mark.live


class Platform:
    """Lists what changed since a number, two items a page."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {"/persons": [], "/contacts": []}
        self.asked: list[str] = []
        self.status = 200

    def put(self, path: str, **item: Any) -> None:
        key = "contact_id" if "contact_id" in item else "person_id"
        versions = [row["version"] for rows in self.rows.values() for row in rows]
        self.rows[path] = [row for row in self.rows[path] if row[key] != item[key]]
        self.rows[path].append(item | {"version": max([0, *versions]) + 1})

    def answer(self, url: str) -> dict[str, Any]:
        parts = urlsplit(url)
        since = int(parse_qs(parts.query).get("updated_since", ["0"])[0] or 0)
        self.asked.append(f"{parts.path} {since}")
        newer = [row for row in self.rows[parts.path] if row["version"] > since]
        page = newer[:2]
        return {"items": page, "next": str(page[-1]["version"] if page else since), "more": len(newer) > 2}


@pytest.fixture
def platform() -> Iterator[tuple[Platform, str]]:
    it = Platform()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["authorization"] == "Bearer t0ken"
            self.send_response(it.status if allowed else 401)
            self.end_headers()
            if allowed and it.status == 200:
                self.wfile.write(json.dumps(it.answer(self.path)).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in its base
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield it, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def pull(folder: Path, app: Any, url: str, *options: str) -> Result:
    (folder / "token").write_text("t0ken\n")
    return CliRunner().invoke(
        app,
        ["pull", "--url", url, "--token-file", str(folder / "token"), "--data-dir", str(folder), "--json", *options],
    )


def report(result: Result, code: int = 0) -> dict[str, list[str]]:
    assert result.exit_code == code, result.output
    found: dict[str, list[str]] = json.loads(result.stdout.splitlines()[0])
    return {name: ids for name, ids in found.items() if ids}


def test_only_what_changed_is_pulled_and_local_changes_are_conflicts(
    tmp_path: Path, platform: tuple[Platform, str]
) -> None:
    it, url = platform
    for number in range(1, 6):
        it.put("/persons", person_id=f"P-{number}", name=f"人{number}", phone=f"1380000000{number}")
    it.put("/contacts", contact_id="C-1", person_id="P-1", name="王芳", phone="13900000001", relation="女儿")
    assert report(pull(tmp_path, persons, f"{url}/persons")) == {"added": [f"P-{n}" for n in range(1, 6)]}
    assert it.asked == ["/persons 0", "/persons 2", "/persons 4"]
    assert report(pull(tmp_path, contacts, f"{url}/contacts")) == {"added": ["C-1"]}
    assert report(pull(tmp_path, persons, f"{url}/persons")) == {}

    it.put("/persons", person_id="P-2", name="人二", phone="13800000002")
    it.put("/persons", person_id="P-3", name="人三", phone="13800000003", state="suspended")
    local = ["update", "P-3", "--name", "改过", "--data-dir", str(tmp_path)]
    assert CliRunner().invoke(persons, local).exit_code == 0
    assert report(pull(tmp_path, persons, f"{url}/persons"), 1) == {"changed": ["P-2"], "conflicts": ["P-3"]}
    again = pull(tmp_path, persons, f"{url}/persons", "--full", "--overwrite")
    assert report(again)["changed"] == ["P-3"]
    connection = open_database(tmp_path / FILE_NAME, read_only=True)
    assert connection.execute("SELECT name, state FROM person WHERE id = 'P-3'").get == ("人三", "suspended")
    actors = {json.loads(body)["actor"]["id"] for (body,) in connection.execute("SELECT body FROM audit")}
    assert "127.0.0.1" in actors
    connection.close()


def test_a_bad_page_changes_nothing(tmp_path: Path, platform: tuple[Platform, str]) -> None:
    it, url = platform
    it.put("/persons", person_id="P-1", name="人一", phone="13800000001")
    it.put("/persons", person_id="P-2", name="", phone="nonsense")
    bad = pull(tmp_path, persons, f"{url}/persons")
    assert bad.exit_code == 1
    assert "item 1 (P-2)" in bad.output
    connection = open_database(tmp_path / FILE_NAME, read_only=True)
    assert connection.execute("SELECT count(*) FROM person").get == 0
    connection.close()
    it.put("/persons", person_id="P-2", name="人二", phone="13800000002")
    assert report(pull(tmp_path, persons, f"{url}/persons")) == {"added": ["P-1", "P-2"]}


def test_what_the_platform_may_do_wrong(tmp_path: Path, platform: tuple[Platform, str]) -> None:
    it, url = platform
    it.status = 503
    assert pull(tmp_path, persons, f"{url}/persons").exit_code == 75
    it.status = 500
    assert pull(tmp_path, persons, f"{url}/persons").exit_code == 69
    assert pull(tmp_path, persons, "http://127.0.0.1:9/persons").exit_code == 69
    assert pull(tmp_path, persons, "ftp://x").exit_code == 2
