"""Rows in binary COPY format, taken apart again by a small reader that knows only the format."""

from __future__ import annotations

import json
import re
import struct
from importlib import resources
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import METRICS, Position, Reading, Record
from gateway.storage.history.copyrows import (
    BELIEVED_AGE_US,
    EARLIEST_US,
    LATEST_US,
    METRIC_COLUMNS,
    OBSERVATION_COLUMNS,
    SIGNAL_COLUMNS,
    RowPacker,
    json_bytes,
)
from gateway.storage.history.writer import seq_of_observation, seq_of_signal

KINDS = {
    **dict.fromkeys((*METRIC_COLUMNS, "latitude", "longitude"), ">d"),
    **dict.fromkeys(("seq", "received_at", "observed_at", "effective_at", "position_at"), ">q"),
    **dict.fromkeys(("stored", "verified", "active", "position_valid"), ">?"),
    "position_accuracy_m": ">f",
    "site_id": ">h",
}
PG_EPOCH_US = 946_684_800_000_000


def take_apart(row: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
    """https://www.postgresql.org/docs/current/sql-copy.html, "Tuples"."""
    (count,) = struct.unpack_from(">h", row)
    assert count == len(columns)
    place = 2
    values: dict[str, Any] = {}
    for name in columns:
        (length,) = struct.unpack_from(">i", row, place)
        place += 4
        if length < 0:
            values[name] = None
            continue
        data = row[place : place + length]
        assert len(data) == length
        place += length
        if name in KINDS:
            (values[name],) = struct.unpack(KINDS[name], data)
        elif name == "extra":
            assert data[:1] == b"\x01"
            values[name] = json.loads(data[1:])
        else:
            values[name] = data.decode()
        if name in ("received_at", "observed_at", "effective_at", "position_at"):
            values[name] += PG_EPOCH_US
    assert place == len(row)
    return values


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TIME = st.integers(min_value=EARLIEST_US - 10**15, max_value=LATEST_US + 10**15)
RECEIVED = st.integers(min_value=1_000_000_000_000_000, max_value=4_000_000_000_000_000)
POSITION = st.builds(
    Position, NUMBER, NUMBER, TIME, st.none() | st.floats(0, 1e6, width=32), st.sampled_from(["gnss", "wifi", ""]),
    st.booleans(),
)  # fmt: skip
READING = st.builds(
    Reading,
    TIME,
    st.dictionaries(st.sampled_from([*METRICS, "x_one", "x_two"]), NUMBER, max_size=8),
    st.dictionaries(st.sampled_from(["sos", "fall", "motion"]), st.booleans()),
    st.none() | POSITION,
    st.none() | st.dictionaries(TEXT, st.none() | st.integers(-(2**63), 2**64 - 1) | TEXT | st.lists(TEXT), max_size=3),
    st.booleans(),
)
RECORD = st.builds(
    Record, RECEIVED, TEXT, TEXT, TEXT, st.binary(max_size=5), TEXT, TEXT, TEXT, TEXT, st.booleans(), st.integers(0, 2),
    TEXT, READING,
)  # fmt: skip


def clean(text: str) -> str:
    return text.replace("\0", "\ufffd")


def maybe(text: str) -> str | None:
    return clean(text) or None


@given(st.lists(st.tuples(st.integers(1, 2**62), RECORD), max_size=5))
def test_a_row_says_what_the_record_said(numbered: list[tuple[int, Record]]) -> None:
    packer = RowPacker(3)
    for seq, record in numbered:
        reading = record.reading
        assert reading is not None
        row = packer.observation(seq, record, reading)
        assert seq_of_observation(row) == seq
        told = take_apart(row, OBSERVATION_COLUMNS)
        believable = EARLIEST_US <= reading.observed_at_us <= LATEST_US
        said = reading.observed_at_us if believable else record.received_at_us
        in_time = record.received_at_us - BELIEVED_AGE_US <= said <= record.received_at_us
        common = {
            "site_id": 3, "seq": seq, "stored": reading.stored, "verified": record.verified,
            "received_at": record.received_at_us, "observed_at": said,
            "effective_at": said if in_time else record.received_at_us,
            "person_id": maybe(record.person_id), "device_id": maybe(record.device_id),
            "device_key": None if record.device_id else maybe(record.device_key),
        }  # fmt: skip
        expected: dict[str, Any] = dict.fromkeys(OBSERVATION_COLUMNS) | common
        expected |= {"transport": clean(record.transport), "profile": clean(record.profile)}
        expected |= {name: value for name, value in reading.measurements.items() if name in METRICS}
        place = reading.position
        if place is not None:
            at = place.observed_at_us if EARLIEST_US <= place.observed_at_us <= LATEST_US else said
            expected |= {
                "position_valid": place.valid, "position_accuracy_m": place.accuracy_m, "latitude": place.latitude,
                "longitude": place.longitude, "position_at": at, "position_source": place.source or None,
            }  # fmt: skip
        extra: dict[str, Any] = {}
        if others := {name: value for name, value in reading.measurements.items() if name not in METRICS}:
            extra["metrics"] = others
        if reading.unknown:
            extra["unknown"] = json.loads(json.dumps(reading.unknown).replace("\\u0000", "\ufffd"))
        if not believable:
            extra["observed_at_us"] = reading.observed_at_us
        expected["extra"] = extra or None
        assert told == expected

        rows = packer.signals(seq, record, reading)
        assert [seq_of_signal(row) for row in rows] == [seq] * len(reading.signals)
        assert [take_apart(row, SIGNAL_COLUMNS) for row in rows] == [
            common | {"signal": name, "active": active} for name, active in reading.signals.items()
        ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.binary() | st.integers(-(2**70), 2**70),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
        max_leaves=12,
    )
)
def test_whatever_was_unknown_becomes_json_that_jsonb_takes(value: Any) -> None:
    data = json_bytes({"unknown": value})
    read = json.loads(data)
    assert "\0" not in json.dumps(read, ensure_ascii=False).replace("\\u0000", "\0")
    assert b"NaN" not in re.sub(rb'"[^"]*"', b"", data)


def test_json_of_what_no_json_has() -> None:
    deep: Any = "bottom"
    for _ in range(5000):
        deep = [deep]
    for odd in (deep, object(), {(1, 2): 3}, {"a": float("nan"), "b": "\0\\u0000"}):
        json.loads(json_bytes({"unknown": odd}))
    assert json.loads(json_bytes({"b": "\0 and \\u0000"})) == {"b": "\ufffd and \\u0000"}


def test_the_tables_have_a_column_for_every_metric() -> None:
    folder = resources.files("gateway.storage.history") / "sql"
    text = "".join(entry.read_text(encoding="utf-8") for entry in sorted(folder.iterdir(), key=lambda one: one.name))
    columns = set(re.findall(r"^\s+(\w+) double precision", text, re.MULTILINE))
    assert columns == set(METRICS) | {"latitude", "longitude"}
