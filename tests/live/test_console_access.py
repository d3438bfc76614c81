"""Every page in each theme as axe-core judges it (WCAG 2.2 AA, the queue AAA), and the map and charts offline."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from gateway.clock import SystemClock, iso
from gateway.console.family_link import PURPOSE, FamilyLinks
from gateway.registry.keys import issue_api_key
from gateway.registry.persons import update_person
from gateway.registry.places import add_place
from gateway.registry.site_secret import site_secret
from simulators.geography import moved
from simulators.neighbourhood import CENTRE
from simulators.outline import outline
from tests.daemon import ACTOR, carebell_json
from tests.live.console_harness import (
    PASSWORD,
    axe_source,
    browser,
    chromium_path,
    console_daemon,
    forget_codes,
    photograph,
    press,
    sign_in,
)  # fmt: skip
from tests.live.test_installer_browser import PHONE, Site

pytestmark = [pytest.mark.live, pytest.mark.slow]
DESK = {"width": 1920, "height": 1080}
LAPTOP = {"width": 1366, "height": 768}
HOME = moved(CENTRE, 90, 0)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
THEMES = ("light", "dark")
PICTURED = {"sign-in", "queue", "statistics", "audit", "help", "installer home", "installer device", "family"}
JUDGE = """
async ([tags, place, rules]) => {
  const options = { runOnly: { type: "tag", values: tags }, resultTypes: ["violations"] };
  if (rules.length) options.runOnly = { type: "rule", values: rules };
  const found = await axe.run(place ? { include: [place], exclude: [] } : document, options);
  return found.violations.flatMap((each) =>
    each.nodes.map((node) => each.id + ": " + node.html.slice(0, 160) + " | " + node.failureSummary));
}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A day of readings and a walk in the history, an emergency, a fault; the demo's ground under the maps."""
    chromium_path()
    folder = tmp_path_factory.mktemp("access")
    (folder / "outline.json").write_text(json.dumps(outline()), encoding="utf-8")
    (folder / "data").mkdir()
    settings: dict[str, Any] = {
        "CAREBELL_HISTORY__DSN": "embedded", "CAREBELL_CONSOLE__OUTLINE_FILE": str(folder / "outline.json"),
        "CAREBELL_CONSOLE__HOTLINE": "2212349",
    }  # fmt: skip
    with console_daemon(folder / "data", **settings) as (daemon, tokens):
        it = Site(daemon, tokens)
        furnish(it)
        yield it
        for client in it.clients:
            client.close()
        it.connection.close()


def furnish(site: Site) -> None:
    now_us = SystemClock().now_us()
    plan = {
        "overrides": [{
            "metric": "heart_rate_bpm", "limits": {"advisory_low": 55, "advisory_high": 95}, "author": "周医生",
            "reason": "用药",
        }]
    }  # fmt: skip
    ring = [[spot.longitude, spot.latitude] for spot in (moved(HOME, x, y) for x, y in RING)]
    area = {"type": "Polygon", "coordinates": [ring]}
    home = {"type": "Point", "coordinates": [HOME.longitude, HOME.latitude]}
    fences: dict[str, dict[str, Any]] = {
        "H-1": {"person_id": "P-1", "kind": "home", "radius_m": 120, "geometry": home, "name": "家"},
        "F-1": {
            "person_id": "P-1", "kind": "forbidden", "name": "河边",
            "geometry": area,
        },
    }  # fmt: skip
    with site.connection:
        update_person(site.connection, "P-1", {"care_plan": plan}, at_us=now_us, actor=ACTOR)
        site.connection.execute("DELETE FROM place WHERE id = 'H-1'")
        for place_id, values in fences.items():
            add_place(site.connection, place_id, values, at_us=now_us, actor=ACTOR)
        update_person(site.connection, "P-2", {"name": "赵国庆", "district": "和平区"}, at_us=now_us, actor=ACTOR)
    day(site)
    press(
        site.daemon, site.tokens, measurements={"heart_rate_bpm": 131, "spo2_percent": 93, "battery_percent": 81},
        position=place(300, 40, 25), at=iso(SystemClock().now_us()),
    )  # fmt: skip
    press(site.daemon, site.tokens, "D-2", signals=["tamper"], position=place(-200, 100, 400))
    with site.connection:
        key = issue_api_key(site.connection, {"role": "operator", "label": "test"}, at_us=now_us, actor=ACTOR)[1]
    until_the_history_has_it(site, key)


def until_the_history_has_it(site: Site, key: str) -> None:
    """The page asks for readings when it is opened: what it is to show must be there by then."""
    deadline_s = time.monotonic() + 90
    with httpx2.Client(
        base_url=site.daemon.url, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=60
    ) as client:
        while True:
            answer = client.get("/api/v1/persons/P-1/latest")
            if answer.status_code == 200 and answer.json()["metrics"].get("heart_rate_bpm", {}).get("value") == 131:
                return
            assert time.monotonic() < deadline_s, answer.text
            time.sleep(0.2)


RING = ((240, -60), (330, -60), (330, 60), (240, 60), (240, -60))


def place(east_m: float, north_m: float, accuracy_m: float) -> dict[str, Any]:
    spot = moved(HOME, east_m, north_m)
    return {"latitude": spot.latitude, "longitude": spot.longitude, "accuracy_m": accuracy_m, "source": "gnss"}


def day(site: Site) -> None:
    """24 hours of readings, and a walk of the last three; as a device tells what it kept."""
    now = datetime.now(UTC)
    frames: list[dict[str, Any]] = []
    for number in range(96):
        at = now - timedelta(minutes=15 * (96 - number))
        measured = {"heart_rate_bpm": 68 + number % 7 * 4, "spo2_percent": 95 + number % 4}
        if number % 16 == 0:
            measured |= {"systolic_mmhg": 128 + number // 4, "diastolic_mmhg": 78 + number % 5}
        frame: dict[str, Any] = {"at": at.isoformat(), "measurements": measured, "seq": number + 1}
        if number > 84:
            frame["position"] = place((number - 84) * 25, (number - 84) * 3, 12)
        frames.append(frame)
    answer = httpx2.post(
        f"{site.daemon.url}/ingest/v1/D-1", json=frames, headers={"authorization": f"Bearer {site.tokens['D-1']}"},
        trust_env=False, timeout=60,
    )  # fmt: skip
    assert answer.status_code == 202, answer.text


class Judge:
    """axe-core on a page; what it found, with the page's name."""

    def __init__(self) -> None:
        self._source = axe_source()
        self.found: list[str] = []

    def look(self, page: Any, name: str, *, part: str = "", enhanced: str = "") -> None:
        """In both themes; the whole page or a part. ``enhanced``: a part of the page whose contrast has to be AAA."""
        for theme in THEMES:
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            page.evaluate(self._source)
            found = page.evaluate(JUDGE, [RULES, part, [] if theme == THEMES[0] else ["color-contrast"]])
            if enhanced:
                found += page.evaluate(JUDGE, [[], enhanced, ["color-contrast-enhanced"]])
            self.found += [f"{name} ({theme}) {each}" for each in found]
            if name in PICTURED:
                photograph(page, f"{name.replace(' ', '-')}-{theme}")


def guarded(chrome: Any, site: Site, **options: Any) -> tuple[Any, list[str]]:
    """A page, and the addresses outside of the gateway that it asked for."""
    page = chrome.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    outside: list[str] = []
    page.on("request", lambda told: outside.append(told.url) if not told.url.startswith(site.daemon.url) else None)
    return page, outside


def open_alert(page: Any, site: Site, kind: str = "sos") -> str:
    alert_id = next(
        row["id"] for row in carebell_json("alerts", "list", data_dir=site.daemon.data_dir) if row["kind"] == kind
    )
    page.goto(f"{site.daemon.url}/console/alerts/{alert_id}")
    page.wait_for_selector("#map[data-drawn='1']")
    return str(alert_id)


def test_map_and_charts_stand_without_any_network(site: Site) -> None:
    from playwright.sync_api import expect

    with browser() as chrome:
        page, outside = guarded(chrome, site, viewport=DESK, color_scheme="light")
        sign_in(page, site.daemon.url, "chen")
        open_alert(page, site)
        page.wait_for_selector("#map[data-outlined='1']")
        kinds = {kind: page.locator(f"#map path.outline.{kind}").count() for kind in ("street", "building", "boundary")}
        assert kinds["boundary"] == 1
        assert kinds["street"] == 13
        assert kinds["building"] == 90
        drawn = page.locator("#map .leaflet-overlay-pane path")
        expect(drawn).to_have_count(4)  # home, the forbidden area, the trail, the accuracy
        assert page.locator("#map .pin").count() == 2  # home and where she is
        assert "25 m · 卫星" in page.inner_text("#map-words")
        page.wait_for_selector("[data-metric=heart_rate_bpm] rect.band", state="attached")
        said = page.get_attribute("[data-metric=heart_rate_bpm] svg", "aria-label")
        assert re.fullmatch(r"心率: 24 小时 68–1\d\d /min; 正常 55–95 /min; 紧急 ≤ \d+; 紧急 ≥ \d+", said)
        assert "本人正常 55–95 /min" in page.inner_text("[data-metric=heart_rate_bpm]")
        assert "高于" in page.inner_text("[data-metric=heart_rate_bpm]")
        assert "/min" in page.inner_text("[data-metric=heart_rate_bpm]")
        photograph(page, "alert-map-charts-light")
        page.emulate_media(color_scheme="dark")
        photograph(page, "alert-map-charts-dark")
        page.goto(f"{site.daemon.url}/console/map")
        page.wait_for_selector("#map[data-outlined='1'] .pin.p1")
        photograph(page, "page-map-outline")
        assert outside == []


def test_every_page_is_sound_for_everybody(site: Site) -> None:
    judge = Judge()
    url = site.daemon.url
    with browser() as chrome:
        page, _ = guarded(chrome, site, viewport=LAPTOP)
        page.goto(f"{url}/console/sign-in")
        judge.look(page, "sign-in")
        forget_codes(site.daemon.data_dir)
        sign_in(page, url, "wang")
        page.wait_for_selector(".row.p1")
        judge.look(page, "queue", enhanced="#queue")
        open_alert(page, site)
        page.wait_for_selector(".chart")
        judge.look(page, "alert raised", enhanced="#queue")
        page.keyboard.press("a")
        page.wait_for_selector("#alert[data-handling=accepted] #status.confirmed")
        page.click("#reveal-door_code")
        page.wait_for_selector("#shown")
        judge.look(page, "alert accepted")
        for name in ("progress", "resolve", "note", "assign", "order", "conference", "end"):
            page.evaluate("name => document.getElementById('palette-' + name).showModal()", name)
            judge.look(page, f"palette {name}", part=f"#palette-{name}")
            page.keyboard.press("Escape")
        page.keyboard.press("?")
        judge.look(page, "help", part="#help")
        page.keyboard.press("Escape")
        page.evaluate("""() => { const sign = document.getElementById("connection"); sign.hidden = false;
            sign.textContent = "与服务器失去连接"; }""")
        judge.look(page, "connection lost", part="#connection")
        for name in ("map", "persons", "persons/P-1", "devices", "devices/D-1", "statistics", "calls", "supervision",
                     "alerts/none", "password"):  # fmt: skip
            page.goto(f"{url}/console/{name}")
            judge.look(page, name)
        auditor, _ = guarded(chrome, site, viewport=LAPTOP)
        auditor.goto(f"{url}/console")
        auditor.fill("[name=login]", "audit")  # who only reads has no second factor
        auditor.fill("[name=password]", PASSWORD)
        auditor.keyboard.press("Enter")
        auditor.wait_for_selector("#queue")
        auditor.goto(f"{url}/console/audit")
        judge.look(auditor, "audit")
    assert judge.found == []


def test_the_pages_for_outdoors_are_sound_for_everybody(site: Site) -> None:
    judge = Judge()
    with browser() as chrome:
        page, outside = guarded(chrome, site, viewport=PHONE, device_scale_factor=2)
        page.goto(site.link("和平区"))
        judge.look(page, "installer enter")
        page.click("button.primary")
        page.wait_for_selector("#code")
        judge.look(page, "installer home")
        site.device("D-100", model="SOS-1")
        page.fill("#code", site.code("D-100"))
        page.click("form[action='/installer/claim'] button:not([type=button])")
        page.wait_for_selector("#live")
        page.fill("#q", "P-2")
        page.click("form.row button")
        page.wait_for_selector("input[name=person_id]", state="attached")
        judge.look(page, "installer device")
        page.click("#test button.primary")
        page.wait_for_selector("#test-state[data-state=waiting]")
        judge.look(page, "installer test")
        page.goto(f"{site.daemon.url}/installer/device/none")
        judge.look(page, "installer refusal")
        page.goto(f"{site.daemon.url}/installer/enter/none")
        page.click("button.primary")
        judge.look(page, "installer signed out")
        page.goto(family_link(site))
        page.wait_for_selector("svg.sketch")
        judge.look(page, "family")
        page.goto(f"{site.daemon.url}/f/none")
        judge.look(page, "family over")
        assert outside == []
    assert judge.found == []


def family_link(site: Site) -> str:
    with site.connection:
        key = site_secret(site.connection, PURPOSE)
    alert = next(row for row in carebell_json("alerts", "list", data_dir=site.daemon.data_dir) if row["kind"] == "sos")
    return FamilyLinks(site.daemon.url, SystemClock(), key).make(alert["id"], "C-1")
