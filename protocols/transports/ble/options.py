"""What the BLE transport is told, and the file of bind keys."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from gateway.errors import ConfigError

KEY_HEX: Final = 32
ADDRESS_HEX: Final = 12


class BleOptions(Struct, frozen=True, kw_only=True):
    """``adapter`` as ``hci0``, or ``auto`` for the first one that is powered. Keys are by ``address_key``."""

    adapter: str = "auto"
    bind_keys: Mapping[str, bytes] = {}
    connections: int = 3
    connect_s: float = 20.0
    quiet_s: float = 10.0
    turn_s: float = 10.0
    rest_s: float = 10.0
    silence_s: float = 120.0
    retry_s: float = 1.0
    set_clock: bool = True
    trust_unpaired: bool = True
    trust_plain_advertisements: bool = False


def address_key(address: str) -> str:
    """One spelling of a Bluetooth address: 12 hexadecimal digits in lower case."""
    return address.replace(":", "").replace("-", "").lower()


def load_bind_keys(path: Path) -> dict[str, bytes]:
    """The bind keys of a TOML file with lines such as ``"54:48:E6:8F:80:A5" = "<32 hexadecimal digits>"``.

    Raises ConfigError with one line per fault; a key is never in it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        exposed = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"ble.bind_keys_file: {path}: {error}") from error
    if exposed:
        raise ConfigError(f"ble.bind_keys_file: {path}: others may read it; chmod 600")
    keys: dict[str, bytes] = {}
    faults = []
    for address, key in values.items():
        name = address_key(address)
        if not _is_hex(name, ADDRESS_HEX):
            faults.append(f"ble.bind_keys_file: {address[:40]!r} is no Bluetooth address; write 54:48:E6:8F:80:A5")
        elif not isinstance(key, str) or not _is_hex(key, KEY_HEX):
            faults.append(f"ble.bind_keys_file: {address}: a bind key is {KEY_HEX} hexadecimal digits")
        elif name in keys:
            faults.append(f"ble.bind_keys_file: {address}: is there twice")
        else:
            keys[name] = bytes.fromhex(key)
    if faults:
        raise ConfigError("\n".join(faults))
    return keys


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and text.isascii() and all(char in "0123456789abcdefABCDEF" for char in text)
