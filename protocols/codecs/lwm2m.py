r"""LwM2M: what the server heard of a client, and what the objects of the registry mean.

A frame is a line of JSON, written by the server, and behind it the payload exactly as the client sent it:

    {"op": "notify", "path": "/3347/0", "format": 11542, "was": {"/3347/0/5501": 3}}\n<payload>

``op`` is notify, read, send, register, update, deregister, expired or result; ``was`` holds the counters of push
buttons as they were before, ``stale`` marks a notification that came out of order. What the registry's objects say
becomes observations; push buttons (``/3347/<n>/pressed``) and everything else are fields, which the profile explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import DecodeError
from msgspec.json import Decoder

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs import senml_meaning
from protocols.codecs.lwm2m_values import Item, Path, read, read_path
from protocols.codecs.terminal import Draft
from protocols.codecs.tolerant_json import check_size

PUSH_BUTTON: Final = 3347
STATE, COUNTER, VALUE, UNITS, APPLICATION = 5500, 5501, 5700, 5701, 5750
UNKNOWN_CLIENT_PROFILE: Final = "oma.push_button"
MAX_HEADER: Final = 4096

_decode: Final = Decoder(dict[str, Any]).decode

_ERRORS: Final[Mapping[int, str]] = MappingProxyType(
    {1: "low_battery", 2: "power_lost", 3: "device_fault", 5: "device_fault", 8: "device_fault"}
)
"""Error codes of resource /3/0/11 that a person should hear of."""

_APPLICATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "heartrate": "heart_rate_bpm", "pulse": "heart_rate_bpm",
        "respiration": "respiratory_rate_per_min", "respiratoryrate": "respiratory_rate_per_min",
        "spo2": "spo2_percent", "oxygensaturation": "spo2_percent",
        "systolic": "systolic_mmhg", "diastolic": "diastolic_mmhg",
        "bodytemperature": "body_temperature_celsius", "glucose": "blood_glucose_mmol_per_l",
        "bloodglucose": "blood_glucose_mmol_per_l", "weight": "weight_kg", "steps": "steps",
    }
)  # fmt: skip
"""What the application type (5750) makes of a generic sensor. The registry has no objects of its own for these."""

_SENSORS: Final[Mapping[int, str]] = MappingProxyType({3303: "temperature_celsius", 3304: "humidity_percent"})
_TYPED_SENSORS: Final = frozenset({3300, 3303, 3320, 3323, 3346})


class Lwm2mCodec:
    """``ports.Codec``."""

    name = "lwm2m"

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report for each time that the payload names. Raises ParseError."""
        check_size(frame.payload)
        line, _, payload = frame.payload.partition(b"\n")
        try:
            header = _decode(line[:MAX_HEADER])
        except (DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError("the server's line is not JSON") from error
        operation = header.get("op")
        if operation in ("notify", "read", "send"):
            return self._values(frame, header, payload)
        return [_life(frame, str(operation), header)]

    def _values(self, frame: Frame, header: Mapping[str, Any], payload: bytes) -> Sequence[Report]:
        faults: list[str] = []
        content_format = header.get("format")
        base = read_path(str(header.get("path", "")))
        items = read(content_format if isinstance(content_format, int) else -1, base, payload,
                     frame.received_at_us, faults)  # fmt: skip
        by_time: dict[float, list[Item]] = {}
        for item in items:
            by_time.setdefault(item.time_s, []).append(item)
        was = header.get("was")
        reports: list[Report] = []
        for time_s, group in by_time.items():
            draft = Draft(frame)
            draft.at_us = round(time_s * 1e6)
            draft.stored = header.get("stale") is True
            draft.faults = faults
            faults = []
            if not reports:
                _reply(draft, header, "2.05")
            reports.append(explain_items(draft, group, was if isinstance(was, dict) else {}))
        return reports or [Report(frame.device_key, faults=faults or None)]


def _life(frame: Frame, operation: str, header: Mapping[str, Any]) -> Report:
    draft = Draft(frame)
    if operation == "update":
        return Report(frame.device_key)
    if operation in ("register", "expired"):
        draft.signal("connection_lost", active=operation == "expired")
    elif operation not in ("deregister", "result"):
        raise ParseError("an operation that is not known")
    draft.keep("lwm2m", operation)
    for name in ("endpoint", "lifetime_s", "binding", "version", "code", "asked"):
        value = header.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            draft.keep(name, value)
    if operation == "result":
        _reply(draft, header, str(header.get("code", "")))
    return draft.report()


def _reply(draft: Draft, header: Mapping[str, Any], code: str) -> None:
    """What the client's answer says of the command that it was asked for. Without an answer nothing is known."""
    command = header.get("command")
    if isinstance(command, str) and command and code[:1] in ("2", "4", "5"):
        result = "done" if code[0] == "2" else "unknown" if code in ("4.04", "4.05") else "refused"
        draft.keep("command_reply", {"command": command, "result": result})


def explain_items(draft: Draft, items: Sequence[Item], was: Mapping[str, Any]) -> Report:
    """The report of values of one time: observations of what the registry defines, fields of the rest."""
    fields: dict[str, Any] = {}
    instances: dict[Path, dict[int, Any]] = {}
    for item in items:
        instances.setdefault(item.path[:2], {}).setdefault(item.path[2], item.value)
    for item in items:
        if not _standard(draft, item, instances[item.path[:2]]):
            fields[_written(item.path)] = item.value
    for (number, instance), resources in instances.items():
        if number == 6:
            _location(draft, resources)
        elif number == 3336:
            _ipso_location(draft, resources)
        elif number == PUSH_BUTTON:
            pressed = _pressed(instance, resources, was)
            if pressed is not None:
                fields[f"/{PUSH_BUTTON}/{instance}/pressed"] = pressed
    report = draft.report()
    report.fields = fields  # also none at all: the profile judges the battery
    report.model_hint = UNKNOWN_CLIENT_PROFILE
    return report


def _written(path: Path) -> str:
    return "/" + "/".join(str(part) for part in path)


def _pressed(instance: int, resources: Mapping[int, Any], was: Mapping[str, Any]) -> bool | None:
    """Whether the button was pressed: it is now, or its counter has moved on since (a lost notification).

    None when there is no state, and no counter that moved.
    """
    state, counter = resources.get(STATE), resources.get(COUNTER)
    before = was.get(f"/{PUSH_BUTTON}/{instance}/{COUNTER}")
    if isinstance(counter, int) and isinstance(before, int) and counter > before:
        return True
    return state if isinstance(state, bool) else None


def _standard(draft: Draft, item: Item, resources: Mapping[int, Any]) -> bool:  # noqa: PLR0911 - one for each object
    """Whether the registry's objects say what this is, and it has been taken."""
    number, resource = item.path[0], item.path[2]
    value = item.value
    if number == 3:
        return _device(draft, resource, value)
    if number == 4:
        if resource == 2 and isinstance(value, int) and value:
            draft.measure("rssi_dbm", value)
            return True
        return resource in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14) and _note(draft, item)
    if number in (6, 3336):
        return resource in ((0, 1, 2, 3, 4, 5, 6) if number == 6 else (6051, 6052, 6053, 5518, 5750, 5705))
    if number == 3302 and resource == STATE and isinstance(value, bool):
        draft.signal("motion", active=value)
        return True
    if number in _TYPED_SENSORS or number in _SENSORS:
        return _sensor(draft, number, resource, value, resources)
    if number == PUSH_BUTTON:  # state and counter become `pressed`
        return resource in (STATE, COUNTER, 5518, APPLICATION)
    return number == 3302 and resource in (5501, 5503, 5518, APPLICATION)


def _note(draft: Draft, item: Item) -> bool:
    draft.keep(_written(item.path), item.value)
    return True


def _device(draft: Draft, resource: int, value: Any) -> bool:
    if resource == 9 and isinstance(value, int):
        draft.measure("battery_percent", value)
    elif resource == 11 and isinstance(value, int):
        signal = _ERRORS.get(value)
        if signal is not None:
            draft.signal(signal)
    elif resource == 20 and isinstance(value, int):
        if value == 4:  # low; 5 is "not installed", 6 unknown
            draft.signal("low_battery")
    elif resource == 7 and isinstance(value, int):
        if value > 0:
            draft.measure("battery_volts", value / 1000)
    elif resource in (0, 1, 2, 3, 17, 18, 19):
        draft.keep(f"/3/0/{resource}", value)
    return resource in (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21)


def _sensor(draft: Draft, number: int, resource: int, value: Any, resources: Mapping[int, Any]) -> bool:
    if resource in (UNITS, APPLICATION, 5518, 5601, 5602, 5603, 5604, 5605):
        return True
    if resource != VALUE or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    application = "".join(part for part in str(resources.get(APPLICATION, "")).lower() if part.isalnum())
    metric = _APPLICATIONS.get(application) or _SENSORS.get(number)
    if metric is None:
        return False
    unit = str(resources.get(UNITS, ""))
    converted = senml_meaning.convert(metric, unit, value)
    if converted is None:
        draft.fault(f"/{number}", f"in {unit[:20]}, which is no unit of {metric}")
        return False
    draft.measure(metric, converted)
    return True


def _location(draft: Draft, resources: Mapping[int, Any]) -> None:
    latitude: Any = resources.get(0)
    longitude: Any = resources.get(1)
    at = resources.get(5)
    at_us = at * 1_000_000 if isinstance(at, int) and 0 < at < 253_402_300_800 else 0
    if _number(latitude) and _number(longitude):
        radius = resources.get(3)
        draft.place(latitude, longitude, accuracy_m=radius if _number(radius) else None, at_us=at_us)
    for resource, metric in ((2, "altitude_m"), (6, "speed_m_per_s")):
        value = resources.get(resource)
        if _number(value):
            draft.measure(metric, value)


def _ipso_location(draft: Draft, resources: Mapping[int, Any]) -> None:
    parts = []
    for resource in (6051, 6052):
        try:
            parts.append(float(str(resources.get(resource, ""))[:32]))
        except ValueError:
            return
    draft.place(parts[0], parts[1])


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
