"""What a field of the registry may hold: parsing from text or JSON, and back for people and for CSV files."""

from __future__ import annotations

import difflib
import re
import unicodedata
import zoneinfo
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, time
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.errors import UsageError

SqlValue = str | int | float | bytes | None

ID_RULE: Final = "1 to 64 letters, digits, '.', '_' or '-'"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRUE: Final = frozenset({"1", "true", "yes", "y", "是"})
_FALSE: Final = frozenset({"0", "false", "no", "n", "否"})
_HEX_PAIRS = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5,7}")
_LIST_SEPARATORS = re.compile(r"[;；、|]")


class Problem(Struct, frozen=True):
    """One thing that is wrong with one field."""

    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}" if self.field else self.text


class FieldsError(UsageError):
    """Values that the registry cannot keep; ``problems`` lists all of them. Handler: as UsageError."""

    def __init__(self, problems: Collection[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


class Kind(Struct, frozen=True):
    """A type of field. ``parse`` takes what a person typed, a CSV cell or a JSON value, and raises ValueError.

    ``show`` turns the stored value into JSON.
    """

    parse: Callable[[Any], SqlValue]
    show: Callable[[Any], Any] = lambda stored: stored
    free_text: bool = False


class Field(Struct, frozen=True):
    """One field of a table. ``personal`` values never reach the audit; there it only says that the field changed."""

    name: str
    kind: Kind
    label: str
    personal: bool = False
    required: bool = False
    default: SqlValue = None
    stored: bool = True


class Spec(Struct, frozen=True):
    """One table of the registry: ``noun`` names it in texts and audit subjects, ``id_name`` in JSON and CSV."""

    noun: str
    id_name: str
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    @property
    def names(self) -> list[str]:
        return [field.name for field in self.fields]

    @property
    def columns(self) -> list[str]:
        return [field.name for field in self.fields if field.stored]


def clean(spec: Spec, values: Mapping[str, Any], *, partial: bool) -> dict[str, SqlValue]:
    """Stored values of the given fields; blank is the field's default. Not ``partial``: every field of the spec.

    Raises FieldsError with every problem found: names that no field has, values that do not fit, required ones missing.
    """
    problems = [Problem(name, unknown_name(name, spec.names)) for name in values if name not in spec.names]
    row: dict[str, SqlValue] = {}
    for field in spec.fields:
        if partial and field.name not in values:
            continue
        try:
            row[field.name] = parse(field, values.get(field.name))
        except ValueError as error:
            problems.append(Problem(field.name, str(error)))
    if problems:
        raise FieldsError(problems)
    return row


def clean_with_id(
    spec: Spec, row_id: str, values: Mapping[str, Any], *, partial: bool
) -> tuple[str, dict[str, SqlValue]]:
    """As ``clean``, with the row's id checked along with its values."""
    problems: list[Problem] = []
    row: dict[str, SqlValue] = {}
    checked = ""
    try:
        checked = check_id(row_id)
    except ValueError as error:
        problems.append(Problem(spec.id_name, str(error)))
    try:
        row = clean(spec, values, partial=partial)
    except FieldsError as error:
        problems += error.problems
    if problems:
        raise FieldsError(problems)
    return checked, row


def parse(field: Field, value: Any) -> SqlValue:
    """The stored value of one field. Raises ValueError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        if field.required:
            raise ValueError("is required")
        return field.default
    return field.kind.parse(value)


def unknown_name(name: str, known: Collection[str]) -> str:
    """A sentence about a name that is not known, with the nearest that is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown; did you mean {near[0]!r}?" if near else f"unknown; known are {', '.join(sorted(known))}"


# ---- parsers ---------------------------------------------------------------------------------------------------------


def check_id(value: Any) -> str:
    """An id that is safe in MQTT topics, URLs and file names. Raises ValueError."""
    if not isinstance(value, str) or _ID.fullmatch(value.strip()) is None:
        raise ValueError(f"must be {ID_RULE}")
    return value.strip()


def text_of(longest: int) -> Kind:
    """Text in Unicode NFC, without control characters, at most ``longest`` characters."""

    def parse_text(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("must be text")  # noqa: TRY004 - a wrong value of a field, reported with the others
        text = unicodedata.normalize("NFC", value).strip()
        if len(text) > longest:
            raise ValueError(f"is {len(text)} characters long, at most {longest} are kept")
        if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
            raise ValueError("contains control characters")
        return text

    return Kind(parse_text, free_text=True)


def one_of(*choices: str) -> Kind:
    def parse_choice(value: Any) -> str:
        if not isinstance(value, str) or value.strip() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value.strip()

    return Kind(parse_choice)


def integer(lowest: int, highest: int) -> Kind:
    def parse_integer(value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, bool | float) or re.fullmatch(r"-?[0-9]{1,18}", text) is None:
            raise ValueError("must be a whole number")
        if not lowest <= int(text) <= highest:
            raise ValueError(f"must be between {lowest} and {highest}")
        return int(text)

    return Kind(parse_integer)


def number(lowest: float, highest: float) -> Kind:
    def parse_number(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError("must be a number")  # noqa: TRY004 - a wrong value of a field
        try:
            parsed = float(value)
        except ValueError:
            raise ValueError("must be a number") from None
        if not lowest <= parsed <= highest:
            raise ValueError(f"must be between {lowest:g} and {highest:g}")
        return parsed

    return Kind(parse_number)


def list_of(choices: Collection[str] | None = None, *, longest: int = 64, most: int = 50) -> Kind:
    """A list of short texts; in CSV and on the command line separated by ``;``. Stored as a JSON array."""
    item = text_of(longest)

    def parse_list(value: Any) -> str:
        parts = _LIST_SEPARATORS.split(value) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError("must be a list")  # noqa: TRY004 - a wrong value of a field
        items = list(dict.fromkeys(str(item.parse(part)) for part in parts if part != ""))
        if any(_LIST_SEPARATORS.search(entry) for entry in items):
            raise ValueError("an entry may not contain ';', '；', '、' or '|'")
        if len(items) > most:
            raise ValueError(f"has {len(items)} entries, at most {most} are kept")
        wrong = [entry for entry in items if choices is not None and entry not in choices]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not one of {', '.join(choices or ())}")
        return msgspec.json.encode([entry for entry in items if entry]).decode()

    return Kind(parse_list, show=msgspec.json.decode)


def json_object(check: Callable[[Any], Any] | None = None, *, longest: int = 65_536) -> Kind:
    """A JSON object, given as one or as its text. ``check`` raises ValueError for one that means nothing."""

    def parse_object(value: Any) -> str:
        try:
            decoded = msgspec.json.decode(value) if isinstance(value, str | bytes) else msgspec.to_builtins(value)
            encoded = msgspec.json.encode(decoded)
        except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"must be JSON: {error}") from None
        if not isinstance(decoded, dict):
            raise ValueError("must be a JSON object")  # noqa: TRY004 - a wrong value of a field
        if len(encoded) > longest:
            raise ValueError(f"is {len(encoded)} bytes long, at most {longest} are kept")
        if check is not None:
            check(decoded)
        return encoded.decode()

    def show_object(stored: str | None) -> Any:
        return None if stored is None else msgspec.json.decode(stored)

    return Kind(parse_object, show=show_object)


def _parse_bool(value: Any) -> int:
    text = str(value).strip().lower()
    if text in _TRUE:
        return 1
    if text in _FALSE:
        return 0
    raise ValueError("must be true or false")


def _parse_phone(value: Any) -> str:
    # Imported here: its metadata take 40 ms to load, and most commands check no number.
    import phonenumbers  # noqa: PLC0415

    if not isinstance(value, str | int) or isinstance(value, bool) or len(str(value)) > 40:
        raise ValueError("must be a phone number")
    try:
        parsed = phonenumbers.parse(str(value), "CN")
    except phonenumbers.NumberParseException:
        raise ValueError("is not a phone number") from None
    if parsed.extension:
        raise ValueError("has an extension, which cannot be dialled from here")
    reason = phonenumbers.is_possible_number_with_reason(parsed)
    if reason == phonenumbers.ValidationResult.TOO_LONG:
        raise ValueError("has too many digits for a phone number")
    if reason != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise ValueError("has too few digits for a phone number (a land line needs its area code)")
    national = str(parsed.national_number)
    if parsed.country_code == 86 and not (  # a digit too many in a mobile number is still possible elsewhere
        phonenumbers.is_valid_number(parsed) or (len(national) == 11 and national.startswith("1"))
    ):
        raise ValueError("is not a Chinese number: a mobile number has 11 digits, a land line needs its area code")
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def _parse_timezone(value: Any) -> str:
    try:
        return zoneinfo.ZoneInfo(str(value).strip()).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not an IANA time zone such as Asia/Shanghai") from None


def _parse_date(value: Any) -> str:
    try:
        return date.fromisoformat(str(value).strip()).isoformat()
    except ValueError:
        raise ValueError("must be a date such as 2026-11-22") from None


def _parse_clock_time(value: Any) -> str:
    text = str(value).strip()
    if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}", text) is None:
        raise ValueError("must be a time such as 22:30")
    hour, minute = map(int, text.split(":"))
    try:
        return time(hour, minute).strftime("%H:%M")
    except ValueError:
        raise ValueError("must be a time such as 22:30") from None


def _parse_email(value: Any) -> str:
    text = str(value).strip()
    if re.fullmatch(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,190}", text) is None:
        raise ValueError("is not an e-mail address")
    return text


def normalize_key(key: str) -> str:
    """One spelling of a maker's identity: lower case, and a MAC or EUI without its separators."""
    text = key.strip().lower()
    return text.replace(":", "").replace("-", "") if _HEX_PAIRS.fullmatch(text) else text


def _parse_key(value: Any) -> str:
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not 1 <= len(text) <= 128 or any(not character.isprintable() for character in text):
        raise ValueError("must be 1 to 128 printable characters")
    return text


def _digits_key(name: str, lowest: int, highest: int, pattern: str) -> Kind:
    def parse_digits(value: Any) -> str:
        text = re.sub(r"[\s:-]", "", str(value))
        if not lowest <= len(text) <= highest or re.fullmatch(pattern, text) is None:
            size = str(lowest) if lowest == highest else f"{lowest} to {highest}"
            raise ValueError(f"must be {size} {name}")
        return text.lower()

    return Kind(parse_digits)


ID: Final = Kind(check_id)
BOOL: Final = Kind(_parse_bool, show=bool)
PHONE: Final = Kind(_parse_phone)
TIMEZONE: Final = Kind(_parse_timezone)
DATE: Final = Kind(_parse_date)
CLOCK_TIME: Final = Kind(_parse_clock_time)
EMAIL: Final = Kind(_parse_email)
KEY: Final = Kind(_parse_key)
IMEI: Final = _digits_key("digits", 14, 16, r"[0-9]+")
ICCID: Final = _digits_key("digits (ICCID)", 18, 22, r"[0-9A-Fa-f]+")
DEVEUI: Final = _digits_key("hexadecimal digits", 16, 16, r"[0-9A-Fa-f]+")
MAC: Final = _digits_key("hexadecimal digits", 12, 16, r"[0-9A-Fa-f]+")


def show_row(spec: Spec, row: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """The JSON view of stored values."""
    return {name: spec.field(name).kind.show(row.get(name)) for name in (names or spec.names)}


def decode_object(stored: str | None) -> dict[str, Any]:
    """A stored JSON object."""
    return {} if stored is None else msgspec.json.decode(stored, type=dict[str, Any])


def encode_object(value: Mapping[str, Any]) -> str:
    """JSON text of an object."""
    return msgspec.json.encode(value).decode()
