"""Faults of the site itself: open P4 alerts, one of a kind. Inside a transaction of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from alerts import rows
from alerts.lifecycle import apply_effects
from alerts.policy import Policy
from gateway.model import Raise, Severity


def is_open(connection: apsw.Connection, kind: str, policy: Policy) -> bool:
    """Whether such a fault is open."""
    return rows.find_open(connection, rows.subject_of(policy.site, "", ""), kind, verified=True) is not None


def raise_technical(
    connection: apsw.Connection,
    kind: str,
    effect_id: str,
    now_us: int,
    policy: Policy,
    *,
    evidence: Mapping[str, Any],
) -> None:
    """A fault of this site's own: an open P4 of the site, one of a kind."""
    effect = Raise(
        effect_id=effect_id,
        kind=kind,
        severity=Severity.P4,
        person_id="",
        device_id="",
        seq=0,
        occurred_at_us=now_us,
        received_at_us=now_us,
        rule_id="carebell.outbox",
        rule_version="1",
        evidence=dict(evidence),
    )
    apply_effects(connection, [effect], now_us, policy)
