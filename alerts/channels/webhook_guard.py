"""Where a webhook may go: to public addresses, and to private ones only where the configuration names their network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx2
from msgspec import Struct

from gateway.errors import DeliveryDeferredError, DeliveryRefusedError

RESOLVE_S: Final = 5.0
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses. Raises OSError."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Target(Struct, frozen=True):
    """A URL whose host is an address that was judged, the Host header, and the name that TLS has to prove."""

    url: str
    host: str
    name: str


async def system_resolver(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


async def resolve(url: str, allowed: Sequence[Network], resolver: Resolver = system_resolver) -> Target:
    """Look the host up once and judge every address it has; the request then goes to that address and no other.

    Plain HTTP is for allow-listed networks only. Raises DeliveryRefusedError for an address that may not be, and
    DeliveryDeferredError while the name cannot be looked up.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise DeliveryRefusedError("the webhook's address is malformed") from error
    host = parsed.host
    if parsed.scheme not in ("http", "https") or not host or parsed.userinfo:
        raise DeliveryRefusedError("a webhook's address is http(s)://host/..., without a user name")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        addresses: Sequence[str] = [str(ipaddress.ip_address(host))]
    except ValueError:
        try:
            async with asyncio.timeout(RESOLVE_S):
                addresses = await resolver(host, port)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise DeliveryDeferredError("the webhook's host name cannot be looked up") from error
    if not addresses:
        raise DeliveryDeferredError("the webhook's host name has no address")
    judged = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
    listed = all(any(address in network for network in allowed) for address in judged)
    if not listed and not all(is_public(address) for address in judged):
        raise DeliveryRefusedError("the webhook's host is not a public address and not on the list of allowed networks")
    if not listed and parsed.scheme != "https":
        raise DeliveryRefusedError("a webhook to a public address needs https")
    return Target(str(parsed.copy_with(host=str(judged[0]))), parsed.netloc.decode("ascii"), host)


def is_public(address: Address) -> bool:
    """Whether an address is one of the open Internet, also behind the prefixes that wrap IPv4 into IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
    return address.is_global and not address.is_multicast
