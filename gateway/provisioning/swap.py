"""One device in the place of another that is in the registry already, as an installer with two boxes does it."""

from __future__ import annotations

import apsw

from gateway.errors import ConflictError
from gateway.model import Actor
from gateway.registry.changes import begin, existing
from gateway.registry.credentials import touch_device
from gateway.registry.devices import SPEC, apply_device, current_person

_INHERITED = ("district", "install_place", "agreement_ref", "agreement_waiver")


def swap(connection: apsw.Connection, old_id: str, new_id: str, *, at_us: int, actor: Actor, reason: str) -> None:
    """``new_id`` takes over the person and the place of ``old_id``, which is retired: its tokens end.

    Homes, fences and limits are the person's and stay. Both bindings stand in the history.
    Raises NotFoundError, ConflictError.
    """
    old, new = existing(connection, SPEC, old_id), existing(connection, SPEC, new_id)
    if old_id == new_id or old["state"] == "retired" or new["state"] != "active":
        raise ConflictError("a device in service is replaced by another one that is active")
    if current_person(connection, new_id) is not None:
        raise ConflictError(f"device {new_id!r} belongs to somebody already")
    person_id = current_person(connection, old_id)
    change = begin(connection, at_us=at_us, actor=actor, reason=reason)
    apply_device(connection, old, {"state": "retired"}, change, "device.replace")
    taken = {name: old[name] for name in _INHERITED if old[name] is not None}
    apply_device(connection, new, {**taken, "person_id": person_id}, change)
    connection.execute("UPDATE device SET replaced_by = ? WHERE id = ?", (new_id, old_id))
    touch_device(connection, old_id, change, "device.replaced_by", {"replaced_by": new_id})
