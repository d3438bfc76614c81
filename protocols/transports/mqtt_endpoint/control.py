"""What a client asks besides publishing: acknowledgements, subscriptions, the end of its session."""

from __future__ import annotations

from protocols.transports.mqtt_endpoint import packets
from protocols.transports.mqtt_endpoint import properties as p
from protocols.transports.mqtt_endpoint.link import STORING, Link
from protocols.transports.mqtt_endpoint.listener import Listener
from protocols.transports.mqtt_endpoint.packets import Ack, Disconnect, Subscribe, Unsubscribe
from protocols.transports.mqtt_endpoint.reader import PROTOCOL_ERROR, PacketError
from protocols.transports.mqtt_endpoint.subscriptions import REASON, grant


class Control(Link):
    """A connection whose client is known, as far as its session goes."""

    __slots__ = ("_problem_information", "device_id")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self.device_id = ""
        self._problem_information = True

    def on_control(self, packet: Ack | Subscribe | Unsubscribe | Disconnect) -> None:
        """Answer a packet. Raises PacketError."""
        match packet:
            case Ack():
                self._on_ack(packet)
            case Subscribe():
                self._on_subscribe(packet)
            case Unsubscribe():
                self._on_unsubscribe(packet)
            case Disconnect():
                self._on_disconnect(packet)

    def _on_ack(self, packet: Ack) -> None:
        session = self._session
        if session is None:
            return
        if packet.type == p.PUBACK:
            self._listener.sessions.acknowledged(session, packet.packet_id, packet.code)
        elif packet.type == p.PUBREL:
            known = packet.packet_id in session.received
            session.received.discard(packet.packet_id)
            code = packets.SUCCESS if known else packets.PACKET_ID_NOT_FOUND
            self.send(packets.ack(p.PUBCOMP, packet.packet_id, code, self.version))
        else:
            raise PacketError(PROTOCOL_ERROR, "an acknowledgement of QoS 2, which the server never sends")

    def _on_subscribe(self, packet: Subscribe) -> None:
        session = self._session
        if session is None:
            return
        granted, codes = grant(self.device_id, session.subscriptions, packet, self._listener.limits)
        failed = max(codes) >= packets.UNSPECIFIED
        if failed:
            self._listener.count(self._listener.refused, "filter")
        reason = REASON if failed and self._problem_information else ""
        answer = packets.suback(packet.packet_id, codes, self.version, reason)
        if len(answer) > self.packet_maximum:
            answer = packets.suback(packet.packet_id, codes, self.version)

        def then() -> None:
            self._resume(STORING)
            self.send(answer)
            self._listener.sessions.pump(session)

        self._pause(STORING)  # or a client could pile up answers while nothing can be stored
        self._listener.sessions.subscribe(session, granted, then)

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        session = self._session
        if session is None:
            return
        known = session.subscriptions
        codes = [
            packets.SUCCESS if pattern in known else packets.NO_SUBSCRIPTION_EXISTED for pattern in packet.patterns
        ]
        answer = packets.unsuback(packet.packet_id, codes, self.version)

        def then() -> None:
            self._resume(STORING)
            self.send(answer)

        self._pause(STORING)
        self._listener.sessions.unsubscribe(session, packet.patterns, then)

    def _on_disconnect(self, packet: Disconnect) -> None:
        session, sessions = self._session, self._listener.sessions
        if session is None:
            return
        expiry_s = packet.properties.get(p.SESSION_EXPIRY)
        if expiry_s is not None:
            if expiry_s and not session.expiry_s:
                raise PacketError(PROTOCOL_ERROR, "a session expiry after none in CONNECT (5.0 section 3.14.2.2.2)")
            sessions.change_expiry(session, min(expiry_s, self._listener.limits.session_expiry_s))
        # [MQTT-3.14.4-3]: only a normal disconnection makes the will void.
        sessions.detach(session, self, with_will=packet.code != packets.SUCCESS)
        self._listener.count(self._listener.closed, "by_client")
        self.finish()
