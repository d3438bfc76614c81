"""bleak, and everything about it that the rest does not want to know. Imported only where Bluetooth is switched on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bleak import BleakClient, BleakScanner
from bleak.args.bluez import BlueZClientArgs, BlueZScannerArgs
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakDBusError,
    BleakError,
    BleakGATTProtocolError,
    BleakGATTProtocolErrorCode,
)
from dbus_fast.errors import DBusError

WEATHER: Final = (BleakError, DBusError, OSError, EOFError, TimeoutError, AssertionError)
"""What a missing bus, adapter or device looks like. bleak asserts where its bus has died under it."""

Heard = Callable[[BLEDevice, AdvertisementData], None]

_PAIRING_WANTED: Final = frozenset(
    {
        BleakGATTProtocolErrorCode.INSUFFICIENT_AUTHENTICATION,
        BleakGATTProtocolErrorCode.INSUFFICIENT_AUTHORIZATION,
        BleakGATTProtocolErrorCode.INSUFFICIENT_ENCRYPTION,
        BleakGATTProtocolErrorCode.INSUFFICIENT_ENCRYPTION_KEY_SIZE,
    }
)
_PAIRING_WANTED_NAMES: Final = frozenset({"org.bluez.Error.NotPermitted", "org.bluez.Error.NotAuthorized"})


class Radio:
    """One adapter: ``auto`` for the first that is powered, else its name."""

    def __init__(self, adapter: str) -> None:
        self._adapter = "" if adapter == "auto" else adapter

    def scanner(self, heard: Heard) -> BleakScanner:
        """Active scanning; duplicates are wanted, because two presses of a simple button look the same."""
        bluez: BlueZScannerArgs = {"filters": {"DuplicateData": True}}
        if self._adapter:
            bluez["adapter"] = self._adapter
        return BleakScanner(heard, bluez=bluez)

    def client(self, device: BLEDevice, gone: Callable[[], None], timeout_s: float) -> BleakClient:
        """``gone`` is called once, when the connection has ended for whatever reason."""
        bluez: BlueZClientArgs = {"adapter": self._adapter} if self._adapter else {}
        return BleakClient(device, lambda _client: gone(), timeout=timeout_s, bluez=bluez)

    async def trouble(self) -> str:
        """Why the adapter cannot be used just now; "" when it can."""
        from bleak.backends.bluezdbus.manager import get_global_bluez_manager  # noqa: PLC0415 - only Linux has it

        manager = await get_global_bluez_manager()
        if not self._adapter:
            try:
                manager.get_default_adapter()
            except BleakBluetoothNotAvailableError as error:
                return in_words(error)
            return ""
        adapter = _told_of(manager, f"/org/bluez/{self._adapter}")
        if adapter is None:
            return f"there is no adapter {self._adapter}"
        return "" if adapter.get("Powered") else f"the adapter {self._adapter} is off"

    async def discovering(self) -> bool:
        """Whether BlueZ says that the adapter scans. Between two rounds of a scan it may say no for some seconds."""
        from bleak.backends.bluezdbus.manager import get_global_bluez_manager  # noqa: PLC0415 - only Linux has it

        manager = await get_global_bluez_manager()
        path = f"/org/bluez/{self._adapter}" if self._adapter else manager.get_default_adapter()
        adapter = _told_of(manager, path)
        return adapter is not None and bool(adapter.get("Discovering"))


def _told_of(manager: Any, path: str) -> Any:
    """What BlueZ told of the adapter at this path; None when there is none."""
    return manager._properties.get(path, {}).get("org.bluez.Adapter1")  # noqa: SLF001 - nothing public tells


def wants_pairing(error: BaseException) -> bool:
    """Whether a device refused because it is not paired."""
    if isinstance(error, BleakGATTProtocolError):
        return error.code in _PAIRING_WANTED
    return isinstance(error, BleakDBusError) and error.dbus_error in _PAIRING_WANTED_NAMES


def is_busy(error: BaseException) -> bool:
    """Whether the controller cannot connect because it is scanning, as some cannot."""
    details = str(error)
    return "InProgress" in details or "abort-by-local" in details or "already in progress" in details


def in_words(error: BaseException) -> str:
    """One line for the health of the part."""
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return "no D-Bus: is the package dbus installed, and does it run?"
    if isinstance(error, BleakDBusError) and "ServiceUnknown" in error.dbus_error:
        return "no BlueZ on D-Bus: does bluetoothd run?"
    if isinstance(error, DBusError) and "ServiceUnknown" in str(error.type):
        return "no BlueZ on D-Bus: does bluetoothd run?"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error.args[0]) if error.args else ""
    details = error.dbus_error_details if isinstance(error, BleakDBusError) else None
    return " ".join(part for part in (text, details) if part)[:200] or type(error).__name__
