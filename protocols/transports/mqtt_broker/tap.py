"""The hook on aiomqtt's inner paho client: what the socket brings, read in large pieces and taken without a queue.

aiomqtt (2.x) has no public manual acknowledgement, and puts every message into a queue in memory, from where it is
iterated one task each. Both are too late for us: paho acknowledges before anybody has stored anything. So the hook is
fitted before the connection is made, since a session's backlog comes right behind the CONNACK. It leans on names inside
paho-mqtt 2; ``check_libraries`` says so before anything starts when they are not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from gateway.errors import ConfigError

READ_BYTES: Final = 65_536  # a turn: about 5 ms of work
PUBACK: Final = 0x40
DEAD_NAME: Final = "asyncio-mqtt"

_NEEDED: Final = (
    "_in_packet", "_out_packet", "_handle_publish", "_handle_connack", "_packet_queue", "_sock_recv", "manual_ack_set",
    "loop_read", "on_socket_open",
)  # fmt: skip

Arrived = Callable[[int, bytes, bytes, bool, bool], None]
"""Packet identifier (0: QoS 0), topic, payload, retained, duplicate."""


def check_libraries() -> None:
    """Raises ConfigError when the libraries that broker mode stands on cannot be used."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        version = metadata.version(DEAD_NAME)
        raise ConfigError(
            f"{DEAD_NAME} {version} is installed: that is the dead old name of aiomqtt, and it crashes beside it;"
            f" pip uninstall {DEAD_NAME}"
        )
    inner = paho.Client(CallbackAPIVersion.VERSION2)
    missing = [name for name in _NEEDED if not hasattr(inner, name)]
    if missing:
        raise ConfigError(
            f"paho-mqtt {metadata.version('paho-mqtt')} has no {missing[0]}: install a 2.x that broker mode knows"
        )


class Tap:
    """Fitted to one client before it connects. ``arrived`` takes each message, ``turn`` ends what one turn brought."""

    def __init__(self, client: aiomqtt.Client, *, arrived: Arrived, turn: Callable[[], None], version: int) -> None:
        self._client = client
        self._inner: Any = client._client  # noqa: SLF001 - see above; Any, for its methods are replaced
        self._arrived = arrived
        self._turn = turn
        self._has_properties = version == 5
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._at = 0
        self._over = False
        self._paused = False
        self.session_present = False
        self.properties: Any = None
        inner: Any = self._inner
        inner.manual_ack_set(True)
        inner._handle_publish = self._handle_publish  # noqa: SLF001
        inner._sock_recv = self._recv  # noqa: SLF001
        self._aiomqtt_connect: Callable[..., None] = inner.on_connect
        inner.on_connect = self._on_connect
        self._aiomqtt_open: Callable[..., None] = inner.on_socket_open
        inner.on_socket_open = self._on_socket_open

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when the connection has ended; its exception says why."""
        return self._client._disconnected  # noqa: SLF001

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        """PUBACK for each, in one write."""
        acks = b"".join([b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids])
        self._inner._packet_queue(PUBACK, acks, 0, 0)  # noqa: SLF001

    def pause(self, on: bool) -> None:
        """Read nothing for a while; what the socket cannot hold waits at the broker."""
        sock = self._inner._sock  # noqa: SLF001
        if sock is None or sock.fileno() < 0:
            return
        self._paused = on
        if on:
            self._loop.remove_reader(sock.fileno())
        else:
            self._loop.add_reader(sock.fileno(), self._readable)
            self._loop.call_soon(self._readable)  # TLS may hold something that no selector tells of

    def break_off(self) -> None:
        """End the connection without a word, so that the broker keeps what was not acknowledged."""
        if not self.ended.done():
            self.ended.set_exception(aiomqtt.MqttError("broken off"))
        self.release()

    def release(self) -> None:
        """Close the socket, whatever state the library thinks it is in."""
        sock = self._inner._sock  # noqa: SLF001
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                self._inner._sock_close()  # noqa: SLF001

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
        self.session_present = bool(flags.session_present)
        self.properties = properties
        self._aiomqtt_connect(client, userdata, flags, code, properties)

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        """Called in the thread that connects. aiomqtt's reader takes one packet a turn; ours takes its place."""
        self._aiomqtt_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._readable)

    def _readable(self) -> None:
        if self._paused:
            return
        try:
            if self._fill():
                while self._at < len(self._buffer) and self._inner.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    pass
        except Exception as error:  # noqa: BLE001 - whatever the library raises here means that the connection is lost
            self._lost(error)
        if self._over:
            self._lost(aiomqtt.MqttError("the broker closed the connection"))
        self._turn()
        sock = self._inner._sock  # noqa: SLF001
        if isinstance(sock, ssl.SSLSocket) and sock.pending():  # decrypted already: no selector tells of it
            self._loop.call_soon(self._readable)

    def _lost(self, error: Exception) -> None:
        """Tell those who wait for the CONNACK, or for the end; the library tells neither of them in every case."""
        connected = self._client._connected  # noqa: SLF001
        if not connected.done():
            connected.set_exception(aiomqtt.MqttError(str(error) or type(error).__name__))
        elif not self.ended.done():
            self.ended.set_exception(error)

    def _fill(self) -> bool:
        """Read once; whether there is something."""
        inner = self._inner
        if inner._sock is None:  # noqa: SLF001
            return False
        try:
            self._buffer, self._at = paho.Client._sock_recv(inner, READ_BYTES), 0  # noqa: SLF001
        except BlockingIOError:
            return False
        if not self._buffer:
            self._over = True
            inner.loop_read()  # reads the end of the stream, and says so
        return bool(self._buffer)

    def _recv(self, most: int) -> bytes:
        """What paho reads from in place of the socket."""
        if self._at < len(self._buffer):
            data = self._buffer[self._at : self._at + most]
            self._at += len(data)
            return data
        if self._over:
            return b""
        raise BlockingIOError

    def _handle_publish(self) -> MQTTErrorCode:
        """A PUBLISH (MQTT 5, 3.3). We subscribe at QoS 1 and allow no topic aliases; anything else is a fault."""
        received = self._inner._in_packet  # noqa: SLF001
        flags, packet = received["command"], received["packet"]
        qos = flags >> 1 & 3
        if qos > 1 or len(packet) < 2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        at = 2 + (packet[0] << 8 | packet[1])
        topic = bytes(packet[2:at])
        packet_id = 0
        if qos:
            packet_id = int.from_bytes(packet[at : at + 2], "big")
            at += 2
        if self._has_properties:
            length, shift = 0, 0
            while at < len(packet) and shift < 28:
                byte = packet[at]
                at += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            at += length
        if at > len(packet) or not topic or (qos and not packet_id):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self._arrived(packet_id, topic, bytes(packet[at:]), bool(flags & 1), bool(flags & 8))
        return MQTTErrorCode.MQTT_ERR_SUCCESS
