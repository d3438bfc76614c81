"""What a profile file says. Every key is here; a key that is not is an error that names the nearest one."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from device_profiles.conversions import CONVERSIONS
from gateway.errors import ConfigError
from gateway.model import EMERGENCY_SIGNALS, METRICS, SIGNALS, URGENT_SIGNALS

EXTRA_METRIC: Final = re.compile(r"x_[a-z0-9_]{1,62}")
TIME_FORMATS: Final = ("rfc3339", "epoch_s", "epoch_ms", "epoch_us")

_PATH: Final = re.compile(r"[^.\[\]]+(?:\[\])*(?:\.[^.\[\]]+(?:\[\])*)*")


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean "..."?`` or a list of what is known."""
    names = sorted(known)
    longer = [known_name for known_name in names if name and known_name.startswith(name)]
    close = longer or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; known here: {', '.join(names)}"


def value_key(value: object) -> str:
    """How a value is written as a key of ``values``: 1 and 1.0 as ``1``, true as ``true``, texts without their case."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def _signal(name: str) -> str:
    if name not in SIGNALS:
        raise ValueError(f"{name} is not a signal{nearest(name, SIGNALS)}")
    return name


def _metric(name: str) -> str:
    if name not in METRICS and not EXTRA_METRIC.fullmatch(name):
        raise ValueError(f"{name} is not a metric, nor a name like x_irregular_pulse{nearest(name, METRICS)}")
    return name


def _conversion(name: str) -> str:
    if name not in CONVERSIONS:
        raise ValueError(f"{name} is not a conversion{nearest(name, CONVERSIONS)}")
    return name


def _path(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ValueError("write a path as name, name.inner or list[].inner")
    return path


def _pattern(path: str) -> str:
    _path(path.removesuffix(".*"))
    return path


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name} is not a time zone; write one like Asia/Shanghai") from error
    return name


def _time_format(value: str) -> str:
    if value not in TIME_FORMATS and "%" not in value:
        raise ValueError(f"write one of {', '.join(TIME_FORMATS)}, or a pattern such as %Y%m%d%H%M%S")
    if "%" in value:
        try:
            datetime.strptime(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).strftime(value), value).astimezone(UTC)
        except (ValueError, re.error) as error:
            raise ValueError(f"not a pattern of Python's strptime: {error}") from error
    return value


def _list_of_one(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _keys(value: Any) -> Any:
    """Keys as ``value_key`` writes them. Raises ValueError for two that mean the same."""
    if not isinstance(value, dict):
        return value
    keyed = {value_key(key): member for key, member in value.items()}
    if len(keyed) != len(value):
        raise ValueError("two keys mean the same value")
    return keyed


Signal = Annotated[str, AfterValidator(_signal)]
Signals = Annotated[list[Signal], BeforeValidator(_list_of_one)]
Metric = Annotated[str, AfterValidator(_metric)]
Conversion = Annotated[str, AfterValidator(_conversion)]
Path = Annotated[str, AfterValidator(_path)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Scalar = bool | int | float | str


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Title(Table):
    """What people see, Chinese first."""

    zh: str = Field(min_length=1, max_length=100)
    en: str = Field(min_length=1, max_length=100)


class Battery(Table):
    """At or below ``low_percent`` the device counts as low; at or above ``clear_percent`` (if given) no longer."""

    low_percent: float = Field(20, ge=0, le=100)
    urgent_percent: float = Field(10, ge=0, le=100)
    clear_percent: float | None = Field(None, ge=0, le=100)

    @model_validator(mode="after")
    def _in_order(self) -> Battery:
        if self.urgent_percent > self.low_percent:
            raise ValueError("urgent_percent is above low_percent; make it the lower one")
        if self.clear_percent is not None and self.clear_percent <= self.low_percent:
            raise ValueError("clear_percent is not above low_percent; make it the higher one")
        return self


class Links(Table):
    manual: str = ""
    product: str = ""


class Certificates(Table):
    """Numbers that an installer must be able to show; "" where there is none."""

    medical_registration: str = ""
    srrc: str = ""
    ccc: str = ""
    network_access: str = ""


class Time(Table):
    """When the device says that it observed. ``zone`` is for times without an offset."""

    field: Path
    format: Annotated[str, AfterValidator(_time_format)] = "rfc3339"
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"


class Dialect(Table):
    """How a SCAIP unit wants to be answered (docs/protocols/scaip.md)."""

    reply: Literal["separate", "inline"] = "separate"
    root: Literal["mrs", "scaip"] = "mrs"
    kind: Literal["application/scaip+xml", "application/xml"] = "application/scaip+xml"


class Dedup(Table):
    """Fields that together are the same in a resend, and never again in another message of the device."""

    fields: Annotated[list[Path], Field(min_length=1, max_length=8)]


class FieldIs(Table):
    """True when the field has one of the values."""

    field: Path
    values: Annotated[list[Scalar], Field(min_length=1)]


class PositionSource(Table):
    field: Path
    values: Annotated[dict[str, Literal["gnss", "cell", "wifi", "manual"]], BeforeValidator(_keys)]


class PositionDatum(Table):
    field: Path
    values: Annotated[dict[str, Literal["wgs84", "gcj02", "bd09"]], BeforeValidator(_keys)]


class Place(Table):
    """Where the position stands, in degrees times ``1 / scale``."""

    latitude: Path
    longitude: Path
    accuracy_m: Path | None = None
    scale: float = Field(1.0, gt=0)
    datum: Literal["wgs84", "gcj02", "bd09"] = "wgs84"
    datum_by: PositionDatum | None = None
    source: Literal["gnss", "cell", "wifi", "manual"] = "gnss"
    source_by: PositionSource | None = None
    valid: FieldIs | None = None


class ConvertBy(Table):
    """The unit stands in another field, outside arrays. A unit that is not listed makes the value a fault."""

    field: Annotated[Path, Field(pattern=r"^[^\[]*$")]
    values: Annotated[dict[str, Conversion], BeforeValidator(_keys)]


class FieldMap(Table):
    """What one field means. canonical = convert(value * scale + offset), rounded to four decimals."""

    metric: Metric | None = None
    scale: float = 1.0
    offset: float = 0.0
    convert: Conversion = "none"
    convert_by: ConvertBy | None = None
    numbers: Annotated[dict[str, float], BeforeValidator(_keys)] = {}
    missing: list[Scalar] = []
    values: Annotated[dict[str, Signals], BeforeValidator(_keys)] = {}
    clears: Annotated[dict[str, Signals], BeforeValidator(_keys)] = {}
    bits: dict[Annotated[int, Field(ge=0, le=62)], Signals] = {}
    clear_bits: list[Annotated[int, Field(ge=0, le=62)]] = []
    hexadecimal: bool = False

    @model_validator(mode="after")
    def _means_something(self) -> FieldMap:
        if self.metric is None and not self.values and not self.clears and not self.bits:
            raise ValueError("means nothing: give it metric, values, clears or bits, or list its path in ignore")
        stray = sorted(set(self.clear_bits) - set(self.bits))
        if stray:
            raise ValueError(f"clear_bits names bit {stray[0]}, which bits does not; add it there")
        return self

    def signals(self) -> set[str]:
        named = [*self.values.values(), *self.clears.values(), *self.bits.values()]
        return {signal for group in named for signal in group}


class Parameter(Table):
    """What a command is told. ``minimum`` and ``maximum`` bound a number, the characters of a text (1 to 200) or the
    entries of a list (0 to 32).

    ``phone`` is a number that can be dialled: an optional plus sign and 3 to 20 digits. Without a ``default`` it must
    be given. ``personal``: shown masked, and forgotten when the command is over; telephone numbers always are.
    """

    type: Literal["number", "integer", "text", "phone", "texts", "phones", "boolean"] = "number"
    minimum: float | None = None
    maximum: float | None = None
    choices: list[str] = []
    default: float | bool | str | list[str] | None = None
    personal: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> Parameter:
        if self.type in ("number", "integer") and (self.minimum is None or self.maximum is None):
            raise ValueError("a number needs minimum and maximum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("minimum is above maximum")
        if self.choices and self.type != "text":
            raise ValueError("only a text has choices")
        return self


PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")
RESERVED_PLACEHOLDERS: Final = frozenset({"command_id", "expires_at"})
"""What every payload may carry: the command's id and its expiry (RFC 3339)."""


class Command(Table):
    """A downlink command. Data only; transports send it.

    ``payload`` is text with ``{name}`` for each parameter; without it the codec encodes the command by its name.
    ``dangerous``: it must never run twice, so it is handed to a transport at most once. ``confirms``: whether the
    device says what became of it (by default: when there is no ``payload``), within ``confirm_within_s``.
    ``expires_s``: for how long it waits for its device when nobody says otherwise.
    """

    title: Title
    payload: str = Field("", max_length=4096)
    parameters: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Parameter] = {}
    dangerous: bool = False
    confirms: bool | None = None
    confirm_within_s: int = Field(120, ge=5, le=3600)
    expires_s: int = Field(600, ge=10, le=86_400)

    @model_validator(mode="after")
    def _says_its_parameters(self) -> Command:
        if not self.payload:
            return self
        named = set(PLACEHOLDER.findall(self.payload)) - RESERVED_PLACEHOLDERS
        stray = sorted(named - set(self.parameters))
        if stray:
            raise ValueError(f"payload names {{{stray[0]}}}, which is no parameter; declare it in parameters")
        unused = sorted(set(self.parameters) - named)
        if unused:
            raise ValueError(f"parameter {unused[0]} is not in payload; write {{{unused[0]}}} there")
        return self


class Profile(Table):
    """One device model."""

    id: str = Field(pattern=r"^[a-z0-9_-]{1,40}\.[a-z0-9_-]{1,60}$")
    vendor: str = Field(min_length=1)
    model: str = Field(min_length=1)
    title: Title
    kind: Literal[
        "native", "button", "pendant", "watch", "phone", "blood_pressure", "glucose", "thermometer", "oximeter",
        "scale", "smoke", "gas", "water", "bed", "door", "motion", "radar", "gateway", "other",
    ]  # fmt: skip
    codec: str = Field(min_length=1)
    transports: Annotated[
        list[Literal["mqtt", "http", "coap", "tcp", "udp", "serial", "ble", "sip"]], Field(min_length=1)
    ]
    heartbeat_s: int = Field(0, ge=0, le=31 * 86_400)
    raises: list[Signal]
    ignore: list[Pattern] = []
    battery: Battery | None = None
    links: Links = Links()
    certificates: Certificates = Certificates()
    dialect: Dialect | None = None
    time: Time | None = None
    dedup: Dedup | None = None
    stored: FieldIs | None = None
    position: Place | None = None
    fields: dict[Path, FieldMap] = {}
    commands: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Command] = {}

    def explains_fields(self) -> bool:
        """Whether it gives fields a meaning; otherwise its codec speaks in observations."""
        return bool(self.fields or self.position or self.time or self.dedup or self.stored or self.ignore)

    def urgent_marks(self) -> tuple[bytes, ...] | None:
        """The members of a JSON payload that can tell of something urgent: one of them is in every payload that does,
        but for one that escapes letters of its names. None for other codecs, where nobody can tell by looking.
        """
        if self.codec == "native":
            return (b'"signals"',)
        if self.codec != "json" or not self.explains_fields():
            return None
        urgent = EMERGENCY_SIGNALS | URGENT_SIGNALS
        paths = {path for path, field in self.fields.items() if field.signals() & urgent}
        return tuple(sorted({b'"%b"' % path.rpartition(".")[2].rstrip("[]").encode() for path in paths}))

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Profile:
        if self.id != f"{self.vendor}.{self.model}":
            raise ValueError(f"id is {self.id}, but vendor and model make {self.vendor}.{self.model}; make them agree")
        twice = sorted({signal for signal in self.raises if self.raises.count(signal) > 1})
        if twice:
            raise ValueError(f"raises names {twice[0]} twice; name it once")
        if not self.explains_fields():
            return self
        mapped = {signal for field in self.fields.values() for signal in field.signals()}
        percent = any(field.metric == "battery_percent" for field in self.fields.values())
        if self.battery is not None and percent:
            mapped.add("low_battery")
        undeclared = sorted(mapped - set(self.raises))
        if undeclared:
            raise ValueError(f"maps to {undeclared[0]}, which raises does not name; add it to raises")
        unmapped = sorted(set(self.raises) - mapped)
        if unmapped:
            raise ValueError(f"raises names {unmapped[0]}, but no field maps to it; map it or drop it")
        return self


def parse_profile(source: str, values: dict[str, Any]) -> Profile:
    """The profile of a parsed TOML file. Raises ConfigError, a line per fault: file, key, what is wrong, what to do."""
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_faults(source, Profile, error))) from error


def explain_faults(source: str, model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """One line per fault of a file that should be ``model``."""
    for fault in error.errors():
        location = [str(part) for part in fault["loc"] if part != "[key]"]
        key = ".".join(location) or "profile"
        if fault["type"] == "extra_forbidden":
            yield f"{source}: {key}: unknown key{nearest(location[-1], _known_keys(model, location[:-1]))}"
        elif fault["type"] == "missing":
            yield f"{source}: {key}: missing; add it"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(fault["input"], dict | BaseModel) else f" (it is {fault['input']!r})"
            yield f"{source}: {key}: {message}{shown}"


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    annotation: Any = model
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(part)
            annotation = None if field is None else field.annotation
        else:  # a key of a dict, or an index of a list: its last argument is what it holds
            annotation = (typing.get_args(annotation) or (None,))[-1]
        candidates = [item for item in (annotation, *typing.get_args(annotation)) if isinstance(item, type)]
        models = [item for item in candidates if issubclass(item, BaseModel)]
        if models and typing.get_origin(annotation) not in (dict, list):
            annotation = models[0]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []
