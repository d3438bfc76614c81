"""Simulated terminals and codecs speak with each other: messages are understood and answered, and commands too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from device_profiles.loader import load_profiles
from gateway.clock import to_us
from gateway.errors import UsageError
from gateway.model import Frame, Reading, Report
from protocols.codecs.jt808.codec import Jt808Codec
from protocols.registry import TERMINALS
from simulators.terminals.base import Facts, Message, Place, Script
from simulators.terminals.registry import KINDS

AT = datetime(2026, 11, 22, 1, 2, 0, tzinfo=UTC)
HOME = Place(39.1235, 117.2011, 1.5, 90)
IMEI = "860000000000017"
PARAMETERS: Mapping[str, Any] = {
    "seconds": 60, "duration_s": 600, "number": "+8613800000001", "numbers": ["+8613800000001", "+8613800000002"],
    "on": True, "metres": 200, "km_per_h": 20, "slot": 2, "percent": 50,
}  # fmt: skip
TEXTS = {"gl200text": "AT+GTTMZ=gl300,+0800,0,,,,FFFF$", "meitrack": "C01,0,12222"}
OURS = [name for name in ("jt808", "eelink", "meitrack", "minifinder", "minifinder2", "gl200text") if name in KINDS]
CASES = [*((name, IMEI) for name in OURS), *([("jt808", "013800138000")] if "jt808" in OURS else [])]


class Conversation:
    """One connection: what the codec is told and what it taught."""

    def __init__(self, protocol: str, identity: str) -> None:
        self.codec = TERMINALS[protocol]
        self.framer = self.codec.framer()
        self.script: Script = KINDS[protocol].script(identity)
        self.key = ""
        self.context: dict[str, Any] | None = None

    def say(self, message: Message) -> list[Report]:
        """Hand a message to the codec; its answer must be the one that the terminal waits for."""
        reports: list[Report] = []
        for payload in self.framer.feed(message.payload):
            frame = Frame("test", self.codec.name, "test", payload, to_us(AT), self.key, context=self.context)
            reports += self.codec.parse(frame)
            for report in reports:
                self.key = report.device_key or self.key
                self.context = report.context if report.context is not None else self.context
        assert reports
        assert not any(report.faults for report in reports)
        answer = b"".join(report.reply or b"" for report in reports)
        frames = self.script.frames(answer)
        if message.expects:
            assert any(frame.startswith(message.expects) for frame in frames), (message, answer)
        return reports

    def open(self) -> list[Report]:
        return [report for message in self.script.hello(AT) for report in self.say(message)]


def reading_of(reports: list[Report]) -> Reading:
    return next(report.reading for report in reports if report.reading is not None)


@pytest.mark.parametrize(("protocol", "identity"), CASES)
def test_conversation(protocol: str, identity: str) -> None:
    talk = Conversation(protocol, identity)
    talk.open()
    talk.say(talk.script.heartbeat(Facts(AT, HOME)))
    reading = reading_of(talk.say(talk.script.report(Facts(AT, HOME, battery_percent=85))))
    assert talk.key == identity
    place = reading.position
    assert place is not None
    assert (round(place.latitude, 5), round(place.longitude, 5), place.valid) == (39.1235, 117.2011, True)
    assert place.observed_at_us == to_us(AT)


@pytest.mark.parametrize(("protocol", "identity"), CASES)
def test_an_sos_without_a_place(protocol: str, identity: str) -> None:
    talk = Conversation(protocol, identity)
    talk.open()
    reading = reading_of(talk.say(talk.script.report(Facts(AT, None, ("low_battery", "sos")))))
    assert reading.signals["sos"]
    place = reading.position
    assert place is None or (not place.valid and place.latitude == place.longitude == 0), "0/0 is stated, never a place"


@pytest.mark.parametrize(("protocol", "identity"), CASES)
def test_two_reports_of_one_second_are_two_and_a_resend_is_one(protocol: str, identity: str) -> None:
    talk = Conversation(protocol, identity)
    talk.open()
    first = talk.script.report(Facts(AT, HOME))
    second = talk.script.report(Facts(AT, Place(39.1236, 117.2012)))
    keys = [talk.say(message)[0].dedup_key for message in (first, second, first)]
    assert keys[0] == keys[2]
    assert keys[0] != keys[1] or not keys[0]


@pytest.mark.parametrize(("protocol", "identity"), CASES)
def test_commands_are_understood_and_answered(protocol: str, identity: str) -> None:
    talk = Conversation(protocol, identity)
    talk.open()
    talk.say(talk.script.report(Facts(AT, HOME)))
    profiles = load_profiles()
    profile = profiles.get(f"trackers.{protocol}")
    assert profile is not None
    encoders = getattr(talk.codec, "commands", {})
    assert set(profile.commands) <= set(encoders)
    for name, encode in encoders.items():
        parameters = {**PARAMETERS, "text": TEXTS.get(protocol, "WHERE#")}
        frames = talk.script.frames(encode(parameters, identity))
        assert frames, name
        answer = talk.script.command(frames[0])
        assert answer is not None, name
        told = reading_of(talk.say(answer)).unknown or {}
        reply = told["command_reply"]
        assert reply.get("result", "done") == "done", name
        assert reply["command"] in ("", name), name


# ---- JT/T 808: codes, parts ------------------------------------------------------------------------------------------


def test_authentication() -> None:
    """The code is given at registration, proves the terminal, belongs to it alone, and outlives a restart."""
    if "jt808" not in OURS:
        pytest.skip("the JT/T 808 script is not registered")
    for identity in ("013800138000", IMEI):
        talk = Conversation("jt808", identity)
        talk.codec = Jt808Codec(secret=b"s" * 32)
        reports = talk.open()
        assert [report.proof for report in reports] == [None, True]
        talk.codec = Jt808Codec(secret=b"s" * 32)
        assert [report.proof for report in talk.open()] == [True]
        other = Jt808Codec(secret=b"t" * 32)
        payload = talk.framer.feed(talk.script.hello(AT)[0].payload)[0]
        report = other.parse(Frame("test", "jt808", "test", payload, to_us(AT)))[0]
        assert report.proof is False
        assert report.reply is not None
        assert report.reply[-3] == 1
    assert Jt808Codec().code_of(IMEI) != Jt808Codec().code_of(IMEI)
    assert Jt808Codec(secret=b"s" * 32).code_of("1") != Jt808Codec(secret=b"s" * 32).code_of("2")
    with pytest.raises(ValueError, match="16 bytes"):
        Jt808Codec().use_secret(b"short")


def _part(body: bytes, number: int, total: int, serial: int) -> bytes:
    head = b"\x07\x04" + (len(body) | 0x2000).to_bytes(2, "big") + bytes.fromhex("013800138000")
    content = head + serial.to_bytes(2, "big") + total.to_bytes(2, "big") + number.to_bytes(2, "big") + body
    check = 0
    for byte in content:
        check ^= byte
    return b"\x7e" + content + bytes([check]) + b"\x7e"


def _location(alarms: int) -> bytes:
    place = bytes.fromhex("00000002") + (39123500).to_bytes(4, "big") + (117201100).to_bytes(4, "big") + bytes(6)
    return alarms.to_bytes(4, "big") + place + bytes.fromhex("261122090200")


def _parse_parts(parts: list[bytes], *, at_us: int = to_us(AT), step_us: int = 0) -> list[list[Report]]:
    codec, context, heard = Jt808Codec(), None, []
    for index, payload in enumerate(parts):
        frame = Frame("test", "jt808", "test", payload, at_us + index * step_us, context=context)
        reports = list(codec.parse(frame))
        context = reports[-1].context
        heard.append(reports)
    return heard


def test_parts_make_a_message_in_any_order_and_each_is_answered() -> None:
    batch = b"\x00\x02\x01" + b"".join(b"\x00\x1c" + _location(alarms) for alarms in (1, 0))
    cut = [batch[:20], batch[20:41], batch[41:]]
    parts = [_part(body, number, 3, 100 + number) for number, body in enumerate(cut, 1)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0, 2)):
        heard = _parse_parts([parts[index] for index in order])
        assert all(reports[0].reply is not None and reports[0].reply[-3] == 0 for reports in heard)
        assert all("part" in (reading_of(reports).unknown or {}) for reports in heard[:-1])
        whole = heard[-1]
        assert len(whole) == 2
        assert all(report.stored for report in whole)
        assert whole[0].reading is not None
        assert whole[0].reading.signals == {"sos": True}


def test_parts_are_bounded_in_time_number_and_bytes() -> None:
    body = b"\x00\x01\x00\x00\x1c" + _location(1)
    halves = [_part(body[:10], 1, 2, 1), _part(body[10:], 2, 2, 2)]
    late = _parse_parts(halves, step_us=301_000_000)
    assert all(not reading_of(reports).signals for reports in late)
    flood = _parse_parts([_part(b"x" * 1000, 1, 500, serial) for serial in range(0, 60_000, 1000)])
    assert len(held(flood[-1])) <= 4
    long = _parse_parts([_part(b"x" * 1000, number, 400, number) for number in range(1, 300)])
    sizes = [sum(map(len, waiting["bodies"].values())) for reports in long for waiting in held(reports).values()]
    assert 200_000 < max(sizes) <= 262_144


def held(reports: list[Report]) -> dict[str, Any]:
    parts: dict[str, Any] = (reports[0].context or {}).get("parts", {})
    return parts


def test_what_cannot_be_said_is_refused() -> None:
    commands = Jt808Codec.commands
    with pytest.raises(UsageError, match="digits"):
        commands["locate"]({}, "not-a-number")
    with pytest.raises(UsageError, match="hold"):
        commands["message"]({"text": "x" * 2000}, "13800138000")
    modern = commands["locate"]({}, IMEI)
    forced = commands["locate"]({"version": 1}, "13800138000")
    assert modern[3] & 0x40
    assert forced[3] & 0x40
    assert commands["locate"]({"version": -1}, IMEI)[5:11] == (86000000000001).to_bytes(6, "big")
    assert not commands["locate"]({}, "13800138000")[3] & 0x40
