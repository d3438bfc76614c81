"""What installers do on the spot: which devices wait for them, and the record of each visit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import apsw
import msgspec

from gateway import audit
from gateway.clock import US_PER_S, from_us, iso
from gateway.errors import NotFoundError, UsageError
from gateway.filters import where
from gateway.model import Actor
from gateway.registry.changes import rows

DAY_US: Final = 86_400 * US_PER_S
WARRANTY_DAYS: Final = 30
TEST_DAYS: Final = 30
PHOTOS: Final = 10
LONGEST_REFERENCE: Final = 200
LONGEST_NOTE: Final = 1000

REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "dispose_requested": ("服务终止，取回设备", "service ended, fetch the device"),
    "device_fault": ("设备故障", "fault reported"),
    "tamper": ("设备被拆动", "tampered with"),
    "device_silent": ("设备失联", "silent"),
    "connection_lost": ("连接中断", "connection lost"),
    "power_lost": ("电源中断", "power lost"),
    "low_battery": ("电量低", "battery low"),
    "warranty_ending": ("保修将到期", "warranty ends"),
    "credential_ending": ("凭证将到期", "credential ends"),
    "no_agreement": ("无服务协议", "no agreement"),
    "no_test": ("30 天无测试按键", "no test press in 30 days"),
}
"""Why a device is due, the most pressing first."""

_FAULTS: Final = ("device_fault", "tamper", "device_silent", "connection_lost", "power_lost", "low_battery")

_DUE: Final = """
WITH service AS (
    SELECT d.id, d.model, d.profile, d.install_place, d.warranty_until, d.agreement_ref, d.agreement_waiver,
        d.dispose_requested_at_us, d.created_at_us, d.state, b.person_id, b.from_us, p.name, p.address,
        p.agreement_ref AS person_agreement, coalesce(p.district, d.district, '') AS place_district
    FROM device d LEFT JOIN binding b ON b.device_id = d.id AND b.to_us IS NULL
    LEFT JOIN person p ON p.id = b.person_id
    WHERE d.state <> 'retired' OR d.dispose_requested_at_us IS NOT NULL
), reason AS (
    SELECT s.id, 'dispose_requested' AS reason, s.dispose_requested_at_us AS since_us FROM service s
        WHERE s.dispose_requested_at_us IS NOT NULL
    UNION ALL SELECT device_id, kind, min(raised_at_us) FROM alert
        WHERE handling IN ('raised', 'accepted', 'in_progress') AND device_id <> ''
        AND kind IN (SELECT value FROM json_each(?2)) GROUP BY device_id, kind
    UNION ALL SELECT id, 'warranty_ending', NULL FROM service
        WHERE state <> 'retired' AND person_id IS NOT NULL AND warranty_until <= ?3
    UNION ALL SELECT s.id, 'credential_ending', NULL FROM service s WHERE s.state = 'active'
        AND EXISTS (SELECT 1 FROM credential c WHERE c.device_id = s.id AND c.revoked_at_us IS NULL
            AND c.expires_at_us BETWEEN ?4 AND ?5)
        AND NOT EXISTS (SELECT 1 FROM credential c WHERE c.device_id = s.id AND c.revoked_at_us IS NULL
            AND (c.expires_at_us IS NULL OR c.expires_at_us > ?5))
    UNION ALL SELECT id, 'no_agreement', from_us FROM service WHERE state <> 'retired' AND person_id IS NOT NULL
        AND agreement_ref IS NULL AND agreement_waiver IS NULL AND person_agreement IS NULL
    UNION ALL SELECT s.id, 'no_test', (SELECT max(test_passed_at_us) FROM visit v WHERE v.device_id = s.id)
        FROM service s WHERE s.state = 'active' AND s.person_id IS NOT NULL AND s.from_us < ?6
        AND NOT EXISTS (SELECT 1 FROM visit v WHERE v.device_id = s.id AND v.test_passed_at_us >= ?6)
)
SELECT s.id AS device_id, s.model, s.profile, s.person_id, s.name, s.address, s.install_place,
    s.place_district AS district,
    json_group_array(json_object('reason', r.reason, 'since_us', r.since_us)) AS reasons
FROM service s JOIN reason r ON r.id = s.id
"""


def due(
    connection: apsw.Connection, now_us: int, *, district: str = "", after_id: str = "", limit: int = 500
) -> list[dict[str, Any]]:
    """Devices that wait for a visit, by id, each with its ``reasons``, the most pressing first.

    ``name``, ``address`` and ``install_place`` are personal data: whoever shows them masks them.
    """
    soon = (from_us(now_us) + timedelta(days=WARRANTY_DAYS)).date().isoformat()
    bindings = (
        district, msgspec.json.encode(_FAULTS).decode(), soon, now_us, now_us + WARRANTY_DAYS * DAY_US,
        now_us - TEST_DAYS * DAY_US, after_id, limit,
    )  # fmt: skip
    asked, _ = where((district, "s.place_district = ?1", ()), (True, "s.id > ?7", ()))
    order = list(REASONS)
    found = []
    for row in rows(connection, f"{_DUE}{asked} GROUP BY s.id ORDER BY s.id LIMIT ?8", bindings):
        reasons = sorted(msgspec.json.decode(row["reasons"]), key=lambda each: order.index(each["reason"]))
        row["reasons"] = [
            {"reason": each["reason"], "since": None if each["since_us"] is None else iso(each["since_us"])}
            for each in reasons
        ]
        found.append(row)
    return found


# ---- visits ----------------------------------------------------------------------------------------------------------


def begin(connection: apsw.Connection, device_id: str, link_id: str, at_us: int) -> dict[str, Any]:
    """The open visit of this installer at this device, begun now when there is none."""
    connection.execute(
        "INSERT OR IGNORE INTO visit (device_id, link_id, begun_at_us) VALUES (?, ?, ?)", (device_id, link_id, at_us)
    )
    found = current(connection, device_id, link_id)
    assert found is not None
    return found


def current(connection: apsw.Connection, device_id: str, link_id: str) -> dict[str, Any] | None:
    """The open visit as it is stored, with ``photos`` as a list."""
    row = next(
        rows(
            connection,
            "SELECT * FROM visit WHERE device_id = ? AND link_id = ? AND ended_at_us IS NULL",
            (device_id, link_id),
        ),
        None,
    )
    return None if row is None else row | {"photos": msgspec.json.decode(row["photos"])}


def newest(connection: apsw.Connection, device_id: str, link_id: str) -> dict[str, Any] | None:
    """As ``current``, of the newest visit, ended or not."""
    sql = "SELECT * FROM visit WHERE device_id = ? AND link_id = ? ORDER BY id DESC LIMIT 1"
    row = next(rows(connection, sql, (device_id, link_id)), None)
    return None if row is None else row | {"photos": msgspec.json.decode(row["photos"])}


def check_contacts(connection: apsw.Connection, device_id: str, link_id: str, at_us: int) -> None:
    """The installer went through the contacts with the person."""
    visit = begin(connection, device_id, link_id, at_us)
    connection.execute("UPDATE visit SET contacts_checked_at_us = ? WHERE id = ?", (at_us, visit["id"]))


def begin_test(
    connection: apsw.Connection, device_id: str, link_id: str, *, number: int, until_us: int, at_us: int
) -> None:
    """Test mode ``number`` of gateway's suppressions began for a press; an earlier result of this visit goes."""
    visit = begin(connection, device_id, link_id, at_us)
    connection.execute(
        "UPDATE visit SET test_begun_at_us = ?, test_until_us = ?, test_suppression = ?, test_passed_at_us = NULL,"
        " test_alert_id = NULL WHERE id = ?",
        (at_us, until_us, number, visit["id"]),
    )


def test_alert(connection: apsw.Connection, visit: Mapping[str, Any]) -> dict[str, Any] | None:
    """The alert of a press in the visit's test mode: ``alert_id``, ``kind``, ``received_at_us``, ``raised_at_us``.

    Only one that test mode kept from everybody counts: any other would have told people.
    """
    if visit["test_begun_at_us"] is None:
        return None
    return next(
        rows(
            connection,
            "SELECT a.id AS alert_id, a.kind, o.at_us AS received_at_us, a.raised_at_us FROM alert a"
            " JOIN occurrence o ON o.alert_id = a.id AND o.active = 1"
            " WHERE a.device_id = ? AND a.verified = 1 AND o.at_us BETWEEN ? AND ?"
            " AND (a.outcome = 'test' OR EXISTS"
            " (SELECT 1 FROM suppressed_alert s WHERE s.alert_id = a.id AND s.kind = 'test'))"
            " ORDER BY o.at_us LIMIT 1",
            (visit["device_id"], visit["test_begun_at_us"], visit["test_until_us"]),
        ),
        None,
    )


def pass_test(connection: apsw.Connection, visit: Mapping[str, Any], *, at_us: int, actor: Actor) -> bool:
    """Write down that the press of the visit's test arrived, if it did and nobody did before."""
    if visit["test_passed_at_us"] is not None:
        return True
    found = test_alert(connection, visit)
    if found is None:
        return False
    connection.execute(
        "UPDATE visit SET test_passed_at_us = ?, test_alert_id = ? WHERE id = ?",
        (found["received_at_us"], found["alert_id"], visit["id"]),
    )
    audit.append(
        connection, at_us=at_us, actor=actor, action="device.test_passed", subject=f"device/{visit['device_id']}",
        evidence={"alert": found["alert_id"], "kind": found["kind"]},
    )  # fmt: skip
    return True


def test_ended(connection: apsw.Connection, visit_id: int, at_us: int) -> None:
    """Presses after this alarm again."""
    connection.execute("UPDATE visit SET test_until_us = min(test_until_us, ?) WHERE id = ?", (at_us, visit_id))


def record(
    connection: apsw.Connection,
    device_id: str,
    link_id: str,
    *,
    agreement_ref: str,
    photos: list[str],
    note: str,
    at_us: int,
    actor: Actor,
) -> None:
    """What the person signed, references of pictures, and what the office should know. Raises UsageError.

    References and notes are the installer's words: the audit says only that they are there.
    """
    photos = [photo.strip() for photo in photos if photo.strip()]
    if len(photos) > PHOTOS or any(len(photo) > LONGEST_REFERENCE or not photo.isprintable() for photo in photos):
        raise UsageError(f"photos: at most {PHOTOS} references of at most {LONGEST_REFERENCE} characters each")
    if len(note) > LONGEST_NOTE or not note.replace("\n", "").replace("\r", "").isprintable():
        raise UsageError(f"note: at most {LONGEST_NOTE} characters of text")
    if len(agreement_ref) > 100 or not agreement_ref.isprintable():
        raise UsageError("agreement_ref: at most 100 characters")
    visit = begin(connection, device_id, link_id, at_us)
    connection.execute(
        "UPDATE visit SET agreement_ref = ?, photos = ?, note = ? WHERE id = ?",
        (agreement_ref or None, msgspec.json.encode(photos).decode(), note or None, visit["id"]),
    )
    audit.append(
        connection, at_us=at_us, actor=actor, action="device.visit_record", subject=f"device/{device_id}",
        after={"agreement": bool(agreement_ref), "photos": len(photos), "note": bool(note)},
    )  # fmt: skip


def end(
    connection: apsw.Connection, device_id: str, link_id: str, person_id: str | None, *, at_us: int, actor: Actor
) -> None:
    """The visit is over. Raises NotFoundError when there is none."""
    visit = current(connection, device_id, link_id)
    if visit is None:
        raise NotFoundError("this visit has ended")
    connection.execute("UPDATE visit SET ended_at_us = ?, person_id = ? WHERE id = ?", (at_us, person_id, visit["id"]))
    audit.append(
        connection, at_us=at_us, actor=actor, action="device.visit_ended", subject=f"device/{device_id}",
        after={"test_passed": visit["test_passed_at_us"] is not None, "person_id": person_id},
    )  # fmt: skip


def list_visits(connection: apsw.Connection, device_id: str, *, limit: int = 100) -> list[dict[str, Any]]:
    """Visits of a device, newest first, JSON-ready."""
    found = rows(connection, "SELECT * FROM visit WHERE device_id = ? ORDER BY id DESC LIMIT ?", (device_id, limit))
    return [
        {
            name.removesuffix("_us"): iso(value) if name.endswith("_us") and value is not None else value
            for name, value in (row | {"photos": msgspec.json.decode(row["photos"])}).items()
        }
        for row in found
    ]
