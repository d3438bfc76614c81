"""The call center's night, in a real browser, with the keyboard."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, carebell_json
from tests.live.console_harness import (
    HOSTILE,
    Wire,
    browser,
    chromium_path,
    console_daemon,
    forget_codes,
    photograph,
    press,
    sign_in,
)

pytestmark = pytest.mark.live
LAPTOP = {"width": 1366, "height": 768}
DESK = {"width": 1920, "height": 1080}


def new_page(chrome: Any, **options: Any) -> Any:
    page = chrome.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    return page


def test_the_night_shift_takes_an_sos_with_the_keyboard_and_two_operators_race(tmp_path: Path) -> None:
    chromium_path()
    from playwright.sync_api import expect

    with console_daemon(tmp_path / "d") as (daemon, tokens), browser() as chrome:
        chen = new_page(chrome, viewport=DESK, color_scheme="dark")
        faults: list[str] = []
        chen.on("pageerror", lambda error: faults.append(str(error)))
        chen.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        sign_in(chen, daemon.url, "chen")
        photograph(chen, "queue-calm")
        press(daemon, tokens)
        chen.wait_for_selector(".row.p1.raised")
        expect(chen).to_have_title(re.compile(r"^\(1\) "))
        press(daemon, tokens, "D-2")
        chen.wait_for_selector(".row.p1 >> nth=1")
        # The first one, opened and accepted without the mouse.
        chen.keyboard.press("j")
        chen.keyboard.press("Enter")
        chen.wait_for_selector("#alert[data-handling=raised]")
        assert "王秀英" in chen.inner_text("#alert h1")
        chen.wait_for_selector("#map[data-drawn='1'] .pin.p1")
        photograph(chen, "alert-raised")
        forget_codes(tmp_path / "d")
        li = new_page(chrome, viewport=LAPTOP)
        sign_in(li, daemon.url, "li")
        li.goto(chen.url)
        li.wait_for_selector("#alert[data-handling=raised]")
        # Both see it free; the change on the way to Li is held back, so that both press.
        li.route("**/panel", lambda route: route.abort())
        chen.keyboard.press("a")
        chen.wait_for_selector("#alert[data-handling=accepted] #status.confirmed")
        li.keyboard.press("a")
        li.wait_for_selector("#status.refused")
        assert "陈静" in li.inner_text("#status")
        assert li.locator("#owner").count() == 1
        photograph(li, "alert-lost-race")
        chen.keyboard.press("c")
        chen.wait_for_selector("#shown")
        assert "+861380000" in chen.inner_text("#shown")
        chen.keyboard.press("p")
        chen.keyboard.press("2")
        chen.keyboard.press("Enter")
        chen.wait_for_selector("#alert[data-handling=in_progress] #status.confirmed")
        chen.keyboard.press("n")
        chen.keyboard.type("女儿十分钟到")
        chen.keyboard.press("Tab")
        chen.keyboard.press("Tab")
        chen.keyboard.press("Enter")
        chen.wait_for_selector("text=女儿十分钟到")
        chen.click("#reveal-door_code")
        chen.wait_for_selector("text=3141#")
        photograph(chen, "alert-in-progress")
        chen.keyboard.press("r")
        chen.keyboard.press("2")
        chen.keyboard.press("Enter")
        assert chen.is_visible("[data-act=resolve] [data-sure]")  # an emergency asks twice
        photograph(chen, "alert-resolve")
        chen.keyboard.press("Enter")
        chen.wait_for_selector("#alert[data-handling=resolved]")
        expect(chen.locator(".row.p1")).to_have_count(1)
        assert faults == []
        for name in ("map", "persons", "persons/P-1", "devices", "devices/D-1", "statistics", "calls", "supervision"):
            answer = chen.goto(f"{daemon.url}/console/{name}")
            assert answer.status == 200, name
            expect(chen.locator("#beat")).not_to_have_text("–")
            if name == "map":
                chen.wait_for_selector("#map[data-drawn='1']")
            photograph(chen, f"page-{name.replace('/', '-').lower()}")
        assert chen.goto(f"{daemon.url}/console/audit").status == 403  # not an operator's
        rows = carebell_json("alerts", "list", data_dir=tmp_path / "d")
        pressed = {(row["handling"], row["outcome"]) for row in rows if row["kind"] == "sos"}
        assert pressed == {("raised", None), ("resolved", "assistance")}
        audit = carebell_json("audit", "list", data_dir=tmp_path / "d")
        actions = [row["action"] for row in audit]
        assert 2 <= actions.count("presented") <= 2 * len(rows)
        assert [row["evidence"]["what"] for row in audit if row["action"] == "reveal"] == ["phone", "door_code", "card"]


def test_the_network_is_cut_and_returns(tmp_path: Path) -> None:
    chromium_path()
    from playwright.sync_api import expect

    with console_daemon(tmp_path / "d") as (daemon, tokens), browser() as chrome:
        wire = Wire(daemon.http_port)
        page = new_page(chrome, viewport=DESK)
        sign_in(page, wire.url, "chen")
        expect(page.locator("#beat")).not_to_have_text("–")
        page.wait_for_function("() => /^\\D*[01][.]/.test(document.getElementById('beat').textContent)")
        begun = time.monotonic()
        wire.cut()
        press(daemon, tokens)
        page.wait_for_selector("#connection:not([hidden])", timeout=60_000)
        assert time.monotonic() - begun > 4  # a short break is none
        assert page.locator(".row").count() == 0
        photograph(page, "connection-lost")
        press(daemon, tokens, "D-2")
        while len(sos(tmp_path / "d")) < 2:  # what is raised later is no change of the time in between
            time.sleep(0.05)
        wire.mend()
        page.wait_for_selector("#connection.back", state="attached", timeout=60_000)  # it is shown for some seconds
        expect(page.locator(".row.p1")).to_have_count(2)
        expect(page.locator("#connection")).to_have_text(
            re.compile("连接已恢复，期间变化的告警：[23]")
        )  # the press that reaches nobody is one more
        wire.close()


def test_hostile_words_are_shown_as_words(tmp_path: Path) -> None:
    chromium_path()
    with console_daemon(tmp_path / "d", hostile=True) as (daemon, tokens), browser() as chrome:
        page = new_page(chrome, viewport=DESK)
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        press(daemon, tokens)
        sign_in(page, daemon.url, "li")
        page.wait_for_selector(".row.p1.raised")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_selector("#map[data-drawn='1']")
        assert "<script>" in page.inner_text("#alert h1")
        page.keyboard.press("a")
        page.wait_for_selector("#alert[data-handling=accepted]")
        # What an operator types is as much a stranger's text to the others.
        page.keyboard.press("n")
        page.fill("#palette-note textarea", HOSTILE)
        page.click("#palette-note button.primary")
        page.wait_for_selector(".timeline :text('{{7*7}}')")
        page.click("#reveal-door_code")
        page.wait_for_selector("#shown")
        assert page.inner_text("#shown") == HOSTILE[:90]
        harmless(page, "the case")
        for path in ("", "/persons", "/persons/P-1", "/devices", "/devices/D-1", "/map", "/statistics", "/calls",
                     "/supervision", "/language/en?back=/console/devices/D-1"):  # fmt: skip
            page.goto(f"{daemon.url}/console{path}")
            page.wait_for_function("() => document.getElementById('beat').textContent !== '–'")
            harmless(page, path)
        page.goto(f"{daemon.url}/console/persons")
        page.fill("[name=search]", HOSTILE[:100])
        page.keyboard.press("Enter")
        page.wait_for_selector("[name=search]")
        assert page.input_value("[name=search]") == HOSTILE[:100]
        harmless(page, "a search")
        assert faults == []


def test_a_button_stays_under_the_hand_while_it_is_pressed(tmp_path: Path) -> None:
    """The case is exchanged whenever the alert changes: not between press and release, else the click is lost."""
    chromium_path()
    with console_daemon(tmp_path / "d") as (daemon, tokens), browser() as chrome:
        page = at_a_fresh_case(chrome, daemon, tokens)
        page.hover("#reveal-door_code")
        page.mouse.down()  # from here on nothing is exchanged, whatever was on its way
        page.evaluate("document.getElementById('reveal-door_code').dataset.old = '1'")
        with page.expect_response("**/panel"):
            press(daemon, tokens)  # the alert changes
        page.wait_for_timeout(300)
        assert page.get_attribute("#reveal-door_code", "data-old") == "1"
        page.mouse.up()
        page.wait_for_selector("#shown")


def test_whoever_answers_is_not_turned_away(tmp_path: Path) -> None:
    """Neither by a second press between the look and the key, nor by an answer that is none: the case stays."""
    chromium_path()
    with console_daemon(tmp_path / "d") as (daemon, tokens), browser() as chrome:
        page = at_a_fresh_case(chrome, daemon, tokens)
        page.route("**/accept", lambda route: route.fulfill(status=503, body="busy; try again\n"))
        with page.expect_response("**/panel"):  # what became of it is asked
            page.keyboard.press("a")
        page.wait_for_selector("#status.refused:text('未送达服务器')")
        page.wait_for_selector("#alert[data-handling=raised] #do-accept-a:not(:disabled)")
        page.unroute("**/accept")
        page.route("**/panel", lambda route: route.abort())  # her screen does not hear of it yet
        seen = page.get_attribute("#alert", "data-version")
        press(daemon, tokens)
        while seen in {str(row["version"]) for row in sos(tmp_path / "d")}:
            time.sleep(0.05)
        page.keyboard.press("a")
        page.wait_for_selector("#alert[data-handling=accepted] #status.confirmed")


def at_a_fresh_case(chrome: Any, daemon: Daemon, tokens: dict[str, str]) -> Any:
    """The page of an operator who has opened a press with the keyboard."""
    page = new_page(chrome, viewport=LAPTOP)
    press(daemon, tokens)
    sign_in(page, daemon.url, "chen")
    page.wait_for_selector(".row.p1.raised")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("#alert[data-handling=raised]")
    return page


def sos(data_dir: Path) -> list[dict[str, Any]]:
    return [row for row in carebell_json("alerts", "list", data_dir=data_dir) if row["kind"] == "sos"]


def harmless(page: Any, where: str) -> None:
    """No script of a text ran, none became an element, and no template was evaluated."""
    assert "XSS" not in page.title(), where
    assert page.locator("img[src=x]").count() == 0, where
    assert page.locator("script:not([src])").count() == 0, where
    assert "'\"49" not in page.content(), where
