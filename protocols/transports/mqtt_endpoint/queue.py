"""Sessions and downlink messages in the journal file. Every function runs in its caller's transaction."""

from __future__ import annotations

from typing import Final

import apsw
import msgspec
from msgspec import Struct

from gateway.errors import ConflictError, UsageError
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.topics import down_topic, valid_name

Subscriptions = dict[str, tuple[int, int]]
"""Filter to granted QoS and subscription identifier (0: none)."""

TOPIC_BYTES: Final = 1024

_subscriptions = msgspec.json.Decoder(Subscriptions)


class Down(Struct, gc=False):
    """A message for a device. ``client_id`` and ``packet_id`` are those of its last transmission, if there was one.

    ``transmitted``: a device may have got it.
    """

    id: int
    device_id: str
    topic: str
    payload: bytes
    expires_at_us: int | None
    client_id: str | None = None
    packet_id: int | None = None
    transmitted: bool = False

    def expired(self, now_us: int) -> bool:
        return self.expires_at_us is not None and self.expires_at_us <= now_us


class SessionRow(Struct, gc=False):
    device_id: str
    client_id: str
    expiry_s: int
    expires_at_us: int | None
    subscriptions: Subscriptions


class Changes(Struct):
    """What is to be written of sessions and messages. Writing it twice does no harm."""

    kept: list[SessionRow]
    dropped: list[tuple[str, str]]
    sent: list[tuple[str, int, int]]  # client id, packet id, message id
    finished: list[int]


def add_down(
    connection: apsw.Connection,
    device_id: str,
    payload: bytes,
    *,
    topic_suffix: str = "",
    created_at_us: int,
    expires_at_us: int | None = None,
    limits: Limits | None = None,
) -> int:
    """Queue a message for ``carebell/<device_id>/down[/<topic_suffix>]`` and return its id.

    A running endpoint finds it within its sweep time. Raises UsageError for a topic that cannot be, ConflictError when
    the device's queue, or all of them together, are full.
    """
    bounds = limits or Limits()
    topic = down_topic(device_id, topic_suffix)
    if not valid_name(topic) or "\0" in topic or len(topic.encode()) > TOPIC_BYTES:
        raise UsageError(f"{topic!r} is not a topic that a device could be sent anything on")
    if len(payload) > bounds.down_payload_bytes:
        raise UsageError(f"{len(payload)} bytes for device {device_id}; at most {bounds.down_payload_bytes} fit")
    row = connection.execute("SELECT count(*) FROM mqtt_down WHERE device_id = ?", (device_id,)).fetchone()
    assert row is not None
    if row[0] >= bounds.down_per_device:
        raise ConflictError(f"{row[0]} messages wait for device {device_id} already; it must fetch them first")
    row = connection.execute("SELECT coalesce(sum(length(payload)), 0) FROM mqtt_down").fetchone()
    assert row is not None
    if row[0] + len(payload) > bounds.down_total_bytes:
        raise ConflictError(f"{row[0]} bytes wait for devices already; no more fit")
    connection.execute(
        "INSERT INTO mqtt_down (device_id, topic, payload, created_at_us, expires_at_us) VALUES (?, ?, ?, ?, ?)",
        (device_id, topic, payload, created_at_us, expires_at_us),
    )
    return connection.last_insert_rowid()


def load_sessions(connection: apsw.Connection) -> list[SessionRow]:
    return [
        SessionRow(device_id, client_id, expiry_s, expires_at_us, _subscriptions.decode(subscriptions))
        for device_id, client_id, expiry_s, expires_at_us, subscriptions in connection.execute(
            "SELECT device_id, client_id, expiry_s, expires_at_us, subscriptions FROM mqtt_session"
        )
    ]


def load_downs(connection: apsw.Connection, after_id: int) -> list[Down]:
    """Messages behind ``after_id``, oldest first."""
    return [
        Down(*row)
        for row in connection.execute(
            "SELECT id, device_id, topic, payload, expires_at_us, client_id, packet_id FROM mqtt_down"
            " WHERE id > ? ORDER BY id",
            (after_id,),
        )
    ]


def apply_changes(connection: apsw.Connection, changes: Changes) -> None:
    connection.executemany(
        "INSERT INTO mqtt_session (device_id, client_id, expiry_s, expires_at_us, subscriptions) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (device_id, client_id) DO UPDATE SET expiry_s = excluded.expiry_s,"
        " expires_at_us = excluded.expires_at_us, subscriptions = excluded.subscriptions",
        [
            (
                row.device_id,
                row.client_id,
                row.expiry_s,
                row.expires_at_us,
                msgspec.json.encode(row.subscriptions).decode(),
            )
            for row in changes.kept
        ],
    )
    connection.executemany("DELETE FROM mqtt_session WHERE device_id = ? AND client_id = ?", changes.dropped)
    connection.executemany("UPDATE mqtt_down SET client_id = ?, packet_id = ? WHERE id = ?", changes.sent)
    connection.executemany("DELETE FROM mqtt_down WHERE id = ?", [(number,) for number in changes.finished])
