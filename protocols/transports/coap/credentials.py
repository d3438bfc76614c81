"""DTLS-PSK keys and OSCORE contexts of devices: a TOML file that only carebell can read.

[devices."D-0001"]
psk = "00112233445566778899aabbccddeeff"          # hex; identity is the device id unless psk_identity says another

[devices."D-0002".oscore]
secret = "0102030405060708090a0b0c0d0e0f10"       # hex; salt, and the two ids as the device has them, likewise
salt = "9e7ca92223786340"
device_id = "01"                                   # the device's sender id
gateway_id = "02"                                  # ours
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Final

import structlog
from aiocoap.credentials import CredentialsMap

from gateway.errors import ConfigError

MAX_PSK_BYTES: Final = 16  # what tinydtls takes by default
MAX_IDENTITY_BYTES: Final = 32

log = structlog.get_logger("coap")


class CoapCredentials(CredentialsMap):  # type: ignore[misc]  # aiocoap is not typed
    """aiocoap's credentials, with a direct way from an identity to its key. Claims are ``:<device_id>``."""

    def __init__(self) -> None:
        super().__init__()
        self._psk: dict[bytes, tuple[bytes, str]] = {}
        self._secured: set[str] = set()
        self._contexts: list[Any] = []

    def __bool__(self) -> bool:
        return True  # aiocoap takes an empty map for none

    @property
    def has_oscore(self) -> bool:
        return bool(self._contexts)

    def secured(self, device_id: str) -> bool:
        """Whether the device has a key of its own here: then no plain request speaks for it."""
        return device_id in self._secured

    def find_dtls_psk(self, identity: bytes) -> tuple[bytes, str]:
        return self._psk[bytes(identity)]

    def psk_of(self, identity: bytes) -> bytes | None:
        found = self._psk.get(identity)
        return None if found is None else found[0]

    def load(self, file: Path, state_dir: Path) -> None:
        """Read the file. OSCORE keeps its sequence numbers below ``state_dir``, a folder for each key.

        Raises ConfigError with one line per fault; a secret is never in it.
        """
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"coap.credentials_file: {file}: {error}") from error
        if file.stat().st_mode & 0o077:
            log.warning("coap_credentials_readable_by_others", file=str(file))
        faults: list[str] = []
        devices = values.pop("devices", {})
        faults += [f"{file}: {key}: unknown key; known here: devices" for key in values]
        if not isinstance(devices, dict):
            devices = {}
            faults.append(f"{file}: devices: write a table for each device")
        for device_id, entry in devices.items():
            try:
                self._take(device_id, entry, state_dir)
            except ValueError as error:
                faults.append(f'{file}: devices."{device_id}": {error}')
        if faults:
            raise ConfigError("\n".join(faults))

    def _take(self, device_id: str, entry: Any, state_dir: Path) -> None:
        if not isinstance(entry, dict) or not entry:
            raise ValueError("write psk, or a table oscore")
        unknown = sorted(set(entry) - {"psk", "psk_identity", "oscore"})
        if unknown:
            raise ValueError(f"{unknown[0]}: unknown key; known here: psk, psk_identity, oscore")
        if "psk" in entry:
            key = _hex("psk", entry["psk"])
            identity = str(entry.get("psk_identity", device_id)).encode()
            if not 1 <= len(key) <= MAX_PSK_BYTES:
                raise ValueError(f"psk: 1 to {MAX_PSK_BYTES} bytes")
            if not 1 <= len(identity) <= MAX_IDENTITY_BYTES:
                raise ValueError(f"psk_identity: 1 to {MAX_IDENTITY_BYTES} bytes")
            if identity in self._psk:
                raise ValueError("psk_identity: another device has it")
            self._psk[identity] = (key, f":{device_id}")
        if "oscore" in entry:
            self._take_oscore(device_id, entry["oscore"], state_dir)
        self._secured.add(device_id)

    def _take_oscore(self, device_id: str, entry: Any, state_dir: Path) -> None:
        if not isinstance(entry, dict) or set(entry) - {"secret", "salt", "device_id", "gateway_id"}:
            raise ValueError("oscore: write secret, salt, device_id and gateway_id")
        settings = {
            "secret_hex": _hex("secret", entry.get("secret")).hex(),
            "salt_hex": _hex("salt", entry.get("salt", "")).hex(),
            "sender-id_hex": _hex("gateway_id", entry.get("gateway_id")).hex(),
            "recipient-id_hex": _hex("device_id", entry.get("device_id")).hex(),
        }
        if len(settings["secret_hex"]) < 32:
            raise ValueError("oscore.secret: at least 16 bytes")
        if max(len(settings["sender-id_hex"]), len(settings["recipient-id_hex"])) > 14:
            raise ValueError("oscore: an id has at most 7 bytes")
        if settings["sender-id_hex"] == settings["recipient-id_hex"]:
            raise ValueError("oscore: device_id and gateway_id must differ")
        # A folder for each key: sequence numbers belong to the key, and a new key begins at zero.
        name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
        folder = state_dir / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(folder / "settings.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(settings, out)
        try:
            self.load_from_dict({f":{device_id}": {"oscore": {"basedir": f"{folder}/"}}})
        except ImportError as error:
            raise ValueError("oscore: needs carebell[oscore]: pip install 'carebell[oscore]'") from error
        except Exception as error:
            raise ValueError(f"oscore: {type(error).__name__}") from error
        self._contexts.append(self[f":{device_id}"])

    def close(self) -> None:
        """Write down the sequence numbers of the contexts, and let go of them."""
        for context in self._contexts:
            if context.lockfile is not None:
                context._destroy()  # noqa: SLF001 - aiocoap has no other way to end a context in good order
        self._contexts.clear()


def _hex(key: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{key}: write it in hexadecimal")  # noqa: TRY004 - the handler tells the file's owner
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise ValueError(f"{key}: not hexadecimal") from error
