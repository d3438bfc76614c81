"""How addresses of listeners are written: ``host:port``, an IPv6 host in brackets."""

from __future__ import annotations


def host_and_port(address: str) -> tuple[str, int]:
    """The parts, the host without brackets. ValueError when the port is no number."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def shown(host: str, port: int) -> str:
    """The other way."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
