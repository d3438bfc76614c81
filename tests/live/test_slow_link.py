"""Pages over a poor link: 100 kB/s and 150 ms, nothing in the cache. What counts is when somebody can act.

What a page has to bring is asserted, as is that it works over such a link. How long that takes depends on the machine
as well: it is measured, and CAREBELL_FIGURES=FILE writes it down.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.access import sessions
from gateway.clock import SystemClock
from gateway.console.family_link import PURPOSE, FamilyLinks
from gateway.provisioning import claims, links
from gateway.registry.devices import add_device
from gateway.registry.site_secret import site_secret
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import ACTOR, Daemon, carebell_json
from tests.live.console_harness import browser, chromium_path, console_daemon, press

pytestmark = pytest.mark.live
BYTES_PER_S = 100_000
LATENCY_S = 0.15
ASKED_S = 3.0
ROUNDS = 3  # the page, what it names, what its script asks for
WAITING = 40
DESK = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844}


class Site:
    """A busy evening: forty people have pressed; somebody is signed in to each page."""

    def __init__(self, daemon: Daemon, tokens: dict[str, str]) -> None:
        self.url = daemon.url
        connection = open_database(daemon.data_dir / FILE_NAME)
        connection.transaction_mode = "IMMEDIATE"
        now_us = time.time_ns() // 1000
        with connection:
            user = connection.execute("SELECT id FROM user_account WHERE login = 'chen'").fetchone()
            assert user is not None
            self.session = sessions.begin(connection, str(user[0]), now_us, "in")
            for device_id in [f"N-{number}" for number in range(WAITING)]:
                _, tokens[device_id] = add_device(
                    connection, device_id, {"profile": "carebell.native"}, known_profiles=["carebell.native"],
                    at_us=now_us, actor=ACTOR,
                )  # fmt: skip
            self.claim = claims.issue(connection, "N-0", valid_days=1, at_us=now_us, actor=ACTOR)
            _, self.link = links.issue(connection, "二组", "和平区", at_us=now_us, actor=ACTOR)
            secret = site_secret(connection, PURPOSE)
        connection.close()
        for device_id in ("D-1", *(f"N-{number}" for number in range(1, WAITING))):
            press(daemon, tokens, device_id)
        rows = carebell_json("alerts", "list", data_dir=daemon.data_dir)
        self.alert = next(row["id"] for row in rows if row["kind"] == "sos" and row["person_id"] == "P-1")
        self.family = FamilyLinks(daemon.url, SystemClock(), secret).make(self.alert, "C-1")

    def installer(self) -> tuple[str, str]:
        """The cookie of somebody who claimed a device, and the device's page."""
        with httpx2.Client(base_url=self.url, trust_env=False, timeout=60) as client:
            client.post(f"/installer/enter/{self.link}")
            csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/installer").text)
            assert csrf is not None
            answer = client.post("/installer/claim", data={"csrf": csrf[1], "code": self.claim})
            assert answer.status_code == 303, answer.text
            return client.cookies["carebell_installer"], answer.headers["location"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    chromium_path()
    with console_daemon(tmp_path_factory.mktemp("slow") / "d") as running:
        yield Site(*running)


def over_the_link(
    chrome: Any, url: str, cookies: dict[str, str], size: dict[str, int], usable: Callable[[Any], None]
) -> dict[str, Any]:
    """Open a page with nothing in the cache until it is usable: how long that took, and what came over the link."""
    context = chrome.new_context(viewport=size)
    context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
    page = context.new_page()
    page.set_default_timeout(60_000)
    wire = context.new_cdp_session(page)
    came: list[int] = []
    wire.on("Network.loadingFinished", lambda event: came.append(event["encodedDataLength"]))
    wire.send("Network.enable")
    wire.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False, "latency": LATENCY_S * 1000, "downloadThroughput": BYTES_PER_S,
            "uploadThroughput": BYTES_PER_S,
        },
    )  # fmt: skip
    begun_s = time.monotonic()
    page.goto(url, wait_until="commit")
    usable(page)
    taken_s = time.monotonic() - begun_s
    page.wait_for_load_state("load")
    found = {"usable_s": round(taken_s, 2), "bytes": round(sum(came)), "requests": len(came)}
    context.close()
    return found


def first_row_by_keyboard(page: Any) -> None:
    page.wait_for_selector(".row.p1")
    page.wait_for_selector("#figures > *")
    page.keyboard.press("j")
    page.wait_for_selector(".row a:focus")


def alert_by_keyboard(page: Any) -> None:
    page.wait_for_selector("#alert[data-handling=raised] [data-key=a]")
    page.wait_for_selector("#figures > *")
    page.keyboard.press("n")
    page.wait_for_selector("#palette-note[open]")


def button(selector: str) -> Callable[[Any], None]:
    def pressed(page: Any) -> None:
        page.click(selector, trial=True)

    return pressed


def test_pages_over_a_poor_link(site: Site) -> None:
    console = {"carebell_session": site.session}
    installer, device = site.installer()
    with browser() as chrome:
        found = {
            "queue": over_the_link(chrome, f"{site.url}/console", console, DESK, first_row_by_keyboard),
            "alert": over_the_link(
                chrome, f"{site.url}/console/alerts/{site.alert}", console, DESK, alert_by_keyboard
            ),
            "installer": over_the_link(
                chrome, f"{site.url}{device}", {"carebell_installer": installer}, PHONE, button("form button >> nth=0")
            ),
            "family": over_the_link(chrome, site.family, {}, PHONE, button("button:has-text('我马上过去')")),
        }  # fmt: skip
    if "CAREBELL_FIGURES" in os.environ:
        Path(os.environ["CAREBELL_FIGURES"]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, page in found.items():
        assert page["bytes"] / BYTES_PER_S + ROUNDS * LATENCY_S < ASKED_S / 2, (name, found)
