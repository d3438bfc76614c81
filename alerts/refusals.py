"""Service codes that are not believed: a value instead of an exception, so that the audit row of it is committed."""

from __future__ import annotations

import apsw
import structlog
from msgspec import Struct

from alerts.lifecycle import transition
from alerts.policy import Policy
from alerts.rows import Alert
from alerts.states import UNCLOSED
from gateway import audit
from gateway.model import Actor

_log = structlog.get_logger(__name__)


class Refused(Struct, frozen=True):
    """What was told was not believed, and why."""

    reason: str


def refuse(
    connection: apsw.Connection,
    alert: Alert | None,
    subject: str,
    reason: str,
    actor: Actor,
    now_us: int,
    policy: Policy,
    *,
    order_id: str | None = None,
) -> Refused:
    """Write it down: on the alert whose order it is about, else (or once that is closed) under ``subject``."""
    _log.warning("order_code_refused", order_id=order_id, alert_id=None if alert is None else alert.id, reason=reason)
    if alert is not None and alert.handling in UNCLOSED:
        transition(
            connection, alert.id, "order_code_refused", expected_version=None, actor=actor, now_us=now_us,
            policy=policy, note=reason, detail={"order_id": order_id},
        )  # fmt: skip
    else:
        audit.append(connection, at_us=now_us, actor=actor, action="order_code_refused", subject=subject, reason=reason)
    return Refused(reason)
