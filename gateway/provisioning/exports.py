"""Device credentials for brokers that stand in front: Mosquitto's dynamic-security plugin, EMQX's built-in database."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import apsw

from gateway.errors import UsageError
from gateway.security import is_one_of

ITERATIONS: Final = 101
"""Of PBKDF2, as the plugin does by itself: a token has 256 random bits, so that more rounds protect nothing."""
MAX_ROWS: Final = 200_000
_GATEWAY_ROLE: Final = "carebell-gateway"
_IN_FORCE: Final = (
    "SELECT c.device_id, c.digest FROM credential c JOIN device d ON d.id = c.device_id"
    " WHERE d.state = 'active' AND c.revoked_at_us IS NULL AND (c.expires_at_us IS NULL OR c.expires_at_us > ?)"
    " ORDER BY c.device_id, c.created_at_us"
)


def read_tokens(data: bytes) -> dict[str, str]:
    """A file of ``device_id,token`` (other columns are left alone), as ``--credentials-out`` writes it.

    Raises UsageError.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        found = [(row["device_id"], row["token"]) for row in reader]
    except (UnicodeDecodeError, csv.Error, KeyError) as error:
        raise UsageError(f"this is no file of tokens with the columns device_id,token ({error})") from None
    if len(found) > MAX_ROWS:
        raise UsageError(f"a file has at most {MAX_ROWS} rows: split it")
    return {device_id: token for device_id, token in found if device_id and token}


def checked(connection: apsw.Connection, tokens: Mapping[str, str], now_us: int) -> tuple[dict[str, str], list[str]]:
    """The tokens that would open a connection now, and the ids of the devices whose tokens would not."""
    digests: dict[str, list[bytes]] = {}
    for device_id, digest in connection.execute(_IN_FORCE, (now_us,)):
        digests.setdefault(str(device_id), []).append(bytes(digest))
    good = {name: token for name, token in tokens.items() if is_one_of(token, digests.get(name, ()))}
    return good, sorted(set(tokens) - set(good))


def dynamic_security(tokens: Mapping[str, str], *, gateway: str, gateway_password: str) -> dict[str, Any]:
    """The plugin's JSON file: each device publishes and listens only as itself; the gateway hears all of them.

    The plugin does not fill client names into topics, so that every device has a role of its own.
    """
    roles = [_role(_GATEWAY_ROLE, [
        ("subscribePattern", "carebell/+/up"), ("subscribePattern", "$share/+/carebell/+/up"),
        ("publishClientSend", "carebell/+/down"), ("unsubscribePattern", "#"),
    ])]  # fmt: skip
    clients = [_client(gateway, gateway_password, _GATEWAY_ROLE)]
    for device_id, token in sorted(tokens.items()):
        name = f"device-{device_id}"
        up, down = f"carebell/{device_id}/up", f"carebell/{device_id}/down"
        roles.append(_role(name, [("publishClientSend", up), ("subscribeLiteral", down), ("unsubscribeLiteral", down)]))
        clients.append(_client(device_id, token, name))
    return {
        "defaultACLAccess": {
            "publishClientSend": False, "publishClientReceive": True, "subscribe": False, "unsubscribe": False,
        },
        "clients": clients,
        "groups": [],
        "roles": roles,
    }  # fmt: skip


def _role(name: str, acls: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "rolename": name,
        "acls": [{"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind, topic in acls],
    }


def _client(name: str, password: str, role: str) -> dict[str, Any]:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return {
        "username": name,
        "roles": [{"rolename": role}],
        "password": base64.b64encode(digest).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": ITERATIONS,
    }


def emqx_users(connection: apsw.Connection, now_us: int) -> Iterable[str]:
    """CSV lines of EMQX's built-in database (password hash sha256, no salt): needs no token, only what is stored.

    A device has one row there: with two tokens in force (a rotation), the newer one.
    """
    newest = {str(device_id): bytes(digest).hex() for device_id, digest in connection.execute(_IN_FORCE, (now_us,))}
    yield "user_id,password_hash,salt,is_superuser\r\n"
    for device_id, digest in newest.items():
        yield f"{device_id},{digest},,false\r\n"


def gateway_rows(tokens: Mapping[str, str], host: str) -> Iterable[str]:
    """CSV lines of what a device needs to reach the gateway's own MQTT endpoint at ``host`` (host:port)."""
    yield "device_id,host,username,password,publish,subscribe\r\n"
    for device_id, token in sorted(tokens.items()):
        yield f"{device_id},{host},{device_id},{token},carebell/{device_id}/up,carebell/{device_id}/down\r\n"
