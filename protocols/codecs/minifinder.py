"""MiniFinder Pico, EV-07 (first generation): sentences ``!...;``. Nothing is answered; ``!1`` names the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import ParseError, UsageError
from gateway.model import Frame, Report
from protocols.bits import utc_us
from protocols.codecs.fixes import fix as stated_place
from protocols.codecs.terminal import KMH_M_PER_S, Draft, conversation, decimal, number
from protocols.framing import Framer, delimited

MAX_FRAME_BYTES: Final = 1024
_CUT: Final = delimited(b"!", b";")
_DEFAULT_PASSWORD: Final = "123456"  # noqa: S105 - printed in the manual of every such device

FLAGS: Final = {
    2: "fault", 6: "sos", 7: "overspeed", 8: "fall", 9: "fence", 10: "fence", 11: "fence", 12: "low_battery",
    14: "motion", 15: "motion",
}  # fmt: skip

Encode = Callable[[Mapping[str, Any], str], bytes]


class MinifinderCodec:
    """``ports.TerminalCodec``."""

    name = "minifinder"
    default_port = 5017
    text = True
    datagrams = False

    def __init__(self, *, lenient: bool = False) -> None:
        del lenient  # there is no checksum

    @property
    def commands(self) -> Mapping[str, Encode]:
        return COMMANDS

    def framer(self) -> Framer:
        return Framer(_CUT, limit=MAX_FRAME_BYTES)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no sentence."""
        text = frame.payload.decode("latin-1").strip("\0\r\n; ")
        if len(text) < 2 or text[0] != "!":
            raise ParseError("not a MiniFinder sentence: !...;")
        fields = text[1:].split(",")
        kind = fields[0]
        if kind == "1":
            imei = fields[1].strip() if len(fields) > 1 else ""
            if not (imei.isascii() and imei.isdecimal()):
                raise ParseError("a login without an IMEI")
            return [conversation(frame, device_key=imei)]
        draft = Draft(frame)
        read = _READERS.get(kind)
        if read is None:
            draft.keep("sentence", text)
        else:
            read(fields, draft)
        return [draft.report()]


def _result(fields: list[str], draft: Draft) -> None:
    text = ",".join(fields[1:])
    refused = any(word in text.lower() for word in ("error", "fail", "invalid"))
    draft.keep("command_reply", {"command": "", "result": "refused" if refused else "done", "text": text[:500]})


def _configuration(fields: list[str], draft: Draft) -> None:
    """Password and telephone numbers: only how many there are is repeated."""
    numbers = [field for field in fields[2:5] if field.strip()]
    draft.keep("command_reply", {"command": "", "result": "done", "contacts": len(numbers)})


def _heartbeat(fields: list[str], draft: Draft) -> None:
    """Signal, whether there is a fix, battery."""
    if len(fields) > 1:
        draft.keep("gsm_signal", number(fields[1]))
    if len(fields) > 2:
        draft.keep("fix", fields[2] == "A")
    if len(fields) > 3 and fields[3]:
        _measure(fields[3], "battery_percent", draft)


def _fix(fields: list[str], draft: Draft) -> tuple[float, float] | None:
    """``dd/mm/yy,hh:mm:ss,latitude,longitude``, UTC, degrees."""
    padded = fields + [""] * 5
    try:
        day, month, year = (int(part) for part in padded[1].split("/"))
        hour, minute, second = (int(part) for part in padded[2].split(":"))
        draft.at_us = utc_us(year, month, day, hour, minute, second)
    except ValueError as error:
        draft.fault("time", error)
    latitude, longitude = decimal(padded[3]), decimal(padded[4])
    if latitude is None or longitude is None:
        draft.fault("position", "not a number of degrees")
        return None
    return latitude, longitude


def _position_only(fields: list[str], draft: Draft) -> None:
    place = _fix(fields, draft)
    if place is not None:
        stated_place(draft, *place)


def _state(fields: list[str], draft: Draft) -> None:
    """A fix, then speed, course, flags, altitude, battery; ``!B`` and ``!D`` add satellites and HDOP.

    The flags are read first: whatever else is wrong, an SOS in them counts.
    """
    draft.stored = fields[0] == "B"
    padded = fields + [""] * 13
    flags = number(padded[7], base=16)
    if flags is None:
        draft.fault("flags", f"{padded[7][:20]!r} is no hexadecimal number")
        flags = 0
    draft.alarm(*(name for bit, name in FLAGS.items() if flags >> bit & 1))
    place = _fix(fields, draft)
    fix = flags & 3
    if place is not None:
        stated_place(draft, *place, valid=fix > 0, source="cell" if fix & 2 else "gnss")
    if draft.position is not None and draft.position.valid:
        speed, course = decimal(padded[5]), decimal(padded[6])
        draft.measure("speed_m_per_s", None if speed is None else speed * KMH_M_PER_S)
        draft.measure("course_degrees", None if course is None else 0 if course > 360 else course)
        if fix == 1:
            draft.measure("altitude_m", decimal(padded[8]))
    _measure(padded[9], "battery_percent", draft)
    draft.keep("gsm_signal", flags >> 16 & 31)
    draft.keep("charging", bool(flags >> 22 & 1))
    draft.keep("satellites", number(padded[10]))
    draft.keep("flags", f"{flags:08x}")


def _measure(text: str, metric: str, draft: Draft) -> None:
    value = number(text)
    if value is None:
        draft.fault(metric, f"{text[:20]!r} is no number")
    else:
        draft.measure(metric, value)


_READERS: Final[Mapping[str, Callable[[list[str], Draft], None]]] = {
    "3": _result,
    "4": _configuration,
    "5": _heartbeat,
    "A": _position_only,
    "B": _state,
    "C": _state,
    "D": _state,
}


# ---- commands: texts behind the terminal's password ------------------------------------------------------------------


def _command(parameters: Mapping[str, Any], text: str) -> bytes:
    password = str(parameters.get("password") or _DEFAULT_PASSWORD)
    return (password + text).encode("ascii", "replace")


def _sos_number(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    """``slot`` 1, 2 or 3; the terminal calls them A, B and C."""
    slot = int(parameters.get("slot") or 1)
    if slot not in (1, 2, 3):
        raise UsageError("slot must be 1, 2 or 3")
    return _command(parameters, f"{'ABC'[slot - 1]}1,{parameters['number']}")


def _switch(letters: str) -> Encode:
    return lambda parameters, _device_key: _command(parameters, f"{letters}{int(bool(parameters['on']))}")


def _fence(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    return _command(parameters, f"R1{int(parameters['metres'])}")


def _overspeed(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    return _command(parameters, f"J1{int(parameters['km_per_h'])}")


def _text(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    return _command(parameters, str(parameters["text"]))


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "sos_number": _sos_number,
        "fall_detection": _switch("F"),
        "listen_in": _switch("P"),
        "power_saving": _switch("SP"),
        "deep_sleep": _switch("DS"),
        "light": _switch("LED"),
        "fence": _fence,
        "overspeed": _overspeed,
        "text": _text,
    }
)
"""By name: parameters (``password`` where it is not the default) and the terminal's key to a text."""
