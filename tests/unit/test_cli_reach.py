"""``carebell check`` on whom emergencies reach, ``[notify]`` and policies; test mode and maintenance at a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CITY = """
version = "1"
[center.city]
city = true
{center}
[staff.duty]
{staff}
"""
ROBOT = '[notify.robots.ward]\nkind = "wecom"\nkey_file = "key"\n'


def run(*arguments: str, data_dir: Path) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAREBELL_")}
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments], capture_output=True, text=True, check=False, timeout=240,
        env=environment, cwd=data_dir,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


class Folder:
    """A site's folder with one person in care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.call("persons", "add", "--id", "P-1", "--name", "王秀英", "--phone", "+8613800000001")

    def call(self, *arguments: str) -> tuple[int, str, str]:
        return run(*arguments, "--data-dir", str(self.folder / "data"), data_dir=self.folder)

    def configure(self, notify: str, policy: str = "") -> None:
        (self.folder / "carebell.toml").write_text(f'data_dir = "data"\n{notify}', encoding="utf-8")
        (self.folder / "policies.d").mkdir(exist_ok=True)
        if policy:
            (self.folder / "policies.d" / "site.toml").write_text(policy, encoding="utf-8")

    def checks(self, code: int) -> dict[str, Any]:
        status, out, err = run("check", "-c", "carebell.toml", "--json", data_dir=self.folder)
        assert status == code, out + err
        return {row["check"]: row for row in json.loads(out)["checks"]}


@pytest.fixture
def site(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_somebody_must_be_reached(site: Folder) -> None:
    site.configure("")
    checks = site.checks(1)
    assert checks["policies"]["ok"]
    assert checks["policies"]["warnings"][0].startswith("nobody can be called: no provider configured")
    (problem,) = checks["registry"]["problems"]
    assert problem.startswith("person P-1: reaches nobody")

    site.configure(ROBOT, CITY.format(center='chat = "ward"', staff=""))
    checks = site.checks(0)
    assert checks["policies"]["summary"].endswith("providers: robots")
    assert checks["policies"]["warnings"] == [
        "no member of staff has an address; add for example [staff.duty] voice to a file in policies.d"
    ]

    site.configure(ROBOT, CITY.format(center='webhook = "ward"', staff=""))
    assert site.checks(1)["registry"]["problems"], "an address of a medium that nobody carries"

    site.configure('[order_api]\nbase_url = "https://platform.example"\n')
    assert site.checks(0)["registry"]["ok"], "the platform hears of it"


def test_a_contact_counts_when_a_provider_carries_what_the_contact_wants(site: Folder) -> None:
    pytest.importorskip("serialx", reason="needs the extra carebell[modem]: pip install serialx")
    added = site.call("contacts", "add", "--person", "P-1", "--name", "王芳", "--phone", "13900000001")
    assert added[0] == 0, added
    site.configure('[notify.modem]\nport = "/dev/ttyUSB9"\n')
    assert site.checks(0)["registry"]["ok"]
    site.configure(ROBOT)
    assert not site.checks(1)["registry"]["ok"]


@pytest.mark.parametrize(
    ("notify", "says"),
    [
        ('[notify.twilio]\naccount_sid = "AC1"\nfrom_number = "+1"\n', "notify.twilio: auth_token_file is missing"),
        ('[notify.aliyun]\naccess_key_id = "x"\naccess_key_secret_file = "k"\n', "notify.aliyun: no template"),
        ('[notify.push]\nendpoint = "app"\n', "notify.push.endpoint: there is no [notify.webhook.app]"),
        ('[notify]\nalert_url = "https://a.example/alerts/"\n', "notify.alert_url: write {id}"),
    ],
)
def test_what_cannot_work_is_said(site: Folder, notify: str, says: str) -> None:
    site.configure(notify)
    assert says in "\n".join(site.checks(78)["policies"]["problems"])


def test_a_misspelt_key_deep_in_notify_names_the_nearest(site: Folder) -> None:
    site.configure('[notify.robots.ward]\nkind = "wecom"\nkeyfile = "key"\nkey_file = "key"\n')
    code, _, err = run("check", "-c", "carebell.toml", data_dir=site.folder)
    assert code == 78
    assert 'notify.robots.ward.keyfile: unknown key; did you mean "key_file"?' in err


def test_test_mode_at_a_terminal(site: Folder) -> None:
    code, out, _ = site.call(
        "suppressions",
        "test",
        "--person",
        "P-1",
        "--minutes",
        "5",
        "--reason",
        "installation",
        "--as",
        "li.na",
        "--json",
    )
    assert code == 0
    begun = json.loads(out)
    assert begun.items() >= {"kind": "test", "subject": "person/P-1", "actor": "li.na"}.items()
    assert json.loads(site.call("suppressions", "list", "--json")[1]) == begun
    assert site.call("suppressions", "end", str(begun["id"]))[0] == 0
    assert site.call("suppressions", "list")[1] == ""
    for arguments, status in (
        (("end", "9"), 1),
        (("test", "--person", "P-9", "--reason", "x"), 1),
        (("test", "--reason", "x"), 2),
        (("test", "--person", "P-1", "--minutes", "31", "--reason", "x"), 2),
        (("maintenance", "--site", "--person", "P-1", "--reason", "x"), 2),
        (("maintenance", "--site", "--minutes", "30", "--reason", "network"), 0),
    ):
        assert site.call("suppressions", *arguments)[0] == status, arguments
