"""What sections of the configuration are made of: the base of them all, and kinds of values."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _listen_address(value: str) -> str:
    if value == "":
        return value
    host, separator, port = value.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("write it as host:port, for example 127.0.0.1:1883, or leave it empty to switch it off")
    host = host.removeprefix("[").removesuffix("]")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise ValueError(f"{host!r} is not an IP address; write 0.0.0.0 for every interface") from error
    return value


def _history_dsn(value: str) -> str:
    if value not in ("", "embedded") and not value.startswith(("postgresql://", "postgres://")):
        raise ValueError('write "embedded", a postgresql:// URL, or leave it empty to switch history off')
    return value


def _http_url(value: str) -> str:
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("write an http:// or https:// URL, or leave it empty")
    return value.rstrip("/")


def _host_port(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if value and not (separator and host and port.isdecimal() and 0 < int(port) <= 65_535):
        raise ValueError("write it as host:port")
    return value


HostPort = Annotated[str, AfterValidator(_host_port)]
ListenAddress = Annotated[str, AfterValidator(_listen_address)]
HistoryDsn = Annotated[str, AfterValidator(_history_dsn)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Section(BaseModel):
    """Immutable; an unknown key is an error. A key that ends in ``_file`` or ``_files`` is a path."""

    model_config = ConfigDict(extra="forbid", frozen=True)
