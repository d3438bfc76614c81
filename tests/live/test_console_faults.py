"""What an operator meets when something goes wrong: it is said, nothing that she needs goes, and it comes back."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.access import sessions
from gateway.access.sessions import Session
from gateway.access.users import by_login
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import Daemon, carebell, carebell_json
from tests.live.console_harness import browser, chromium_path, console_daemon, press
from tests.live.test_faces import faces_pid

pytestmark = pytest.mark.live
LAPTOP = {"width": 1366, "height": 768}
BUSY = {"status": 503, "body": "busy; try again\n"}
SHORT_MS = 500


class Site:
    """One daemon, and people who are signed in to it."""

    def __init__(self, daemon: Daemon, tokens: dict[str, str]) -> None:
        self.daemon, self.tokens = daemon, tokens
        self.url = daemon.url

    def session(self, login: str = "chen") -> Session:
        connection = open_database(self.daemon.data_dir / FILE_NAME)
        connection.transaction_mode = "IMMEDIATE"
        now_us = time.time_ns() // 1000
        with connection:
            user = by_login(connection, login)
            token = sessions.begin(connection, user.id, now_us, "in")
        connection.close()
        return Session(token, user, now_us, "in")

    def end(self, session: Session) -> None:
        connection = open_database(self.daemon.data_dir / FILE_NAME)
        connection.transaction_mode = "IMMEDIATE"
        with connection:
            sessions.end(connection, session.token)
        connection.close()

    def screen(self, chrome: Any, session: Session) -> Any:
        context = chrome.new_context(viewport=LAPTOP)
        context.add_cookies([{"name": "carebell_session", "value": session.token, "url": self.url}])
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.route("**/never-asked", lambda route: route.abort())  # keeps the interception on between the others
        return page

    def press(self, device: str = "D-1") -> None:
        press(self.daemon, self.tokens, device)

    def sos(self, person_id: str = "P-1") -> list[dict[str, Any]]:
        rows = carebell_json("alerts", "list", data_dir=self.daemon.data_dir)
        return [row for row in rows if row["kind"] == "sos" and row["person_id"] == person_id]

    def steps(self, alert_id: str) -> list[tuple[str, str]]:
        shown = json.loads(carebell("alerts", "show", alert_id, data_dir=self.daemon.data_dir))
        return [(step["action"], step["reason"] or "") for step in shown["transitions"]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with console_daemon(tmp_path_factory.mktemp("faults") / "d") as (daemon, tokens):
        it = Site(daemon, tokens)
        for device in tokens:
            it.press(device)
        yield it


def open_case(page: Any, site: Site, person_id: str) -> str:
    alert_id = str(site.sos(person_id)[-1]["id"])
    page.goto(f"{site.url}/console/alerts/{alert_id}")
    page.wait_for_selector(f"#alert[data-id='{alert_id}']")
    page.wait_for_selector("#map[data-drawn='1']")
    return alert_id


def test_what_does_not_come_is_said_and_asked_for_again(site: Site) -> None:
    chromium_path()
    with browser() as chrome:
        page = site.screen(chrome, site.session())
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        alert_id = open_case(page, site, "P-1")
        assert 0 < page.evaluate("htmx.config.timeout") <= 30_000
        page.evaluate(f"htmx.config.timeout = {SHORT_MS}")
        held: list[Any] = []

        def hold(route: Any) -> None:
            held.append(route)

        page.route("**/accept", hold)
        page.keyboard.press("a")
        page.wait_for_selector("#status.refused:text('没有收到服务器的回应')")  # never answered
        page.wait_for_selector("#alert[data-handling=raised] #do-accept-a:not(:disabled)")

        # She leaves the case before the answer: she is told which one, and the next case is kept up to date.
        page.evaluate("htmx.config.timeout = 20000")
        with page.expect_request("**/accept"):
            page.keyboard.press("a")
        page.click(".row:not([aria-current]) a")
        page.wait_for_selector(f"#alert:not([data-id='{alert_id}'])")
        held[-1].fulfill(**BUSY)
        page.wait_for_selector("#notice a:text('王秀英')")
        page.unroute("**/accept")
        page.route("**/panel", lambda route: route.fulfill(**BUSY))
        version = page.get_attribute("#alert", "data-version")
        for device in site.tokens:
            site.press(device)
        page.wait_for_selector("[data-stale-case]")
        page.unroute("**/panel")
        page.wait_for_selector(f"#alert:not([data-version='{version}'])")
        assert page.locator("[data-stale-case]").count() == 0

        # A case that does not open, and readings that do not come.
        page.route(f"**/alerts/{alert_id}", lambda route: route.fulfill(**BUSY))
        page.route("**/readings", lambda route: route.abort())
        page.click(f"#open-{alert_id}")
        page.wait_for_selector("#work > [data-fault]")
        assert page.locator("#alert").count() == 0, "keys would count for the case before"
        assert page.url.endswith(alert_id)
        page.unroute(f"**/alerts/{alert_id}")
        page.wait_for_selector(f"#alert[data-id='{alert_id}']")
        page.wait_for_selector("#readings [data-fault]")
        page.unroute("**/readings")
        page.wait_for_selector("#readings .card")
        assert faults == []


def test_the_queue_is_asked_for_until_it_comes_and_what_was_typed_stays(site: Site) -> None:
    chromium_path()
    with browser() as chrome:
        page = site.screen(chrome, site.session())
        page.route("**/console/queue", lambda route: route.fulfill(**BUSY))
        with page.expect_response("**/console/queue"):
            page.goto(f"{site.url}/console/persons")
        page.wait_for_function("() => document.getElementById('beat').textContent !== '–'")
        page.unroute("**/console/queue")
        page.wait_for_function("() => /^\\(\\d+\\)/.test(document.title)")  # though the stream never ended

        open_case(page, site, "P-2")
        page.route("**/colleagues", lambda route: route.abort())
        page.keyboard.press("h")
        page.wait_for_selector("#palette-assign [data-offered]:has-text('正在重试')")
        page.unroute("**/colleagues")
        page.wait_for_selector("#palette-assign [data-offered]:has-text('没有其他人在班')")
        page.keyboard.press("Escape")
        page.wait_for_selector("#palette-assign", state="hidden")
        page.route("**/note", lambda route: route.abort())
        page.keyboard.press("n")
        page.fill("#palette-note textarea", "女儿十分钟到")
        page.click("#palette-note button.primary")
        page.wait_for_selector("#status.refused")
        page.unroute("**/note")
        page.keyboard.press("n")
        assert page.input_value("#palette-note textarea") == "女儿十分钟到"
        page.click("#palette-note button.primary")
        page.wait_for_selector("#status.confirmed")
        page.keyboard.press("n")
        assert page.input_value("#palette-note textarea") == ""


def test_an_act_that_is_sent_again_is_done_once_and_said_to_be_done(site: Site) -> None:
    """A browser sends a form again by itself when its connection ends without an answer."""
    alert_id, session = str(site.sos("P-3")[-1]["id"]), site.session()
    with httpx2.Client(base_url=site.url, trust_env=False, timeout=60) as client:
        client.cookies.set("carebell_session", session.token)

        def twice(action: str, **form: str) -> list[str]:
            page = client.get(f"/console/alerts/{alert_id}/panel", headers={"HX-Request": "true"}).text
            seen = re.search(r'data-version="(\d+)"', page)
            assert seen is not None
            sent = {"version": seen[1], **form}
            headers = {"HX-Request": "true", "X-CSRF-Token": session.csrf}
            path = f"/console/alerts/{alert_id}/{action}"
            answers = [client.post(path, data=sent, headers=headers) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
            assert all("服务器已确认" in answer.text for answer in answers)
            other = client.post(path, data=sent | {"note": "another", "progress": "talking"}, headers=headers)
            return [str(other.status_code)]

        before = len(site.steps(alert_id))
        assert twice("accept") == ["409"], "somebody else's words are another act"
        assert twice("progress", progress="on_scene") == ["409"]
        assert twice("note", note="门开着") == ["200"]
        assert twice("resolve", outcome="assistance") == ["409"]
        done = [step for step in site.steps(alert_id)[before:] if step[0] != "presented"]
    assert done == [("accept", ""), ("progress", ""), ("note", "门开着"), ("note", "another"), ("resolve", "")]


def test_the_end_of_a_session_is_seen_and_nobody_stays_on_the_screen(site: Site) -> None:
    chromium_path()
    with browser() as chrome:
        session = site.session()
        page = site.screen(chrome, session)
        open_case(page, site, "P-1")
        page.click("#sound")
        rang = int(page.get_attribute("body", "data-rang"))
        site.end(session)
        site.press()
        page.wait_for_selector("h1:text('登录已结束')")
        assert "王秀英" not in page.content()
        assert int(page.get_attribute("body", "data-rang")) > rang
        page.click("text=重新登录")
        page.wait_for_selector("[name=login]")
    # A plain form leads there, not to an empty page; a script is told.
    headers = {"cookie": f"carebell_session={session.token}"}
    for accept, status in (("text/html,application/xhtml+xml,*/*;q=0.8", 303), ("*/*", 401)):
        for path in ("persons", "sign-out"):
            asked = headers | {"accept": accept}
            answer = httpx2.post(f"{site.url}/console/{path}", headers=asked, trust_env=False, timeout=60)
            assert answer.status_code == status
            assert next(answer.headers[each] for each in ("location", "hx-redirect") if each in answer.headers) == (
                "/console/sign-in"
            )


def test_pages_and_gateway_are_killed_under_an_open_case(tmp_path: Path) -> None:
    """The act is done once and confirmed; the screen comes back by itself with case, session and sound."""
    chromium_path()
    with console_daemon(tmp_path / "d") as (daemon, tokens), browser() as chrome:
        site = Site(daemon, tokens)
        site.press()
        page = site.screen(chrome, site.session())
        alert_id = open_case(page, site, "P-1")
        page.click("#sound")
        page.wait_for_selector("#sound[aria-pressed=true]")
        pid = faces_pid(daemon)
        os.kill(pid, signal.SIGSTOP)
        with page.expect_request("**/accept"):
            page.keyboard.press("a")
        os.kill(pid, signal.SIGKILL)
        page.wait_for_selector("#status.confirmed, #status.refused")  # a browser may send it again, or leave it to her
        if page.locator("#status.refused").count():
            page.wait_for_selector("#do-accept-a:not(:disabled)")
            page.keyboard.press("a")
        page.wait_for_selector("#alert[data-handling=accepted]")
        daemon.kill()
        daemon.start()
        site.press("D-2")
        page.wait_for_selector(".row.p1.raised")
        page.keyboard.press("n")
        page.fill("#palette-note textarea", "还在")
        page.click("#palette-note button.primary")
        page.wait_for_selector("#status.confirmed:has-text('备注')")
        assert page.get_attribute("#sound", "aria-pressed") == "true"
        taken = [step for step in site.steps(alert_id) if step[0] in ("accept", "note")]
        assert taken == [("accept", ""), ("note", "还在")]


def test_keys_count_for_the_case_that_was_asked_for(site: Site) -> None:
    chromium_path()
    with browser() as chrome:
        page = site.screen(chrome, site.session())
        before = open_case(page, site, "P-1")
        assert page.get_attribute("#alert", "data-handling") == "raised"
        site.press("D-2")
        after = str(site.sos("P-2")[0]["id"])
        held: list[Any] = []

        def hold(route: Any) -> None:
            held.append(route)

        page.route(f"**/alerts/{after}", hold)
        page.focus(f"#open-{after}")
        page.keyboard.press("Enter")
        page.wait_for_selector("#work[inert]")
        page.keyboard.press("a")  # she cannot mean the one that she has left
        assert page.get_attribute("#alert", "data-id") == before
        while not held:
            page.wait_for_timeout(20)
        held[0].continue_()
        page.wait_for_selector(f"#work:not([inert]) #alert[data-id='{after}'][data-handling=raised]")
        page.keyboard.press("a")
        page.wait_for_selector("#alert[data-handling=accepted] #status.confirmed")
    assert "accept" not in [action for action, _ in site.steps(before)]
