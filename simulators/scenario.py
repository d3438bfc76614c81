"""Scenario files: who is in the story, what their devices say and when, and what has to come of it.

``docs/simulators.md`` describes the format. A file is read whole and checked whole before anything is sent: each fault
is one line that names the file, the step and the key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from gateway.model import METRICS, POSITION_SOURCES, SIGNALS
from simulators.geography import Spot, moved
from simulators.payloads import PROFILES, CannotSayError, Place, Statement, utc_now, write

FOLDER: Final = Path(__file__).resolve().parent / "scenarios"
ORDER_STATES: Final = ("requested", "accepted", "dispatched", "arrived", "completed")
MAX_STORY_S: Final = 7 * 86_400
MAX_BYTES: Final = 1_048_576

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,19}$")]
StoryTime = Annotated[str, Meta(pattern=r"^(\d{1,3}:)?\d{1,2}:\d{2}$")]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts: a misspelt key is an error."""


class Text(_Part, frozen=True):
    """What people read: Chinese first, English second."""

    zh: Annotated[str, Meta(min_length=1, max_length=300)]
    en: Annotated[str, Meta(min_length=1, max_length=300)]

    def __str__(self) -> str:
        return f"{self.zh} {self.en}"


class Home(_Part, frozen=True):
    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    radius_m: Annotated[float, Meta(gt=0, le=50_000)] = 150.0
    address: Annotated[str, Meta(max_length=300)] = ""


class CastPerson(_Part, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    phone: Annotated[str, Meta(max_length=40)] = ""
    birth_year: Annotated[int, Meta(ge=1890, le=2100)] | None = None
    conditions: tuple[str, ...] = ()
    home: Home | None = None


class CastDevice(_Part, frozen=True):
    person: Name
    profile: str
    transport: Literal["mqtt", "http"] = "mqtt"


class Where(_Part, frozen=True):
    """A place, either in degrees or in metres from the person's home."""

    east_m: float | None = None
    north_m: float | None = None
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None
    accuracy_m: Annotated[float, Meta(ge=0, le=100_000)] = 10.0
    source: str = "gnss"
    valid: bool = True


class Expect(_Part, frozen=True):
    """What has to be so within ``within_s`` real seconds after the step; ``never``: what must not come so soon.

    Either ``alert`` (a kind, of the step's person, with what else is named) or ``signal`` (of the step's device, as the
    gateway tells it in its events).
    """

    alert: str = ""
    signal: str = ""
    active: bool = True
    severity: Literal["", "P1", "P2", "P3", "P4"] = ""
    condition: Literal["", "active", "cleared", "unknown"] = ""
    occurrences: Annotated[int, Meta(ge=0)] = 0
    order: Literal["", "requested", "accepted", "dispatched", "arrived", "completed"] = ""
    within_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    never: bool = False


class Step(_Part, frozen=True):
    """One moment of the story."""

    at: StoryTime
    device: Name
    say: Text | None = None
    signals: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    measurements: Mapping[str, float] = field(default_factory=dict)
    position: Where | None = None
    raw: Mapping[str, Any] | None = None
    silent: bool = False
    expect: tuple[Expect, ...] = ()

    @property
    def at_s(self) -> int:
        """Story seconds from the start."""
        return story_seconds(self.at)

    @property
    def speaks(self) -> bool:
        return bool(self.signals or self.cleared or self.measurements or self.position or self.raw is not None)


class Scenario(_Part, frozen=True):
    """``speed``: story seconds in one real second, unless the command says otherwise."""

    title: Text
    persons: Mapping[Name, CastPerson]
    devices: Mapping[Name, CastDevice]
    step: tuple[Step, ...]
    about: Text | None = None
    speed: Annotated[float, Meta(gt=0, le=10_000)] = 60.0

    def statement(self, step: Step) -> Statement:
        """What a step says, with its place in degrees."""
        return Statement(step.signals, step.cleared, step.measurements, self._place(step))

    def _place(self, step: Step) -> Place | None:
        where = step.position
        if where is None:
            return None
        if where.latitude is not None and where.longitude is not None:
            spot = Spot(where.latitude, where.longitude)
        else:
            home = self.persons[self.devices[step.device].person].home
            assert home is not None  # ``_faults`` has seen to that
            spot = moved(Spot(home.latitude, home.longitude), where.east_m or 0.0, where.north_m or 0.0)
        return Place(spot.latitude, spot.longitude, where.accuracy_m, where.source, where.valid)


class ScenarioError(Exception):
    """A scenario file that cannot be played; ``problems`` are lines. Handler: the command, which prints them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def shipped() -> dict[str, Path]:
    """The scenarios that come with carebell, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find(name: str) -> Path:
    """The file of a scenario: a path, or the name of a shipped one. Raises ScenarioError."""
    known = shipped()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; shipped are {', '.join(known)}"
    raise ScenarioError([f"{name}: there is no such scenario{hint}"])


def load(path: Path) -> Scenario:
    """Read and check a file. Raises ScenarioError with a line for each fault that was found."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise ScenarioError([f"{path}: is longer than {MAX_BYTES} bytes"])
        document = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise ScenarioError([f"{path}: {error.strerror or error}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScenarioError([f"{path}: {error}"]) from error
    try:
        scenario = msgspec.convert(document, type=Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError([f"{path}: {_readable(str(error), document)}"]) from error
    problems = [f"{path}: {text}" for text in _faults(scenario)]
    if problems:
        raise ScenarioError(problems)
    return scenario


def story_seconds(text: str) -> int:
    """``mm:ss`` or ``hh:mm:ss`` as seconds."""
    seconds = 0
    for part in text.split(":"):
        seconds = seconds * 60 + int(part)
    return seconds


# ---- faults ----------------------------------------------------------------------------------------------------------

_PATH = re.compile(r"^(?P<what>.*?) - at `\$(?:\.(?P<path>.*))?`$", re.DOTALL)
_STEP = re.compile(r"^step\[(?P<index>\d+)\]\.?(?P<rest>.*)$")


def _readable(text: str, document: Mapping[str, Any]) -> str:
    """``Expected `int` - at `$.step[2].at``` as ``step 3 (at 00:10): at: expected int``."""
    match = _PATH.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    what = what.replace("`", "")
    step = _STEP.match(path)
    if step is None:
        return f"{path}: {what}" if path else what
    where = _step_name(int(step["index"]), document)
    return f"{where}: {step['rest']}: {what}" if step["rest"] else f"{where}: {what}"


def _step_name(index: int, document: Mapping[str, Any]) -> str:
    steps = document.get("step")
    at = ""
    if isinstance(steps, list) and index < len(steps) and isinstance(steps[index], dict) and "at" in steps[index]:
        at = f" (at {steps[index]['at']})"
    return f"step {index + 1}{at}"


def _faults(scenario: Scenario) -> Iterator[str]:
    if not scenario.step:
        yield "step: a story needs at least one step"
    for name, device in scenario.devices.items():
        if device.person not in scenario.persons:
            yield f"devices.{name}.person: {_unknown(device.person, scenario.persons, 'person')}"
        if device.profile not in PROFILES:
            yield f"devices.{name}.profile: {_unknown(device.profile, PROFILES, 'profile')}"
    before_s = 0
    for index, step in enumerate(scenario.step):
        where = f"step {index + 1} (at {step.at})"
        if step.at_s < before_s:
            yield f"{where}: at: lies before the step above it"
        before_s = max(before_s, step.at_s)
        if step.at_s > MAX_STORY_S:
            yield f"{where}: at: a story lasts at most a week"
        for text in _step_faults(scenario, step):
            yield f"{where}: {text}"


def _step_faults(scenario: Scenario, step: Step) -> Iterator[str]:
    if step.device not in scenario.devices:
        yield f"device: {_unknown(step.device, scenario.devices, 'device')}"
        return
    device = scenario.devices[step.device]
    if not (step.speaks or step.silent or step.say):
        yield "nothing happens: give signals, measurements, position, raw, silent or say"
    if step.speaks and step.silent:
        yield "silent: a device that falls silent says nothing in the same step"
    if step.raw is not None and (step.signals or step.cleared or step.measurements or step.position):
        yield "raw: is the whole message; give nothing else to say beside it"
    faults = [
        *(f"signals: {_unknown(name, SIGNALS, 'signal')}" for name in step.signals if name not in SIGNALS),
        *(f"cleared: {_unknown(name, SIGNALS, 'signal')}" for name in step.cleared if name not in SIGNALS),
        *(f"measurements: {_unknown(name, METRICS, 'metric')}" for name in step.measurements if name not in METRICS),
        *_place_faults(scenario, step),
    ]
    yield from faults
    if not faults and step.raw is None and step.speaks and device.profile in PROFILES:
        try:
            write(device.profile, scenario.statement(step), number=0, boot=0, at=utc_now())
        except CannotSayError as error:
            yield str(error)
    for number, expect in enumerate(step.expect, 1):
        for text in _expect_faults(expect):
            yield f"expect {number}: {text}"


def _place_faults(scenario: Scenario, step: Step) -> Iterator[str]:
    where = step.position
    if where is None:
        return
    if where.source not in POSITION_SOURCES:
        yield f"position.source: {_unknown(where.source, POSITION_SOURCES, 'source')}"
    absolute = where.latitude is not None, where.longitude is not None
    relative = where.east_m is not None or where.north_m is not None
    if any(absolute) == relative or (any(absolute) and not all(absolute)):
        yield "position: give latitude and longitude, or east_m and north_m from the person's home"
    elif relative:
        person = scenario.persons.get(scenario.devices[step.device].person)
        if person is not None and person.home is None:
            yield "position: east_m and north_m need a person with a home"


def _expect_faults(expect: Expect) -> Iterator[str]:
    if bool(expect.alert) == bool(expect.signal):
        yield "name either an alert or a signal"
    if expect.signal and expect.signal not in SIGNALS:
        yield f"signal: {_unknown(expect.signal, SIGNALS, 'signal')}"
    if expect.signal and (expect.severity or expect.condition or expect.order or expect.occurrences):
        yield "severity, condition, occurrences and order are of an alert, not of a signal"


def _unknown(name: str, known: Any, noun: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
    return f"{name!r} is no {noun}{hint}"
