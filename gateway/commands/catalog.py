"""What a device can be told: declarations of commands, and parameters checked against them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from msgspec import Struct, field

from gateway.errors import UsageError

MAX_TEXT: Final = 200
MAX_ENTRIES: Final = 32
PHONE: Final = re.compile(r"\+?[0-9]{3,20}")


class Parameter(Struct, frozen=True):
    """``kind`` is number, integer, text, phone, texts, phones or boolean. Bounds are of the number, the characters of
    a text, or the entries of a list. ``default`` None: it must be given.
    """

    kind: str = "number"
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    default: Any = None
    personal: bool = False


class Encode(Protocol):
    """Parameters, as ``clean`` left them, to the bytes that the device understands."""

    def __call__(self, parameters: Mapping[str, Any], *, command_id: str, expires_at_us: int, device_key: str) -> bytes:
        """``device_key`` is the identity that the device goes by in its protocol. Raises UsageError."""
        ...


class Declaration(Struct, frozen=True, kw_only=True):
    """A command of a profile. ``by_id``: the device's answer names the command, so that several may be under way.

    ``converses``: the device is of a kind that keeps a connection of its own protocol (gateway.ports.TerminalCodec).
    """

    name: str
    title: dict[str, str]
    parameters: dict[str, Parameter] = field(default_factory=dict)
    dangerous: bool = False
    confirms: bool = True
    confirm_within_s: int = 120
    expires_s: int = 600
    by_id: bool = False
    converses: bool = False
    encode: Encode

    def personal(self) -> list[str]:
        return sorted(name for name, one in self.parameters.items() if one.personal or one.kind in ("phone", "phones"))


class Catalog(Protocol):
    """The commands of every profile."""

    def declared(self, profile: str) -> Mapping[str, Declaration]:
        """By name; empty for a profile without commands, or one that is not installed."""
        ...


def find(catalog: Catalog, profile: str, name: str) -> Declaration:
    """Raises UsageError that says what there is."""
    declared = catalog.declared(profile)
    found = declared.get(name)
    if found is not None:
        return found
    if not declared:
        raise UsageError(f"devices of the profile {profile} take no commands")
    close = difflib.get_close_matches(name, declared, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(declared))}"
    raise UsageError(f"the profile {profile} has no command {name!r}; {hint}")


def clean(declaration: Declaration, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters, checked, with the defaults of those that are not given. Numbers may be written as text.

    Raises UsageError that names each one that is wrong.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name in sorted(set(given) - set(declaration.parameters)):
        known = ", ".join(sorted(declaration.parameters)) or "none"
        faults.append(f"{name[:40]}: {declaration.name} has no such parameter; it has: {known}")
    for name, parameter in declaration.parameters.items():
        value = given.get(name)
        if value is None:
            value = parameter.default
        if value is None:
            faults.append(f"{name}: must be given ({_wanted(parameter)})")
            continue
        try:
            values[name] = _READERS[parameter.kind](parameter, value)
        except (ValueError, OverflowError):
            faults.append(f"{name}: must be {_wanted(parameter)}")
    if faults:
        raise UsageError("; ".join(faults[:20]))
    return values


def masked(value: Any) -> Any:
    """A personal parameter as it is shown: the last two characters of each text."""
    if isinstance(value, list):
        return [masked(entry) for entry in value]
    text = str(value)
    return "****" + (text[-2:] if len(text) > 4 else "")


def _number(parameter: Parameter, value: Any) -> float | int:
    if isinstance(value, str):
        value = float(value) if len(value) <= 40 else math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    low, high = _bounds(parameter, -math.inf, math.inf)
    if not low <= value <= high:
        raise ValueError
    return int(value) if float(value).is_integer() else float(value)


def _integer(parameter: Parameter, value: Any) -> int:
    number = _number(parameter, value)
    if not isinstance(number, int):
        raise ValueError  # noqa: TRY004 - 1.5 is a number, only not a whole one
    return number


def _text(parameter: Parameter, value: Any) -> str:
    low, high = _bounds(parameter, 1, MAX_TEXT)
    if not isinstance(value, str) or not low <= len(value) <= min(high, MAX_TEXT) or not value.isprintable():
        raise ValueError
    if parameter.choices and value not in parameter.choices:
        raise ValueError
    return value


def _phone(_parameter: Parameter, value: Any) -> str:
    text = re.sub(r"[\s-]", "", value) if isinstance(value, str) else ""
    if not PHONE.fullmatch(text):
        raise ValueError
    return text


def _entries(parameter: Parameter, value: Any) -> list[str]:
    if isinstance(value, str):  # as a command line writes it
        value = [entry.strip() for entry in value.split(",") if entry.strip()]
    low, high = _bounds(parameter, 0, MAX_ENTRIES)
    if not isinstance(value, list) or not low <= len(value) <= min(high, MAX_ENTRIES):
        raise ValueError
    one = Parameter(kind=parameter.kind.removesuffix("s"))
    return [_READERS[one.kind](one, entry) for entry in value]


def _boolean(_parameter: Parameter, value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - the caller turns it into one kind of text
    return value


_READERS: Final[Mapping[str, Any]] = {
    "number": _number,
    "integer": _integer,
    "text": _text,
    "phone": _phone,
    "texts": _entries,
    "phones": _entries,
    "boolean": _boolean,
}


def _bounds(parameter: Parameter, low: float, high: float) -> tuple[float, float]:
    return (
        low if parameter.minimum is None else parameter.minimum,
        high if parameter.maximum is None else parameter.maximum,
    )


def _wanted(parameter: Parameter) -> str:
    if parameter.choices:
        return "one of " + ", ".join(parameter.choices)
    match parameter.kind:
        case "number" | "integer":
            low, high = _bounds(parameter, -math.inf, math.inf)
            return f"{'a whole number' if parameter.kind == 'integer' else 'a number'} from {low:g} to {high:g}"
        case "text":
            low, high = _bounds(parameter, 1, MAX_TEXT)
            return f"a text of {low:g} to {high:g} characters"
        case "phone":
            return "a telephone number"
        case "texts" | "phones":
            low, high = _bounds(parameter, 0, MAX_ENTRIES)
            return f"a list of {low:g} to {high:g} {'telephone numbers' if parameter.kind == 'phones' else 'texts'}"
    return "true or false"
