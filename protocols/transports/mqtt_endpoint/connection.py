"""One MQTT connection. What a device publishes is acknowledged when, and only when, its commit is on disk."""

from __future__ import annotations

from typing import Final

from gateway.model import DeviceBinding, Frame
from protocols.transports.mqtt_endpoint import handshake, packets
from protocols.transports.mqtt_endpoint import properties as p
from protocols.transports.mqtt_endpoint.control import Control
from protocols.transports.mqtt_endpoint.link import AUTHENTICATING, CHECKING, CLOSED, HELLO, OPEN, UNACKED
from protocols.transports.mqtt_endpoint.listener import Listener
from protocols.transports.mqtt_endpoint.packets import (
    Ack,
    ConnectError,
    Disconnect,
    Pingreq,
    Publish,
    Subscribe,
    Unsubscribe,
)
from protocols.transports.mqtt_endpoint.reader import MALFORMED, PROTOCOL_ERROR, PacketError
from protocols.transports.mqtt_endpoint.session import Session
from protocols.transports.mqtt_endpoint.topics import own, up_topic

OVERSIZED_TIMES: Final = 16
"""How many times the bound a packet of 3.1.1 may be and still be skipped without closing."""

REFUSALS: Final = {
    packets.UNSUPPORTED_VERSION: "version",
    packets.CLIENT_ID_NOT_VALID: "client_id",
    packets.BAD_CREDENTIALS: "credentials",
    packets.NOT_AUTHORIZED: "credentials",
    packets.SERVER_UNAVAILABLE: "unavailable",
}

CLOSURES: Final = {
    MALFORMED: "malformed",
    packets.PACKET_TOO_LARGE: "too_large",
    packets.NOT_AUTHORIZED: "topic",
    packets.ADMINISTRATIVE: "device_inactive",
    packets.RECEIVE_MAXIMUM_EXCEEDED: "receive_maximum",
}

FEW: Final = 16
"""Unacknowledged publishes that a connection may have however many the others have: an emergency always gets in."""

WAITING_BYTES: Final = 65_536
"""Bound for what waits of one connection; a mark that lies across its reads is overlooked until then."""

EARLY_BYTES: Final = 1_048_576
"""Bound for what a client may send behind its CONNECT before the CONNACK."""


class Connection(Control):
    """Reads packets, offers publishes to ingest, and writes what their commits earn.

    Everything that one read brings is parsed in that read; there is no task, future or timer of a connection's own.
    """

    __slots__ = (
        "_aliases", "_marks", "_need", "_rest", "_skip", "_tail", "_uncommitted", "_up", "_waits", "unacked",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self.unacked = 0  # acknowledgements that wait for a commit
        self._up = b""  # the device's topic as it stands in a PUBLISH
        self._rest: bytearray | None = None  # a packet whose end has not come yet
        self._need = 0  # bytes that it needs at least
        self._waits = 0  # bytes in _rest that wait for their turn
        self._marks: tuple[bytes, ...] | None = None  # one of these is in whatever is urgent; None: nobody can tell
        self._skip = 0  # bytes of an oversized packet that are still to be thrown away
        self._aliases: dict[int, bool] | None = None  # topic alias to whether it names a topic of the device
        self._tail: list[bytes] | None = None  # the acknowledgements that wait for this connection's newest commit
        self._uncommitted: set[int] | None = None  # QoS 2 identifiers on their way to disk

    # ---- reading -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        listener = self._listener
        self._heard_s = listener.clock.monotonic_s()
        rest = self._rest
        if rest is None:
            if self._marks is not None and not listener.turns.has_time(len(data)) and not self._may_be_urgent(data):
                self._rest = bytearray(data)
                self._wait(len(data))
                return
        else:
            rest += data
            if self._waits:
                if len(rest) <= WAITING_BYTES and not self._may_be_urgent(data):
                    self._waits += len(data)
                    listener.turns.waiting_bytes += len(data)
                else:
                    self.read_waiting()
                return
            if self._state == CHECKING or len(rest) < self._need:
                if len(rest) > EARLY_BYTES:
                    self._fail(PacketError(packets.QUOTA_EXCEEDED, "too much behind CONNECT"))
                return
            if self._marks is not None and not listener.turns.has_time(len(rest)) and not self._may_be_urgent(rest):
                self._wait(len(rest))
                return
            data = bytes(rest)
            self._rest = None
        self._consume(data)

    def _may_be_urgent(self, data: bytes | bytearray) -> bool:
        return self._marks is None or any(mark in data for mark in self._marks)

    def _wait(self, size: int) -> None:
        self._waits = size
        self._listener.turns.wait(self, size)

    def read_waiting(self) -> int:
        """See turns.Waiter."""
        size, self._waits = self._waits, 0
        if not size:
            return 0
        self._listener.turns.waiting_bytes -= size
        rest, self._rest = self._rest, None
        if rest is not None and self._state == OPEN:
            self._consume(bytes(rest))
        return size

    def connection_lost(self, exc: Exception | None) -> None:
        self.read_waiting()
        super().connection_lost(exc)

    def close(self, code: int, reason: str) -> None:
        self.read_waiting()
        super().close(code, reason)

    def _consume(self, data: bytes) -> None:
        try:
            if self._state == OPEN:
                used = self._read_open(data)
            elif self._state == HELLO:
                used = self._read_hello(data)
            else:
                used = 0
        except PacketError as error:
            self._fail(error)
            return
        if self._state == CLOSED:
            return
        if used < len(data):
            self._rest = bytearray(data[used:] if used else data)
            if used or not self._partial_s:
                self._partial_s = self._heard_s
                self._arm(self._heard_s + self._listener.limits.packet_s)
        elif not self._skip:
            self._partial_s = 0.0

    def _length(self, data: bytes, at: int) -> tuple[int, int]:
        """Remaining Length at ``data[at:]`` and where the body starts; (-1, 0) when more bytes must come."""
        value = 0
        for count in range(4):
            if at + count >= len(data):
                self._need = len(data) - at + 2
                return -1, 0
            byte = data[at + count]
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                if byte == 0 and count:
                    raise PacketError(MALFORMED, "a length takes more bytes than it needs [MQTT-1.5.5-1]")
                return value, at + count + 1
        raise PacketError(MALFORMED, "a remaining length of more than four bytes")

    def _read_hello(self, data: bytes) -> int:
        """The first packet must be CONNECT ([MQTT-3.1.0-1])."""
        if data[0] != 0x10:
            raise PacketError(PROTOCOL_ERROR, "the first packet is not CONNECT [MQTT-3.1.0-1]")
        length, body = self._length(data, 1)
        if length > self._listener.limits.packet_bytes:
            raise PacketError(packets.PACKET_TOO_LARGE, f"a CONNECT of {length} bytes")
        if length < 0 or body + length > len(data):
            if length >= 0:
                self._need = body + length
            return 0
        try:
            packet = packets.read_connect(data, body, body + length)
        except ConnectError as error:
            self.version = error.version
            if error.version != packets.V5 and (not error.version or error.code != packets.UNSUPPORTED_VERSION):
                raise  # 3.1.1 closes without a CONNACK ([MQTT-3.1.4-1] of 3.1.1)
            self.refuse_connect(error.code, str(error))
            return len(data)
        self.version = packet.version
        self._state = CHECKING
        self._pause(AUTHENTICATING)
        listener = self._listener
        listener.spawn(handshake.connect(listener, self, packet))
        return body + length

    def _read_open(self, data: bytes) -> int:  # noqa: C901, PLR0912, PLR0915 -- one loop: a call a message is too much
        """Handle the whole packets in ``data`` and return how many bytes they were. Raises PacketError.

        The first branch is the hot path: QoS 1 on the device's up topic. What came before an error is offered still.
        """
        listener = self._listener
        binding = listener.directory.device(self.device_id)
        if binding is None or binding.state != "active":
            raise PacketError(packets.ADMINISTRATIVE, "the device is not active any more")
        limits, codec, now_us = listener.limits, binding.codec, listener.clock.now_us()
        transport, source, device_id, up = listener.transport, self.source, self.device_id, self._up
        up_length, v5, most = len(up), self.version == packets.V5, limits.frames_per_offer
        frames: list[Frame] = []
        acks: list[bytes] = []
        pos = 0
        end = len(data)
        if self._skip:
            pos = min(self._skip, end)
            self._skip -= pos
        try:
            while end - pos >= 2:
                first = data[pos]
                length = data[pos + 1]
                body = pos + 2
                if length >= 0x80:
                    length, body = self._length(data, pos + 1)
                    if length < 0:
                        break
                    if length > limits.packet_bytes:
                        used = self._read_oversized(data, pos, length, body, codec, frames, acks)
                        if not used:
                            break
                        pos = min(pos + used, end)
                        continue
                stop = body + length
                if stop > end:
                    self._need = stop - pos
                    break
                if (first == 0x32 or first == 0x3A) and data.startswith(up, body):  # noqa: PLR1714 -- the hot path
                    at = body + up_length
                    payload_at = at + 3 if v5 else at + 2
                    identifier = data[at : at + 2]
                    if payload_at <= stop and identifier != b"\0\0" and not (v5 and data[at + 2]):
                        frames.append(
                            Frame(
                                transport, codec, source, data[payload_at:stop], now_us, device_id, True, first == 0x3A
                            )
                        )
                        acks.append(b"\x40\x02" + identifier)
                        pos = stop
                        if len(frames) >= most:
                            self._offer(frames, acks)
                            frames, acks = [], []
                        continue
                self._handle(first, data, body, stop, codec, frames, acks)
                pos = stop
                if self._state == CLOSED:
                    break
            else:
                self._need = 2
        finally:
            self._offer(frames, acks)
        if self._uncommitted is not None or v5:
            self._check_quota()
        return pos

    def _read_oversized(
        self, data: bytes, pos: int, length: int, body: int, codec: str, frames: list[Frame], acks: list[bytes]
    ) -> int:
        """Keep the head of a PUBLISH that is too long, so that it is in the journal with a fault, and skip the rest.

        Returns the bytes that are done with, 0 to wait for more of the head. An MQTT 5 client was told the limit and
        is disconnected ([MQTT-3.2.2-15]); one of 3.1.1 gets its acknowledgement, or it would send this for ever.
        """
        bound = self._listener.limits.packet_bytes
        first = data[pos]
        if first >> 4 != p.PUBLISH:
            raise PacketError(packets.PACKET_TOO_LARGE, f"a packet of {length} bytes; at most {bound}")
        if len(data) - body < bound:
            self._need = body - pos + bound
            return 0
        self._listener.tell_once("mqtt_packet_too_large", self.device_id, bytes=length)
        self._listener.count(self._listener.refused, "too_large")
        self._handle(first, data, body, body + bound, codec, frames, acks)
        if self.version == packets.V5 or length > OVERSIZED_TIMES * bound:
            if acks:
                acks.pop()
            raise PacketError(packets.PACKET_TOO_LARGE, f"a packet of {length} bytes; at most {bound}")
        done = body - pos + length
        self._skip = max(0, pos + done - len(data))
        self._partial_s = self._heard_s
        self._arm(self._heard_s + self._listener.limits.packet_s)
        return done

    def _offer(self, frames: list[Frame], acks: list[bytes]) -> None:
        """Hand frames to ingest; their acknowledgements, and those of what was refused behind them, wait for it."""
        listener = self._listener
        if frames:
            self._tail = listener.acks.add(listener.ingest.offer(frames), self, acks)
            listener.received += len(frames)
        elif not acks:
            return
        elif self.unacked and self._tail is not None:  # in the order of the publishes, [MQTT-4.6.0-2]
            self._tail += acks
        else:
            self.send(b"".join(acks))
            return
        self.unacked += len(acks)
        listener.pending += len(acks)
        limits = listener.limits
        if self.unacked > limits.inflight or (listener.pending > limits.pending and self.unacked > FEW):
            self._pause(UNACKED)

    def _check_quota(self) -> None:
        """[MQTT-3.3.4-9]; a 3.1.1 client was told no number, but its open QoS 2 identifiers are bounded too."""
        inflight = self._listener.limits.inflight
        used = 0 if self._session is None else len(self._session.received)
        if used + (self.unacked if self.version == packets.V5 else 0) > inflight:
            raise PacketError(packets.RECEIVE_MAXIMUM_EXCEEDED, f"more than {inflight} unacknowledged publishes")

    # ---- what is not the hot path ------------------------------------------------------------------------------------

    def _handle(
        self, first: int, data: bytes, body: int, stop: int, codec: str, frames: list[Frame], acks: list[bytes]
    ) -> None:
        packet = packets.read_packet(first, data, body, stop, self.version)
        match packet:
            case Publish():
                self._on_publish(packet, codec, frames, acks)
            case Pingreq():
                self.send(packets.PINGRESP)
            case Ack() | Subscribe() | Unsubscribe() | Disconnect():
                self.on_control(packet)

    def _on_publish(self, packet: Publish, codec: str, frames: list[Frame], acks: list[bytes]) -> None:
        if not self._owns(packet):
            self._refuse_publish(packet, acks)
            return
        if packet.qos == 2:
            if not self._is_new(packet.packet_id, acks):
                return
            acks.append(packets.ack(p.PUBREC, packet.packet_id, packets.SUCCESS, self.version))
        elif packet.qos == 1:
            acks.append(packets.ack(p.PUBACK, packet.packet_id, packets.SUCCESS, self.version))
        frames.append(
            Frame(
                self._listener.transport,
                codec,
                self.source,
                packet.payload,
                self._listener.clock.now_us(),
                self.device_id,
                redelivered=packet.dup,
            )
        )
        if packet.retain and self.version == packets.V5:
            # Told in CONNACK; kept all the same, but not acknowledged ([MQTT-3.2.2-14], section 3.2.2.3.5).
            if packet.qos:
                acks.pop()
            raise PacketError(packets.RETAIN_NOT_SUPPORTED, "retained messages are not supported")

    def _owns(self, packet: Publish) -> bool:
        """Whether the topic, or what its alias stands for, is the device's own."""
        alias = packet.properties.get(p.TOPIC_ALIAS)
        if alias is None:
            return own(self.device_id, packet.topic)
        if not 0 < alias <= self._listener.limits.topic_aliases:  # [MQTT-3.3.2-8], [MQTT-3.3.2-9]
            raise PacketError(packets.TOPIC_ALIAS_NOT_VALID, f"topic alias {alias}")
        if self._aliases is None:
            self._aliases = {}
        if packet.topic:
            self._aliases[alias] = own(self.device_id, packet.topic)
        elif alias not in self._aliases:
            raise PacketError(PROTOCOL_ERROR, f"topic alias {alias} names nothing yet")
        return self._aliases[alias]

    def _refuse_publish(self, packet: Publish, acks: list[bytes]) -> None:
        """A device publishes as itself only. 3.1.1 has no way to say so but to close."""
        listener = self._listener
        listener.count(listener.refused, "topic")
        listener.tell_once("mqtt_foreign_topic", self.device_id)
        reason = "a device may publish under its own prefix only"
        if self.version != packets.V5 or packet.qos == 0:
            raise PacketError(packets.NOT_AUTHORIZED, reason)
        kind = p.PUBACK if packet.qos == 1 else p.PUBREC
        acks.append(self._explained_ack(kind, packet.packet_id, packets.NOT_AUTHORIZED, reason))

    def _explained_ack(self, kind: int, packet_id: int, code: int, reason: str) -> bytes:
        """With the reason in words, if the client wants that ([MQTT-3.1.2-29]) and it fits ([MQTT-3.4.2-2])."""
        if self._problem_information:
            explained = packets.ack(kind, packet_id, code, self.version, reason)
            if len(explained) <= self.packet_maximum:
                return explained
        return packets.ack(kind, packet_id, code, self.version)

    def _is_new(self, packet_id: int, acks: list[bytes]) -> bool:
        """Whether a QoS 2 publish must be offered: not when it is on disk already, or on its way there."""
        if self._session is not None and packet_id in self._session.received:
            acks.append(packets.ack(p.PUBREC, packet_id, packets.SUCCESS, self.version))
            return False
        if self._uncommitted is None:
            self._uncommitted = set()
        if packet_id in self._uncommitted:
            return False
        self._uncommitted.add(packet_id)
        return True

    # ---- what Acks, the handshake, the wheel and the sessions ask ----------------------------------------------------

    def acknowledge(self, acks: list[bytes]) -> None:
        listener = self._listener
        self.unacked -= len(acks)
        listener.pending -= len(acks)
        if acks is self._tail:
            self._tail = None
        if self._uncommitted:
            self._note_received(acks)
        if self._state != OPEN or self._transport is None:
            return
        self._transport.write(b"".join(acks))
        listener.acked += len(acks)
        if self._hold & UNACKED and (
            self.unacked <= FEW
            or (self.unacked <= listener.limits.inflight // 2 and listener.pending <= listener.limits.pending)
        ):
            self._resume(UNACKED)

    def _note_received(self, acks: list[bytes]) -> None:
        """From here a QoS 2 identifier means what is on disk, until its PUBREL."""
        assert self._uncommitted is not None
        for ack in acks:
            if ack[0] == p.PUBREC << 4 and len(ack) == 4:
                packet_id = int.from_bytes(ack[2:4], "big")
                if packet_id in self._uncommitted:
                    self._uncommitted.discard(packet_id)
                    if self._session is not None:
                        self._session.received.add(packet_id)

    def refuse(self, acks: list[bytes]) -> None:
        self.unacked -= len(acks)
        self._listener.pending -= len(acks)
        if self._state != CLOSED:
            self._listener.count(self._listener.closed, "not_stored")
            self.close(packets.IMPLEMENTATION_ERROR, "not stored; connect and send again")

    def refuse_connect(self, code: int, reason: str, *, claimed: str = "") -> None:
        """CONNACK with a reason, then the end ([MQTT-3.1.4-2]). ``claimed`` is the device that it wanted to be."""
        listener = self._listener
        listener.count(listener.refused, REFUSALS.get(code, "connect"))
        listener.tell_once(
            "mqtt_connect_refused", claimed or self.address, status=code, reason=reason, address=self.address
        )
        answer = packets.connack(self.version, code, properties={p.REASON_STRING: reason})
        if len(answer) > self.packet_maximum:  # [MQTT-3.2.2-19]
            answer = packets.connack(self.version, code)
        self.send(answer)
        self.finish()

    def established(
        self, binding: DeviceBinding, session: Session, *, keep_alive_s: int, problem_information: bool, connack: bytes
    ) -> None:
        """The CONNACK of success; what came behind the CONNECT is read now."""
        listener = self._listener
        listener.leave_waiting(self)
        listener.authenticated += 1
        self._session = session
        self.device_id = binding.device_id
        topic = up_topic(binding.device_id).encode()
        self._up = len(topic).to_bytes(2, "big") + topic
        self._marks = listener.urgent_marks(binding)
        self.keep_alive_s = keep_alive_s
        self._problem_information = problem_information
        self._state = OPEN
        self._heard_s = listener.clock.monotonic_s()
        if keep_alive_s:
            self._arm(self._heard_s + 1.5 * keep_alive_s)
        self.send(connack)
        listener.sessions.pump(session, again=True)
        rest, self._rest = self._rest, None
        if rest is not None:
            self._partial_s = 0.0
            self._consume(bytes(rest))
        self._resume(AUTHENTICATING)

    def check_credential(self) -> None:
        """End the connection when what let it in counts no more: the token was replaced, the device left service."""
        listener = self._listener
        if self._state == OPEN and not listener.stands(self.device_id, self.proof, self.common_name):
            listener.count(listener.closed, "credential")
            self.close(packets.ADMINISTRATIVE, "the credential is not valid any more")

    def _fail(self, error: PacketError) -> None:
        """The standard asks to close, with a reason where the version has one (4.13)."""
        listener = self._listener
        if self._state != CLOSED:
            listener.count(listener.closed, CLOSURES.get(error.code, "protocol_error"))
            listener.tell_once("mqtt_closed", self.device_id or self.address, status=error.code, reason=str(error))
        self.close(error.code, str(error))
