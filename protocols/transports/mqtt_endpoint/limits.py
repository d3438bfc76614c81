"""Every bound of the MQTT endpoint, in one place."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of one listener; the session bounds hold for all listeners that share the sessions.

    ``packet_bytes`` bounds the Remaining Length, so it leaves room for a topic and properties around 65,536 bytes of
    payload. ``inflight`` is also the Receive Maximum that an MQTT 5 device is told.
    """

    connections: int = 20_000
    unauthenticated_per_address: int = 200
    tls_handshakes: int = 1000  # at the same time
    authentications: int = 256  # at the same time; the others wait their turn within the handshake time
    handshake_s: float = 10.0  # from the accepted socket to CONNACK
    packet_bytes: int = 70_000
    packet_s: float = 30.0  # from a packet's first byte to its last
    keep_alive_s: int = 3600  # longest, where the server may say so (MQTT 5)
    inflight: int = 1000  # unacknowledged publishes of one connection
    pending: int = 50_000  # unacknowledged publishes of all; above it only connections with more than a few are held
    frames_per_offer: int = 200
    write_buffer_bytes: int = 65_536
    write_stall_s: float = 30.0  # how long a peer may refuse to read what it is sent
    topic_aliases: int = 16
    client_id_bytes: int = 256
    will_bytes: int = 8192  # a longer will is kept as the signal that the connection was lost
    subscriptions: int = 16  # of one session
    sessions_per_device: int = 4
    session_expiry_s: int = 7 * 86_400
    down_payload_bytes: int = 65_536
    down_per_device: int = 100
    down_total_bytes: int = 33_554_432
    down_inflight: int = 16  # unacknowledged downlink messages of one connection
    drain_s: float = 5.0  # at the end: how long commits on their way may still be acknowledged
    sweep_s: float = 1.0
