"""The protocol of elder and child watches of the SeTracker family: ``[3G*ID*LLLL*TYPE,data]``.

Maker (2 letters), id (10 digits of the IMEI, or all 15), an index on some firmwares, the length of the content in
four hexadecimal digits. No login, no checksum, nothing that proves who speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway.errors import ParseError
from gateway.model import EMERGENCY_SIGNALS, Frame, Reading, Report
from protocols.bits import digits_time_us
from protocols.codecs.terminal import Draft
from protocols.codecs.watch.commands import COMMANDS, WORDS
from protocols.codecs.watch.framing import HEAD, WatchFramer, unescape
from protocols.codecs.watch.position import read_position

MAX_DATA: Final = 1000
_VOICE_OR_PHOTO: Final = (b"TK,", b"TK2,", b"JXTK,", b"img,", b"IMG,")

Reader = Callable[[Draft, bytes, str], str | None]
"""Reads the bytes behind ``TYPE,`` into the draft, and says the content of the answer (None: no answer)."""


class WatchCodec:
    """``ports.TerminalCodec``."""

    name = "watch"
    default_port = 5093
    text = True
    datagrams = False
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    def framer(self) -> WatchFramer:
        return WatchFramer()

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no frame, and for a wrong length unless lenient.

        An emergency counts in spite of a wrong length: of such a frame nothing else is used unless lenient.
        """
        payload = frame.payload
        head = HEAD.match(payload)
        if head is None or payload[-1] != 0x5D:
            payload = payload.strip()
            head = HEAD.match(payload)
            if head is None or payload[-1] != 0x5D:
                raise ParseError("not a watch's frame: [maker*id*length*content]")
        identity, size = head.group(2, 4)
        content = payload[head.end() : -1]
        stated = int(size, 16)
        if stated < len(content) and b"\x7d" in content and stated == len(unescape(content)):
            content = unescape(content)  # a frame that no framer has seen
        draft = Draft(frame, identity.decode("ascii", "replace"))
        answer = _read(draft, content)
        if answer is not None:
            prefix = payload[: head.start(4)]
            draft.reply = b"%b%04X*%b]" % (prefix, len(answer), answer.encode("ascii"))
        report = draft.report()
        if stated != len(content) and not _counted_otherwise(content, stated):
            return [self._wrong_length(report, stated, len(content))]
        return [report]

    def _wrong_length(self, report: Report, stated: int, seen: int) -> Report:
        fault = f"length: {stated} stated, {seen} bytes there"
        if not self._lenient:
            reading = report.reading
            urgent = {} if reading is None else {name: True for name in reading.signals if name in EMERGENCY_SIGNALS}
            if reading is None or not urgent:
                raise ParseError(fault)
            report.reading = Reading(reading.observed_at_us, {}, urgent, None, None, reading.stored)
        report.faults = [fault, *(report.faults or ())]
        return report


def _counted_otherwise(content: bytes, stated: int) -> bool:
    """Whether the length is that of characters instead of bytes, or of voice and photos as they were escaped."""
    if stated > len(content):
        return content.startswith(_VOICE_OR_PHOTO) and stated <= 2 * len(content)
    try:
        return not content.isascii() and stated == len(content.decode())
    except UnicodeDecodeError:
        return False


def _read(draft: Draft, content: bytes) -> str | None:
    """What the content says; returns the content of the answer, None where the protocol has none."""
    comma = content.find(b",")
    word, data = (content, b"") if comma < 0 else (content[:comma], content[comma + 1 :])
    kind = word.decode("latin-1").strip()
    head = kind[:2]
    if head in ("UD", "WT") and (data or head == "UD"):
        draft.stored = kind == "UD2"
        read_position(draft, _fields(content), alarm=False)
        return None
    if head == "AL":
        read_position(draft, _fields(content), alarm=True)
        return "AL"
    read = _READERS.get(kind.upper())
    if read is not None:
        return read(draft, data, kind)
    command = WORDS.get(kind.upper())
    if command is not None:
        reply = {"command": command, "word": kind}
        if data:
            reply["text"] = _text(data)
        draft.keep("command_reply", reply)
    else:
        draft.keep("message", kind)
        if data:
            draft.keep("data", _text(data))
    return None


def _fields(content: bytes) -> list[str]:
    return content.decode("utf-8", "replace").split(",")


def _text(data: bytes) -> str:
    return data[:MAX_DATA].decode("utf-8", "replace").replace("\0", "")


def _numbers(data: bytes) -> list[float | None]:
    numbers: list[float | None] = []
    for field in data.split(b",")[:16]:
        try:
            value = float(field)
        except ValueError:
            numbers.append(None)
        else:
            numbers.append(value if abs(value) < 1e9 else None)
    return numbers


# ---- messages --------------------------------------------------------------------------------------------------------


def _link(draft: Draft, data: bytes, _kind: str) -> str:
    """LK: the keep-alive; with three fields steps, rolls and battery."""
    if data:
        numbers = _numbers(data)
        if len(numbers) >= 3:
            draft.measure("steps", numbers[0])
            draft.measure("battery_percent", numbers[2])
            if numbers[1]:
                draft.unknown["rolls"] = int(numbers[1])
    return "LK"


def _keep_alive(draft: Draft, data: bytes, _kind: str) -> str:
    """KA: the keep-alive of firmwares that put a date before steps, rolls and battery."""
    _, _, rest = data.partition(b",")
    _link(draft, rest, "KA")
    return "KA"


def _init(draft: Draft, data: bytes, _kind: str) -> str:
    if data:
        draft.keep("init", _text(data))
    return "INIT,1"


def _config(draft: Draft, data: bytes, _kind: str) -> str:
    """CONFIG: the watch's settings, ``NAME:value`` each."""
    draft.keep("config", _text(data))
    return "CONFIG,1"


def _measured(draft: Draft, metric: str, value: float | None, data: bytes) -> None:
    """A health reading. 0 is what a sensor says that has not found a wrist: no reading."""
    if value:
        draft.measure(metric, value)
    elif data:
        draft.unknown["data"] = _text(data)


def _heart(draft: Draft, data: bytes) -> None:
    _measured(draft, "heart_rate_bpm", _numbers(data)[0], data)


def _blood(draft: Draft, data: bytes) -> None:
    """BLOOD: systolic, diastolic."""
    numbers = [*_numbers(data), None]
    if numbers[0] and numbers[1]:
        draft.measure("systolic_mmhg", numbers[0])
        draft.measure("diastolic_mmhg", numbers[1])
    elif data:
        draft.unknown["data"] = _text(data)


def _blood_and_heart(draft: Draft, data: bytes) -> None:
    """BPHRT: systolic, diastolic, heart rate; then height, sex, age and weight as they were set."""
    _blood(draft, data)
    numbers = [*_numbers(data), None, None]
    if numbers[2]:
        draft.unknown.pop("data", None)
        draft.measure("heart_rate_bpm", numbers[2])


def _temperature(draft: Draft, data: bytes) -> None:
    _measured(draft, "body_temperature_celsius", _numbers(data)[0], data)


def _temperature_2(draft: Draft, data: bytes) -> None:
    """btemp2: whether it was measured on skin, and the temperature."""
    numbers = [*_numbers(data), None]
    if numbers[0] and numbers[0] > 0:
        _measured(draft, "body_temperature_celsius", numbers[1], data)
    else:
        draft.unknown["data"] = _text(data)


def _oxygen(draft: Draft, data: bytes) -> None:
    """oxygen: kind of measurement, percent; some leave the kind out."""
    numbers = _numbers(data)
    _measured(draft, "spo2_percent", numbers[1] if len(numbers) > 1 else numbers[0], data)


def _voice(draft: Draft, data: bytes) -> None:
    """TK: a clip (AMR); one character is what became of a clip that was sent to the watch."""
    if len(data) > 1:
        draft.keep("voice_bytes", len(data))
    elif data:
        draft.keep("voice_result", _text(data))


def _voice_part(draft: Draft, data: bytes, _kind: str) -> str:
    """JXTK: kind, name, number of this part, number of parts, AMR."""
    fields = data.split(b",", 4)
    if len(fields) < 5:
        draft.fault("voice", "fewer than five fields")
    else:
        draft.keep("voice_name", _text(fields[1]))
        draft.keep("voice_part", _text(fields[2]))
        draft.keep("voice_parts", _text(fields[3]))
        draft.keep("voice_bytes", len(fields[4]))
    return "JXTKR,1"


def _photo(draft: Draft, data: bytes) -> None:
    """img: kind, time, JPEG."""
    fields = data.split(b",", 2)
    if len(fields) > 1:
        try:
            draft.at_us = digits_time_us(fields[1].decode("latin-1"))
        except ValueError as error:
            draft.fault("time", error)
    draft.keep("photo_bytes", len(fields[-1]))


def _word(_draft: Draft, _data: bytes, kind: str) -> str:
    return kind


def _confirmed(read: Callable[[Draft, bytes], None]) -> Reader:
    """Read, then answer with the word: a watch that does not wait for it does not mind it."""

    def reader(draft: Draft, data: bytes, kind: str) -> str:
        read(draft, data)
        return kind

    return reader


def _silent(read: Callable[[Draft, bytes], None]) -> Reader:
    def reader(draft: Draft, data: bytes, _kind: str) -> None:
        read(draft, data)

    return reader


_READERS: Final[dict[str, Reader]] = {
    "LK": _link,
    "KA": _keep_alive,
    "INIT": _init,
    "TKQ": _word,
    "TKQ2": _word,
    "CONFIG": _config,
    "PULSE": _confirmed(_heart),
    "HEART": _confirmed(_heart),
    "BLOOD": _confirmed(_blood),
    "BPHRT": _confirmed(_blood_and_heart),
    "TEMP": _confirmed(_temperature),
    "BTEMP2": _confirmed(_temperature_2),
    "OXYGEN": _confirmed(_oxygen),
    "TK": _silent(_voice),
    "TK2": _silent(_voice),
    "JXTK": _voice_part,
    "IMG": _silent(_photo),
}
"""By the type in capitals; positions and alarms are told by their first two letters."""
