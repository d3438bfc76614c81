"""The family's page: from the SMS of an alert to "I am on my way", and every way in that is refused."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.clock import SystemClock, VirtualClock
from gateway.console.family_link import PURPOSE, FamilyLinks
from gateway.registry.contacts import update_contact
from gateway.registry.persons import update_person
from gateway.registry.places import add_place
from gateway.registry.site_secret import site_secret
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import ACTOR
from tests.live.console_harness import HOSTILE, browser, photograph
from tests.live.escalation_daemon import POLICY, Town, by, contact_number, town

pytestmark = pytest.mark.live
pytest.importorskip("twilio", reason="needs the Twilio SDK: pip install 'carebell[twilio]'")
SLOW = re.sub(r"(every_s|longest_s) = 30\b", r"\1 = 900", POLICY)
for quick, slow in (("0.5", "500"), ("2\n", "600\n"), ("3.5", "700")):
    SLOW = SLOW.replace(f"at_s = {quick}", f"at_s = {slow}")  # nobody calls while the pages are tried
ZH, EN = "P-1.1", "P-1.2"


def furnish(place: Town) -> None:
    """Hostile names, a home, and a second contact who reads English."""
    connection = open_database(place.data_dir / FILE_NAME)
    now_us = SystemClock().now_us()
    pictured = os.environ.get("CAREBELL_SCREENSHOTS") == "1"  # documents show a name
    name, address, relation = (
        ("王秀英", "和平里 3-1-402", "儿子") if pictured else (HOSTILE[:100], HOSTILE[:300], HOSTILE[:50])
    )
    with connection:
        update_person(connection, "P-1", {"name": name, "address": address}, at_us=now_us, actor=ACTOR)
        update_contact(connection, ZH, {"name": name, "relation": relation}, at_us=now_us, actor=ACTOR)
        update_contact(connection, EN, {"language": "en", "relation": "son"}, at_us=now_us, actor=ACTOR)
        home = {"type": "Point", "coordinates": [117.2011, 39.1235]}
        values = {"person_id": "P-1", "kind": "home", "radius_m": 100, "geometry": home}
        add_place(connection, "H-1", values, at_us=now_us, actor=ACTOR)
    connection.close()


def told_and_ordered(alert: dict[str, Any]) -> bool:
    states = [each["state"] for each in alert["attempts"]]
    return states == ["delivered"] * 2 and (alert["order"] or {}).get("status") == "accepted"


def links_of(place: Town, clock: Any) -> FamilyLinks:
    connection = open_database(place.data_dir / FILE_NAME)
    connection.transaction_mode = "IMMEDIATE"
    with connection:
        key = site_secret(connection, PURPOSE)
    connection.close()
    return FamilyLinks(place.daemon.url, clock, key)


def in_the_browser(link_zh: str, link_en: str) -> None:
    """Each contact opens the link of the own message."""
    with browser() as chrome:
        phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
        first, second = (chrome.new_context(**phone).new_page() for _ in range(2))
        for page in (first, second):
            page.set_default_timeout(60_000)
        first.goto(link_zh)
        assert "SOS" in first.inner_text("h1")
        assert "还没有人" in first.inner_text("main")
        assert first.locator("svg.sketch").count() == 1
        assert first.get_attribute("a:has-text('高德')", "href").startswith("https://uri.amap.com/marker?")
        photograph(first, "family-alert")
        first.click("button:has-text('我马上过去')")
        first.wait_for_selector(".goes")
        assert "您：正在前往" in first.inner_text("main")
        second.goto(link_en)
        assert "on the way" in second.inner_text(".goes")
        assert contact_number(1, 1)[-8:] not in second.content()
        second.click("button:has-text('I cannot')")
        second.wait_for_selector("button.chosen:has-text('I cannot')")
        first.click("button:has-text('我去不了')")
        first.wait_for_selector(".nobody")
        second.click("button:has-text('I am on my way')")
        second.wait_for_selector(".goes:has-text('You: on the way')")
        photograph(second, "family-going-en")
        assert "XSS" not in (first.title(), second.title())


def test_the_sms_leads_to_a_page_that_takes_an_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with town(tmp_path, policy=SLOW) as place:
            place.daemon.environment["CAREBELL_CONSOLE__PUBLIC_URL"] = place.daemon.url
            furnish(place)
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            alert = await place.until(1, told_and_ordered)  # from here on it changes by what is done here
            found = {}
            for message in place.carrier.messages:
                (link,) = re.findall(re.escape(place.daemon.url) + r"/f/[\w-]+", message.body)
                found[message.to] = link
            link_zh, link_en = found[contact_number(1, 1)], found[contact_number(1, 2)]
            assert link_zh != link_en

            async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
                for _ in range(3):  # previews
                    assert (await client.get(link_zh)).status_code == 200
                unread = await place.alert(1)
                assert unread["escalation"]["ladders"]["family"]["taken_by"] is None
                await asyncio.to_thread(in_the_browser, link_zh, link_en)
                answered = await place.alert(1)
                assert answered["escalation"]["ladders"]["family"]["taken_by"] == EN
                assert [each["actor"]["id"] for each in by(answered, "family_accept")] == [ZH, EN]
                assert [each["actor"]["channel"] for each in by(answered, "family_release")] == ["link"]
                assert len(by(answered, "answer_noted")) == 1
                await client.post(link_en, data={"answer": "going"})  # again, and nothing changes
                assert (await place.alert(1))["version"] == answered["version"]
                await refused(client, place, alert["id"], link_zh)

                body = {"version": answered["version"]}
                assert (await place.post(f"/api/v1/alerts/{alert['id']}/accept", body)).status_code == 200
                page = (await client.get(link_zh)).text
                assert "呼叫中心已接警" in page
                await client.post(link_zh, data={"answer": "going"})
                version = (await place.alert(1))["version"]
                assert by(await place.alert(1), "answer_noted")[-1]["reason"] == "on the way 我马上过去"
                body = {"version": version, "outcome": "assistance"}
                done = await place.post(f"/api/v1/alerts/{alert['id']}/resolve", body)
                assert done.status_code == 200, done.text
                over = await client.get(link_zh)
                assert over.status_code == 410
                assert "SOS" not in over.text
                assert "&lt;script" not in over.text
                replayed = await client.post(link_zh, data={"answer": "going"})
                assert replayed.status_code == 303
                assert (await place.alert(1))["handling"] == "resolved"
            log = (place.data_dir.parent / f"{place.data_dir.name}.log").read_text()
            assert log.count("family_link_refused") >= 6
            assert link_zh.rpartition("/")[2] not in log

    asyncio.run(story())


async def refused(client: httpx2.AsyncClient, place: Town, alert_id: str, link: str) -> None:
    now = SystemClock()
    early = VirtualClock(datetime.now(UTC) - timedelta(minutes=31))
    late = links_of(place, early)
    assert (await client.get(late.make(alert_id, ZH))).status_code == 403, "expired"
    forged = FamilyLinks(place.daemon.url, now, b"another key")
    assert (await client.get(forged.make(alert_id, ZH))).status_code == 403
    right = links_of(place, now)
    assert (await client.get(right.make(str(uuid.uuid4()), ZH))).status_code == 404, "no such alert"
    assert (await client.get(right.make(alert_id, "P-2.1"))).status_code == 404, "nobody's contact"
    token = link.rpartition("/")[2]
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (swapped, token[1:], token + "AAAA", "A" * 80, "%00", "x" * 5000):
        assert (await client.get(f"{place.daemon.url}/f/{wrong}")).status_code == 403
    evil = {"origin": "https://evil.example"}
    assert (await client.post(link, data={"answer": "cannot"}, headers=evil)).status_code == 403
    assert (await client.post(link, data={"answer": "resolve"})).status_code == 422
    assert (await client.get(f"{place.daemon.url}/installer")).status_code == 401
