"""Who is registered and what is observed of them: in memory, and in the journal's file over a restart."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final

import apsw
from msgspec import Struct, field

from gateway.clock import US_PER_S

GRACE_S: Final = 600  # for clients whose lifetime ended while the gateway was away
TOKEN_BYTES: Final = 8
UNKNOWN: Final = -1  # which content format a client writes
ITS_OWN: Final = -2  # it answers only to a request that asks for none


class Observation(Struct):
    """``number`` and ``at_s`` are of the newest notification, ``message`` names the last one
    by message id and number, ``stored`` says whether it is on disk.
    """

    token: bytes
    path: str
    number: int = -1
    at_s: float = 0.0
    message: tuple[int, int | None] = (-1, -1)
    stored: bool = False


class Registration(Struct):
    """A client. ``remote`` and ``messages`` are where it was heard last, None until it speaks after a restart."""

    id: str
    endpoint: str
    device_id: str
    secured: bool
    scheme: str
    host: str
    port: int
    version: str
    binding: str
    lifetime_s: int
    objects: list[str]
    registered_at_us: int
    expires_at_us: int
    format: int = UNKNOWN
    counters: dict[str, int] = field(default_factory=dict)
    observations: dict[bytes, Observation] = field(default_factory=dict)
    remote: Any = None
    messages: Any = None
    heard_s: float = 0.0
    asking: bool = False
    attended: bool = False

    @property
    def queued(self) -> bool:
        """Whether it sleeps between its messages (queue mode)."""
        return "Q" in self.binding


def new_id() -> str:
    """A location that nobody guesses."""
    return secrets.token_hex(8)


def new_token() -> bytes:
    return secrets.token_bytes(TOKEN_BYTES)


class Registrations:
    """In memory. ``changed`` holds the ids whose counters or expiry are not on disk yet."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.by_id: dict[str, Registration] = {}
        self.by_device: dict[str, Registration] = {}
        self.by_token: dict[bytes, Registration] = {}
        self.by_address: dict[tuple[str, int], Registration] = {}
        self.changed: set[str] = set()

    def add(self, registration: Registration) -> None:
        self.by_id[registration.id] = registration
        self.by_device[registration.device_id] = registration
        self.by_address[registration.host, registration.port] = registration
        for token in registration.observations:
            self.by_token[token] = registration

    def remove(self, registration: Registration) -> None:
        self.by_id.pop(registration.id, None)
        if self.by_device.get(registration.device_id) is registration:
            del self.by_device[registration.device_id]
        self._leave(registration)
        for token in registration.observations:
            self.by_token.pop(token, None)
        self.changed.discard(registration.id)

    def move(self, registration: Registration, host: str, port: int) -> None:
        """Note the address that it speaks from now."""
        if (registration.host, registration.port) == (host, port):
            return
        self._leave(registration)
        registration.host, registration.port = host, port
        if self.by_id.get(registration.id) is registration:
            self.by_address[host, port] = registration

    def _leave(self, registration: Registration) -> None:
        address = registration.host, registration.port
        if self.by_address.get(address) is registration:
            del self.by_address[address]

    def observe(self, registration: Registration, observation: Observation) -> None:
        registration.observations[observation.token] = observation
        self.by_token[observation.token] = registration

    def forget(self, registration: Registration, token: bytes) -> None:
        registration.observations.pop(token, None)
        self.by_token.pop(token, None)

    def expired(self, now_us: int) -> list[Registration]:
        return [known for known in self.by_id.values() if known.expires_at_us <= now_us]


# ---- in the journal's file -------------------------------------------------------------------------------------------


def save(connection: apsw.Connection, known: Registration) -> None:
    """A new registration in the place of an older one of its endpoint or device."""
    old = [
        str(row[0])
        for row in connection.execute(
            "SELECT id FROM lwm2m_registration WHERE endpoint = ? OR device_id = ?", (known.endpoint, known.device_id)
        )
    ]
    delete(connection, old)
    connection.execute(
        "INSERT INTO lwm2m_registration VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            known.id, known.endpoint, known.device_id, int(known.secured), known.scheme, known.host, known.port,
            known.version, known.binding, known.lifetime_s, json.dumps(known.objects), known.format,
            json.dumps(known.counters), known.registered_at_us, known.expires_at_us,
        ),
    )  # fmt: skip


def update(connection: apsw.Connection, known: Iterable[Registration]) -> None:
    """What may change of registrations while they last."""
    connection.executemany(
        "UPDATE lwm2m_registration SET scheme = ?, host = ?, port = ?, binding = ?, lifetime_s = ?, objects = ?,"
        " format = ?, counters = ?, expires_at_us = ? WHERE id = ?",
        [
            (
                one.scheme, one.host, one.port, one.binding, one.lifetime_s, json.dumps(one.objects), one.format,
                json.dumps(one.counters), one.expires_at_us, one.id,
            )
            for one in known
        ],
    )  # fmt: skip


def delete(connection: apsw.Connection, ids: Iterable[str]) -> None:
    keys = [(one,) for one in ids]
    connection.executemany("DELETE FROM lwm2m_observation WHERE registration_id = ?", keys)
    connection.executemany("DELETE FROM lwm2m_registration WHERE id = ?", keys)


def save_observation(connection: apsw.Connection, registration_id: str, token: bytes, path: str) -> None:
    """Before the request goes out, so that no notification comes under a token that a restart forgot."""
    connection.execute(
        "INSERT INTO lwm2m_observation SELECT ?, id, ? FROM lwm2m_registration WHERE id = ?",
        (token, path, registration_id),
    )


def delete_observation(connection: apsw.Connection, token: bytes) -> None:
    connection.execute("DELETE FROM lwm2m_observation WHERE token = ?", (token,))


def load(connection: apsw.Connection, now_us: int) -> list[Registration]:
    """Every registration. One whose lifetime ended while nobody listened gets a little more."""
    found: dict[str, Registration] = {}
    for row in connection.execute("SELECT * FROM lwm2m_registration"):
        lifetime_s = int(row[9])
        grace_us = now_us + min(GRACE_S, lifetime_s) * US_PER_S
        known = Registration(
            id=row[0], endpoint=row[1], device_id=row[2], secured=bool(row[3]), scheme=row[4], host=row[5],
            port=row[6], version=row[7], binding=row[8], lifetime_s=lifetime_s, objects=_texts(row[10]),
            format=row[11], counters=_counters(row[12]), registered_at_us=row[13],
            expires_at_us=max(int(row[14]), grace_us),
        )  # fmt: skip
        found[known.id] = known
    for token, registration_id, path in connection.execute("SELECT * FROM lwm2m_observation"):
        owner = found.get(registration_id)
        if owner is not None:
            owner.observations[token] = Observation(token, path)
            owner.attended = True
    return list(found.values())


def _texts(written: str) -> list[str]:
    return [str(one) for one in json.loads(written)]


def _counters(written: str) -> dict[str, int]:
    counters: Mapping[str, Any] = json.loads(written)
    return {str(path): int(count) for path, count in counters.items()}
