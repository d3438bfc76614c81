"""The timers of a dossier against those that plain statements leave, on a real file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import timers
from alerts.dossier import load
from alerts.lifecycle import apply_effects
from alerts.policy import Policy
from gateway.storage.database import FILE_NAME
from tests.alerts_support import sos
from tests.quick_file import quick_database

KINDS = ("remind", "progress", "present", "ladder_family")
ALERT = 1

arming = st.tuples(st.just("arm"), st.sampled_from(KINDS), st.integers(0, 50), st.integers(0, 3))
hastening = st.tuples(st.just("hasten"), st.sampled_from(KINDS), st.integers(0, 50), st.just(0))
cancelling = st.tuples(st.just("cancel"), st.sampled_from(KINDS), st.just(0), st.just(0))
writing = st.tuples(st.just("write"), st.just(""), st.just(0), st.just(0))
"""Between two transitions that share a dossier."""


@contextmanager
def raised() -> Iterator[tuple[apsw.Connection, str]]:
    with tempfile.TemporaryDirectory() as folder:
        connection = quick_database(Path(folder) / FILE_NAME)
        (alert_id,) = apply_effects(connection, [sos(ALERT)], 1_000, Policy()).raised
        connection.execute("DELETE FROM timer")
        yield connection, alert_id
        connection.close()


def statements(connection: apsw.Connection) -> list[str]:
    """The statements of the connection from now on, as they come."""
    asked: list[str] = []

    def note(_cursor: object, sql: str, _bindings: object) -> bool:
        asked.append(sql)
        return True

    connection.exec_trace = note
    return asked


def table(connection: apsw.Connection) -> list[Any]:
    return connection.execute("SELECT kind, due_at_us, epoch FROM timer ORDER BY kind").fetchall()


def hasten(connection: apsw.Connection, alert_id: str, kind: str, due_us: int) -> None:
    """As one statement says it."""
    connection.execute(
        "INSERT INTO timer (alert_id, kind, due_at_us, epoch) VALUES (?, ?, ?, 0) ON CONFLICT (alert_id, kind)"
        " DO UPDATE SET due_at_us = min(due_at_us, excluded.due_at_us), epoch = 0",
        (alert_id, kind, due_us),
    )


@given(
    before=st.dictionaries(st.sampled_from(KINDS), st.tuples(st.integers(0, 50), st.integers(0, 3))),
    acts=st.lists(st.one_of(arming, hastening, cancelling, writing), max_size=12),
)
def test_timers_come_to_what_statements_one_by_one_come_to(
    before: dict[str, tuple[int, int]], acts: list[tuple[str, str, int, int]]
) -> None:
    with raised() as (connection, alert_id):
        for kind, (due_us, epoch) in before.items():
            timers.arm(connection, alert_id, kind, due_us, epoch)
        connection.execute("SAVEPOINT statements")
        for act, kind, due_us, epoch in acts:
            if act == "arm":
                timers.arm(connection, alert_id, kind, due_us, epoch)
            elif act == "hasten":
                hasten(connection, alert_id, kind, due_us)
            elif act == "cancel":
                timers.cancel(connection, alert_id, (kind,))
        expected = table(connection)
        connection.execute("ROLLBACK TO statements")
        dossier = load(connection, alert_id)
        for act, kind, due_us, epoch in acts:
            if act == "arm":
                dossier.timers.arm(kind, due_us, epoch)
            elif act == "hasten":
                dossier.timers.hasten(kind, due_us)
            elif act == "cancel":
                dossier.timers.cancel((kind,))
            else:
                dossier.write(connection)
        found = {kind: due_us for kind, due_us, _ in expected}
        assert {kind: dossier.timers.find(kind) for kind in KINDS} == {kind: found.get(kind) for kind in KINDS}
        dossier.write(connection)
        assert table(connection) == expected


def test_a_write_that_changes_nothing_asks_nothing_of_the_file() -> None:
    with raised() as (connection, alert_id):
        timers.arm(connection, alert_id, "remind", 5)
        dossier = load(connection, alert_id)
        dossier.timers.cancel(("progress",))
        asked = statements(connection)
        dossier.write(connection)
        assert asked == []


@pytest.mark.parametrize("presses", [1, 3])
def test_a_raise_takes_few_statements(presses: int) -> None:
    """Beside a busy loop each statement waits for the interpreter: what a press costs is their number."""
    with raised() as (connection, _):
        effects = [sos(10 + number, person_id=f"P-{number}") for number in range(presses)]
        asked = statements(connection)
        apply_effects(connection, effects, 2_000, Policy())
        assert len(asked) <= 1 + 14 * presses
