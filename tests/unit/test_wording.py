"""Words of messages and calls: what each role reads, in both languages, and what a site may change or get wrong."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from alerts import wording_lint
from alerts.channels import modem_pdu, twilio_twiml
from alerts.compose import Words, compose
from alerts.facts import HEALTH, Language, Role, map_link, role_of
from alerts.notice import Medium, Notice
from alerts.rows import Alert
from alerts.wording import MAX_CHARACTERS, TEXTS, Wording, own_wording
from alerts.wording_lint import check, findings, kinds, preview, sample
from gateway.cli.main import build
from gateway.datum import gcj02_to_wgs84
from gateway.errors import ConfigError, UsageError
from gateway.model import EMERGENCY_SIGNALS, Severity
from rules.loader import load_rules

PERSON = {
    "name": "王秀英", "address_form": "王奶奶", "phone": "+8613800000001", "district": "和平区",
    "address": "和平路1号2栋301室", "timezone": "Asia/Shanghai",
}  # fmt: skip


LINK = "https://platform.example/alerts/1"
OWN = Path(__file__).resolve().parents[2] / "alerts" / "templates"


def say(
    medium: Medium = "sms",
    role: Role = "family",
    *,
    language: Language = "zh",
    alert: Alert | None = None,
    person: Mapping[str, Any] | None = PERSON,
    link: str = "",
    wording: Wording | None = None,
) -> Words:
    return (wording or own_wording())(
        alert or sample("sos"), person, language=language, recipient="李明", link=link, timezone="Asia/Shanghai",
        medium=medium, role=role, device={"install_place": "卧室"},
    )  # fmt: skip


def site(folder: Path, **files: str) -> Path:
    """A templates.d; ``_`` in a name stands for a dot."""
    folder = folder / "templates.d"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_an_sms_in_chinese_and_english() -> None:
    assert say().text == (
        "【安心铃】王奶奶按了紧急呼叫，时间19:06。地址和平路1号2栋301室。电话13800000001。"
        "地图：https://uri.amap.com/marker?position=117.20740,39.12453&coordinate=gaode"
    )
    english = say(language="en", link=LINK).text
    assert english == (
        f"[carebell] 王奶奶 pressed the emergency button at 19:06. Address: 和平路1号2栋301室. See and handle: {LINK}"
    )


def test_a_call_says_it_line_by_line_and_twilio_pauses_behind_each() -> None:
    speech = say("voice").speech
    assert speech.splitlines() == [
        "李明，您好。",
        "这里是安心铃，紧急情况。",
        "王奶奶按了紧急呼叫。",
        "时间是19点06分。",
        "地址是和平路1号2栋301室。",
    ]
    assert "https" not in speech
    notice = Notice(
        attempt_id="a", alert_id="A", medium="voice", to="+8613900000001", language="zh", text="", speech=speech,
        wants_answer=True,
    )  # fmt: skip
    document = ET.fromstring(twilio_twiml.call(notice, "https://carebell.example/g"))
    spoken = [say for say in document.iter("Say") if "王奶奶" in "".join(say.itertext())]
    assert len(spoken) == 2
    for each in spoken:
        assert len(list(each.iter("break"))) == 4
        assert [text.strip() for text in each.itertext()] == speech.splitlines()
        assert {mark.get("rate") for mark in each.iter("prosody")} == {"slow"}
    assert sum("请按 1" in "".join(say.itertext()) for say in document.iter("Say")) == 2


def test_an_email_is_text_and_the_same_as_html_with_everything_escaped() -> None:
    person = {**PERSON, "address_form": "<b>王</b>奶奶", "address": "1号 & 2号\nBcc: x"}
    words = say("email", person=person, link=LINK + "?a=1&b=<2>")
    assert "地址：1号 & 2号 Bcc: x" in words.text.splitlines()
    assert "<b>" not in words.html
    assert "&lt;b&gt;王&lt;/b&gt;奶奶" in words.html
    assert "1号 &amp; 2号 Bcc: x" in words.html
    assert html.unescape(re.findall(r'href="([^"]+)"', words.html)[1]) == LINK + "?a=1&b=<2>"
    assert say("sms").html == ""


def test_odd_alerts_say_that_they_are_odd() -> None:
    odd = msgspec.structs.replace(sample("fall"), verified=False, late=True, occurrences=3)
    assert "来源未核实。" in say(alert=odd).text
    assert "设备补报。" in say("voice", alert=odd).speech
    assert "次数：3" in say("email", alert=odd).text
    nobody = msgspec.structs.replace(sample("sos", with_position=False), person_id="", subject="device/D-1")
    assert say(alert=nobody, person=None).text == "【安心铃】一台设备按了紧急呼叫，时间19:06。"
    ours = say(alert=sample("order_refused"), person=None).text
    assert ours.startswith("【安心铃】本站点有工单被平台拒绝，")
    unknown = say("email", "operator", alert=sample("x_site_rule")).text
    assert "有健康或安全告警" in unknown


def test_the_hour_is_that_of_the_persons_place() -> None:
    assert "时间12:06" in say(person={**PERSON, "timezone": "Europe/Berlin"}).text
    full = msgspec.structs.replace(sample("sos"), raised_at_us=sample("sos").raised_at_us - 400 * 1_000_000)
    assert "时间是19点整。" in say("voice", alert=full).speech
    assert "The time was 7:06 PM." in say("voice", language="en").speech


def test_maps_get_their_own_datum_and_nobodys_name() -> None:
    position = {"latitude": 39.1235, "longitude": 117.2011}
    amap = parse_qs(urlsplit(map_link(position, "amap")).query)
    assert amap["coordinate"] == ["gaode"]
    longitude, latitude = map(float, amap["position"][0].split(","))
    back = gcj02_to_wgs84(latitude, longitude)
    assert back == pytest.approx((39.1235, 117.2011), abs=2e-5)
    assert abs(longitude - 117.2011) > 0.005
    osm = parse_qs(urlsplit(map_link(position, "osm")).query)
    assert (osm["mlat"], osm["mlon"]) == (["39.12350"], ["117.20110"])
    for language in ("zh", "en"):
        for link in re.findall(r"https?://\S+", say(language=language).text):
            assert set(parse_qs(urlsplit(link).query)) <= {"position", "coordinate", "mlat", "mlon", "zoom"}


# ---- who reads what --------------------------------------------------------------------------------------------------


def everything(role: Role, language: Language, alert: Alert) -> str:
    media: tuple[Medium, ...] = ("sms", "voice", "email", "chat", "push")
    said = [say(medium, role, language=language, alert=alert, link="") for medium in media]
    return "\n".join(f"{words.subject}\n{words.text}\n{words.speech}\n{words.html}\n{words.params}" for words in said)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_group_reads_neither_address_nor_number_nor_place(language: Language) -> None:
    said = everything("group", language, sample("sos"))
    for secret in ("和平路", "13800000001", "117.2", "39.1", "王秀英", "卧室"):
        assert secret not in said
    assert "王奶奶" in said
    nameless = say("chat", "group", language=language, person={**PERSON, "address_form": None})
    assert "王秀英" not in nameless.text
    assert "王" in nameless.text


@pytest.mark.parametrize("kind", sorted(HEALTH))
def test_which_health_alert_it_is_only_staff_read(kind: str) -> None:
    for language in ("zh", "en"):
        exact = own_wording().words(language).pgettext("kind name", kind)
        assert exact != kind
        for role in ("family", "group"):
            said = everything(role, language, sample(kind))
            assert exact not in said
            assert kind not in said
        assert exact in everything("operator", language, sample(kind))


def test_family_reads_the_chosen_name_and_staff_the_full_one() -> None:
    assert "王奶奶按了" in say(role="family").text
    assert "王秀英按了" in say(role="operator").text
    assert "称呼：王奶奶" in say("email", "operator").text
    assert "王秀英老人按了" in say(person={**PERSON, "address_form": ""}).text


def test_roles_go_by_the_id_and_by_the_medium() -> None:
    assert role_of("P-0001.1", "sms") == "family"
    assert role_of("staff:duty", "voice") == "operator"
    assert role_of("center:city", "email") == "operator"
    assert role_of("center:city", "chat") == "group"


def test_readings_are_never_said() -> None:
    alert = msgspec.structs.replace(sample("heart_rate_high"), evidence={"value": 187, "metric": "heart_rate_bpm"})
    for role in ("family", "operator", "group"):
        assert "187" not in everything(role, "zh", alert)


# ---- both languages, all kinds ---------------------------------------------------------------------------------------


def test_every_kind_that_can_be_raised_has_a_name_in_both_languages() -> None:
    found = load_rules()
    raised = {*EMERGENCY_SIGNALS}
    for rule in found.signals.values():
        raised.add(rule.config.alert)
    for threshold in found.thresholds.values():
        raised |= {threshold.config.alert_high, threshold.config.alert_low} - {""}
    assert len(raised) > 25
    for language in ("zh", "en"):
        messages = own_wording().messages[language]
        for context in ("kind", "kind name"):
            assert {kind for kind in raised if (context, kind) not in messages} == set()
        assert {("severity", f"P{int(level)}") for level in Severity} <= set(messages)
    assert set(own_wording().messages["en"]) <= set(own_wording().messages["zh"])


def test_every_message_of_a_template_has_chinese_and_no_chinese_is_left_over() -> None:
    asked = {key for keys in own_wording().used("").values() for _, key in keys}
    chinese = own_wording().messages["zh"]
    assert asked - set(chinese) == set()
    assert {key for key in chinese if not key[0]} - asked == set()


def test_our_own_templates_pass_and_are_short() -> None:
    report = check(None)
    assert (report.problems, report.warnings) == ([], [])
    assert findings(None, link="https://platform.example/alerts/019aa5c0-0000-7000-8000-000000000001") == []
    for kind in kinds(own_wording()):
        assert (preview(own_wording(), kind=kind).segments or 9) <= 2


def test_the_default_composer_is_carebells_own() -> None:
    words = compose(sample("sos"), PERSON, language="zh", recipient="", link="", timezone="Asia/Shanghai")
    assert words.text == say().text
    assert set(words.params) == {"name", "what", "place", "time", "link", "kind", "severity"}


@settings(max_examples=60)
@given(
    name=st.text(max_size=40), form=st.text(max_size=20), address=st.text(max_size=60), phone=st.text(max_size=20),
    kind=st.sampled_from(["sos", "fall", "heart_rate_low", "made_up", "100%s"]), link=st.sampled_from(["", LINK]),
    role=st.sampled_from(["family", "operator", "group"]), language=st.sampled_from(["zh", "en"]),
)  # fmt: skip
def test_whatever_the_registry_holds_something_is_said(
    name: str, form: str, address: str, phone: str, kind: str, link: str, role: Role, language: Language
) -> None:
    person = {"name": name, "address_form": form, "address": address, "phone": phone}
    words = say("email", role, language=language, alert=sample(kind), person=person, link=link)
    for text in (words.subject, words.text, words.speech, say("sms", role, person=person).text):
        assert text
        assert all(character.isprintable() or character == "\n" for character in text)
    assert "\n" not in words.subject
    body = words.html.partition("<body")[2]
    assert set(re.findall(r"<(/?\w+)", body)) <= {
        "p",
        "/p",
        "strong",
        "/strong",
        "pre",
        "/pre",
        "a",
        "/a",
        "/body",
        "/html",
    }


# ---- what a site changes ---------------------------------------------------------------------------------------------


def test_a_site_changes_words_and_texts(tmp_path: Path) -> None:
    folder = site(
        tmp_path,
        zh_po='msgid "[carebell]"\nmsgstr "【和平养老】"\n\nmsgctxt "kind"\nmsgid "sos"\nmsgstr "按了求助按钮"\n',
        push_en_j2="{{ name }}: {{ kind_name }}\n{{ _('See and handle') }}",
    )
    wording = Wording(folder)
    assert say(wording=wording).text.startswith("【和平养老】王奶奶按了求助按钮，")
    assert say("push", wording=wording).text.startswith("王奶奶按了求助按钮，")
    assert say("push", wording=wording, language="en").text == "王奶奶: Emergency call See and handle"
    assert wording.files == ["push.en.j2", "zh.po"]
    assert check(folder).problems == []
    assert say().text.startswith("【安心铃】")


def test_a_part_of_ours_that_a_site_replaces_is_used_in_our_templates(tmp_path: Path) -> None:
    folder = site(tmp_path)
    (folder / "_details.j2").write_text("{{ kind_name }} <{{ room }}>", encoding="utf-8")
    words = say("email", wording=Wording(folder), person={**PERSON, "name": "&"})
    assert "紧急呼叫 <卧室>" in words.text.splitlines()
    assert "紧急呼叫 <卧室>" in words.html
    assert "时间：" not in words.text


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"sms_j2": "{% if %}"}, "sms.j2:1"),
        ({"zh_po": 'msgid "x"\n'}, "msgstr"),
        ({"zh_po": "msgid x\nmsgstr y\n"}, "zh.po:1"),
        ({"zh_po": 'msgid "%(a)s"\nmsgstr "%(b)s"\n'}, "%(b)s is not in the message"),
        ({"zh_po": 'msgid "a"\nmsgstr "100%"\n'}, "%%"),
        ({"sms_j2": "x" * 70_000}, "longer than"),
        ({"sms_j2": "{{ (1).__class__ }}{{ name }}"}, "unsafe"),
        ({"sms_j2": "{{ nmae }}"}, "'nmae' is undefined"),
        ({"sms_j2": "{{ name }}{{ 1 // 0 }}"}, "cannot be rendered"),
        ({"sms_j2": "{{ name }}{% for i in range(99999) %}long{% endfor %}"}, "longer than 20000"),
        ({"sms_j2": "{% if link %}{{ name }}{% endif %}"}, "says nothing"),
        ({"voice_j2": "Somebody"}, "whom it is about"),
        ({"sms_j2": "{% include '../../secret' %}{{ name }}"}, "cannot be rendered"),
    ],
)
def test_what_is_wrong_is_found_before_anybody_is_told(tmp_path: Path, files: dict[str, str], said: str) -> None:
    problems = check(site(tmp_path, **files)).problems
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"sms_j2": "{{ name }}" + "很" * 140}, "3 messages for"),
        ({"voice_j2": "{{ name }}" + "很" * 140}, "at most 30 s"),
        ({"sms_j2": "{{ name }}{{ _('New words') }}"}, "sms.j2:1: 'New words' has no Chinese"),
        ({"zh_po": 'msgid "[carebel]"\nmsgstr "【和平】"\n'}, "no template says '[carebel]'"),
        ({"smss_j2": "{{ name }}"}, "smss.j2: is not used"),
    ],
)
def test_what_should_be_looked_at(tmp_path: Path, files: dict[str, str], said: str) -> None:
    report = check(site(tmp_path, **files))
    assert report.problems == []
    assert any(said in warning for warning in report.warnings), report.warnings


def test_a_template_that_fails_when_it_counts_leaves_it_to_ours(tmp_path: Path) -> None:
    folder = site(tmp_path, sms_j2="{{ name }}{{ 1 // (occurrences - 7) }}")
    wording = Wording(folder)
    seventh = msgspec.structs.replace(sample("sos"), occurrences=7)
    with capture_logs() as logs:
        for _ in range(3):
            assert say(alert=seventh, wording=wording).text == say(alert=seventh).text
    assert [(entry["event"], entry["template"]) for entry in logs] == [("template_failed", "sms.j2")]
    assert say(wording=wording).text == "王奶奶-1"


def test_a_template_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    folder = site(tmp_path, sms_j2="{% for i in range(99999) %}{{ name * 1000 }}{% endfor %}")
    with capture_logs():
        assert len(say(wording=Wording(folder)).text) < MAX_CHARACTERS


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    assert Wording(tmp_path / "none").files == []
    many = tmp_path / "many"
    many.mkdir()
    for number in range(51):
        (many / f"_{number}.j2").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="more than 50"):
        Wording(many)
    latin = tmp_path / "latin"
    latin.mkdir()
    (latin / "sms.j2").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        Wording(latin)


# ---- preview and lint ------------------------------------------------------------------------------------------------


def test_previews_count_as_the_modem_does() -> None:
    shown = preview(own_wording(), kind="fall", channel="sms", language="en")
    assert shown.segments == len(modem_pdu.encode("+8613900000001", shown.text, reference=1, report=False))
    assert shown.seconds is None
    call = preview(own_wording(), channel="voice", language="en", severity=2)
    assert "This is carebell." in call.text
    assert call.seconds is not None
    assert 5 < call.seconds < 30
    assert "press 1" in call.keys
    with pytest.raises(UsageError):
        preview(own_wording(), channel="webhook")
    assert wording_lint.speech_seconds("一二三四五六七八九十" * 10, "zh") == pytest.approx(30.9, abs=0.5)
    assert set(TEXTS) >= set(wording_lint.CHANNELS)


def carebell(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(build("notify"), ["notify", *map(str, arguments)])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def test_the_commands(tmp_path: Path) -> None:
    there = ("--data-dir", tmp_path, "--templates", site(tmp_path))
    shown = carebell("preview", "--kind", "sos", "--channel", "sms", "--language", "zh", *there).stdout
    assert "王奶奶按了紧急呼叫" in shown
    assert "2 SMS" in shown
    told = json.loads(carebell("preview", "--channel", "voice", "--role", "operator", "--json", *there).stdout)
    assert (told["role"], told["channel"]) == ("operator", "voice")
    assert "said twice" in carebell("preview", "--channel", "voice", "--no-position", *there).stdout
    assert "# 【安心铃】" in carebell("preview", "--channel", "chat", *there).stdout
    carebell("preview", "--channel", "fax", *there, code=2)
    assert "ok" in carebell("lint", *there).stdout
    site(tmp_path, sms_j2="{{ nmae }}", odd_j2="")
    assert "nmae" in carebell("lint", *there, code=1).stdout
    assert json.loads(carebell("lint", "--json", *there, code=1).stdout)["warnings"]
    site(tmp_path, sms_j2="{% if %}")
    assert "sms.j2:1" in carebell("preview", *there, code=78).stderr
