"""A site of one file for stories of alerts: its clock, its desk, and what was done."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alerts import rows
from alerts.due import fire_due
from alerts.lifecycle import Applied, apply_effects, transition
from alerts.rows import Alert
from gateway.clock import VirtualClock
from gateway.model import Actor, Effect
from tests.alerts_support import OPERATOR, UNSUPERVISED, FileStore, committed, sos

POLICY = UNSUPERVISED
START = datetime(2026, 11, 22, 22, 4, tzinfo=UTC)


class Site:
    """A file, a virtual clock, and short words for what happens."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder)
        self.connection = self.store.connection
        self.clock = VirtualClock(START)

    def effects(self, *effects: Effect) -> Applied:
        return committed(self.connection, lambda c: apply_effects(c, effects, self.clock.now_us(), POLICY))

    def press(self, number: int = 1, **members: Any) -> Alert:
        applied = self.effects(sos(number, at_us=self.clock.now_us(), **members))
        return rows.get(self.connection, (applied.raised or applied.changed)[0])

    def do(self, alert: Alert, action: str, actor: Actor = OPERATOR, **members: Any) -> Alert:
        return committed(
            self.connection,
            lambda c: transition(
                c, alert.id, action, expected_version=None, actor=actor, now_us=self.clock.now_us(), policy=POLICY,
                **members,
            ),
        )  # fmt: skip

    def wait(self, seconds: float) -> int:
        self.clock.advance(seconds)
        return committed(self.connection, lambda c: fire_due(c, self.clock.now_us(), POLICY))

    def actions(self, alert: Alert) -> list[str]:
        return [each["action"] for each in rows.show_alert(self.connection, alert.id)["transitions"]]
