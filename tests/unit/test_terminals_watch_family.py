"""Watch, H02, Topin, TK103: streams as connections bring them, commands and their answers, simulated terminals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.clock import to_us
from gateway.errors import UsageError
from gateway.model import Frame, Report
from gateway.observations import observations
from protocols.codecs.h02.framing import H02Framer
from protocols.codecs.tk103.framing import framer as tk103_framer
from protocols.codecs.topin.framing import framer as topin_framer
from protocols.codecs.watch.framing import WatchFramer
from protocols.registry import TERMINALS
from simulators.terminals.base import Facts, Message, Place, Script
from simulators.terminals.registry import KINDS

IMEI = "860000000000017"
AT = datetime(2026, 11, 22, 1, 2, 0, tzinfo=UTC)
FAMILY = pytest.mark.parametrize("codec", ["watch", "h02", "topin", "tk103"])


def run(codec: str, payload: bytes, key: str = IMEI) -> list[Report]:
    """What the codec says of a stream's bytes."""
    reports: list[Report] = []
    for frame in TERMINALS[codec].framer().feed(payload):
        reports += TERMINALS[codec].parse(Frame("test", codec, "test", frame, to_us(AT), key))
    return reports


def command_reply(codec: str, payload: bytes) -> Any:
    (report,) = run(codec, payload)
    assert report.reading is not None
    return (report.reading.unknown or {}).get("command_reply")


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_several_watch_messages_in_one_read() -> None:
    stream = b"\r\n[3G*8800000015*0002*LK][3G*8800000015*0008*heart,72]\r\n[3G*8800000015*0003*TKQ]"
    assert WatchFramer().feed(stream) == [
        b"[3G*8800000015*0002*LK]", b"[3G*8800000015*0008*heart,72]", b"[3G*8800000015*0003*TKQ]",
    ]  # fmt: skip


def test_a_watch_unescapes_binary_content() -> None:
    frames = WatchFramer().feed(b"[3G*8800000015*000A*TK,\x7d\x01\x7d\x02\x7d\x03\x7d\x04\x7d\x05\x7dz]")
    assert frames == [b"[3G*8800000015*000A*TK,}[],*}z]"]


@pytest.mark.parametrize(
    "stream",
    [
        b"[3G*8800000015*00FF*UD,1,2,[3G*8800000015*0002*LK]",  # the rest of the first never came
        b"[[3G*8800000015*0002*LK]",
        b"[junk[3G*8800000015*0002*LK]",
        b"junk]]3G*[3G*8800000015*0002*LK]",
    ],
)
def test_a_watch_is_in_step_again(stream: bytes) -> None:
    assert WatchFramer().feed(stream)[-1] == b"[3G*8800000015*0002*LK]"


def test_a_bracket_that_nobody_closes_ends_with_the_next_frame() -> None:
    stream = b"[3G*8800000015*00FF*UD,[home,1][3G*8800000015*0002*LK]"
    assert WatchFramer().feed(stream) == [b"[3G*8800000015*00FF*UD,[home,1]", b"[3G*8800000015*0002*LK]"]


def test_lengths_of_binary_h02_frames_are_found() -> None:
    short = bytes.fromhex("2486000000170102002211263907410040117120660e010090fffffbff000000")
    long = short + bytes.fromhex("00bdf090000000000102030405")
    assert len(short) == 32
    assert len(long) == 45
    text = b"*HQ,8600000017,HTBT,87#"
    assert H02Framer().feed(short + short + text + short) == [short, short, text, short]
    assert H02Framer().feed(long) == [long]
    assert H02Framer().feed(long + long + text + long) == [long, long, text, long]
    framer = H02Framer()
    assert framer.feed(long) == [long]
    assert framer.feed(long + long) == [long, long]
    split = H02Framer()
    assert split.feed(long[:40]) == []
    assert split.feed(long[40:]) == [long]


def test_free_text_of_tk103_may_hold_brackets() -> None:
    stream = b"))(860000000000017,ZC03,221126,010200,$)Alarm (SOS) on.)$)(086000000017BP00HSO)"
    assert tk103_framer().feed(stream) == [
        b"(860000000000017,ZC03,221126,010200,$)Alarm (SOS) on.)$)", b"(086000000017BP00HSO)",
    ]  # fmt: skip


def test_a_dollar_that_nobody_closes_does_not_swallow_what_follows() -> None:
    alarms = b"(086000000017BO012)" * 200
    frames = tk103_framer().feed(b"(086000000017BQ00$)" + alarms)
    assert frames.count(b"(086000000017BO012)") > 150


def test_the_end_of_a_topin_frame_is_not_looked_for_in_a_time() -> None:
    stamp = bytes([26, 11, 22, 13, 10, 0])  # 0D 0A in its middle
    position = b"xx\x12\x10" + stamp + bytes(12) + b"\r\n"
    assert topin_framer().feed(position + b"xx\x01\x99\r\n") == [position, b"xx\x01\x99\r\n"]


# ---- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "name", "parameters", "expected"),
    [
        ("watch", "locate", {}, b"[SG*8800000015*0002*CR]"),
        ("watch", "ring", {}, b"[SG*8800000015*0004*FIND]"),
        ("watch", "interval", {"seconds": 600}, b"[SG*8800000015*000A*UPLOAD,600]"),
        ("watch", "call_back", {"number": "+8613800000001"}, b"[SG*8800000015*0013*CALL,+8613800000001]"),
        ("watch", "sos_numbers", {"numbers": ["111"]}, b"[SG*8800000015*0008*SOS1,111]"),
        ("watch", "alarm_switch", {"alarm": "removed", "on": True}, b"[SG*8800000015*0008*REMOVE,1]"),
        ("watch", "message", {"text": "吃药"}, b"[SG*8800000015*0010*MESSAGE,5403836F]"),
        ("watch", "time_zone", {"hours": 5.75}, b"[SG*8800000015*0009*LZ,,+5.75]"),
        ("watch", "restart", {"vendor": "ZJ", "index": "0001"}, b"[ZJ*8800000015*0001*0005*RESET]"),
        ("watch", "text", {"text": "WORK,6-9"}, b"[SG*8800000015*0008*WORK,6-9]"),
        ("h02", "interval", {"seconds": 600}, b"*HQ,8800000015,S71,000000,22,600#"),
        ("h02", "arm", {"on": False}, b"*HQ,8800000015,SCF,000000,0,0#"),
        ("h02", "restart", {}, b"*HQ,8800000015,R1,000000#"),
        ("h02", "text", {"text": "S26,1"}, b"*HQ,8800000015,S26,000000,1#"),
        ("topin", "locate", {}, b"xx\x01\x80\r\n"),
        ("topin", "interval", {"seconds": 300}, b"xx\x03\x98\x01\x2c\r\n"),
        ("topin", "sos_number", {"number": "111"}, b"xx\x04\x41111\r\n"),
        ("tk103", "locate", {}, b"(8800000015AP00)"),
        ("tk103", "interval", {"seconds": 20}, b"(8800000015AR0000140000)"),
        ("tk103", "text", {"text": "getposl"}, b"[begin]sms2,*getposl*,[end]"),
    ],
)  # fmt: skip
def test_commands(codec: str, name: str, parameters: dict[str, Any], expected: bytes) -> None:
    commands: Any = TERMINALS[codec]
    assert commands.commands[name](parameters, "8800000015") == expected


def test_contacts_of_a_watch_are_two_lists_of_five() -> None:
    codec: Any = TERMINALS["watch"]
    written = codec.commands["contacts"]({"numbers": ["1", "2", "3", "4", "5", "6"]}, "88")
    assert written == b"[SG*88*0014*WHITELIST1,1,2,3,4,5][SG*88*0010*WHITELIST2,6,,,,]"
    with pytest.raises(UsageError, match="10 numbers"):
        codec.commands["contacts"]({"numbers": [str(number) for number in range(11)]}, "88")


@pytest.mark.parametrize(
    ("codec", "name", "parameters"),
    [
        ("watch", "text", {"text": "中"}),
        ("watch", "alarm_switch", {"alarm": "smoke", "on": True}),
        ("h02", "text", {"text": "S26#*HQ"}),
        ("topin", "interval", {"seconds": 70_000}),
        ("tk103", "interval", {"seconds": 70_000}),
        ("tk103", "text", {"text": "a*b"}),
    ],
)
def test_what_a_protocol_cannot_say_is_refused(codec: str, name: str, parameters: dict[str, Any]) -> None:
    commands: Any = TERMINALS[codec]
    with pytest.raises(UsageError):
        commands.commands[name](parameters, "8800000015")


# ---- simulated terminals ---------------------------------------------------------------------------------------------


def script_of(codec: str) -> Script:
    return KINDS[codec].script(IMEI)


def answered(codec: str, message: Message) -> list[Report]:
    """The gateway's reports of a message, whose replies begin with what the terminal waits for."""
    reports = run(codec, message.payload)
    replies = b"".join(report.reply or b"" for report in reports)
    if message.expects:
        assert any(frame.startswith(message.expects) for frame in script_of(codec).frames(replies)), replies
    return reports


def seen(reports: list[Report]) -> list[dict[str, Any]]:
    return [item for report in reports if report.reading is not None for item in observations(report.reading)]


@FAMILY
def test_a_simulated_terminal_is_understood_and_answered(codec: str) -> None:
    script = script_of(codec)
    for message in script.hello(AT):
        reports = answered(codec, message)
        assert {report.device_key for report in reports} == {IMEI}
    facts = Facts(AT, Place(39.1235, -117.2011, 5.0, 90), (), 64, 1204, 72)
    answered(codec, script.heartbeat(facts))
    found = seen(answered(codec, script.report(facts)))
    place = next(item for item in found if item["kind"] == "position")
    assert (place["latitude"], place["longitude"]) == pytest.approx((39.1235, -117.2011), abs=2e-6)
    assert place["valid"]
    speed = next(item["value"] for item in found if item.get("metric") == "speed_m_per_s")
    assert speed == pytest.approx(5.0, abs=0.01)
    assert place["observed_at"] == "2026-11-22T01:02:00.000Z"


@FAMILY
def test_a_press_of_a_simulated_terminal_without_a_fix(codec: str) -> None:
    script = script_of(codec)
    found = seen(answered(codec, script.report(Facts(AT, None, ("sos",), 18))))
    assert {"sos"} <= {item["signal"] for item in found if item["kind"] == "signal"}
    assert not any(item["valid"] for item in found if item["kind"] == "position")


@pytest.mark.parametrize("codec", ["watch", "h02", "topin"])
def test_every_alarm_of_a_simulated_terminal_at_once(codec: str) -> None:
    names = {
        "watch": ("sos", "fall", "removed", "low_battery", "fence_exit", "fence_enter", "power_cut"),
        "h02": ("sos", "vibration", "overspeed", "power_cut", "fence_exit", "fence_enter"),
        "topin": ("sos", "vibration", "overspeed", "low_battery"),
    }[codec]
    found = seen(answered(codec, script_of(codec).report(Facts(AT, Place(39.1, 117.2), names))))
    assert len({item["signal"] for item in found if item["kind"] == "signal"}) == len(names)


@pytest.mark.parametrize(
    ("codec", "name"),
    [("watch", "locate"), ("watch", "ring"), ("watch", "restart"), ("h02", "restart"), ("h02", "arm"),
     ("topin", "locate"), ("topin", "silence"), ("tk103", "locate")],
)  # fmt: skip
def test_a_simulated_terminal_confirms_commands(codec: str, name: str) -> None:
    script, commands = script_of(codec), TERMINALS[codec]
    payload = getattr(commands, "commands")[name]({"on": True}, IMEI)  # noqa: B009 - not every codec has commands
    (frame,) = script.frames(payload)
    answer = script.command(frame)
    assert answer is not None
    assert command_reply(codec, answer.payload)["command"] == name
