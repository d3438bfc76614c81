"""Which messages count as resends, and that the memory of them is bounded and can be saved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.storage.dedup import KEY_LIFE_US, KEYS, SAVED, WINDOW, Marks


def test_the_same_number_with_the_same_content_is_a_resend() -> None:
    marks = Marks()
    assert not marks.seen_number("D", 0, 7, 1)
    assert marks.seen_number("D", 0, 7, 1)
    assert not marks.seen_number("E", 0, 7, 1), "another device"
    assert not marks.seen_number("D", 1, 7, 1), "another boot"


def test_a_device_that_counts_anew_is_heard() -> None:
    marks = Marks()
    for seq in range(100):
        marks.seen_number("D", 0, seq, 1000 + seq)
    assert not marks.seen_number("D", 0, 5, 99), "a new press that bears an old number"
    assert not marks.seen_number("D", 0, 5 + 10 * WINDOW, 1)
    assert not marks.seen_number("D", 0, 5, 98), "far behind"
    assert marks.seen_number("D", 0, 5, 98)


def test_what_did_not_become_durable_is_forgotten() -> None:
    marks = Marks()
    marks.seen_number("D", 0, 7, 1)
    marks.forget_number("D", 0, 7, 1)
    assert not marks.seen_number("D", 0, 7, 1)
    marks.seen_key("D", "k", 0)
    marks.forget_key("D", "k")
    assert not marks.seen_key("D", "k", 0)


def test_keys_live_ten_minutes_and_are_bounded() -> None:
    marks = Marks()
    assert not marks.seen_key("D", "k", 0)
    assert marks.seen_key("D", "k", KEY_LIFE_US - 1)
    assert not marks.seen_key("D", "k", KEY_LIFE_US)
    for number in range(10 * KEYS):
        marks.seen_key("D", str(number), KEY_LIFE_US)
    assert not marks.seen_key("D", "k", KEY_LIFE_US), "the oldest made room"


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 3)), max_size=300), st.integers(0, 300))
def test_saving_and_restoring_changes_nothing_for_recent_numbers(messages: list[tuple[int, int]], cut: int) -> None:
    whole, first, second = Marks(), Marks(), Marks()
    for seq, digest in messages[:cut]:
        whole.seen_number("D", 0, seq, digest)
        first.seen_number("D", 0, seq, digest)
    second.restore(first.states(first.take_dirty()))
    assert first.take_dirty() == []
    high = max((seq for seq, _ in messages[:cut]), default=-1)
    for seq, digest in messages[cut:]:
        if seq > high - SAVED:
            high = max(high, seq)
            assert second.seen_number("D", 0, seq, digest) == whole.seen_number("D", 0, seq, digest)
