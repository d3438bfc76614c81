"""The one sequence that orders everything, and the hash-chained record of who did what.

Kernel: alerts, registry and API all write it, inside whatever transaction makes the change that it tells of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Final

import apsw
import msgspec
import rfc8785

from gateway.model import Actor

GENESIS: Final = bytes(32)


def next_seq(connection: apsw.Connection) -> int:
    """The number after the newest record and audit row. Only valid inside a write transaction."""
    return _next(connection)[0]


def _next(connection: apsw.Connection) -> tuple[int, bytes]:
    """``next_seq``, and the hash of the newest audit row."""
    row: Any = connection.execute(
        "SELECT max(coalesce((SELECT last_seq FROM batch ORDER BY first_seq DESC LIMIT 1), 0),"
        " coalesce((SELECT max(seq) FROM audit), 0),"
        " coalesce((SELECT value FROM meta WHERE key = 'sequence_floor'), 0)) + 1,"
        " (SELECT hash FROM audit ORDER BY seq DESC LIMIT 1)"
    ).fetchone()
    return int(row[0]), GENESIS if row[1] is None else bytes(row[1])


def append(
    connection: apsw.Connection,
    *,
    at_us: int,
    actor: Actor,
    action: str,
    subject: str,
    alert_id: str | None = None,
    version: int = 0,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | msgspec.Raw | None = None,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> int:
    """Write one audit row in the caller's transaction and return its sequence number.

    ``subject`` is ``alert/<id>``, ``person/<id>``, ``device/<id>``, ``outbox/<id>``, ``key/<id>`` and so on.
    ``before`` and ``after`` hold ids, states and settings. Of personal data they hold only that a field changed.
    ``after`` may be what ``canonical`` made of it before, where the transaction has no time for that.
    """
    seq, previous = _next(connection)
    row: dict[str, Any] = {
        "seq": seq,
        "at_us": at_us,
        "actor": msgspec.to_builtins(actor),
        "action": action,
        "subject": subject,
        "alert_id": alert_id,
        "version": version,
        "before": before,
        "after": after,
        "reason": reason,
        "evidence": evidence,
    }
    body = canonical(msgspec.to_builtins(row, builtin_types=(msgspec.Raw,)))
    connection.execute(
        "INSERT INTO audit (seq, at_us, action, subject, alert_id, version, body, previous_hash, hash)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (seq, at_us, action, subject, alert_id, version, body.decode(), previous, _hash(previous, body)),
    )
    return seq


def canonical(value: Any) -> bytes:
    """RFC 8785 JSON of what to_builtins gives. Raises rfc8785.CanonicalizationError for what that cannot say."""
    if _is_plain(value):  # then sorting the keys is all that the standard asks for, and a hundred times quicker
        return msgspec.json.encode(value, order="sorted")
    return rfc8785.dumps(value)


def _is_plain(value: Any) -> bool:
    """Only ASCII keys, text, true, false, null and safe integers: no number that has more than one spelling.

    ``msgspec.Raw`` stands for what is canonical already.
    """
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is int:
        return bool(-(1 << 53) < value < 1 << 53)
    if kind is dict:
        if not (_TEXT.issuperset(map(type, value)) and "".join(value).isascii()):
            return False
        value = value.values()
    elif kind is not list:
        return False
    return all(_is_plain(each) for each in value if type(each) not in _PLAIN)


_TEXT: Final = frozenset({str})
_PLAIN: Final = frozenset({str, NoneType, bool, msgspec.Raw})


def verify(connection: apsw.Connection) -> Iterator[str]:
    """Walk the chain; yield one sentence for each row that was edited, and for each place where rows are missing."""
    previous = GENESIS
    floor = connection.execute("SELECT value FROM meta WHERE key = 'audit_anchor'").fetchone()
    if floor is not None:  # retention removed older rows and wrote down the hash that it stopped at
        previous = bytes(floor[0])
    rows = connection.execute("SELECT seq, at_us, action, subject, body, previous_hash, hash FROM audit ORDER BY seq")
    for seq, at_us, action, subject, body, previous_hash, digest in rows:
        if bytes(previous_hash) != previous:
            yield f"audit row {seq} does not follow the row before it: one or more rows were removed or replaced"
        columns = msgspec.json.decode(body)
        told = (columns["seq"], columns["at_us"], columns["action"], columns["subject"])
        if _hash(bytes(previous_hash), body.encode()) != bytes(digest) or told != (seq, at_us, action, subject):
            yield f"audit row {seq} ({action} {subject}) was changed after it was written"
        previous = bytes(digest)


def _hash(previous: bytes, body: bytes) -> bytes:
    return hashlib.sha256(previous + body).digest()
