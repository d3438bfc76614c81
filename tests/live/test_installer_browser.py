"""An installer with a phone: from the QR code to the test press, through a dead zone; and what is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from gateway.provisioning import claims, links
from gateway.provisioning.codes import content_of, grouped
from gateway.registry.devices import add_device
from gateway.registry.persons import update_person
from gateway.registry.places import show_place
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import ACTOR, Daemon, carebell, carebell_json
from tests.live.console_harness import HOSTILE, browser, console_daemon, photograph, press

pytestmark = pytest.mark.live
PHONE = {"width": 390, "height": 844}
SCANNER = """
window.BarcodeDetector = class { async detect() { return [{ rawValue: %s }]; } };
navigator.mediaDevices.getUserMedia = async () => document.createElement("canvas").captureStream();
HTMLMediaElement.prototype.play = async () => {};
"""


class Site:
    """One daemon; devices, codes and links made straight in its file, as the commands do."""

    def __init__(self, daemon: Daemon, tokens: dict[str, str]) -> None:
        self.daemon, self.tokens = daemon, tokens
        self.clients: list[httpx2.Client] = []
        self.connection = open_database(daemon.data_dir / FILE_NAME)
        self.connection.transaction_mode = "IMMEDIATE"

    def device(self, device_id: str, **values: Any) -> str:
        with self.connection:
            _, self.tokens[device_id] = add_device(
                self.connection, device_id, {"profile": "carebell.native", **values},
                known_profiles=["carebell.native"], at_us=now(), actor=ACTOR,
            )  # fmt: skip
        return device_id

    def code(self, device_id: str, *, at_us: int | None = None) -> str:
        with self.connection:
            code = claims.issue(self.connection, device_id, valid_days=1, at_us=at_us or now(), actor=ACTOR)
        return code  # noqa: RET504 - mypy takes a connection for one that swallows exceptions

    def link(self, district: str = "和平区", *, at_us: int | None = None) -> str:
        with self.connection:
            _, token = links.issue(self.connection, "二组", district, at_us=at_us or now(), actor=ACTOR)
        return f"{self.daemon.url}/installer/enter/{token}"

    def stranger(self) -> Visitor:
        self.clients.append(httpx2.Client(base_url=self.daemon.url, trust_env=False, timeout=60))
        return Visitor(self.clients[-1])

    def visitor(self, district: str = "和平区") -> Visitor:
        visitor = self.stranger()
        answer = visitor.client.post(self.link(district))
        assert answer.status_code == 303
        return visitor

    def log(self) -> str:
        return (self.daemon.data_dir.parent / f"{self.daemon.data_dir.name}.log").read_text()

    def audit(self, subject: str) -> list[str]:
        return [row[0] for row in self.connection.execute("SELECT action FROM audit WHERE subject = ?", (subject,))]


class Visitor:
    """Somebody without a browser."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def post(self, path: str, **form: str) -> httpx2.Response:
        page = self.client.get("/installer").text
        csrf = re.search(r'name="csrf" value="(\w+)"', page)
        return self.client.post(f"/installer{path}", data={"csrf": csrf[1] if csrf else "", **form})


def now() -> int:
    return time.time_ns() // 1000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("installer") / "d"
    with console_daemon(folder) as (daemon, tokens):
        it = Site(daemon, tokens)
        with it.connection:
            update_person(it.connection, "P-2", {"name": "赵国庆", "district": "和平区"}, at_us=now(), actor=ACTOR)
        yield it
        for client in it.clients:
            client.close()
        it.connection.close()


def test_from_the_qr_code_to_the_test_press_on_a_phone(site: Site) -> None:
    site.device("N-1", serial="SN-0001")
    code = site.code("N-1")
    with browser() as chrome:
        context = chrome.new_context(viewport=PHONE, device_scale_factor=2, has_touch=True, is_mobile=True)
        context.add_init_script(SCANNER % json.dumps(content_of(code, site.daemon.url)))
        page = context.new_page()
        page.set_default_timeout(60_000)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        weights: list[int] = []
        page.on("requestfinished", lambda request: weights.append(request.sizes()["responseBodySize"]))

        page.goto(site.link())
        page.click("button")
        page.wait_for_selector("#scan")
        photograph(page, "installer-home")
        page.click("#scan")
        page.wait_for_selector("h1:has-text('N-1')")

        page.fill("[name=q]", "王秀")
        page.click("text=查找")
        page.wait_for_selector("#person .who-is")
        shown = page.inner_text("#person")
        assert "王**" in shown
        assert "王秀英" not in page.content()
        assert "402" not in shown
        page.fill("[name=install_place]", "卧室床头")
        page.click("text=绑定")
        page.wait_for_selector("#person.done")

        press(site.daemon, site.tokens, "N-1", signals=[], measurements={"battery_percent": 81, "rssi_dbm": -78})
        page.wait_for_selector("#rssi:has-text('-78 dBm')")
        page.wait_for_selector("#battery:has-text('81 %')")
        assert "heart_rate" not in page.inner_text("#frames")

        page.reload()  # the map begins where the device is
        page.wait_for_selector("#map svg circle.here")
        page.tap("#map svg", position={"x": 200, "y": 100})
        assert float(page.input_value("[name=latitude]")) == pytest.approx(39.1237, abs=0.002)
        page.fill("[name=radius_m]", "120")
        page.check("[name=consent]")
        page.fill("[name=consent_by]", "本人")
        page.wait_for_selector("#map svg .home")
        photograph(page, "installer-place")
        page.click("text=这里是家")
        page.wait_for_selector("#place.done")

        page.click("text=已与老人核对")
        page.wait_for_selector("#contacts.done")

        page.click("text=开始测试")
        page.wait_for_selector(".waiting")
        press(site.daemon, site.tokens, "N-1")
        page.wait_for_selector("#test .passed")
        assert "收到" in page.inner_text("#test .passed")
        page.locator("#test").scroll_into_view_if_needed()
        photograph(page, "installer-test-press")
        page.click("text=结束测试")
        page.wait_for_selector("#test button:has-text('开始测试')")

        page.fill("[name=agreement_ref]", HOSTILE[:90])
        page.fill("[name=photos]", f"IMG-1\n{HOSTILE}")
        context.set_offline(True)
        page.fill("[name=note]", HOSTILE)
        page.click("text=保存")
        page.wait_for_selector("#sending:has-text('还没有送达')")
        context.set_offline(False)  # as the phone leaves the cellar
        page.wait_for_selector("#record.done")
        assert page.input_value("[name=note]") == HOSTILE
        assert page.evaluate("Object.keys(localStorage).length") == 0

        page.fill("[name=note]", "draft")
        page.reload()
        assert page.input_value("[name=note]") == "draft", "what was typed survives a reload"
        page.click("text=结束上门")
        page.wait_for_selector("text=全部完成")
        assert page.title() != "XSS"
        assert faults == []
        assert sum(weights) < 250_000, "usable within 3 s at 100 kB/s"

    (view,) = json.loads(carebell("devices", "visits", "N-1", "--json", data_dir=site.daemon.data_dir))
    assert view["test_passed_at"]
    assert view["ended_at"]
    assert view["person_id"] == "P-1"
    assert view["photos"] == ["IMG-1", HOSTILE]
    alert = json.loads(carebell("alerts", "show", view["test_alert_id"], data_dir=site.daemon.data_dir))
    assert alert["attempts"] == [], "a test press tells nobody"
    assert alert["outcome"] == "test"
    home = show_place(site.connection, "H-1")
    assert home["settings"]["consent"] is True
    told = site.audit("device/N-1")
    assert {"device.claim_code", "device.claimed", "device.update", "device.test_passed", "device.visit_ended"} <= {
        *told
    }
    assert HOSTILE not in "".join(body for (body,) in site.connection.execute("SELECT body FROM audit"))


def test_a_link_signs_in_once_and_while_it_lasts(site: Site) -> None:
    client = site.stranger().client
    link = site.link()
    assert client.get(link).status_code == 200, "a preview of the message"
    assert client.get(link).status_code == 200
    assert client.post(link).status_code == 303
    assert site.stranger().client.post(link).status_code == 403, "replayed"
    assert client.post(site.link(at_us=now() - 9 * 3600 * 1_000_000)).status_code == 403, "expired"
    assert client.post(f"{site.daemon.url}/installer/enter/{'A' * 43}").status_code == 403, "forged"
    assert client.post(site.link(), headers={"origin": "https://evil.example"}).status_code == 403
    assert site.log().count("installer_link_refused") >= 3
    assert link.rpartition("/")[2] not in site.log()


def test_what_got_no_answer_is_sent_again_and_is_done(site: Site) -> None:
    """Outdoors an answer is lost now and then: the same browser and the same installer send it again."""
    site.device("N-10", person_id="P-1")
    site.device("N-11")
    stranger, link = site.stranger(), site.link()
    assert stranger.client.get(link).status_code == 200
    assert stranger.client.post(link).status_code == 303
    first = stranger.client.cookies["carebell_installer"]
    del stranger.client.cookies["carebell_installer"]  # that answer did not arrive
    assert stranger.client.post(link).status_code == 303
    assert stranger.client.cookies["carebell_installer"] == first
    other = site.stranger()
    assert other.client.get(link).status_code == 200
    assert other.client.post(link).status_code == 403, "another browser has another secret"

    assert stranger.post("/device/N-10/contacts").status_code == 303
    for _ in range(2):
        assert "本次上门已完成" in stranger.post("/device/N-10/finish").text
    code = site.code("N-11")
    for _ in range(2):
        answer = stranger.post("/device/N-10/replace", code=code, reason="外壳破损")
        assert answer.headers["location"].endswith("/device/N-11")
    for _ in range(2):
        assert stranger.post("/device/N-11/retire", reason="服务终止").status_code == 303
    assert site.visitor().post("/device/N-11/retire", reason="x").status_code in (404, 409), "somebody else did not"
    done = site.audit("device/N-10") + site.audit("device/N-11")
    assert [done.count(each) for each in ("device.visit_ended", "device.replace", "device.retire")] == [1, 1, 1]


def test_a_poor_link_takes_no_word_away(site: Site) -> None:
    site.device("N-12", person_id="P-1")
    with browser() as chrome:
        page = chrome.new_context(viewport=PHONE).new_page()
        page.set_default_timeout(60_000)
        page.route("**/never-asked", lambda route: route.abort())
        page.goto(site.link())
        page.click("button")
        page.wait_for_selector("#scan", state="attached")
        page.goto(f"{site.daemon.url}/installer/device/N-12")
        page.fill("[name=note]", "门铃坏了")
        answers = iter(({"status": 200, "body": "<p>Welcome to the hotel</p>"}, {"status": 408, "body": "late"}))

        def spoil(route: Any) -> None:
            answer = next(answers, None)
            route.continue_() if answer is None else route.fulfill(**answer)

        page.route("**/record", spoil)
        with page.expect_request("**/record"):
            page.click("text=保存")
            page.evaluate("document.querySelector('form[action$=record]').requestSubmit()")  # a second tap
        page.wait_for_selector("#sending:has-text('还没有送达')")
        kept = page.evaluate("Object.values(localStorage).join()")
        page.wait_for_selector("#sending", state="hidden")
        assert "门铃坏了" in kept
        assert page.input_value("[name=note]") == "门铃坏了"
        page.route("**/live", lambda route: route.fulfill(status=503, body="busy"))
        page.wait_for_selector("#heard:has-text('没有网络')")  # its age would stand still
        page.unroute("**/live")
        page.wait_for_selector("#heard:not(:has-text('没有网络'))")
        page.click("text=结束上门")
        page.wait_for_selector("text=本次上门已完成")
        page.reload()
        page.wait_for_selector("h1:has-text('N-12')")
        page.go_back()
        page.wait_for_selector("h1")
        assert page.locator(".problem:visible").count() == 0
    assert site.audit("device/N-12").count("device.visit_record") == 1


def test_a_claim_code_counts_once_and_only_where_it_may(site: Site) -> None:
    site.device("N-2")
    first, second = site.visitor(), site.visitor()
    code = site.code("N-2")
    assert first.post("/claim", code=grouped(code).lower()).status_code == 303
    assert first.post("/claim", code=code).status_code == 303, "its first answer may have been lost"
    assert second.post("/claim", code=code).status_code == 409, "replayed by another"
    assert second.client.get("/installer/device/N-2").status_code == 404
    site.device("N-3")
    assert first.post("/claim", code=site.code("N-3", at_us=now() - 2 * 86_400_000_000)).status_code == 409, "expired"
    stale = site.code("N-3")
    site.code("N-3")
    assert first.post("/claim", code=stale).status_code == 409, "a newer label was printed"
    assert first.post("/claim", code="ABCD-EFGH-JKLM").status_code == 404, "forged"
    assert first.post("/claim", code="<script>").status_code == 422
    site.device("N-4", district="北区")
    elsewhere = site.code("N-4")
    assert first.post("/claim", code=elsewhere).status_code == 404, "of another district"
    assert site.visitor("北区").post("/claim", code=elsewhere).status_code == 303, "and not used up by that"
    assert site.log().count("installer_refused") >= 6
    assert code not in site.log()
    assert grouped(code) not in site.log()


def test_whoever_tries_codes_has_to_wait(site: Site) -> None:
    site.device("N-5")
    code, guesser = site.code("N-5"), site.visitor()
    for number in range(20):
        assert (
            guesser.post(
                "/claim", code=f"ABCDEFGHJK{number // 10 + 2}{number % 10 + 2 if number % 10 < 8 else 'Z'}"
            ).status_code
            == 404
        )
    assert guesser.post("/claim", code=code).status_code == 409
    assert site.visitor().post("/claim", code=code).status_code == 303, "others need not"


def test_wrong_roles_forged_forms_and_tricky_paths_are_refused(site: Site) -> None:
    stranger = site.stranger()
    for path in ("/installer", "/installer/device/D-1", "/installer/device/D-1/live", "/installer/outline.json"):
        assert stranger.client.get(path).status_code == 401
    installer = site.visitor()
    assert installer.client.get("/console").headers["location"].endswith("/sign-in"), "no way into the console"
    assert installer.client.get("/api/v1/persons").status_code == 401
    assert installer.client.post("/installer/claim", data={"code": "x"}).status_code == 403, "no token of the form"
    csrf = re.search(r'value="(\w{64})"', installer.client.get("/installer").text)
    assert csrf is not None
    evil = {"origin": "https://evil.example"}
    assert (
        installer.client.post("/installer/claim", data={"csrf": csrf[1], "code": "x"}, headers=evil).status_code == 403
    )
    assert installer.post("/device/D-3/retire", reason="x").status_code == 404, "D-3's person is not of this district"
    assert installer.client.get("/installer/device/D-3/live").status_code == 404
    for path in (
        "/installer/static/..%2finstaller.py",
        "/installer/static/%2e%2e/words.csv",
        "/installer/device/..%2f..",
        "/f/../x",
    ):
        assert installer.client.get(path).status_code == 404
    assert installer.client.put("/installer/claim").status_code == 405
    assert installer.post("/device/D-1/person", person_id="P-3").status_code == 404, "nor may it be bound to one"
    assert installer.post("/device/D-1/place", latitude="nan", longitude="1", radius_m="9").status_code == 422
    assert installer.post("/device/D-1/place", latitude="91", longitude="1", radius_m="9").status_code == 422
    assert installer.post("/device/D-1/record", photos="\x00").status_code == 422
    assert installer.post("/sign-out").status_code == 200
    assert installer.client.get("/installer").status_code == 401
    forged = {"cookie": f"carebell_installer={'x' * 43}"}
    assert stranger.client.get("/installer", headers=forged).status_code == 401


def test_replace_keeps_the_history_and_retire_ends_it(site: Site) -> None:
    visitor = site.visitor()
    site.device("N-8", person_id="P-2", install_place="客厅")
    site.device("N-9")
    answer = visitor.post("/device/N-8/replace", code=site.code("N-9"), reason="外壳破损")
    assert answer.headers["location"].endswith("/device/N-9")
    (old,) = carebell_json("devices", "show", "N-8", data_dir=site.daemon.data_dir)
    (new,) = carebell_json("devices", "show", "N-9", data_dir=site.daemon.data_dir)
    assert (old["state"], old["replaced_by"], old["person_id"]) == ("retired", "N-9", None)
    assert [each["person_id"] for each in old["bindings"]] == ["P-2"]
    assert old["bindings"][0]["to"]
    assert (new["person_id"], new["install_place"]) == ("P-2", "客厅")
    assert visitor.post("/device/N-9/retire", reason=" ").status_code == 422
    assert visitor.post("/device/N-9/retire", reason="服务终止").status_code == 303
    assert "device.retire" in site.audit("device/N-9")
    picture = site.visitor().client.get("/installer/device/D-1/label.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert "<script" not in picture.text


def test_a_session_ends_when_its_link_is_revoked(site: Site) -> None:
    visitor = site.visitor()
    newest = max(links.list_links(site.connection), key=lambda each: each["used_at"] or "")
    with site.connection:
        links.revoke(site.connection, newest["link_id"], at_us=now(), actor=ACTOR)
    assert visitor.client.get("/installer").status_code == 401
