"""Advertisements of registered devices of other makers: repeats are told from events, what proves nothing is bounded.

Nothing is decoded here: the codec asks the maker's library (``protocols.codecs.ble_makers``). The first one of a maker
has its library imported in a thread; what is heard until then waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from gateway.clock import Clock
from gateway.errors import ParseError
from gateway.model import DeviceBinding, Frame
from protocols.codecs.advertisement import packed
from protocols.codecs.ble_makers import MAKERS, MAX_BYTES, MIBEACON, BleMakerCodec, ready
from protocols.transports.ble.adverts import NUMBERED_REPEAT_S, REPEAT_S, Doubts, is_alarm
from protocols.transports.ble.delivery import Delivery
from protocols.transports.ble.options import BleOptions, address_key

if TYPE_CHECKING:
    from bleak.backends.scanner import AdvertisementData

WAITING: Final = 200
"""Advertisements that wait for a library; the oldest go first."""
NUMBERED: Final = 8
XIAOMI_SCALES: Final = ("0000181b-0000-1000-8000-00805f9b34fb", "0000181d-0000-1000-8000-00805f9b34fb")
XIAOMI: Final = (MIBEACON, "0000fd50-0000-1000-8000-00805f9b34fb", *XIAOMI_SCALES)

_CODECS: Final = {name: BleMakerCodec(name) for name in MAKERS}


class _Heard(Struct):
    data: bytes = b""
    heard_s: float = 0.0
    numbered: dict[bytes, float] = field(default_factory=dict)
    """The newest that carry a number of their own, and when each was heard: the bus may bring an older one late."""
    manufacturer_data: dict[int, bytes] = field(default_factory=dict)
    doubts: Doubts = field(default_factory=Doubts)


_Waiting = tuple[DeviceBinding, str, bytes]


class MakerAdverts:
    """Bounded by the registry: only devices that are registered are remembered. ``counts`` is shared with BTHome's."""

    def __init__(self, options: BleOptions, delivery: Delivery, clock: Clock, counts: dict[str, int]) -> None:
        self._options = options
        self._delivery = delivery
        self._clock = clock
        self._counts = counts
        self._heard: dict[str, _Heard] = {}
        self._ready: set[str] = set()
        self._waiting: deque[_Waiting] = deque(maxlen=WAITING)
        self._wanted = asyncio.Event()
        self.troubles: dict[str, str] = {}
        """By codec: why its library cannot be used, and what to do."""

    async def prepare(self) -> None:
        """Import libraries as they are needed, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while codec := next((each.codec for each, _, _ in self._waiting if each.codec not in self._ready), ""):
                try:
                    await asyncio.to_thread(ready, codec)
                except ParseError as error:
                    self.troubles[codec] = str(error)
                self._ready.add(codec)
            while self._waiting:
                self._take(*self._waiting.popleft())

    def heard(self, binding: DeviceBinding, address: str, advertisement: AdvertisementData) -> None:
        """An advertisement of a registered device, as often as the radio reports it."""
        last = self._heard.get(binding.device_id)
        if last is None:
            last = self._heard[binding.device_id] = _Heard()
        data = _said(binding.codec, advertisement, last)
        if not data:
            return
        if binding.codec in self._ready:
            self._take(binding, address, data)
        else:
            self._waiting.append((binding, address, data))
            self._wanted.set()

    def _take(self, binding: DeviceBinding, address: str, data: bytes) -> None:
        now_s = self._clock.monotonic_s()
        last = self._heard[binding.device_id]
        if self._is_repeat(last, data, now_s):
            self._counts["repeats_total"] += 1
            return
        name = address_key(address)
        key = self._options.bind_keys.get(name)
        frame = Frame(
            "ble", binding.codec, address, bytes.fromhex(name) + data, self._clock.now_us(), binding.device_id
        )
        frame.context = None if key is None else {"bindkey": key}
        try:
            (report,) = _CODECS[binding.codec].parse(frame)
        except ParseError:
            last.data, last.heard_s = data, now_s
            self._counts["unreadable_total"] += 1
            frame.verified = False
            self._doubtful(last, frame, now_s, alarm=False)
            return
        fields = report.fields or {}
        if not fields and not report.faults:  # it is there, and says nothing: between two repeats of an event, too
            return
        last.data, last.heard_s = data, now_s
        if "packet_id" in fields:
            last.numbered[data] = now_s
            if len(last.numbered) > NUMBERED:
                del last.numbered[next(iter(last.numbered))]
        alarm = is_alarm(fields)
        # Who has a bind key and speaks in the clear may be anybody.
        frame.verified = report.proof is True or (self._options.trust_plain_advertisements and key is None)
        if frame.verified:
            self._delivery.put(frame, alarm=alarm)
        else:
            self._counts["unproved_total"] += 1
            self._doubtful(last, frame, now_s, alarm=alarm)

    @staticmethod
    def _is_repeat(last: _Heard, data: bytes, now_s: float) -> bool:
        heard_s = last.numbered.get(data)
        if heard_s is not None and now_s - heard_s < NUMBERED_REPEAT_S:
            last.numbered[data] = now_s
        elif data == last.data and now_s - last.heard_s < REPEAT_S:
            last.heard_s = now_s
        else:
            return False
        return True

    def _doubtful(self, last: _Heard, frame: Frame, now_s: float, *, alarm: bool) -> None:
        if last.doubts.admit(now_s, alarm=alarm):
            self._delivery.put(frame, alarm=alarm)


def _said(codec: str, advertisement: AdvertisementData, last: _Heard) -> bytes:
    """What the library needs of it, b"" for nothing. BlueZ may list manufacturer data of before: what is new counts."""
    if not MAKERS[codec].whole:
        data = packed(
            service_data={
                uuid: advertisement.service_data[uuid] for uuid in XIAOMI if uuid in advertisement.service_data
            }
        )
        return data if len(data) <= MAX_BYTES - 6 else b""
    heard = dict(advertisement.manufacturer_data)
    if not heard and not advertisement.service_data:  # a name alone, as in a scan response
        return b""
    new = dict(heard.items() - last.manufacturer_data.items()) or heard
    if last.manufacturer_data:
        heard, last.manufacturer_data = new, heard
    else:
        last.manufacturer_data = heard
    data = packed(advertisement.local_name or "", advertisement.service_uuids, advertisement.service_data, heard)
    return data if len(data) <= MAX_BYTES - 6 else b""
