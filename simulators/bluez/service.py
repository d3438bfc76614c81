"""A Bluetooth daemon without a radio: ``org.bluez`` on a bus of our own, with peripherals that exist in memory.

What is played is what a central sees: adapters that come, go and are switched off, discovery, advertisements,
connections, pairing, GATT with notifications and indications. Order and shape of the signals are those of BlueZ 5.66.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Self

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from simulators.bluez.peripherals import Characteristic, Peripheral, long_uuid

BLUEZ: Final = "org.bluez"
MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
ADAPTER: Final = "org.bluez.Adapter1"
DEVICE: Final = "org.bluez.Device1"
SERVICE: Final = "org.bluez.GattService1"
CHARACTERISTIC: Final = "org.bluez.GattCharacteristic1"

Reply = Message | None
Properties = dict[str, Variant]


class SimulatedBluez:
    """``async with SimulatedBluez(address) as bluez:`` has one adapter, ``hci0``, that is powered."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._bus: MessageBus | None = None
        self._objects: dict[str, dict[str, Properties]] = {}
        self._peripherals: dict[str, Peripheral] = {}
        self._characteristics: dict[str, tuple[Peripheral, Characteristic]] = {}
        self.connections: list[str] = []
        """Addresses in the order in which they were connected."""
        self.most_connected = 0

    async def __aenter__(self) -> Self:
        self._bus = await MessageBus(bus_address=self._address).connect()
        writer, sock = self._bus._writer, self._bus._sock  # noqa: SLF001 - there is no other way to them
        if writer is not None and sock is not None:
            writer.sock = _Patient(sock)  # type: ignore[assignment]  # it calls nothing else
        self._bus.add_message_handler(self._handle)
        self._objects["/org/bluez"] = {"org.bluez.AgentManager1": {}}
        self.add_adapter()
        await self._bus.request_name(BLUEZ)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._bus is not None:
            self._bus.disconnect()

    # ---- the world ---------------------------------------------------------------------------------------------------

    def add_adapter(self, name: str = "hci0", *, powered: bool = True) -> None:
        self._add(
            f"/org/bluez/{name}",
            ADAPTER,
            {
                "Address": Variant("s", "00:00:5E:00:53:00"), "AddressType": Variant("s", "public"),
                "Name": Variant("s", "carebell"), "Alias": Variant("s", "carebell"), "Class": Variant("u", 0),
                "Powered": Variant("b", powered), "Discovering": Variant("b", False),
                "Discoverable": Variant("b", False), "Pairable": Variant("b", False),
                "UUIDs": Variant("as", []), "Roles": Variant("as", ["central"]), "Modalias": Variant("s", "usb:v0"),
            },
        )  # fmt: skip

    def remove_adapter(self, name: str = "hci0") -> None:
        """Pull the adapter out, with every device that it knew."""
        path = f"/org/bluez/{name}"
        for known in sorted((each for each in self._objects if each.startswith(f"{path}/dev_")), reverse=True):
            self._remove(known)
        for peripheral in self._peripherals.values():
            peripheral.connected = False
        self._remove(path)

    def power(self, on: bool, name: str = "hci0") -> None:
        """Switch the adapter on or off; off ends discovery and connections."""
        path = f"/org/bluez/{name}"
        if not on:
            for peripheral in list(self._peripherals.values()):
                self.drop(peripheral)
            self._change(path, ADAPTER, {"Discovering": Variant("b", False)})
        self._change(path, ADAPTER, {"Powered": Variant("b", on)})

    def discovering(self, name: str = "hci0") -> bool:
        adapter = self._objects.get(f"/org/bluez/{name}", {}).get(ADAPTER)
        return adapter is not None and bool(adapter["Discovering"].value)

    def advertise(
        self,
        peripheral: Peripheral,
        service_data: bytes | None = None,
        *,
        service: int = 0xFCD2,
        manufacturer_data: Mapping[int, bytes] | None = None,
        rssi: int = -60,
    ) -> bool:
        """One advertisement; whether anybody listened. ``service_data`` is that of ``service``, BTHome's by default."""
        if not self.discovering():
            return False
        path = _device_path(peripheral)
        self._peripherals[path] = peripheral
        heard: Properties = {"RSSI": Variant("n", rssi)}
        if service_data is not None:
            heard["ServiceData"] = Variant("a{sv}", {long_uuid(service): Variant("ay", service_data)})
        if manufacturer_data is not None:
            heard["ManufacturerData"] = Variant(
                "a{qv}", {company: Variant("ay", data) for company, data in manufacturer_data.items()}
            )
        if path in self._objects:
            self._change(path, DEVICE, heard)
            return True
        self._add(
            path,
            DEVICE,
            {
                "Address": Variant("s", peripheral.address), "AddressType": Variant("s", "random"),
                "Name": Variant("s", peripheral.name), "Alias": Variant("s", peripheral.name),
                "Adapter": Variant("o", "/org/bluez/hci0"), "Paired": Variant("b", peripheral.paired),
                "Bonded": Variant("b", peripheral.paired), "Trusted": Variant("b", False),
                "Blocked": Variant("b", False), "LegacyPairing": Variant("b", False), "Connected": Variant("b", False),
                "ServicesResolved": Variant("b", False),
                "UUIDs": Variant("as", [long_uuid(service) for service in peripheral.services]), **heard,
            },
        )  # fmt: skip
        return True

    def drop(self, peripheral: Peripheral) -> None:
        """The peripheral ends the connection, or walks away with it."""
        path = _device_path(peripheral)
        if not peripheral.connected:
            return
        peripheral.connected = False
        for known in sorted((each for each in self._objects if each.startswith(f"{path}/")), reverse=True):
            self._characteristics.pop(known, None)
            self._remove(known)
        self._change(path, DEVICE, {"ServicesResolved": Variant("b", False)})
        self._change(path, DEVICE, {"Connected": Variant("b", False)})
        peripheral.on_disconnect()

    def forget(self, peripheral: Peripheral) -> None:
        """Drop what BlueZ cached of a device that is not connected."""
        path = _device_path(peripheral)
        self._peripherals.pop(path, None)
        if path in self._objects:
            self._remove(path)

    # ---- objects -----------------------------------------------------------------------------------------------------

    def _add(self, path: str, interface: str, properties: Properties) -> None:
        self._objects.setdefault(path, {})[interface] = properties
        self._signal("/", MANAGER, "InterfacesAdded", "oa{sa{sv}}", [path, {interface: properties}])

    def _remove(self, path: str) -> None:
        gone = self._objects.pop(path, None)
        if gone is not None:
            self._signal("/", MANAGER, "InterfacesRemoved", "oas", [path, list(gone)])

    def _change(self, path: str, interface: str, changed: Properties) -> None:
        known = self._objects.get(path, {}).get(interface)
        if known is not None:
            known.update(changed)
            self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, changed, []])

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        if self._bus is not None and self._bus.connected:
            self._bus.send(Message.new_signal(path, interface, member, signature, body))

    # ---- calls -------------------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.destination not in (BLUEZ, self._name()):
            return None
        reply = self._answer(message)
        if reply is not None and MessageFlag.NO_REPLY_EXPECTED not in message.flags:
            return reply
        return True

    def _name(self) -> str | None:
        return None if self._bus is None else self._bus.unique_name

    def _answer(self, message: Message) -> Reply:
        interface, member, path = message.interface, str(message.member), str(message.path)
        if interface == MANAGER and member == "GetManagedObjects":
            return Message.new_method_return(message, "a{oa{sa{sv}}}", [self._objects])
        if interface == "org.freedesktop.DBus.Introspectable":
            return Message.new_method_return(message, "s", ["<node/>"])
        if path not in self._objects:
            return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownObject", f"no object {path}")
        if interface == PROPERTIES:
            return self._property(message, path, member)
        handlers: dict[str | None, Callable[[Message, str, str], Reply]] = {
            ADAPTER: self._adapter,
            DEVICE: self._device,
            CHARACTERISTIC: self._characteristic,
            "org.bluez.AgentManager1": lambda call, _path, _member: Message.new_method_return(call),
        }
        handler = handlers.get(interface)
        if handler is None:
            return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", f"{interface}.{member}")
        return handler(message, path, member)

    def _property(self, message: Message, path: str, member: str) -> Reply:
        interface = str(message.body[0])
        known = self._objects[path].get(interface, {})
        if member == "GetAll":
            return Message.new_method_return(message, "a{sv}", [known])
        if member == "Get" and message.body[1] in known:
            return Message.new_method_return(message, "v", [known[message.body[1]]])
        if member == "Set":
            self._change(path, interface, {str(message.body[1]): message.body[2]})
            return Message.new_method_return(message)
        return Message.new_error(message, "org.freedesktop.DBus.Error.InvalidArgs", f"{interface}.{member}")

    def _adapter(self, message: Message, path: str, member: str) -> Reply:
        if not self._objects[path][ADAPTER]["Powered"].value:
            return Message.new_error(message, "org.bluez.Error.NotReady", "Resource Not Ready")
        if member in ("StartDiscovery", "StopDiscovery"):
            self._change(path, ADAPTER, {"Discovering": Variant("b", member == "StartDiscovery")})
        elif member == "RemoveDevice":
            self.forget(self._peripherals[str(message.body[0])])
        return Message.new_method_return(message)

    # ---- devices -----------------------------------------------------------------------------------------------------

    def _device(self, message: Message, path: str, member: str) -> Reply:
        peripheral = self._peripherals[path]
        if member == "Connect" and peripheral.needs_silence and self.discovering():
            return Message.new_error(message, "org.bluez.Error.InProgress", "Operation already in progress")
        if member == "Connect":
            if not peripheral.out_of_range:  # else no answer: the other side gives up by itself
                loop = asyncio.get_running_loop()
                loop.call_later(peripheral.latency_s, self._connect, message, path, peripheral)
            return None
        if member == "Disconnect":
            return self._disconnect(message, peripheral)
        if member == "Pair" and not peripheral.refuses_pairing:
            peripheral.paired = True
            self._change(path, DEVICE, {"Paired": Variant("b", True), "Bonded": Variant("b", True)})
            return Message.new_method_return(message)
        if member == "Pair":
            return Message.new_error(message, "org.bluez.Error.AuthenticationFailed", "Authentication Failed")
        return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", member)

    def _disconnect(self, message: Message, peripheral: Peripheral) -> Reply:
        if not peripheral.connected:
            return Message.new_error(message, "org.bluez.Error.NotConnected", "Not Connected")
        if self._bus is not None:
            self._bus.send(Message.new_method_return(message))
        self.drop(peripheral)
        return None

    def _connect(self, message: Message, path: str, peripheral: Peripheral) -> None:
        if self._bus is None or path not in self._objects:
            return
        peripheral.connected = True
        self.connections.append(peripheral.address)
        self.most_connected = max(self.most_connected, sum(each.connected for each in self._peripherals.values()))
        self._change(path, DEVICE, {"Connected": Variant("b", True)})
        self._bus.send(Message.new_method_return(message))
        handle = 1
        for service, characteristics in peripheral.services.items():
            service_path = f"{path}/service{handle:04x}"
            handle += 1
            self._add(
                service_path,
                SERVICE,
                {
                    "UUID": Variant("s", long_uuid(service)), "Primary": Variant("b", True),
                    "Device": Variant("o", path), "Includes": Variant("ao", []),
                },
            )  # fmt: skip
            for characteristic in characteristics:
                char_path = f"{service_path}/char{handle:04x}"
                handle += 3
                self._characteristics[char_path] = peripheral, characteristic
                characteristic.connect(partial(self._notify, char_path))
                self._add(
                    char_path,
                    CHARACTERISTIC,
                    {
                        "UUID": Variant("s", long_uuid(characteristic.uuid)), "Service": Variant("o", service_path),
                        "Value": Variant("ay", b""), "Flags": Variant("as", list(characteristic.flags)),
                        "MTU": Variant("q", 247), "Notifying": Variant("b", False),
                    },
                )  # fmt: skip
        self._change(path, DEVICE, {"ServicesResolved": Variant("b", True)})

    def _notify(self, path: str, value: bytes) -> None:
        self._change(path, CHARACTERISTIC, {"Value": Variant("ay", value)})

    def _characteristic(self, message: Message, path: str, member: str) -> Reply:
        peripheral, characteristic = self._characteristics[path]
        error = 0x05 if characteristic.needs_pairing and not peripheral.paired else characteristic.refuses
        if member == "WriteValue" and not error:
            error = characteristic.write(bytes(message.body[0]))
        if error:
            text = f"Operation failed with ATT error: {error:#04x}"
            return Message.new_error(message, "org.bluez.Error.Failed", text)
        if member == "WriteValue":
            return Message.new_method_return(message)
        if member == "ReadValue":
            return Message.new_method_return(message, "ay", [characteristic.read()])
        if member in ("StartNotify", "StopNotify"):
            on = member == "StartNotify"
            self._change(path, CHARACTERISTIC, {"Notifying": Variant("b", on)})
            asyncio.get_running_loop().call_soon(characteristic.subscribe, on)
            return Message.new_method_return(message)
        return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", member)


class _Patient:
    """The library gives the bus up when the socket is full, as it is while the bus's daemon has no processor."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: memoryview) -> int:
        """How much went out; what did not is sent when the socket can be written to."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0


def _device_path(peripheral: Peripheral) -> str:
    return f"/org/bluez/hci0/dev_{peripheral.address.replace(':', '_')}"
