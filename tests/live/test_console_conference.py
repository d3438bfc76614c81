"""The line of an alert, led from the console by key: the simulated carrier calls, the page says what is so."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.registry.contacts import add_contact
from gateway.registry.persons import update_person
from gateway.storage.database import FILE_NAME, open_database
from simulators import people
from simulators.people import Behaviour
from tests.daemon import ACTOR
from tests.live.console_harness import add_staff, browser, chromium_path, photograph, sign_in
from tests.live.escalation_daemon import POLICY, Town, contact_number, town

pytestmark = pytest.mark.live
pytest.importorskip("twilio", reason="needs the Twilio SDK: pip install 'carebell[twilio]'")
QUIET = re.sub(r"at_s = [\d.]+", "at_s = 800", re.sub(r"(every_s|longest_s) = 30\b", r"\1 = 900", POLICY))
ELDER, DAUGHTER, DOCTOR, CENTER = "+8613800000001", contact_number(1, 1), "+8613900000088", "+862212349"
DESK = {"width": 1920, "height": 1080}


def furnish(place: Town) -> None:
    connection = open_database(place.data_dir / FILE_NAME)
    now_us = SystemClock().now_us()
    with connection:
        add_staff(connection)
        update_person(connection, "P-1", {"name": "王秀英", "phone": ELDER}, at_us=now_us, actor=ACTOR)
        doctor = {"person_id": "P-1", "name": "周医生", "phone": DOCTOR, "relation": "doctor", "position": "3"}
        add_contact(connection, "P-1.3", doctor, at_us=now_us, actor=ACTOR)
    connection.close()
    answers = Behaviour(answers_after_s=1.0)
    for number in (ELDER, DAUGHTER, CENTER):
        place.people.set(number, answers)
    place.people.set(DOCTOR, people.BUSY)


def bring(page: Any, party: str, number: str = "") -> None:
    """F, the digit of that party, a number if it needs one, Enter: no mouse."""
    page.keyboard.press("f")
    choice = page.wait_for_selector(f"#palette-conference input[value^='{party}']")
    page.keyboard.press(choice.get_attribute("data-digit"))
    if number:
        page.keyboard.press("Tab")
        page.keyboard.type(number)
    page.keyboard.press("Enter")
    page.wait_for_selector("#palette-conference:not([open])", state="attached")


def leg(role: str, more: str = "") -> str:
    return f"#conference [data-leg={role}]{more}"


def in_the_browser(place: Town, alert_id: str, carrier_stops: Callable[[], None]) -> None:
    from playwright.sync_api import expect

    with browser() as chrome:
        page = chrome.new_context(viewport=DESK, color_scheme="dark").new_page()
        page.set_default_timeout(60_000)
        sign_in(page, place.daemon.url, "chen")
        page.goto(f"{place.daemon.url}/console/alerts/{alert_id}")
        expect(page.locator("#conference")).to_contain_text("没有人在线上")
        page.keyboard.press("a")
        page.wait_for_selector("#alert[data-handling=accepted]")
        page.keyboard.press("c")
        page.wait_for_selector(leg("person", "[data-status=connected]"))
        bring(page, "family")
        page.wait_for_selector(leg("family", "[data-status=connected]"))
        assert "联系人1" in page.inner_text(leg("family"))
        bring(page, "call_center")  # the site's own number
        page.wait_for_selector(leg("call_center", "[data-status=connected]"))
        bring(page, "doctor/")  # engaged: called, never on the line
        page.wait_for_selector("#status.confirmed")
        # The family is held and muted, by the keys of its row.
        page.keyboard.press("l")
        expect(page.locator(leg("person"))).to_be_focused()
        while page.locator(leg("family") + ":focus").count() == 0:
            page.keyboard.press("ArrowDown")
        page.keyboard.press("h")
        expect(page.locator(leg("family"))).to_contain_text("保持中")
        photograph(page, "alert-conference")
        page.focus(leg("family"))
        page.keyboard.press("m")
        expect(page.locator(leg("family"))).to_contain_text("已静音")
        expect(page.locator(leg("person"))).not_to_contain_text("已静音")
        assert page.locator(leg("person", " [data-leg-key=x]")).count() == 0  # her own line is kept
        page.focus(leg("family"))
        page.keyboard.press("h")
        expect(page.locator(leg("family"))).not_to_contain_text("保持中")
        page.focus(leg("family"))
        page.keyboard.press("x")
        expect(page.locator(leg("family", "[data-status=connected]"))).to_have_count(0)
        # A number that is missing is said in the place where acts are confirmed; the case stays.
        bring(page, "terminal")
        page.wait_for_selector("#status.refused")
        assert "王秀英" in page.inner_text("#alert h1")
        expect(page.locator(leg("person", "[data-status=connected]"))).to_have_count(1)
        page.click("[data-palette=palette-end]")
        page.click("#palette-end button.primary")
        expect(page.locator("#conference [data-status=connected]")).to_have_count(0)
        carrier_stops()
        page.reload()
        expect(page.locator("#conference")).to_contain_text("未知")
        page.keyboard.press("c")
        page.wait_for_selector("#status.refused")
        expect(page.locator("#alert h1")).to_contain_text("王秀英")


def test_an_operator_leads_the_line_by_key(tmp_path: Path) -> None:
    chromium_path()

    async def story() -> None:
        async with town(tmp_path, policy=QUIET) as place:
            place.daemon.environment["CAREBELL_CONSOLE__HOTLINE"] = CENTER
            furnish(place)
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            alert = await place.until(1, lambda found: found["handling"] == "raised", 60)
            loop = asyncio.get_running_loop()
            await asyncio.to_thread(
                in_the_browser, place, alert["id"],
                lambda: asyncio.run_coroutine_threadsafe(place.carrier.stop(), loop).result(60),
            )  # fmt: skip
            assert {str(call.to) for call in place.carrier.calls} == {ELDER, DAUGHTER, CENTER, DOCTOR}
            rows = await place.get(f"/api/v1/alerts/{alert['id']}")
            assert rows["progress"] == "contacting_family"
            await place.carrier.start()

    asyncio.run(story())
