"""What a call says: well-formed, within Twilio's limit, everything twice, and never without a way to answer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.channels import twilio_twiml
from alerts.channels.twilio_twiml import MAX_INLINE, Language
from alerts.notice import Notice

GATHER = "https://care.example.org/callbacks/twilio/" + "a" * 120 + "/gather?t=" + "b" * 24 + "&l=zh&n=1#rc=5&rp=all"


def notice(speech: str, language: Language = "zh", *, wants_answer: bool = True) -> Notice:
    return Notice(
        attempt_id="a-1", alert_id="17-0", medium="voice", to="+8613800000001", language=language,
        text="text", speech=speech, wants_answer=wants_answer,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("language", "spoken", "choices"),
    [
        ("zh", "zh-CN", ["如果您来处理，请按 1", "请按 2", "请按 9"]),
        ("en", "en-US", ["press 1", "press 2", "press 9"]),
    ],
)
def test_the_message_is_said_twice_slowly_with_the_keys(language: Language, spoken: str, choices: list[str]) -> None:
    root = ET.fromstring(twilio_twiml.call(notice("王奶奶按下了紧急按钮。", language), GATHER))
    gather = root.find("Gather")
    assert gather is not None
    assert gather.attrib["action"] == GATHER
    assert (gather.attrib["input"], gather.attrib["numDigits"]) == ("dtmf", "1")
    says = gather.findall("Say")
    words = ["".join(say.itertext()) for say in says]
    assert words[0] == words[2] == "王奶奶按下了紧急按钮。"
    assert words[1] == words[3]
    assert all(choice in words[1] for choice in choices)
    assert {say.attrib["language"] for say in says} == {spoken}
    assert all(say.find("prosody[@rate='slow']") is not None for say in says)


def test_a_message_without_a_question_asks_for_no_key() -> None:
    document = twilio_twiml.call(notice("天冷了，请添衣。", wants_answer=False), GATHER)
    assert "Gather" not in document
    assert document.count("天冷了，请添衣。") == 2


def test_the_text_is_said_when_there_is_no_speech() -> None:
    assert twilio_twiml.call(notice(""), GATHER).count(">text<") == 2


def test_a_long_message_keeps_its_question() -> None:
    document = twilio_twiml.call(notice("第一句很要紧。" + "后面的话。" * 2000), GATHER)
    assert len(document) <= MAX_INLINE
    assert document.count("第一句很要紧。") == 2
    assert document.count("请按 1") == 2
    ET.fromstring(document)


@given(speech=st.text(max_size=6000), language=st.sampled_from(["zh", "en"]), wants_answer=st.booleans())
def test_any_text_makes_a_document_within_the_limit(speech: str, language: Language, wants_answer: bool) -> None:
    document = twilio_twiml.call(notice(speech, language, wants_answer=wants_answer), GATHER)
    assert len(document) <= MAX_INLINE
    root = ET.fromstring(document.encode())
    assert (root.find("Gather") is not None) == wants_answer


@given(digits=st.text(max_size=10), language=st.sampled_from(["zh", "en"]), last=st.booleans())
def test_every_key_gets_a_reply_that_ends(digits: str, language: Language, last: bool) -> None:
    root = ET.fromstring(twilio_twiml.reply(digits, language, None if last else GATHER))
    assert root[-1].tag == "Hangup"
    assert "".join(root.itertext()).strip()
    assert (root.find("Gather") is not None) == (bool(digits) and digits not in ("1", "2", "9") and not last)


def test_a_conference_outlives_each_of_its_legs() -> None:
    document = twilio_twiml.join(
        "17-0", "person-a-1", callbacks={"status": "https://s", "recording": "https://r"}, record=True
    )
    conference = ET.fromstring(document).find("Dial/Conference")
    assert conference is not None
    assert conference.text == "17-0"
    assert conference.attrib["endConferenceOnExit"] == "false"
    assert conference.attrib["record"] == "record-from-start"
    assert conference.attrib["participantLabel"] == "person-a-1"


def test_a_caring_call_asks_how_they_are_and_thanks_for_the_answer() -> None:
    asked = msgspec.structs.replace(notice("您今天好吗？"), question="well")
    document = twilio_twiml.call(asked, GATHER)
    assert document.count("如果您需要帮助，请按 2") == 2
    assert "如果您来处理" not in document
    assert "放心" in twilio_twiml.reply("1", "zh", None, question="well")
    assert "马上联系您" in twilio_twiml.reply("2", "zh", None, question="well")
    assert "如果您一切都好" in twilio_twiml.reply("5", "zh", GATHER, question="well")
    assert "call you again" in twilio_twiml.reply("", "en", None, question="well")


@given(st.text(alphabet="<>&\"'王奶奶]; a\t\x00\x1f\ufffe\U0001f6a8", min_size=1, max_size=200))
def test_what_is_said_is_what_was_to_be_said(words: str) -> None:
    """XML's own letters stay what they are; what XML forbids is a space."""
    root = ET.fromstring(twilio_twiml.call(notice(words), GATHER))
    say = root.find("Gather/Say")
    assert say is not None
    expected = words.strip()
    for forbidden in "\t\x00\x1f\ufffe":
        expected = expected.replace(forbidden, " ")
    assert "".join(say.itertext()) == expected


@given(st.dictionaries(st.text(max_size=20), st.one_of(st.text(max_size=200), st.lists(st.text(max_size=9)))))
def test_a_form_comes_out_as_it_went_in(fields: dict[str, str | list[str]]) -> None:
    twilio_http = pytest.importorskip("alerts.channels.twilio_http", reason="pip install 'carebell[twilio]'")
    expected = [(k, each) for k, value in fields.items() for each in (value if isinstance(value, list) else [value])]
    form = twilio_http._form(fields)
    assert form.isascii()
    assert parse_qsl(form.decode(), keep_blank_values=True) == expected
