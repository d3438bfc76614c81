"""The MQTT endpoints of the configuration, plugged in: one without TLS, one with it, and the sessions of both."""

from __future__ import annotations

import ssl

from device_profiles.loader import Profiles
from gateway.clock import Clock
from gateway.config import MqttSection
from gateway.ports import Ingest, Store
from gateway.registry.directory import Registry
from gateway.tls import server_context
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.server import MqttEndpoint


def tls_context(section: MqttSection) -> ssl.SSLContext | None:
    """The context of the TLS listener. Raises ConfigError."""
    return server_context(
        "mqtt", section.tls_listen, section.certificate_file, section.key_file, section.client_ca_file
    )


def limits_of(section: MqttSection) -> Limits:
    return Limits(
        connections=section.max_connections,
        unauthenticated_per_address=section.max_unauthenticated_per_address,
        handshake_s=section.handshake_s,
        packet_bytes=section.max_packet_bytes,
    )


def endpoints(
    section: MqttSection,
    tls: ssl.SSLContext | None,
    *,
    ingest: Ingest,
    registry: Registry,
    store: Store,
    clock: Clock,
    profiles: Profiles,
) -> dict[str, MqttEndpoint]:
    """``mqtt`` and ``mqtts``, as far as the site listens. They share their sessions and look again at changes."""
    found: dict[str, MqttEndpoint] = {}
    for name, listen, context in (("mqtt", section.listen, None), ("mqtts", section.tls_listen, tls)):
        if listen:
            found[name] = MqttEndpoint(
                listen=listen,
                ingest=ingest,
                credentials=registry,
                directory=registry,
                store=store,
                clock=clock,
                limits=limits_of(section),
                ssl_context=context,
                sessions=next(iter(found.values())).sessions if found else None,
                stands=registry.stands,
                urgent_marks=profiles.urgent_marks,
            )
            registry.on_change(found[name].recheck)
    return found
