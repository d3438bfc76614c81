"""What a call says, as TwiML. All words a person may hear are here: Chinese or English, by the contact's language."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from alerts.notice import Notice, Question

Language = Literal["zh", "en"]

MAX_INLINE: Final = 4000
"""Characters of TwiML in a request to make a call (Twilio's Twiml parameter)."""
MAX_KEY_TRIES: Final = 3
KEY_WAIT_S: Final = 8
LINE_PAUSE: Final = "600ms"
"""Behind each line of a speech, so that what was said can be taken in."""


class Voice(Struct, frozen=True):
    """``language`` and ``voice`` as <Say> takes them. ``rate`` needs a voice that knows SSML; "" leaves it out."""

    language: str
    voice: str
    rate: str = "slow"


VOICES: Final[Mapping[Language, Voice]] = {
    "zh": Voice("zh-CN", "Polly.Zhiyu"),
    "en": Voice("en-US", "Polly.Joanna"),
}

CHOICES: Final[Mapping[Language, str]] = {
    "zh": "如果您来处理，请按 1。如果您来不了，请按 2。如果打错了，请按 9。",
    "en": "If you take this, press 1. If you cannot, press 2. If this is the wrong number, press 9.",
}
_WELL_CHOICES: Final[Mapping[Language, str]] = {
    "zh": "如果您一切都好，请按 1。如果您需要帮助，请按 2。如果打错了，请按 9。",
    "en": "If you are well, press 1. If you need help, press 2. If this is the wrong number, press 9.",
}
_UNHEARD: Final[Mapping[Language, str]] = {
    "zh": "没有收到按键。我们会联系其他人。再见。",
    "en": "No key was pressed. We will call someone else. Goodbye.",
}
_TAKEN: Final[Mapping[Language, str]] = {
    "zh": "收到您的答复：您来处理。谢谢您，再见。",
    "en": "We have your answer: you take it. Thank you. Goodbye.",
}
_CANNOT: Final[Mapping[Language, str]] = {
    "zh": "知道了，我们会联系其他人。再见。",
    "en": "Understood. We will call someone else. Goodbye.",
}
_WRONG_NUMBER: Final[Mapping[Language, str]] = {
    "zh": "对不起，打扰您了。我们会更正号码。再见。",
    "en": "We are sorry to have disturbed you. We will correct the number. Goodbye.",
}
_WELL: Final[Mapping[Language, str]] = {
    "zh": "知道您一切都好，我们就放心了。再见。",
    "en": "We are glad that you are well. Goodbye.",
}
_HELP: Final[Mapping[Language, str]] = {
    "zh": "知道了，我们马上联系您。请不要离开电话。再见。",
    "en": "Understood. We will call you at once. Please stay near your telephone. Goodbye.",
}
_UNHEARD_WELL: Final[Mapping[Language, str]] = {
    "zh": "没有收到按键。我们过一会儿再打给您。再见。",
    "en": "No key was pressed. We will call you again. Goodbye.",
}
_NO_CHOICE: Final[Mapping[Language, str]] = {"zh": "没有这个选项。", "en": "That key is not one of the choices."}
_ENDED: Final[Mapping[Language, str]] = {"zh": "再见。", "en": "Goodbye."}
_REPLIES: Final[Mapping[Question, Mapping[str, Mapping[Language, str]]]] = {
    "take": {"1": _TAKEN, "2": _CANNOT, "9": _WRONG_NUMBER},
    "well": {"1": _WELL, "2": _HELP, "9": _WRONG_NUMBER},
}
_KEYS: Final[Mapping[Question, Mapping[Language, str]]] = {"take": CHOICES, "well": _WELL_CHOICES}
_NO_KEY: Final[Mapping[Question, Mapping[Language, str]]] = {"take": _UNHEARD, "well": _UNHEARD_WELL}


def call(notice: Notice, gather_url: str, voices: Mapping[Language, Voice] = VOICES) -> str:
    """The message twice, slowly; with ``wants_answer`` and each time the keys, and one key is taken at any moment.

    At most 4000 characters: of a message that is too long the end is not said.
    """
    speech = (notice.speech or notice.text).strip()
    while True:
        document = _call(notice, speech, gather_url, voices[notice.language])
        excess = len(document) - MAX_INLINE
        if excess <= 0 or not speech:
            return document
        speech = _shorter(speech, max(len(speech) - max(excess // 2, 1), 0))


def reply(
    digits: str,
    language: Language,
    again_url: str | None,
    voices: Mapping[Language, Voice] = VOICES,
    question: Question = "take",
) -> str:
    """The answer to a key. One without a meaning is asked for again at ``again_url``; None when it was the last try."""
    response = ET.Element("Response")
    voice = voices[language]
    known = _REPLIES[question].get(digits)
    unheard = _NO_KEY[question]
    if known is not None or not digits:
        _say(response, (known or unheard)[language], voice)
    elif again_url is None:
        _say(response, _NO_CHOICE[language] + unheard[language], voice)
    else:
        _say(response, _NO_CHOICE[language], voice)
        gather = _gather(response, again_url)
        _say(gather, _KEYS[question][language], voice)
    ET.SubElement(response, "Hangup")
    return _text(response)


def join(room: str, label: str, *, callbacks: Mapping[str, str], record: bool) -> str:
    """Puts a call into the conference ``room``. Its end ends nobody else's part in it.

    ``callbacks`` has ``status`` and ``recording``.
    """
    response = ET.Element("Response")
    dial = ET.SubElement(response, "Dial")
    conference = ET.SubElement(
        dial,
        "Conference",
        {
            "startConferenceOnEnter": "true",
            "endConferenceOnExit": "false",
            "beep": "onEnter",
            "participantLabel": label,
            "record": "record-from-start" if record else "do-not-record",
            "statusCallback": callbacks["status"],
            "statusCallbackEvent": "start end join leave mute hold",
            "recordingStatusCallback": callbacks["recording"],
        },
    )
    conference.text = room
    return _text(response)


def nothing() -> str:
    return _text(ET.Element("Response"))


def goodbye(language: Language, voices: Mapping[Language, Voice] = VOICES) -> str:
    response = ET.Element("Response")
    _say(response, _ENDED[language], voices[language])
    ET.SubElement(response, "Hangup")
    return _text(response)


def _call(notice: Notice, speech: str, gather_url: str, voice: Voice) -> str:
    response = ET.Element("Response")
    into = _gather(response, gather_url) if notice.wants_answer else response
    ET.SubElement(into, "Pause", {"length": "1"})
    for _ in range(2):
        _say(into, speech, voice)
        if notice.wants_answer:
            _say(into, _KEYS[notice.question][notice.language], voice)
        ET.SubElement(into, "Pause", {"length": "1"})
    if not notice.wants_answer:
        _say(response, _ENDED[notice.language], voice)
    ET.SubElement(response, "Hangup")
    return _text(response)


def _gather(parent: ET.Element, action_url: str) -> ET.Element:
    """``actionOnEmptyResult``: silence is told as well. ``finishOnKey`` "": a # is a key like others."""
    return ET.SubElement(
        parent,
        "Gather",
        {
            "input": "dtmf",
            "numDigits": "1",
            "timeout": str(KEY_WAIT_S),
            "finishOnKey": "",
            "action": action_url,
            "method": "POST",
            "actionOnEmptyResult": "true",
        },
    )


def _say(parent: ET.Element, words: str, voice: Voice) -> None:
    say = ET.SubElement(parent, "Say", {"language": voice.language, "voice": voice.voice})
    lines = words.split("\n")
    if not voice.rate:
        say.text = " ".join(lines)
        return
    spoken = ET.SubElement(say, "prosody", {"rate": voice.rate})
    spoken.text = lines[0]
    for line in lines[1:]:
        ET.SubElement(spoken, "break", {"time": LINE_PAUSE}).tail = line


def _shorter(speech: str, length: int) -> str:
    """At most ``length`` characters, cut behind a sentence where there is one."""
    cut = speech[:length]
    end = max(cut.rfind(mark) for mark in "。！？.!?；;")
    return cut[: end + 1] if end >= length // 2 else cut


def _text(root: ET.Element) -> str:
    """ASCII with character references would cost six times the room: Chinese stays itself. XML 1.0 forbids the rest."""
    for element in root.iter():
        element.text = _sound(element.text)
        element.tail = _sound(element.tail)
    return '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode")


def _sound(text: str | None) -> str | None:
    if not text:
        return text
    return "".join(c if c >= " " and c not in "\x7f\ufffe\uffff" and not _surrogate(c) else " " for c in text)


def _surrogate(character: str) -> bool:
    return 0xD800 <= ord(character) <= 0xDFFF
