"""One connection to a health device: subscribe at once, fetch what it has stored, set its clock, let it go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic

from gateway.clock import Clock
from gateway.errors import ParseError, TransportError
from gateway.model import DeviceBinding, Frame, Report
from protocols.codecs import gatt_characteristics as gatt
from protocols.codecs import gatt_values
from protocols.codecs.gatt import GattCodec, packed
from protocols.transports.ble.delivery import Delivery
from protocols.transports.ble.memory import Memory
from protocols.transports.ble.options import BleOptions
from protocols.transports.ble.radio import WEATHER, Radio, in_words, wants_pairing

if TYPE_CHECKING:
    from bleak.backends.device import BLEDevice

PAIR_S: Final = 30.0
STEP_S: Final = 10.0
RECORDS_S: Final = 30.0
"""So long may a meter be silent while it reports stored records (GLS 1.0 has the same)."""
CONTEXT_S: Final = 1.0
DISCONNECT_S: Final = 5.0
MAX_VALUE: Final = 255

GLUCOSE_SERVICE: Final = 0x1808
LISTENED_TO: Final = (
    gatt.GLUCOSE_CONTEXT, gatt.GLUCOSE, gatt.BLOOD_PRESSURE, gatt.TEMPERATURE, gatt.OXIMETER_SPOT,
    gatt.OXIMETER_CONTINUOUS, gatt.HEART_RATE, gatt.WEIGHT, gatt.BATTERY, gatt.RECORD_ACCESS,
)  # fmt: skip
"""In the order in which they are subscribed to: what a meter sends on request before the request can be made."""

_T = TypeVar("_T")

log: Final = structlog.get_logger("ble")
_codec: Final = GattCodec()


class PairingRefusedError(TransportError):
    """The device does not pair with this gateway. Handler: the hub, which lets it rest and says so in its health."""


class Session:
    """``run`` returns when the device has nothing more to say or its turn is over; it is disconnected then.

    Raises PairingRefusedError, and what radio.WEATHER lists.
    """

    def __init__(
        self,
        binding: DeviceBinding,
        device: BLEDevice,
        *,
        radio: Radio,
        options: BleOptions,
        delivery: Delivery,
        memory: Memory,
        clock: Clock,
        zone: str,
        others_wait: Callable[[], bool],
        connected: Callable[[], None],
    ) -> None:
        self._binding = binding
        self._address = device.address
        self._options = options
        self._delivery = delivery
        self._memory = memory
        self._clock = clock
        self._zone = zone
        self._others_wait = others_wait
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._client: BleakClient = radio.client(device, self._gone.set, options.connect_s)
        props = device.details.get("props", {}) if isinstance(device.details, dict) else {}
        self._paired = bool(props.get("Paired"))
        self._skew_s = 0
        self._last_s = 0.0
        self._held: tuple[bytes, asyncio.TimerHandle] | None = None
        self._answers: asyncio.Queue[bytes] = asyncio.Queue(16)
        self._probing = False
        self._probed: bytes | None = None
        self.values = 0

    async def run(self) -> None:
        async with asyncio.timeout(self._options.connect_s):
            await self._client.connect()
        try:
            self._connected()
            started_s = self._last_s = self._loop.time()
            found = _characteristics(self._client)
            await self._read_clock(found)
            await self._subscribe(found)
            if self._options.set_clock:
                await self._set_clock(found)
            for characteristic in found.get(gatt.RECORD_ACCESS, ()):
                await self._unless_refused(gatt.RECORD_ACCESS, self._fetch(characteristic))
            await self._read_battery(found)
            await self._listen(started_s)
        finally:
            self._release_held()
            with contextlib.suppress(*WEATHER):
                async with asyncio.timeout(DISCONNECT_S):
                    await self._client.disconnect()

    def lost(self) -> None:
        """The radio has gone, and may not have said so: end as soon as possible."""
        self._gone.set()

    # ---- steps -------------------------------------------------------------------------------------------------------

    async def _subscribe(self, found: dict[int, list[BleakGATTCharacteristic]]) -> None:
        for uuid in LISTENED_TO:
            for characteristic in found.get(uuid, ()):
                if {"notify", "indicate"} & set(characteristic.properties):
                    subscribe = partial(self._client.start_notify, characteristic, self._notified)
                    await self._unless_refused(uuid, self._paired_if_asked(subscribe))

    async def _read_clock(self, found: dict[int, list[BleakGATTCharacteristic]]) -> None:
        for characteristic in found.get(gatt.CURRENT_TIME, ()):
            if "read" not in characteristic.properties:
                continue
            value = await self._unless_refused(gatt.CURRENT_TIME, self._read(characteristic))
            for report in self._understood(gatt.CURRENT_TIME, value or b""):
                skew_s = (report.fields or {}).get("clock_skew_s")
                self._skew_s = skew_s if isinstance(skew_s, int) else 0

    async def _set_clock(self, found: dict[int, list[BleakGATTCharacteristic]]) -> None:
        """Write the person's local time where the device lets us. One that refuses keeps its own."""
        now = gatt_values.current_time(self._clock.now_us(), gatt_values.zone_of(self._zone))
        for uuid, value in ((gatt.CURRENT_TIME, now), (gatt.DATE_TIME, now[:7])):
            for characteristic in found.get(uuid, ()):
                if "write" not in characteristic.properties:
                    continue
                await self._unless_refused(uuid, self._write(characteristic, value))
                return

    async def _read_battery(self, found: dict[int, list[BleakGATTCharacteristic]]) -> None:
        for characteristic in found.get(gatt.BATTERY, ()):
            if "read" in characteristic.properties:
                value = await self._unless_refused(gatt.BATTERY, self._read(characteristic))
                if value is not None:
                    self._deliver(packed(gatt.BATTERY, value[:MAX_VALUE]))

    async def _listen(self, started_s: float) -> None:
        """Until the device leaves, has said nothing for ``quiet_s``, or its turn is over and others wait."""
        step_s = min(0.5, self._options.quiet_s / 2)
        self._last_s = self._loop.time()  # a pairing alone may take longer than the device may be quiet
        while not self._gone.is_set():
            now_s = self._loop.time()
            if now_s - self._last_s > self._options.quiet_s:
                return
            if now_s - started_s > self._options.turn_s and self._others_wait():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(step_s):
                    await self._gone.wait()

    # ---- stored records ----------------------------------------------------------------------------------------------

    async def _fetch(self, control: BleakGATTCharacteristic) -> None:
        """Have the device report what it stored and we do not know yet. Nothing is ever deleted from it."""
        if _short(control.service_uuid) != GLUCOSE_SERVICE:
            await self._ask(control, gatt_values.REPORT_ALL)
            return
        known = self._memory.of(self._binding.device_id).sequence
        request = gatt_values.REPORT_ALL
        if known >= 0:
            last = await self._last_record(control)
            if last is None:
                return
            report = last[0]
            number = report.fields["sequence"] if report.fields else -1
            if number == known and self._memory.knows(self._binding.device_id, report.dedup_key):
                return
            if number > known:  # a lower number: the meter counts anew, after new batteries for example
                request = gatt_values.report_from(known + 1)
        await self._ask(control, request)

    async def _last_record(self, control: BleakGATTCharacteristic) -> list[Report] | None:
        """The newest record, only to look at: delivered now it would hide the older ones if the link broke."""
        self._probing, self._probed = True, None
        try:
            done = await self._ask(control, gatt_values.REPORT_LAST)
        finally:
            self._probing = False
        probed: bytes | None = self._probed
        if not done or probed is None:
            return None
        return self._understood(gatt.GLUCOSE, probed) or None

    async def _ask(self, control: BleakGATTCharacteristic, request: bytes) -> bool:
        """Whether the device reported at least one record; its silence is broken off after RECORDS_S."""
        while not self._answers.empty():
            self._answers.get_nowait()
        await self._write(control, request)
        self._last_s = self._loop.time()
        while not self._gone.is_set():
            try:
                async with asyncio.timeout(max(0.05, min(0.5, self._last_s + RECORDS_S - self._loop.time()))):
                    answer = gatt_values.access_answer(await self._answers.get())
            except ParseError:
                continue
            except TimeoutError:
                if self._loop.time() - self._last_s < RECORDS_S:
                    continue
                await self._write(control, gatt_values.ABORT)
                return False
            if answer.asked == request[0]:
                return answer.code == gatt_values.SUCCESS
        return False

    # ---- what the device says ----------------------------------------------------------------------------------------

    def _notified(self, characteristic: BleakGATTCharacteristic, value: bytearray) -> None:
        self._last_s = self._loop.time()
        uuid, data = _short(characteristic.uuid), bytes(value)
        if uuid == gatt.RECORD_ACCESS:
            if not self._answers.full():
                self._answers.put_nowait(data)
            return
        if self._probing and uuid in (gatt.GLUCOSE, gatt.GLUCOSE_CONTEXT):
            self._probed = data if uuid == gatt.GLUCOSE else self._probed
            return
        if len(data) > MAX_VALUE:
            log.warning("ble_value_too_long", device=self._binding.device_id, bytes=len(data))
            return
        self.values += 1
        if uuid == gatt.GLUCOSE_CONTEXT and self._held is not None:
            measured, timer = self._held
            timer.cancel()
            self._held = None
            self._deliver(measured + packed(uuid, data))
            return
        self._release_held()
        if uuid == gatt.GLUCOSE and data and data[0] & 0x10:  # its context follows
            self._held = (packed(uuid, data), self._loop.call_later(CONTEXT_S, self._release_held))
            return
        self._deliver(packed(uuid, data))

    def _release_held(self) -> None:
        """Deliver a glucose measurement whose context did not come."""
        if self._held is not None:
            measured, timer = self._held
            timer.cancel()
            self._held = None
            self._deliver(measured)

    def _deliver(self, payload: bytes) -> None:
        frame = self._frame(payload)
        try:
            reports = list(_codec.parse(frame))
        except ParseError:
            self._delivery.put(frame)  # the journal keeps it with its fault
            return
        device_id, memory = self._binding.device_id, self._memory
        named = next((report for report in reports if report.dedup_key), None)
        if named is None:
            self._delivery.put(frame)
            return
        if memory.knows(device_id, named.dedup_key):
            return  # a cuff that says its last measurement again at each connection
        sequence = (named.fields or {}).get("sequence", -1)
        key = named.dedup_key
        self._delivery.put(frame, after=lambda: memory.learn(device_id, key, sequence))

    def _understood(self, uuid: int, value: bytes) -> list[Report]:
        with contextlib.suppress(ParseError):
            return list(_codec.parse(self._frame(packed(uuid, value[:MAX_VALUE]))))
        return []

    def _frame(self, payload: bytes) -> Frame:
        context: dict[str, Any] = {"zone": self._zone, "clock_skew_s": self._skew_s}
        return Frame(
            "ble", _codec.name, self._address, payload, self._clock.now_us(), self._binding.device_id,
            verified=self._paired or self._options.trust_unpaired, context=context,
        )  # fmt: skip

    # ---- bleak -------------------------------------------------------------------------------------------------------

    async def _read(self, characteristic: BleakGATTCharacteristic) -> bytes:
        return bytes(await self._paired_if_asked(lambda: self._client.read_gatt_char(characteristic)))

    async def _write(self, characteristic: BleakGATTCharacteristic, value: bytes) -> None:
        await self._paired_if_asked(lambda: self._client.write_gatt_char(characteristic, value, response=True))

    async def _unless_refused(self, uuid: int, act: Coroutine[Any, Any, _T]) -> _T | None:
        """Do one of the steps; a device that refuses it, or says nothing, has the others left. A lost link ends all."""
        try:
            return await act
        except WEATHER as error:
            if self._gone.is_set():
                raise
            device = self._binding.device_id
            log.info("ble_step_refused", device=device, characteristic=f"{uuid:04X}", error=in_words(error))
            return None

    async def _paired_if_asked(self, act: Callable[[], Awaitable[Any]]) -> Any:
        """Do it; when the device refuses because it is not paired, pair and do it once more."""
        try:
            async with asyncio.timeout(STEP_S):
                return await act()
        except WEATHER as error:
            if self._paired or not wants_pairing(error):
                raise
        try:
            async with asyncio.timeout(PAIR_S):
                await self._client.pair()
        except WEATHER as error:
            raise PairingRefusedError(in_words(error)) from error
        self._paired = True
        async with asyncio.timeout(STEP_S):
            return await act()


def _characteristics(client: BleakClient) -> dict[int, list[BleakGATTCharacteristic]]:
    """By their 16-bit number; two services may have one of the same number."""
    found: dict[int, list[BleakGATTCharacteristic]] = {}
    for characteristic in client.services.characteristics.values():
        found.setdefault(_short(characteristic.uuid), []).append(characteristic)
    return found


def _short(uuid: str) -> int:
    """The 16-bit number of a UUID of the Bluetooth SIG; -1 for a maker's own."""
    lowered = uuid.lower()
    if len(lowered) == 36 and lowered.startswith("0000") and lowered.endswith("-0000-1000-8000-00805f9b34fb"):
        return int(lowered[4:8], 16)
    return -1
