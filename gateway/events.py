"""Normalized events: CloudEvents 1.0 JSON of what the journal holds. Pure; the same input gives the same ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.clock import iso
from gateway.model import METRICS, Record
from gateway.observations import observations

OBSERVATION: Final = "org.carebell.observation.v1"
ALERT: Final = "org.carebell.alert.v1"
DEVICE: Final = "org.carebell.device.v1"
ORDER: Final = "org.carebell.order.v1"


def of_record(site: str, seq: int, record: Record) -> Iterator[dict[str, Any]]:
    """One event for each observation of a record; none when the record holds only a fault."""
    reading = record.reading
    if reading is None:
        return
    source = f"/sites/{site}/devices/{record.device_id or record.device_key or 'unknown'}"
    received_at = iso(record.received_at_us)
    for number, observation in enumerate(observations(reading)):
        data = dict(observation)
        if observation["kind"] == "measurement":
            metric = METRICS.get(observation["metric"])
            data["unit"] = metric.ucum if metric else None
            data["loinc"] = metric.loinc if metric else None
        data |= {
            "device_id": record.device_id or None,
            "person_id": record.person_id or None,
            "received_at": received_at,
            "transport": record.transport,
            "profile": record.profile or None,
            "verified": record.verified,
        }
        yield _event(f"{seq}-{number}", source, OBSERVATION, record.person_id, observation["observed_at"], data)


def of_audit(site: str, seq: int, body: str) -> Iterator[dict[str, Any]]:
    """The event of an audit row that is a transition of an alert, a step of an order, or a change of a device."""
    row = msgspec.json.decode(body)
    action: str = row["action"]
    subject: str = row["subject"]
    after = row["after"] or {}
    device_id = after.get("device_id") or subject.partition("/")[2]
    time = iso(row["at_us"])
    data = {**after, "action": action, "actor": row["actor"], "reason": row["reason"], "evidence": row["evidence"]}
    if row["alert_id"]:
        kind = ORDER if action.startswith(("order_", "service_")) else ALERT
        yield _event(f"{seq}-0", f"/sites/{site}/alerts/{row['alert_id']}", kind, after.get("person_id"), time, data)
    elif subject.startswith("device/"):
        yield _event(f"{seq}-0", f"/sites/{site}/devices/{device_id}", DEVICE, after.get("person_id"), time, data)


def _event(
    event_id: str, source: str, kind: str, person_id: str | None, time: str, data: dict[str, Any]
) -> dict[str, Any]:
    event: dict[str, Any] = {"specversion": "1.0", "id": event_id, "source": source, "type": kind}
    if person_id:
        event["subject"] = f"person/{person_id}"
    event["time"] = time
    event["datacontenttype"] = "application/json"
    event["data"] = data
    return event
