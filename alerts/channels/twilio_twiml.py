"""What a call says, as TwiML. All words a person may hear are here: Chinese or English, by the contact's language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal
from xml.sax.saxutils import escape

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
    voice = voices[language]
    known = _REPLIES[question].get(digits)
    unheard = _NO_KEY[question]
    if known is not None or not digits:
        said = _say((known or unheard)[language], voice)
    elif again_url is None:
        said = _say(_NO_CHOICE[language] + unheard[language], voice)
    else:
        said = _say(_NO_CHOICE[language], voice) + _gather(again_url, _say(_KEYS[question][language], voice))
    return _response(said + _HANGUP)


def join(room: str, label: str, *, callbacks: Mapping[str, str], record: bool) -> str:
    """Puts a call into the conference ``room``. Its end ends nobody else's part in it.

    ``callbacks`` has ``status`` and ``recording``.
    """
    conference = _element(
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
        _escaped(room),
    )
    return _response(_element("Dial", {}, conference))


def nothing() -> str:
    return _response("")


def goodbye(language: Language, voices: Mapping[Language, Voice] = VOICES) -> str:
    return _response(_say(_ENDED[language], voices[language]) + _HANGUP)


def _call(notice: Notice, speech: str, gather_url: str, voice: Voice) -> str:
    said = _say(speech, voice)
    if not notice.wants_answer:
        return _response(_PAUSE + 2 * (said + _PAUSE) + _say(_ENDED[notice.language], voice) + _HANGUP)
    said += _say(_KEYS[notice.question][notice.language], voice) + _PAUSE
    return _response(_gather(gather_url, _PAUSE + 2 * said) + _HANGUP)


def _gather(action_url: str, content: str) -> str:
    """``actionOnEmptyResult``: silence is told as well. ``finishOnKey`` "": a # is a key like others."""
    return _element(
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
        content,
    )


def _say(words: str, voice: Voice) -> str:
    lines = [_escaped(line) for line in words.split("\n")]
    spoken = _BREAK.join(lines) if voice.rate else " ".join(lines)
    if voice.rate:
        spoken = _element("prosody", {"rate": voice.rate}, spoken)
    return _element("Say", {"language": voice.language, "voice": voice.voice}, spoken)


def _shorter(speech: str, length: int) -> str:
    """At most ``length`` characters, cut behind a sentence where there is one."""
    cut = speech[:length]
    end = max(cut.rfind(mark) for mark in "。！？.!?；;")
    return cut[: end + 1] if end >= length // 2 else cut


def _response(content: str) -> str:
    """Chinese stays itself: ASCII with character references would cost six times the room."""
    return '<?xml version="1.0" encoding="UTF-8"?>' + _element("Response", {}, content)


def _element(name: str, attributes: Mapping[str, str], content: str = "") -> str:
    """``content`` is XML already."""
    written = "".join(f' {key}="{_escaped(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written} />"


def _escaped(text: str) -> str:
    """For the content of an element or of a quoted attribute. What XML 1.0 forbids becomes a space, as does a tab."""
    return escape(_UNSOUND.sub(" ", text), {'"': "&quot;"})


_UNSOUND: Final = re.compile("[\x00-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
_PAUSE: Final = _element("Pause", {"length": "1"})
_HANGUP: Final = _element("Hangup", {})
_BREAK: Final = _element("break", {"time": LINE_PAUSE})
