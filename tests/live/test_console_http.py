"""The pages over HTTP: who gets in, what is refused, and what no log ever shows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from tests.daemon import Daemon
from tests.live.console_harness import PASSWORD, code_now, console_daemon, forget_codes, press

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, dict[str, str]]]:
    with console_daemon(tmp_path_factory.mktemp("console") / "d") as running:
        press(*running)
        yield running


def client(daemon: Daemon) -> httpx2.Client:
    return httpx2.Client(base_url=daemon.url, trust_env=False, timeout=60)


def csrf_of(text: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', text)
    assert found is not None
    return found[1]


def signed_in(daemon: Daemon, login: str) -> tuple[httpx2.Client, str]:
    forget_codes(daemon.data_dir)
    browser = client(daemon)
    answer = browser.post("/console/sign-in", data={"login": login, "password": PASSWORD})
    assert answer.status_code == 303, answer.text
    if answer.headers["location"] == "/console/code":
        page = browser.get("/console/code").text
        answer = browser.post("/console/code", data={"csrf": csrf_of(page), "code": code_now()})
        assert answer.headers["location"] == "/console", answer.text
    return browser, csrf_of(browser.get("/console").text)


def test_nobody_gets_in_without_signing_in(site: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = site
    with client(daemon) as stranger:
        for path in ("/console", "/console/persons", "/console/alerts/x", "/console/audit"):
            answer = stranger.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
        assert stranger.get("/console/queue", headers={"HX-Request": "true"}).status_code == 401
        assert stranger.get("/console/events").status_code == 303
        assert stranger.post("/console/alerts/x/accept", data={"version": "1"}).status_code == 401
        assert stranger.get("/console", headers={"cookie": "carebell_session=made-up"}).status_code == 303
        assert stranger.get("/consolex").status_code in (303, 404)
        wrong = stranger.post("/console/sign-in", data={"login": "chen", "password": "wrong"})
        unknown = stranger.post("/console/sign-in", data={"login": "nobody", "password": "wrong"})
        assert (wrong.status_code, wrong.text) == (401, unknown.text)


def test_the_second_factor_is_not_skipped(site: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = site
    with client(daemon) as half:
        half.post("/console/sign-in", data={"login": "wang", "password": PASSWORD})
        assert half.get("/console").headers["location"] == "/console/code"
        assert half.get("/console/password").headers["location"] == "/console/code"
        page = half.get("/console/code").text
        assert "JBSWY3DP" not in page  # a confirmed secret is never shown again
        assert half.post("/console/code", data={"csrf": csrf_of(page), "code": "000000"}).status_code == 401


def test_forms_of_other_sites_and_sessions_are_refused(site: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = site
    browser, csrf = signed_in(daemon, "chen")
    other, foreign = signed_in(daemon, "li")
    with closing(browser), closing(other):
        alert_id = re.search(r'data-id="([0-9a-f-]{36})"', browser.get("/console").text)
        assert alert_id is not None
        path = f"/console/alerts/{alert_id[1]}/note"
        form = {"note": "x", "csrf": csrf}
        assert browser.post(path, data={"note": "x"}).status_code == 403
        assert browser.post(path, data=form | {"csrf": foreign}).status_code == 403
        assert browser.post(path, data=form, headers={"origin": "https://evil.example"}).status_code == 403
        assert browser.post(path, data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert browser.post(path, data=form, headers={"origin": "null"}).status_code == 403
        assert browser.post(path, content=b"{}", headers={"content-type": "application/json"}).status_code == 415
        assert browser.post(path, data=form, headers={"origin": daemon.url}).status_code == 303
        stranger = browser.post(
            "/console/sign-in", data={"login": "li", "password": PASSWORD}, headers={"origin": "https://evil.example"}
        )
        assert stranger.status_code == 403
        assert "no-js note" not in browser.get(f"/console/alerts/{alert_id[1]}").text


def test_roles_and_districts_see_what_is_theirs(site: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = site
    chen, _ = signed_in(daemon, "chen")
    auditor, token = signed_in(daemon, "audit")
    north, _ = signed_in(daemon, "north")
    with closing(chen), closing(auditor), closing(north):
        alert_id = re.search(r'data-id="([0-9a-f-]{36})"[^>]*data-severity="1"', chen.get("/console").text)
        assert alert_id is not None
        path = f"/console/alerts/{alert_id[1]}"
        assert "王秀英" in chen.get(path).text
        assert "+8613900000002" not in chen.get(path).text
        assert "3141#" not in chen.get(path).text
        seen = auditor.get(path).text
        assert "王**" in seen
        assert "王秀英" not in seen
        assert "和平里" not in seen
        assert auditor.get("/console/audit").status_code == 200
        assert auditor.get("/console/persons").status_code == 403
        assert auditor.post(f"{path}/accept", data={"version": "1", "csrf": token}).status_code == 403
        assert north.get(path).status_code == 404  # another district
        assert "王秀英" not in north.get("/console").text
        assert "王秀英" not in north.get("/console/persons").text
        assert north.get("/console/persons/P-1").status_code == 404


def test_pages_are_strict_and_have_no_paths_to_trick(site: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = site
    browser, _ = signed_in(daemon, "chen")
    with closing(browser):
        answer = browser.get("/console")
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert re.findall(r"\son\w+=|<script(?! src=)|style=\"", answer.text) == []
        assert re.findall(r"(?:src|href)=\"https?:", answer.text) == []
        for asset in re.findall(r'(?:src|href)="(/console/static/[^"]+)"', answer.text):
            found = browser.get(asset)
            assert (found.status_code, "immutable" in found.headers["cache-control"]) == (200, True)
        for trick in ("..%2fframe.py", "%2e%2e/frame.py", "..%5cframe.py", "%00", "frame.py"):
            assert browser.get(f"/console/static/{trick}").status_code == 404
        assert browser.get("/console/language/en?back=//evil.example").headers["location"] == "/console"
        assert browser.get("/console/language/en?back=/console/map").headers["location"] == "/console/map"
        assert "Alerts" in browser.get("/console").text
        cookie = browser.post("/console/sign-in", data={"login": "audit", "password": PASSWORD}).headers["set-cookie"]
        assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
        assert browser.get("/console/alerts/none").status_code == 404


def test_no_log_holds_a_name_a_number_or_a_search(site: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = site
    browser, csrf = signed_in(daemon, "wang")
    with closing(browser):
        found = browser.post("/console/persons", data={"search": "王秀英", "csrf": csrf})
        assert "和平里" in found.text
        assert "王秀英" not in str(found.url)
        browser.get("/console/persons/P-1")
    log, until_s = "", time.monotonic() + 60
    while '"route": "/console/persons/{person_id}"' not in log:  # written after the answer
        assert time.monotonic() < until_s, log
        time.sleep(0.02)
        log = Path(f"{daemon.data_dir}.log").read_text()
    assert [word for word in ("王秀英", "和平里", "13800000001", "13900000002", "3141", PASSWORD, 'P-1"')
            if word in log] == []  # fmt: skip
