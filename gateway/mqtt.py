"""The MQTT endpoints of the configuration, plugged in: one without TLS, one with it, and the sessions of both."""

from __future__ import annotations

import ssl

from device_profiles.loader import Profiles
from gateway.clock import Clock
from gateway.config import MqttSection
from gateway.errors import ConfigError
from gateway.ports import Ingest, Store
from gateway.registry.directory import Registry
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.server import MqttEndpoint


def tls_context(section: MqttSection) -> ssl.SSLContext | None:
    """The context of the TLS listener. Client certificates are asked for when there is a CA to check them against.

    Raises ConfigError for files that are missing or cannot be used.
    """
    if not section.tls_listen:
        return None
    if not (section.certificate_file and section.key_file):
        raise ConfigError("mqtt.tls_listen: needs mqtt.certificate_file and mqtt.key_file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(section.certificate_file, section.key_file)
        if section.client_ca_file:
            context.load_verify_locations(section.client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"mqtt: the certificate, key or client CA cannot be used: {error}") from error
    return context


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
