"""A file, a virtual clock, the platform's end of the outbox, and short words for what happens to orders."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alerts import auditor, order_cases, outbox_rows, rows
from alerts.channel import Receipt
from alerts.due import fire_due
from alerts.lifecycle import apply_effects, transition
from alerts.orders import OrderHandler, order_status
from alerts.policy import Policy
from alerts.refusals import Refused
from alerts.rows import Alert
from gateway import audit
from gateway.clock import US_PER_S, VirtualClock
from gateway.model import Clear, Effect, Severity
from tests.alerts_support import OPERATOR, PLATFORM, FileStore, committed, sos

POLICY = Policy()
START = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)


class Desk:
    """An order desk with nobody but the test around it."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder)
        self.connection = self.store.connection
        self.connection.pragma("synchronous", "off")  # what is tested here is not the disk
        self.clock = VirtualClock(START)
        self.number = 0

    @property
    def now_us(self) -> int:
        return self.clock.now_us()

    def effects(self, *effects: Effect) -> list[str]:
        applied = committed(self.connection, lambda c: apply_effects(c, effects, self.now_us, POLICY))
        return applied.raised or applied.changed

    def report(self, kind: str = "sos", severity: Severity = Severity.P1, **members: Any) -> Alert:
        self.number += 1
        effect = sos(self.number, kind=kind, severity=severity, at_us=self.now_us, **members)
        return self.get(self.effects(effect)[0])

    def clear(self, kind: str, device_id: str = "D-0001", person_id: str = "P-0001") -> None:
        self.number += 1
        self.effects(
            Clear(
                effect_id=f"r{self.number}:clear", kind=kind, person_id=person_id, device_id=device_id, seq=self.number,
                at_us=self.now_us, rule_id="signal",
            )
        )  # fmt: skip

    def get(self, alert_id: str) -> Alert:
        return rows.get(self.connection, alert_id)

    def wait(self, us: int) -> None:
        """Let time pass, from one timer to the next."""
        until_us = self.now_us + us
        while True:
            (due,) = self.connection.execute("SELECT min(due_at_us) FROM timer").fetchone() or (None,)
            if due is None or due > until_us:
                break
            self.clock.advance(max(0, due - self.now_us) / US_PER_S)
            committed(self.connection, lambda c: fire_due(c, self.now_us, POLICY))
        self.clock.advance((until_us - self.now_us) / US_PER_S)

    def send(self, status: str = "accepted", *, dead: str = "") -> list[str]:
        """Everything that waits is taken by the platform, or refused."""
        ids = []
        with self.connection:
            for dispatch in outbox_rows.claim(self.connection, "order_api", 100, self.now_us):
                if dead:
                    outbox_rows.finish_dead(self.connection, dispatch.id, dead, self.now_us)
                    OrderHandler(POLICY).died(self.connection, dispatch, dead, self.now_us)
                    continue
                ids.append(f"O-{dispatch.id}")
                outbox_rows.finish_done(self.connection, dispatch.id, self.now_us)
                receipt = Receipt(ids[-1], {"status": status})
                OrderHandler(POLICY).delivered(self.connection, dispatch, receipt, self.now_us)
        return ids

    def platform(self, order_id: str, status: str, **members: Any) -> Alert | Refused:
        body = {"status": status, **members}
        return committed(self.connection, lambda c: order_status(c, order_id, body, PLATFORM, self.now_us, POLICY))

    def act(self, reference: str, action: str, **members: Any) -> dict[str, Any]:
        members = {"actor": OPERATOR, **members}
        return committed(
            self.connection,
            lambda c: order_cases.act(c, reference, action, now_us=self.now_us, policy=POLICY, **members),
        )

    def do(self, alert: Alert, action: str, **members: Any) -> Alert:
        return committed(
            self.connection,
            lambda c: transition(
                c, alert.id, action, expected_version=None, actor=OPERATOR, now_us=self.now_us, policy=POLICY, **members
            ),
        )

    def supervisions(self) -> list[Alert]:
        shown = rows.list_alerts(self.connection, open_only=True, kind="order_supervision")
        return [self.get(each["id"]) for each in shown]

    def actions(self, alert: Alert) -> list[str]:
        return [each["action"] for each in rows.show_alert(self.connection, alert.id)["transitions"]]


def opened(folder: Path) -> Iterator[Desk]:
    """A desk for a fixture; what it leaves behind is checked."""
    made = Desk(folder)
    yield made
    assert list(audit.verify(made.connection)) == []
    assert auditor.without_next_step(made.connection) == []
    made.store.close()
