"""What a registration says: endpoint, lifetime, and the links of its objects. Pure."""

from __future__ import annotations

import re
from typing import Final

from protocols.codecs.lwm2m_values import FORMATS

MAX_OBJECTS: Final = 256
MAX_LINKS_BYTES: Final = 16_384
MAX_LIFETIME_S: Final = 31 * 86_400
DEFAULT_LIFETIME_S: Final = 86_400

VERSIONS: Final = frozenset({"1.0", "1.1", "1.2"})

_LINK: Final = re.compile(r"<(/[^>]*)>([^,<]*)")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_PREFIXES: Final = ("urn:imei:", "urn:imei-imsi:", "urn:dev:ops:", "urn:esn:", "urn:meid:", "urn:uuid:")


def names_of(endpoint: str) -> list[str]:
    """The names by which a device may be known: the endpoint itself, and what a URN of TS 1.1 (7.4.1) holds."""
    name = next((endpoint.removeprefix(prefix) for prefix in _PREFIXES if endpoint.startswith(prefix)), endpoint)
    names = [endpoint, name]
    if endpoint.startswith("urn:imei-imsi:"):
        names.append(name.partition("-")[0])
    elif endpoint.startswith("urn:dev:ops:"):
        names.append(name.rpartition("-")[2])
    return list(dict.fromkeys(names))


def version_of(stated: str) -> str | None:
    """``1.0``, ``1.1`` or ``1.2``, also from ``v1.0.2`` as some write it; None for another version."""
    version = ".".join(stated.removeprefix("v").split(".")[:2])
    return version if version in VERSIONS else None


def split_endpoint(stated: str, secret: str) -> tuple[str, str]:
    """Endpoint and token. A client that can add nothing to its query has the token behind its name: ``D-1:<token>``."""
    name, _, tail = stated.rpartition(":")
    if name and not secret and _TOKEN.fullmatch(tail):
        return name, tail
    return stated, secret


def lifetime_of(stated: str) -> int | None:
    if not stated:
        return DEFAULT_LIFETIME_S
    if not stated.isascii() or not stated.isdecimal() or len(stated) > 10:
        return None
    seconds = int(stated)
    return min(seconds, MAX_LIFETIME_S) if seconds else None


def objects_of(payload: bytes) -> list[str] | None:
    """The paths of a link-format body, objects and instances; None when it is none."""
    if len(payload) > MAX_LINKS_BYTES:
        return None
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return None
    found = []
    for target, attributes in _LINK.findall(text):
        parts = [part for part in target.split("/") if part]
        if attributes.find("oma.lwm2m") >= 0 and not (parts and parts[-1].isdecimal()):
            continue  # the root
        parts = [part for part in parts if part.isascii() and part.isdecimal() and len(part) <= 5]
        if 1 <= len(parts) <= 2:
            found.append("/" + "/".join(parts))
    if len(found) > MAX_OBJECTS or (text.strip() and not found and "<" not in text):
        return None
    return list(dict.fromkeys(found))


def stated_format(payload: bytes) -> int:
    """The content format that a client names in the link of its root: ``</>;rt="oma.lwm2m";ct=11542``."""
    found = re.search(rb'ct="?(\d{1,5})', payload[:512])
    number = int(found[1]) if found else -1
    return number if number in FORMATS and number > 100 else -1
