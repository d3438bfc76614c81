"""The TLS context of a listener, from the files that its section of the configuration names."""

from __future__ import annotations

import ssl

from gateway.errors import ConfigError


def server_context(
    name: str, tls_listen: str, certificate_file: str, key_file: str, client_ca_file: str | None = None
) -> ssl.SSLContext | None:
    """TLS 1.2 or newer; None where the section ``name`` listens nowhere with TLS.

    Client certificates are asked for when there is a CA to check them against; None: the section knows of none.
    Raises ConfigError for files that are missing or cannot be used.
    """
    if not tls_listen:
        return None
    if not (certificate_file and key_file):
        raise ConfigError(f"{name}.tls_listen: needs {name}.certificate_file and {name}.key_file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate_file, key_file)
        if client_ca_file:
            context.load_verify_locations(client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        files = "certificate or key" if client_ca_file is None else "certificate, key or client CA"
        raise ConfigError(f"{name}: the {files} cannot be used: {error}") from error
    return context
