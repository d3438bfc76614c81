"""Peripherals in memory: a cuff, a thermometer, an oximeter, a glucose meter with its memory, a scale, a button."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from protocols.codecs.gatt_values import date_time_bytes, to_float32, to_sfloat

DATA_FIELD_IGNORED: Final = 0x80


def long_uuid(number: int) -> str:
    """The whole UUID of a number that the Bluetooth SIG assigned."""
    return f"0000{number:04x}-0000-1000-8000-00805f9b34fb"


class Characteristic:
    """``on_subscribe`` runs when somebody subscribes; ``on_write`` returns an ATT error, 0 for none."""

    def __init__(
        self,
        uuid: int,
        flags: Iterable[str],
        *,
        value: Callable[[], bytes] = lambda: b"",
        needs_pairing: bool = False,
        on_subscribe: Callable[[], None] = lambda: None,
        on_write: Callable[[bytes], int] = lambda _: 0,
    ) -> None:
        self.uuid = uuid
        self.flags = tuple(flags)
        self.needs_pairing = needs_pairing
        self.refuses = 0
        """The ATT error with which everything is refused; 0: nothing is."""
        self.subscribed = False
        self.read = value
        self.write = on_write
        self._on_subscribe = on_subscribe
        self._send: Callable[[bytes], None] = lambda _: None

    def connect(self, send: Callable[[bytes], None]) -> None:
        """A new connection, over which values go out."""
        self._send = send
        self.subscribed = False

    def subscribe(self, on: bool) -> None:
        self.subscribed = on
        if on:
            self._on_subscribe()

    def send(self, value: bytes) -> bool:
        """Notify or indicate; whether anybody is subscribed."""
        if self.subscribed:
            self._send(value)
        return self.subscribed


class Peripheral:
    """A device with services. ``out_of_range``: it does not answer a connection."""

    def __init__(self, address: str, name: str, services: dict[int, list[Characteristic]] | None = None) -> None:
        self.address = address
        self.name = name
        self.services = services or {}
        self.connected = False
        self.paired = False
        self.refuses_pairing = False
        self.out_of_range = False
        self.needs_silence = False  # the controller cannot connect to it while it scans
        self.latency_s = 0.0

    def on_disconnect(self) -> None:
        """What the device does when the connection has ended."""
        for characteristics in self.services.values():
            for characteristic in characteristics:
                characteristic.subscribed = False


class Teller(Peripheral):
    """A device that tells its pending values to whoever subscribes, each once (``repeats``: again and again)."""

    def __init__(self, address: str, name: str, service: int, uuid: int, kind: str, *, pairs: bool = False) -> None:
        self.pending: list[bytes] = []
        self.repeats = False
        self.clock = b""
        self.values = Characteristic(uuid, [kind], needs_pairing=pairs, on_subscribe=self.tell)
        super().__init__(
            address,
            name,
            {
                service: [self.values],
                0x180F: [Characteristic(0x2A19, ["read", "notify"], value=lambda: b"\x55")],
                0x1805: [Characteristic(0x2A2B, ["write"], on_write=self._set_clock)],
            },
        )

    def tell(self) -> None:
        """Send what waits, if somebody is subscribed."""
        told = [value for value in self.pending if self.values.send(value)]
        if told and not self.repeats:
            self.pending = []

    def _set_clock(self, value: bytes) -> int:
        self.clock = value
        return 0


def cuff(address: str, *, pairs: bool = True) -> Teller:
    """A blood-pressure cuff, indications after pairing."""
    return Teller(address, "Cuff", 0x1810, 0x2A35, "indicate", pairs=pairs)


def thermometer(address: str) -> Teller:
    return Teller(address, "Thermometer", 0x1809, 0x2A1C, "indicate")


def oximeter(address: str) -> Teller:
    return Teller(address, "Oximeter", 0x1822, 0x2A5F, "notify")


def scale(address: str) -> Teller:
    return Teller(address, "Scale", 0x181D, 0x2A9D, "indicate")


# ---- values as devices send them -------------------------------------------------------------------------------------


def pressure(systolic: int, diastolic: int, mean: int, at: datetime | None = None, pulse: int | None = None) -> bytes:
    """0x2A35 in mmHg."""
    flags = (2 if at is not None else 0) | (4 if pulse is not None else 0)
    value = bytes([flags]) + b"".join(to_sfloat(number) for number in (systolic, diastolic, mean))
    value += b"" if at is None else date_time_bytes(at)
    return value + (b"" if pulse is None else to_sfloat(pulse))


def temperature(tenths: int, at: datetime | None = None) -> bytes:
    """0x2A1C in tenths of a degree Celsius."""
    value = bytes([0 if at is None else 2]) + to_float32(tenths, -1)
    return value + (b"" if at is None else date_time_bytes(at))


def saturation(spo2: int, pulse: int) -> bytes:
    """0x2A5F."""
    return b"\x00" + to_sfloat(spo2) + to_sfloat(pulse)


def glucose(sequence: int, at: datetime, milligrams: int, *, meal: int = 0) -> bytes:
    """0x2A18, mg/dL sent as kg/L; with ``meal`` it says that a context follows."""
    flags = 0x02 | (0x10 if meal else 0)
    return bytes([flags]) + sequence.to_bytes(2, "little") + date_time_bytes(at) + to_sfloat(milligrams, -5) + b"\x11"


class GlucoseMeter(Peripheral):
    """A meter with a memory: it speaks when it is asked by the record access control point (0x2A52)."""

    def __init__(self, address: str) -> None:
        self.records: dict[int, tuple[bytes, int]] = {}
        self.requests: list[bytes] = []
        self.breaks_after = 0
        """After so many records the link is lost, once; 0: never."""
        self.on_break: Callable[[], None] = lambda: None
        self.measurement = Characteristic(0x2A18, ["notify"])
        self.context = Characteristic(0x2A34, ["notify"])
        self.control = Characteristic(0x2A52, ["indicate", "write"], on_write=self._asked)
        super().__init__(address, "Meter", {0x1808: [self.measurement, self.context, self.control]})

    def store(self, sequence: int, at: datetime, milligrams: int, *, meal: int = 0) -> None:
        self.records[sequence] = glucose(sequence, at, milligrams, meal=meal), meal

    def _asked(self, request: bytes) -> int:
        self.requests.append(request)
        opcode, operator = request[0], request[1]
        numbers = sorted(self.records)
        if operator == 6:
            numbers = numbers[-1:]
        elif operator == 3:
            numbers = [number for number in numbers if number >= int.from_bytes(request[3:5], "little")]
        elif operator != 1:
            return DATA_FIELD_IGNORED
        if opcode == 4:
            self.control.send(b"\x05\x00" + len(numbers).to_bytes(2, "little"))
            return 0
        for sent, number in enumerate(numbers, 1):
            value, meal = self.records[number]
            self.measurement.send(value)
            if meal:
                self.context.send(b"\x02" + number.to_bytes(2, "little") + bytes([meal]))
            if operator != 6 and sent == self.breaks_after:
                self.breaks_after = 0
                self.on_break()
                return 0
        self.control.send(bytes([6, 0, opcode, 1 if numbers else 6]))
        return 0


# ---- adverts ---------------------------------------------------------------------------------------------------------


class Button(Peripheral):
    """A BTHome button; with a bind key it encrypts."""

    def __init__(self, address: str, key: bytes = b"") -> None:
        super().__init__(address, "Button")
        self.key = key
        self.counter = 0

    def press(self, event: int = 1) -> bytes:
        """The service data of the next press."""
        self.counter += 1
        if not self.key:
            return bytes([0x44, 0x00, self.counter & 0xFF, 0x3A, event])
        return sealed(self.address, self.key, self.counter, bytes([0x00, self.counter & 0xFF, 0x3A, event]))


def sealed(address: str, key: bytes, counter: int, body: bytes) -> bytes:
    """Encrypted BTHome service data of a trigger-based device."""
    info, count = b"\x45", counter.to_bytes(4, "little")
    nonce = bytes.fromhex(address.replace(":", "")) + b"\xd2\xfc" + info + count
    closed = AESCCM(key, tag_length=4).encrypt(nonce, body, None)
    return info + closed[:-4] + count + closed[-4:]


def mibeacon(
    address: str, product: int, counter: int, objects: bytes, *, key: bytes = b"", version: int = 5, random: int = 0
) -> bytes:
    """Xiaomi's service data (0xFE95) with these objects: type (2), length (1), value. A key seals them.

    Frame control, product and counter stand in the clear; behind a sealed body are three bytes that make the counter
    longer, and the tag. The nonce is the address from behind, product, counter and those three; 0x11 is authenticated.
    """
    control = version << 12 | 0x40 | (0x08 if key else 0)
    head = control.to_bytes(2, "little") + product.to_bytes(2, "little") + bytes([counter & 0xFF])
    if not key:
        return head + objects
    more = random.to_bytes(3, "little")
    nonce = bytes.fromhex(address.replace(":", ""))[::-1] + head[2:5] + more
    closed = AESCCM(key, tag_length=4).encrypt(nonce, objects, b"\x11")
    return head + closed[:-4] + more + closed[-4:]
