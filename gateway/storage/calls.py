"""The call log (DB4110 5.10): every call and message, who to whom, when, and what came of it. Questions to it.

Its rows are those of ``attempt``, ``attempt_told`` and ``call_recording``, which are written where calls are made.
Functions take a connection inside a transaction of the caller. Views are JSON-ready.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway import audit
from gateway.clock import iso
from gateway.errors import NotFoundError
from gateway.filters import where
from gateway.model import Actor

MAX_ROWS: Final = 10_000
FULL_ROLES: Final = frozenset({"admin", "supervisor", "auditor"})
"""Who sees whole numbers. Everybody else who may read the log sees them masked."""

ANSWERS: Final[Mapping[str, str]] = MappingProxyType({"1": "accepted", "2": "declined", "9": "wrong_number"})
"""What the key means that was pressed."""

_TIMES: Final = ("created", "started", "sent", "rang", "answered", "ended")
_TEXTS: Final = (
    "attempt_id", "direction", "medium", "provider", "provider_id", "alert_id", "person_id", "contact_id", "role",
    "caller", "callee",
)  # fmt: skip
_COLUMNS: Final = (
    "id", *_TEXTS, "state", "digits", "reason", "tries", "duration_s", *(f"{name}_at_us" for name in _TIMES),
)  # fmt: skip
HELD: Final = (
    "EXISTS (SELECT 1 FROM legal_hold WHERE released_at_us IS NULL AND subject IN ('call/' || attempt.id,"
    " iif(attempt.alert_id = '', NULL, 'alert/' || attempt.alert_id),"
    " iif(attempt.person_id = '', NULL, 'person/' || attempt.person_id)))"
)
"""SQL: whether a hold in force names this call, its alert or its person."""
_SELECT: Final = f"SELECT {', '.join(f'attempt.{name}' for name in _COLUMNS)}, {HELD} FROM attempt"  # noqa: S608 - ours

CSV_COLUMNS: Final = (
    "id", *_TEXTS, "state", "digits", "answer", "reason", "tries", *(f"{name}_at" for name in _TIMES), "duration_s",
    "recording_serials", "recording_references", "recording_uris", "held",
)  # fmt: skip

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_PLAIN_NUMBER: Final = re.compile(r"\+[0-9]{1,15}")


class Question(Struct, frozen=True, kw_only=True):
    """Which calls. "" and None do not narrow. ``number`` is whole, as it was dialled (E.164) or came in.

    Times are those at which the call was decided: ``from_us`` counts in, ``to_us`` does not. ``before``: only calls
    with a smaller id.
    """

    person_id: str = ""
    alert_id: str = ""
    contact_id: str = ""
    number: str = ""
    medium: str = ""
    state: str = ""
    from_us: int | None = None
    to_us: int | None = None
    before: int | None = None

    def asked(self) -> list[str]:
        """The names of what narrows it, for the audit."""
        return [name for name in self.__struct_fields__ if getattr(self, name) not in ("", None)]


def search(
    connection: apsw.Connection, question: Question, *, limit: int = 100, masked: bool = False
) -> list[dict[str, Any]]:
    """Calls and messages, newest first, at most ``limit`` (1 to MAX_ROWS)."""
    asked, values = _where(question)
    rows = connection.execute(
        f"{_SELECT}{asked} ORDER BY attempt.id DESC LIMIT ?",
        (*values, max(1, min(limit, MAX_ROWS))),
    ).fetchall()
    views = [_view(row) for row in rows]
    for view in views:
        view["recordings"] = recordings(connection, view["attempt_id"], view["provider"])
    return [masked_view(view) for view in views] if masked else views


def show(connection: apsw.Connection, call_id: int, *, masked: bool = False) -> dict[str, Any]:
    """One call with everything that its provider told. Raises NotFoundError."""
    row = connection.execute(f"{_SELECT} WHERE attempt.id = ?", (call_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no call {call_id} in the call log")
    view = _view(row)
    view["recordings"] = recordings(connection, view["attempt_id"], view["provider"])
    told = connection.execute(
        "SELECT state, digits, duration_s, recording, provider, provider_id, at_us FROM attempt_told"
        " WHERE attempt_id = ? ORDER BY at_us, provider, state, digits",
        (view["attempt_id"],),
    )
    view["told"] = [
        {
            "state": state, "digits": digits, "duration_s": None if seconds < 0 else seconds, "recording": recording,
            "provider": provider, "provider_id": provider_id, "at": iso(at_us),
        }
        for state, digits, seconds, recording, provider, provider_id, at_us in told
    ]  # fmt: skip
    return masked_view(view) if masked else view


def recordings(connection: apsw.Connection, attempt_id: str, provider: str) -> list[dict[str, Any]]:
    """What was recorded of one call, by serial number."""
    rows = connection.execute(
        "SELECT serial, reference, uri, sha256, duration_s, recorded_at_us FROM call_recording"
        " WHERE attempt_id = ? AND provider = ? ORDER BY serial",
        (attempt_id, provider),
    )
    return [
        {
            "serial": serial, "reference": reference, "uri": uri, "sha256": sha256, "duration_s": seconds,
            "recorded_at": iso(at_us),
        }
        for serial, reference, uri, sha256, seconds, at_us in rows
    ]  # fmt: skip


def to_csv(views: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of CSV (RFC 4180) with a heading.

    No cell is a formula to a spreadsheet: a ``'`` goes in front of such text.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for view in views:
        recorded: Sequence[Mapping[str, Any]] = view["recordings"]
        cells = dict(view)
        for each in ("serial", "reference", "uri"):
            cells[f"recording_{each}s"] = [one[each] for one in recorded]
        writer.writerow([_cell(cells[name]) for name in CSV_COLUMNS])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def note_export(
    connection: apsw.Connection, question: Question, count: int, *, actor: Actor, now_us: int, masked: bool
) -> None:
    """Audit that rows of the log left the house: what narrowed the question, never numbers or names."""
    audit.append(
        connection, at_us=now_us, actor=actor, action="calls_exported", subject="calls",
        after={"count": count, "narrowed_by": question.asked(), "masked": masked},
    )  # fmt: skip


def mask(address: str) -> str:
    """A number without its middle, an e-mail or SIP address without its name.

    Names of endpoints and robots stay as they are, and numbers of up to four digits: those are public services.
    """
    scheme, separator, rest = address.rpartition(":")
    if "@" in rest:
        name, _, domain = rest.rpartition("@")
        return f"{scheme}{separator}{name[:1]}***@{domain}"
    digits = re.sub(r"[^0-9]", "", rest)
    if len(digits) < 5 or any(character.isalpha() for character in rest):
        return address
    kept = digits[:-8] if len(digits) > 8 else ""
    plus = "+" if rest.startswith("+") else ""
    return f"{scheme}{separator}{plus}{kept}****{digits[-4:] if kept else digits[-2:]}"


def masked_view(view: Mapping[str, Any]) -> dict[str, Any]:
    """The same call for who may not see whole numbers, nor where its sound is."""
    recorded = [{**each, "uri": ""} for each in view["recordings"]]
    return {**view, "caller": mask(view["caller"]), "callee": mask(view["callee"]), "recordings": recorded}


def _where(question: Question) -> tuple[str, tuple[Any, ...]]:
    names = ("person_id", "alert_id", "contact_id", "medium", "state")
    number_hash = hashlib.sha256(question.number.encode()).hexdigest()
    since_us, until_us, before = question.from_us, question.to_us, question.before
    return where(
        *((getattr(question, name), f"attempt.{name} = ?", (getattr(question, name),)) for name in names),
        (question.number, "attempt.address_hash = ?", (number_hash,)),
        (since_us is not None, "attempt.created_at_us >= ?", (since_us,)),
        (until_us is not None, "attempt.created_at_us < ?", (until_us,)),
        (before is not None, "attempt.id < ?", (before,)),
    )


def _view(row: Sequence[Any]) -> dict[str, Any]:
    values = dict(zip((*_COLUMNS, "held"), row, strict=True))
    view = {name: values[name] for name in ("id", *_TEXTS, "state", "digits")}
    view["answer"] = ANSWERS.get(values["digits"])
    view |= {name: values[name] for name in ("reason", "tries")}
    for name in _TIMES:
        at_us = values[f"{name}_at_us"]
        view[f"{name}_at"] = None if at_us is None else iso(at_us)
    return view | {"duration_s": values["duration_s"], "held": bool(values["held"])}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    risky = text.startswith((*_FORMULA, "'")) and not _PLAIN_NUMBER.fullmatch(text)
    return f"'{text}" if risky else text
