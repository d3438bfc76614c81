"""Callbacks: only Twilio's own are read, and what they tell does not depend on anything but them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped] # ships no types

from alerts.channels.twilio_callbacks import CALL_STATES, MESSAGE_STATES, TwilioCallbacks, told_of
from alerts.notice import IncomingMessage, Told
from gateway.clock import VirtualClock
from gateway.errors import NotFoundError, UsageError

ACCOUNT = "AC" + "a" * 32
TOKEN = "12345"
PUBLIC = "https://care.example.org/gw"
CLOCK = VirtualClock(datetime(2026, 11, 22, 4, 0, tzinfo=UTC))
CALLBACKS = TwilioCallbacks(account_sid=ACCOUNT, auth_token=TOKEN, public_url=PUBLIC, clock=CLOCK)
SMS = {"AccountSid": ACCOUNT, "MessageSid": "SM1", "SmsSid": "SM1", "To": "+8613800000001", "From": "+15005550006"}
CALL = {"AccountSid": ACCOUNT, "CallSid": "CA1", "To": "+8613800000001", "From": "+15005550006"}

Answer = tuple[int, str, bytes, Told | None]


def sign(url: str, form: Mapping[str, str], token: str = TOKEN) -> str:
    """As standards of the time describe it: HMAC-SHA1 over the URL and the sorted fields. Nothing of the SDK."""
    text = url + "".join(name + form[name] for name in sorted(form))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def post(url: str, form: Mapping[str, str], *, callbacks: TwilioCallbacks = CALLBACKS, **changed: str) -> Answer:
    """Deliver a callback behind a proxy that strips the public URL's path."""
    url = url.partition("#")[0]
    parts = urlsplit(url)
    headers = {"x-twilio-signature": changed.get("signature", sign(url, form))}
    path = changed.get("path", parts.path.removeprefix("/gw"))
    status, kind, body, told = callbacks.handle(
        path, changed.get("query", parts.query), headers, urlencode(form).encode()
    )
    assert not isinstance(told, IncomingMessage)
    return status, kind, body, told


def text(form: Mapping[str, str], signature: str = "", query: str = "") -> tuple[int, Any]:
    """A message comes in."""
    url = f"{PUBLIC}/callbacks/twilio/incoming/message" + (f"?{query}" if query else "")
    headers = {"X-Twilio-Signature": signature or sign(url, form)}
    body = urlencode(form).encode()
    return CALLBACKS.handle("/callbacks/twilio/incoming/message", query, headers, body)[::3]


def test_the_published_vector() -> None:
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "twilio_signature.json").read_text(encoding="utf-8"))
    assert sign(vector["url"], vector["form"], vector["auth_token"]) == vector["signature"]
    validator = RequestValidator(vector["auth_token"])
    assert validator.validate(vector["url"], vector["form"], vector["signature"])


@pytest.mark.parametrize("status", MESSAGE_STATES)
def test_receipts_of_messages(status: str) -> None:
    code, kind, body, told = post(CALLBACKS.url("a-1", "sms"), SMS | {"MessageStatus": status})
    assert (code, kind) == (200, "application/xml; charset=utf-8")
    assert b"<Response" in body
    assert told is not None
    assert (told.attempt_id, told.provider, told.provider_id) == ("a-1", "twilio", "SM1")
    assert told.state == MESSAGE_STATES[status]
    assert told.at_us == CLOCK.now_us()
    assert "+86" not in str(told)


@pytest.mark.parametrize(
    ("form", "state", "duration_s"),
    [
        ({"CallStatus": "initiated"}, "queued", None),
        ({"CallStatus": "ringing"}, "ringing", None),
        ({"CallStatus": "in-progress"}, "answered", None),
        ({"CallStatus": "completed", "CallDuration": "41"}, "answered", 41),
        ({"CallStatus": "completed", "CallDuration": "41", "AnsweredBy": "machine_start"}, "machine", 41),
        ({"CallStatus": "completed", "CallDuration": "41", "AnsweredBy": "human"}, "answered", 41),
        ({"CallStatus": "busy", "CallDuration": "0"}, "busy", 0),
        ({"CallStatus": "no-answer"}, "no_answer", 0),
        ({"CallStatus": "failed", "SipResponseCode": "480"}, "failed", 0),
        ({"CallStatus": "canceled"}, "failed", 0),
    ],
)
def test_states_of_calls(form: dict[str, str], state: str, duration_s: int | None) -> None:
    told = post(CALLBACKS.url("a-1", "call"), CALL | form)[3]
    assert told is not None
    assert (told.state, told.digits, told.duration_s) == (state, "", duration_s)


def test_a_word_that_nobody_knows_yet_is_taken_and_tells_nothing() -> None:
    assert post(CALLBACKS.url("a-1", "call"), CALL | {"CallStatus": "on-the-moon"})[0] == 200
    assert post(CALLBACKS.url("a-1", "call"), CALL | {"CallStatus": "on-the-moon"})[3] is None


@pytest.mark.parametrize(("language", "words"), [("zh", "您来处理"), ("en", "you take it")])
def test_a_key(language: str, words: str) -> None:
    code, _, body, told = post(CALLBACKS.url("a-1", "gather", l=language, n="1"), CALL | {"Digits": "1"})
    assert code == 200
    assert words in body.decode()
    assert told is not None
    assert (told.state, told.digits) == ("answered", "1")


def test_a_wrong_key_is_asked_for_again_and_not_for_ever() -> None:
    url = CALLBACKS.url("a-1", "gather", l="zh", n="1")
    for _ in range(2):
        _, _, body, told = post(url, CALL | {"Digits": "5"})
        assert told is not None
        assert told.digits == "5"
        assert b"<Gather" in body
        url = body.decode().partition('action="')[2].partition('"')[0].replace("&amp;", "&")
    _, _, body, _ = post(url, CALL | {"Digits": "5"})
    assert b"<Gather" not in body
    assert b"<Hangup" in body


def test_silence_is_no_answer() -> None:
    _, _, body, told = post(CALLBACKS.url("a-1", "gather", l="zh", n="1"), CALL | {"Digits": ""})
    assert told is not None
    assert told.digits == ""
    assert "没有收到按键" in body.decode()


def test_forged_callbacks_are_refused() -> None:
    url = CALLBACKS.url("a-1", "gather", l="zh", n="1").partition("#")[0]
    form = CALL | {"Digits": "1"}
    other = CALLBACKS.url("a-2", "gather", l="zh", n="1").partition("#")[0]
    query = urlsplit(url).query
    stripped = f"{PUBLIC}/callbacks/twilio/a-1/gather?l=zh&n=1"
    answers = [
        post(url, form, signature=""),
        post(url, form, signature=sign(url, form, "another token")),
        post(url, form, signature=sign(url, CALL | {"Digits": "2"})),
        post(url, form, path="/callbacks/twilio/a-2/gather"),  # signature of another path
        post(stripped, form),  # well signed, without a capability
        post(f"{PUBLIC}/callbacks/twilio/a-2/gather?{query}", form),  # well signed, capability of another attempt
        post(url, form | {"AccountSid": "AC" + "b" * 32}),  # well signed, another account
    ]
    assert [(code, told) for code, _, _, told in answers] == [(403, None)] * len(answers)
    assert post(other, form)[0] == post(url, form)[0] == 200


def test_the_reader_says_what_is_wrong() -> None:
    url = CALLBACKS.url("a-1", "gather", l="zh", n="1").partition("#")[0]
    with pytest.raises(UsageError):
        CALLBACKS.parse_callback("gather", url, {}, CALL, 1)
    with pytest.raises(NotFoundError):
        CALLBACKS.parse_callback("call", url, {}, CALL, 1)
    for attempt_id in ("", "a/b", "a b", "a?b", "ä", "x" * 121):
        with pytest.raises(UsageError):
            CALLBACKS.url(attempt_id, "sms")


MESSAGE = {
    "AccountSid": ACCOUNT, "MessageSid": "SM9", "From": "+8613800000001", "To": "+15005550006", "Body": "我很好 1",
    "NumMedia": "0",
}  # fmt: skip


def test_a_message_that_comes_in() -> None:
    status, message = text(MESSAGE)
    assert status == 200
    assert message == IncomingMessage(
        provider="twilio", key="twilio/SM9", sender="+8613800000001", text="我很好 1", received_us=CLOCK.now_us(),
        to="+15005550006",
    )  # fmt: skip
    assert text(MESSAGE) == (200, message), "told again it has the same key"
    assert text(MESSAGE, query="x=1")[0] == 200, "the query is signed, too"


@pytest.mark.parametrize(
    ("form", "signature"),
    [
        (MESSAGE, "AAAA"), (MESSAGE, sign(f"{PUBLIC}/callbacks/twilio/incoming/message", MESSAGE, "other")),
        (MESSAGE, sign(f"{PUBLIC}/callbacks/twilio/incoming/message", MESSAGE | {"Body": "x"})),
        (MESSAGE | {"AccountSid": "AC" + "b" * 32}, ""),
        ({name: value for name, value in MESSAGE.items() if name != "AccountSid"}, ""),
        ({name: value for name, value in MESSAGE.items() if name != "MessageSid"}, ""),
        (MESSAGE | {"MessageSid": "../../x"}, ""),
    ],
)  # fmt: skip
def test_forged_messages_are_refused(form: dict[str, str], signature: str) -> None:
    assert text(form, signature) == (403, None)


def test_what_is_no_callback() -> None:
    assert CALLBACKS.handle("/callbacks/twilio/a-1/unknown", "", {}, b"")[0] == 404
    assert CALLBACKS.handle("/callbacks/twilio/a-1/../sms", "", {}, b"")[0] == 404
    assert CALLBACKS.handle("/callbacks/twilio/a-1/sms", "", {}, b"x" * 100_000)[0] == 413
    assert CALLBACKS.handle("/callbacks/twilio/a-1/sms", "", {}, b"\xff\xfe")[0] == 400
    assert CALLBACKS.handle("/callbacks/twilio/a-1/sms", "", {}, b"&".join(b"a=%d" % n for n in range(999)))[0] == 400


def test_newer_signatures_by_hmac_sha256() -> None:
    url = CALLBACKS.url("a-1", "sms").partition("#")[0]
    form = SMS | {"MessageStatus": "delivered"}
    text = url + "".join(name + form[name] for name in sorted(form))
    signature = base64.b64encode(hmac.new(TOKEN.encode(), text.encode(), hashlib.sha256).digest()).decode()
    headers = {
        "X-Twilio-Signature": signature,
        "X-Twilio-Webhooks-Signature-Settings": "key=k1,algorithm=HMAC_SHA256",
    }
    heard = CALLBACKS.parse_callback("sms", url, headers, form, 7)
    assert heard.told is not None
    assert (heard.told.state, heard.told.at_us) == ("delivered", 7)
    headers["X-Twilio-Webhooks-Signature-Settings"] = "key=k1,algorithm=NONE"
    with pytest.raises(UsageError):
        CALLBACKS.parse_callback("sms", url, headers, form, 7)


def test_a_new_auth_token_keeps_addresses_valid_with_a_secret_of_ours() -> None:
    def callbacks(token: str, secret: str) -> TwilioCallbacks:
        return TwilioCallbacks(
            account_sid=ACCOUNT, auth_token=token, public_url=PUBLIC, clock=CLOCK, capability_secret=secret
        )

    assert callbacks("old", "s").url("a-1", "sms") == callbacks("new", "s").url("a-1", "sms")
    assert callbacks("old", "").url("a-1", "sms") != callbacks("new", "").url("a-1", "sms")
    assert callbacks("old", "s").url("a-1", "sms") != callbacks("old", "s").url("a-2", "sms")


def test_recordings_and_conferences() -> None:
    form = {"AccountSid": ACCOUNT, "ConferenceSid": "CF1", "RecordingSid": "RE1", "RecordingDuration": "60"}
    told = post(CALLBACKS.url("17-0", "recording"), form)[3]
    assert told is not None
    assert (told.recording, told.provider_id, told.detail["recording_s"]) == ("RE1", "CF1", "60")
    form = {"AccountSid": ACCOUNT, "ConferenceSid": "CF1", "StatusCallbackEvent": "participant-leave"}
    told = post(CALLBACKS.url("17-0", "conference"), form | {"ParticipantLabel": "family-a-3", "CallSid": "CA2"})[3]
    assert told is not None
    assert (told.attempt_id, told.detail["event"], told.detail["label"]) == ("17-0", "participant-leave", "family-a-3")


@given(
    attempt_id=st.from_regex(r"[A-Za-z0-9._-]{1,120}", fullmatch=True),
    form=st.dictionaries(st.text(min_size=1), st.text(), max_size=8),
    status=st.sampled_from([*CALL_STATES, *MESSAGE_STATES, "?"]),
    kind=st.sampled_from(["sms", "call", "gather", "amd", "leg", "conference", "recording"]),
)
def test_whatever_twilio_signs_is_read_the_same_twice(
    attempt_id: str, form: dict[str, str], status: str, kind: str
) -> None:
    form = {"CallStatus": status, "MessageStatus": status} | form | {"AccountSid": ACCOUNT}
    try:
        urlencode(form)
    except UnicodeEncodeError:
        return
    first, second = (post(CALLBACKS.url(attempt_id, kind), form) for _ in range(2))
    assert first == second
    assert first[0] == 200
    assert first[3] is None or first[3].attempt_id == attempt_id


@given(
    path=st.text() | st.from_regex(r"/callbacks/twilio/[a-z]+/(sms|gather)", fullmatch=True),
    query=st.text(), body=st.binary(), signature=st.text(),
)  # fmt: skip
def test_nothing_that_a_stranger_sends_is_believed(path: str, query: str, body: bytes, signature: str) -> None:
    status, _, _, told = CALLBACKS.handle(path, query, {"X-Twilio-Signature": signature}, body)
    assert status in (400, 403, 404)
    assert told is None


def test_a_fetched_call_reads_like_its_callback() -> None:
    form: dict[str, Any] = {"CallSid": "CA1", "CallStatus": "completed", "CallDuration": "9"}
    told = told_of("a-1", "call", form, 5)
    assert told == Told(
        attempt_id="a-1", provider="twilio", provider_id="CA1", state="answered", at_us=5, duration_s=9,
        detail={"status": "completed"},
    )  # fmt: skip


def test_who_does_not_use_twilio_does_not_pay_for_it() -> None:
    """And who does pays before the loop serves, not at the first alarm."""
    program = (
        "import sys; from alerts.channels.twilio import TwilioProvider as P;"
        "from gateway.clock import SystemClock as C;"
        "P('', '', '', clock=C()); bare = 'twilio.rest' in sys.modules;"
        "P('AC', 'x', '+1', clock=C()); print(bare, 'twilio.rest.api.v2010' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.split() == ["False", "True"]
