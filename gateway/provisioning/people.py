"""Whom an installer may find, how little of them is shown, and which devices an installer may open."""

from __future__ import annotations

import re
from typing import Any, Final

import apsw

from gateway.errors import ConflictError, NotFoundError
from gateway.filters import where
from gateway.provisioning import claims
from gateway.provisioning.links import Installer
from gateway.registry.changes import rows
from gateway.security import mask_name, mask_phone

FOUND: Final = 8
_SHOWN: Final = 4


def masked(row: dict[str, Any]) -> dict[str, Any]:
    """Enough to tell two people of one house from each other, and no more."""
    return {
        "person_id": row["id"],
        "name": mask_name(row["name"]),
        "phone": mask_phone(row["phone"]),
        "address": mask_address(row["address"]),
        "community": row["community"] or "",
        "birth_year": row["birth_year"],
    }


def mask_address(address: str | None) -> str:
    """All but the door: ``和平里3号楼1单元402`` as ``和平里3号楼1单***``."""
    if not address:
        return ""
    kept = max(2, len(address) - max(_SHOWN, len(address) // 3))
    return address[:kept] + "***"


def search(connection: apsw.Connection, text: str, district: str) -> list[dict[str, Any]]:
    """At most eight people in care, masked: by id, by two characters of the name, or by the phone's last four digits.

    ``district`` "" is the whole site.
    """
    text = text.strip()[:64]
    digits = re.sub(r"[\s+-]", "", text)
    by_phone = digits if digits.isdecimal() and len(digits) >= 4 else ""
    by_name = text if len(text) >= 2 and not by_phone else ""
    asked, values = where(
        (True, "state <> 'ceased'", ()),
        (district, "district = ?", (district,)),
        (by_name, "(id = ? OR instr(name, ?) > 0)", (text, by_name)),
        (by_phone, "(id = ? OR substr(phone, -length(?)) = ?)", (text, by_phone, by_phone)),
        (not by_name and not by_phone, "id = ?", (text,)),
    )
    found = rows(connection, f"SELECT * FROM person{asked} ORDER BY id LIMIT ?", (*values, FOUND))  # noqa: S608 - ours
    return [masked(row) for row in found]


def person_of(connection: apsw.Connection, person_id: str, district: str) -> dict[str, Any]:
    """A person of this district, masked. Raises NotFoundError, as for one that does not exist."""
    asked, values = where((True, "id = ?", (person_id,)), (district, "district = ?", (district,)))
    row = next(rows(connection, f"SELECT * FROM person{asked}", values), None)  # noqa: S608 - ours
    if row is None:
        raise NotFoundError(f"there is no person {person_id!r} here")
    return masked(row)


def openable(connection: apsw.Connection, installer: Installer, device_id: str) -> dict[str, Any]:
    """The stored device with ``person_id`` and ``place_district``, if this installer may work on it.

    That is a device claimed by this link, or one in service in the link's district. Raises NotFoundError for any
    other, ConflictError for one of this district that nobody claimed yet.
    """
    row = next(
        rows(
            connection,
            "SELECT d.*, b.person_id, coalesce(p.district, d.district, '') AS place_district FROM device d"
            " LEFT JOIN binding b ON b.device_id = d.id AND b.to_us IS NULL LEFT JOIN person p ON p.id = b.person_id"
            " WHERE d.id = ?",
            (device_id,),
        ),
        None,
    )
    claimed = row is not None and claims.used_by(connection, device_id, installer.link_id)
    in_district = row is not None and installer.district in ("", row["place_district"])
    if row is None or not (in_district or (claimed and row["place_district"] == "")):
        raise NotFoundError(f"there is no device {device_id!r} here")
    if not claimed and row["person_id"] is None and row["dispose_requested_at_us"] is None:
        raise ConflictError("scan the code on its label first")
    found: dict[str, Any] = row
    return found
