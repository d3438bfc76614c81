"""Journal records as rows of PostgreSQL's binary COPY format, packed by hand.

The format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format". A row is an int16 count of columns,
then for each an int32 length (-1 for null) and that many bytes. Packing a whole row by a few ``struct`` calls costs
a fraction of ``psycopg.Copy.write_row`` (see tests/unit/test_history_copyrows.py for the proof that both say the same).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

import msgspec

from gateway.model import METRICS, Position, Reading, Record

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"

METRIC_COLUMNS: Final = tuple(METRICS)
OBSERVATION_COLUMNS: Final = (
    "site_id", "stored", "verified", "seq", "received_at", "observed_at", "effective_at",
    "position_valid", "position_accuracy_m", "latitude", "longitude", "position_at", "position_source",
    "person_id", "device_id", "device_key", "transport", "profile", "extra", *METRIC_COLUMNS,
)  # fmt: skip
SIGNAL_COLUMNS: Final = (
    "site_id", "active", "stored", "verified", "seq", "received_at", "observed_at", "effective_at",
    "person_id", "device_id", "device_key", "signal",
)  # fmt: skip

PG_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01T00:00:00Z
EARLIEST_US: Final = -62_135_596_800_000_000  # 0001-01-01; outside of these years nothing can print a time
LATEST_US: Final = 253_402_300_799_999_999  # 9999-12-31
LATEST_RECEIPT_US: Final = LATEST_US - 366 * 86_400 * 1_000_000
BELIEVED_AGE_US: Final = 30 * 86_400 * 1_000_000
"""A device's time is believed up to this far behind the receipt."""

CACHE_LIMIT: Final = 50_000

_head = struct.Struct(">h ih iB iB iq iq iq iq").pack
_position = struct.Struct(">iB if id id iq").pack
_signal_head = struct.Struct(">h ih iB iB iB iq iq iq iq").pack
_length = struct.Struct(">i").pack
_NO_POSITION: Final = NULL * 6
_ROWS: Final = len(OBSERVATION_COLUMNS)
_SIGNAL_ROWS: Final = len(SIGNAL_COLUMNS)


class Shape:
    """How the measurements of one set of metrics are packed: one ``struct`` call for all metric columns of a row."""

    __slots__ = ("others", "pack", "template", "values")

    def __init__(self, metrics: tuple[str, ...]) -> None:
        known = [name for name in METRIC_COLUMNS if name in metrics]
        self.others = tuple(name for name in metrics if name not in METRICS)
        pattern, nulls = [">"], b""
        self.template: list[Any] = []
        for name in METRIC_COLUMNS:
            if name not in known:
                nulls += NULL
                continue
            before = nulls + b"\0\0\0\x08"
            pattern.append(f"{len(before)}sd")
            self.template += [before, 0.0]
            nulls = b""
        pattern.append(f"{len(nulls)}s")
        self.template.append(nulls)
        self.pack = struct.Struct("".join(pattern)).pack
        self.values: Callable[[dict[str, float]], tuple[float, ...]]
        if len(known) > 1:
            self.values = itemgetter(*known)
        elif known:
            only = known[0]
            self.values = lambda measurements: (measurements[only],)
        else:
            self.values = lambda _: ()

    def columns(self, measurements: dict[str, float]) -> bytes:
        arguments = self.template.copy()
        arguments[1::2] = self.values(measurements)
        return self.pack(*arguments)


class RowPacker:
    """Packs the records of one site. Keeps bounded caches of texts and of sets of metrics."""

    def __init__(self, site_id: int) -> None:
        self._site_id = site_id
        self._texts: dict[str, bytes] = {"": NULL}
        self._required: dict[str, bytes] = {}
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def observation(self, seq: int, record: Record, reading: Reading) -> bytes:
        """The wide row. Raises struct.error, OverflowError or ValueError for what no row can hold."""
        received_us = record.received_at_us
        if received_us < 0 or received_us > LATEST_RECEIPT_US:
            raise ValueError(f"received at {received_us} us: no partition can hold that")
        said_us = reading.observed_at_us
        if said_us < EARLIEST_US or said_us > LATEST_US:
            said_us = received_us
        measurements = reading.measurements
        key = tuple(measurements)
        shape = self._shapes.get(key) or self._new_shape(key)
        texts = self._texts
        person = texts.get(record.person_id) or self._text(record.person_id)
        device_id = record.device_id
        if device_id:
            device = (texts.get(device_id) or self._text(device_id)) + NULL
        else:
            device = NULL + (texts.get(record.device_key) or self._text(record.device_key))
        required = self._required
        transport = required.get(record.transport) or self._text_or_empty(record.transport)
        profile = required.get(record.profile) or self._text_or_empty(record.profile)
        extra = NULL
        if shape.others or reading.unknown or said_us != reading.observed_at_us:
            extra = self._extra(reading, shape.others)
        return b"".join(
            (
                _head(
                    _ROWS, 2, self._site_id, 1, reading.stored, 1, record.verified, 8, seq,
                    8, received_us - PG_EPOCH_US, 8, said_us - PG_EPOCH_US,
                    8, effective_us(received_us, said_us) - PG_EPOCH_US,
                ),
                _NO_POSITION if reading.position is None else self._place(reading.position, said_us),
                person, device, transport, profile, extra,
                shape.columns(measurements),
            )
        )  # fmt: skip

    def signals(self, seq: int, record: Record, reading: Reading) -> list[bytes]:
        """One row for each signal. Raises as ``observation`` does."""
        received_us = record.received_at_us
        said_us = reading.observed_at_us
        if said_us < EARLIEST_US or said_us > LATEST_US:
            said_us = received_us
        device = self._text(record.device_id) + (NULL if record.device_id else self._text(record.device_key))
        return [
            _signal_head(
                _SIGNAL_ROWS, 2, self._site_id, 1, active, 1, reading.stored, 1, record.verified, 8, seq,
                8, received_us - PG_EPOCH_US, 8, said_us - PG_EPOCH_US,
                8, effective_us(received_us, said_us) - PG_EPOCH_US,
            )
            + self._text(record.person_id) + device + self._text_or_empty(name)
            for name, active in reading.signals.items()
        ]  # fmt: skip

    def _place(self, position: Position, said_us: int) -> bytes:
        at_us = position.observed_at_us
        if at_us < EARLIEST_US or at_us > LATEST_US:
            at_us = said_us
        accuracy = position.accuracy_m
        source = self._texts.get(position.source) or self._text(position.source)
        if accuracy is not None and abs(accuracy) < 1e38:
            return _position(
                1, position.valid, 4, accuracy,
                8, position.latitude, 8, position.longitude, 8, at_us - PG_EPOCH_US,
            ) + source  # fmt: skip
        return (
            struct.pack(">iB", 1, position.valid)
            + NULL
            + struct.pack(">idid iq", 8, position.latitude, 8, position.longitude, 8, at_us - PG_EPOCH_US)
            + source
        )

    def _text(self, text: str) -> bytes:
        """A text column; "" is null."""
        found = self._texts.get(text)
        if found is None:
            if len(self._texts) >= CACHE_LIMIT:
                self._texts = {"": NULL}
            found = self._texts[text] = pack_text(text)
        return found

    def _text_or_empty(self, text: str) -> bytes:
        found = self._required.get(text)
        if found is None:
            if len(self._required) >= CACHE_LIMIT:
                self._required = {}
            found = self._required[text] = pack_text(text)
        return found

    def _new_shape(self, key: tuple[str, ...]) -> Shape:
        if len(self._shapes) >= CACHE_LIMIT:
            self._shapes = {}
        shape = self._shapes[key] = Shape(key)
        return shape

    def _extra(self, reading: Reading, others: tuple[str, ...]) -> bytes:
        extra: dict[str, Any] = {}
        if others:
            extra["metrics"] = {name: reading.measurements[name] for name in others}
        if reading.unknown:
            extra["unknown"] = reading.unknown
        if not EARLIEST_US <= reading.observed_at_us <= LATEST_US:
            extra["observed_at_us"] = reading.observed_at_us
        body = b"\x01" + json_bytes(extra)  # jsonb's wire format: version 1, then text
        return _length(len(body)) + body


def effective_us(received_us: int, said_us: int) -> int:
    """The time that orders: the device's, unless it is ahead of the receipt or unbelievably far behind it."""
    return said_us if received_us - BELIEVED_AGE_US <= said_us <= received_us else received_us


def pack_text(text: str) -> bytes:
    """A text column. PostgreSQL has no NUL in text: U+FFFD stands for it."""
    data = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    return _length(len(data)) + data


def json_bytes(value: Any) -> bytes:
    """JSON that jsonb takes: NUL characters become U+FFFD, NaN and infinities null; what JSON has not becomes text."""
    try:
        data = msgspec.json.encode(value, enc_hook=repr)
    except (TypeError, ValueError, RecursionError):
        data = msgspec.json.encode(_jsonable(value, 0))
    if b"\\u0000" in data:
        data = msgspec.json.encode(_jsonable(value, 0))
    return data


def _jsonable(value: Any, depth: int) -> Any:  # noqa: PLR0911 - one return for each kind of value
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if depth > 32:  # deeper than any protocol of ours; the journal has the whole
        return repr(type(value))
    if isinstance(value, dict):
        return {str(key).replace("\0", "\ufffd"): _jsonable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return repr(value).replace("\0", "\ufffd")
