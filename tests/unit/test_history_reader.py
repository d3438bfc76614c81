"""The history's reader against a plain list: everything, once, in order, whatever the bookmark and the limits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.storage.history import reader as reader_module
from gateway.storage.history.reader import JournalReader
from tests.live.history_support import Journal, record


def expected_layout(journal: Journal, layout: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Fill a journal: n > 0 is a batch of n records, 0 a transition, -1 an audit row that is none."""
    records: list[int] = []
    transitions: list[int] = []
    others: list[int] = []
    for size in layout:
        if size > 0:
            first = journal.append([record({"steps": float(number)}) for number in range(size)])
            records += range(first, first + size)
        elif size == 0:
            transitions.append(journal.transition("A-1", 1, {"id": "A-1"}))
        else:
            others.append(journal.transition("", 0, None, alert=False))
    return records, transitions, others


@settings(max_examples=60, deadline=None)
@given(
    layout=st.lists(st.integers(min_value=-1, max_value=7), min_size=1, max_size=25),
    limit=st.integers(min_value=1, max_value=20),
    start=st.integers(min_value=0, max_value=40),
    transitions_limit=st.integers(min_value=1, max_value=4),
)
def test_every_number_once_and_in_order(layout: list[int], limit: int, start: int, transitions_limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "TRANSITIONS_LIMIT", transitions_limit)
        journal = Journal(Path(folder))
        records, transitions, _ = expected_layout(journal, layout)
        reader = JournalReader(journal.path)
        seen_records: list[int] = []
        seen_transitions: list[int] = []
        bookmark = start
        while True:
            part = reader.after(bookmark, limit)
            assert part.after == bookmark
            assert not part.damaged
            numbers = [first + i for first, batch in part.batches for i in range(len(batch))]
            assert all(bookmark < number <= part.last_seq for number in numbers)
            assert all(bookmark < one.seq <= part.last_seq for one in part.transitions)
            seen_records += numbers
            seen_transitions += [one.seq for one in part.transitions]
            if part.last_seq == bookmark:
                break
            bookmark = part.last_seq
        assert seen_records == [seq for seq in records if seq > start]
        assert seen_transitions == [seq for seq in transitions if seq > start]
        reader.close()
        journal.close()


def test_a_damaged_batch_is_told_and_passed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([record({"steps": 1.0})])
    bad = journal.append([record({"steps": 2.0}), record({"steps": 3.0})])
    journal.append([record({"steps": 4.0})])
    with journal.connection:
        journal.connection.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE first_seq = ?", (bad,))
    reader = JournalReader(journal.path)
    part = reader.after(0, 1000)
    assert [first for first, _ in part.batches] == [1, 4]
    assert [(first, last) for first, last, _ in part.damaged] == [(2, 3)]
    assert part.last_seq == 4
    reader.close()
    journal.close()


def test_what_retention_took_too_early_is_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([record(), record()])
    journal.transition("A-1", 1, {})
    journal.append([record()])
    reader = JournalReader(journal.path)
    assert [reader.missing(seq) for seq in (0, 1, 2, 3, 4)] == [0, 0, 0, 0, 0]
    with journal.connection:
        journal.connection.execute("DELETE FROM batch WHERE first_seq = 1")
    assert reader.missing(0) == 2
    assert reader.missing(1) == 1
    assert reader.missing(2) == 0
    assert reader.bounds() == (4, 4)
    reader.close()
    journal.close()
