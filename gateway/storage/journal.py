"""The journal's rows: what a commit writes, and how it is read back. Synchronous functions on a connection."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import apsw
import msgspec
import structlog

from gateway.audit import next_seq
from gateway.model import Committed, Record

log = structlog.get_logger("journal")
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Record])
_UNWRITABLE: Final = (ValueError, OverflowError, TypeError, RecursionError)
"""UnicodeEncodeError is a ValueError."""
MENDED: Final = "partly not kept: no store can hold it"
DEEPEST: Final = 32


class CorruptBatch(msgspec.Struct, frozen=True):
    """A row whose content is not what was written: these sequence numbers cannot be read."""

    first_seq: int
    last_seq: int
    reason: str


def encode_batch(records: Sequence[Record]) -> bytes:
    """MessagePack array of records, each an array of its fields in the order of the class.

    A record that cannot be written as a codec left it is mended in place, with a fault: one device's message must not
    stand in the way of everybody's commits.
    """
    try:
        return _ENCODER.encode(records)
    except _UNWRITABLE:
        for record in records:
            _mend(record)
        return _ENCODER.encode(records)


def _mend(record: Record) -> None:
    try:
        _ENCODER.encode(record)
    except _UNWRITABLE as error:
        log.error("record_mended", codec=record.codec, device=record.device_id, error=type(error).__name__)
        for name in Record.__struct_fields__:
            setattr(record, name, _writable(getattr(record, name), 0))
        record.fault = f"{record.fault}; {MENDED}" if record.fault else MENDED


def _writable(value: Any, depth: int) -> Any:
    """The value as MessagePack can say it: valid text, integers of 64 bits, a bounded depth; None for anything else."""
    if isinstance(value, dict | list | tuple | msgspec.Struct):
        return None if depth > DEEPEST else _members(value, depth + 1)
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, float | bytes) else None


def _members(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        members = ((_writable(str(name), depth), _writable(member, depth)) for name, member in value.items())
        return {name: member for name, member in members if member is not None}
    if isinstance(value, msgspec.Struct):
        stated = {name: getattr(value, name) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **{name: _writable(member, depth) for name, member in stated.items()})
    return [_writable(member, depth) for member in value]


def storable_text(text: str) -> str:
    """UTF-8 has no half of a surrogate pair, which JSON can name, and no store takes one."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def decode_batch(body: bytes) -> list[Record]:
    """The inverse of encode_batch. Raises msgspec.DecodeError."""
    return _DECODER.decode(body)


def insert(connection: apsw.Connection, records: Sequence[Record]) -> int:
    """Append records in the caller's transaction; return the sequence number of the first. ``records`` is not empty."""
    body = encode_batch(records)
    first_seq = next_seq(connection)
    connection.execute(
        "INSERT INTO batch (first_seq, last_seq, received_at_us, checksum, body) VALUES (?, ?, ?, ?, ?)",
        (first_seq, first_seq + len(records) - 1, records[-1].received_at_us, zlib.crc32(body), body),
    )
    return first_seq


def read_after(connection: apsw.Connection, seq: int, batches: int = 64) -> Iterator[Committed | CorruptBatch]:
    """Records behind ``seq`` in order, from at most this many rows. The first one may begin in the middle of a row."""
    rows = connection.execute(
        "SELECT first_seq, last_seq, checksum, body FROM batch"
        " WHERE first_seq > coalesce((SELECT max(first_seq) FROM batch WHERE first_seq <= ?), 0)"
        " OR (first_seq = (SELECT max(first_seq) FROM batch WHERE first_seq <= ?) AND last_seq > ?)"
        " ORDER BY first_seq LIMIT ?",
        (seq, seq, seq, batches),
    )
    for first_seq, last_seq, checksum, body in rows:
        read = decode_row(first_seq, last_seq, checksum, body)
        if isinstance(read, Committed) and first_seq <= seq:
            read = Committed(seq + 1, read.records[seq + 1 - first_seq :])
        yield read


def decode_row(first_seq: int, last_seq: int, checksum: int, body: bytes) -> Committed | CorruptBatch:
    """One row of ``batch``, checked."""
    if zlib.crc32(body) != checksum:
        return CorruptBatch(first_seq, last_seq, "its checksum does not match its content")
    try:
        records = decode_batch(body)
    except msgspec.DecodeError as error:
        return CorruptBatch(first_seq, last_seq, f"it cannot be decoded: {error}")
    if len(records) != last_seq - first_seq + 1:
        return CorruptBatch(first_seq, last_seq, f"it holds {len(records)} records")
    return Committed(first_seq, records)


def last_seq(connection: apsw.Connection) -> int:
    """The newest sequence number given out, to a record or to an audit row; 0 for an empty journal."""
    return next_seq(connection) - 1


def last_record_seq(connection: apsw.Connection) -> int:
    """The sequence number of the newest record; 0 for an empty journal."""
    row = connection.execute("SELECT last_seq FROM batch ORDER BY first_seq DESC LIMIT 1").fetchone()
    return 0 if row is None else int(row[0])


def readers(connection: apsw.Connection) -> dict[str, int]:
    """The last sequence number that each reader has finished."""
    return dict(connection.execute("SELECT name, seq FROM reader ORDER BY name"))


def set_reader(connection: apsw.Connection, name: str, seq: int, at_us: int) -> None:
    """Remember how far a reader is. Never moves backwards."""
    connection.execute(
        "INSERT INTO reader (name, seq, at_us) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, at_us = excluded.at_us WHERE excluded.seq > seq",
        (name, seq, at_us),
    )


def stat(connection: apsw.Connection) -> dict[str, Any]:
    """first_seq, last_seq and records of the journal, the file's bytes in use, and the readers."""
    row = connection.execute(
        "SELECT coalesce(min(first_seq), 0), coalesce(sum(last_seq - first_seq + 1), 0) FROM batch"
    ).fetchone()
    assert row is not None
    pages = connection.pragma("page_count") - connection.pragma("freelist_count")
    return {
        "first_seq": row[0],
        "last_seq": last_record_seq(connection),
        "records": row[1],
        "bytes": pages * connection.pragma("page_size"),
        "readers": readers(connection),
    }


def prune(connection: apsw.Connection, *, older_than_us: int, max_bytes: int, batches: int = 200) -> int:
    """Delete a slice of the oldest rows that every reader has finished and that are too old or too many.

    Returns how many rows went. The newest row always stays, since it holds the end of the sequence.
    """
    slowest = connection.execute("SELECT min(seq) FROM reader").fetchone()
    bookmark = 0 if slowest is None or slowest[0] is None else int(slowest[0])
    in_use = (connection.pragma("page_count") - connection.pragma("freelist_count")) * connection.pragma("page_size")
    too_big = in_use > max_bytes
    connection.execute(
        "DELETE FROM batch WHERE first_seq IN (SELECT first_seq FROM batch WHERE last_seq <= ?"
        " AND first_seq < (SELECT max(first_seq) FROM batch) AND (? OR received_at_us < ?) ORDER BY first_seq LIMIT ?)",
        (bookmark, too_big, older_than_us, batches),
    )
    return connection.changes()
