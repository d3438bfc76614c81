"""Devices that keep sending whatever happens, and a record of every acknowledgement. MQTT 3.1.1 by hand, no library."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from dataclasses import dataclass, field

WINDOW = 8
CONNECT_S = 10.0


@dataclass
class Device:
    """One device: what it sent, what was acknowledged, and what it will send again."""

    device_id: str
    token: str
    rng: random.Random
    seq: int = 0
    unacknowledged: dict[int, bytes] = field(default_factory=dict)  # by seq, payload
    acknowledged: set[int] = field(default_factory=set)
    presses: set[int] = field(default_factory=set)

    def next_payload(self) -> tuple[int, bytes]:
        self.seq += 1
        body: dict[str, object] = {"seq": self.seq}
        if self.rng.random() < 0.04:
            self.presses.add(self.seq)
            body["signals"] = ["sos"]
        else:
            body["measurements"] = {"heart_rate_bpm": self.rng.randrange(60, 90)}
        return self.seq, json.dumps(body).encode()


class Driver:
    """Runs all devices until ``finish``; then each sends what is unacknowledged until nothing is left."""

    def __init__(self, port: int, tokens: dict[str, str], seed: int, pause_s: float = 0.01) -> None:
        self._port = port
        self._pause_s = pause_s
        self._finishing = False
        self.devices = [Device(name, token, random.Random(f"{seed}{name}")) for name, token in tokens.items()]

    def finish(self) -> None:
        self._finishing = True

    def acknowledged(self) -> set[tuple[str, int]]:
        return {(device.device_id, seq) for device in self.devices for seq in device.acknowledged}

    def presses(self) -> set[tuple[str, int]]:
        return {(device.device_id, seq) for device in self.devices for seq in device.presses}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                group.create_task(self._live(device))

    async def _live(self, device: Device) -> None:
        while not (self._finishing and not device.unacknowledged):
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            try:
                await self._talk(device, reader, writer)
            except* (OSError, asyncio.IncompleteReadError, TimeoutError):
                pass  # it died: come again
            writer.close()
            await asyncio.sleep(0.02)

    async def _talk(self, device: Device, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name, token = device.device_id.encode(), device.token.encode()
        variable = b"\x00\x04MQTT\x04\xc2\x00\x1e" + b"".join(
            struct.pack("!H", len(text)) + text for text in (name, name, token)
        )
        writer.write(b"\x10" + _length(len(variable)) + variable)
        async with asyncio.timeout(CONNECT_S):
            answer = await reader.readexactly(4)
        assert answer == b"\x20\x02\x00\x00", f"{device.device_id} was refused: {answer!r}"
        in_flight: dict[int, int] = {}
        for seq, payload in sorted(device.unacknowledged.items()):
            writer.write(_publish(device.device_id, seq, payload, again=True))
            in_flight[seq & 0xFFFF or 1] = seq
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(device, writer, in_flight))
            try:
                while not (self._finishing and not device.unacknowledged):
                    async with asyncio.timeout(10):
                        header = await reader.readexactly(4)
                    assert header[:2] == b"\x40\x02", f"not a PUBACK: {header!r}"
                    seq = in_flight.pop(struct.unpack("!H", header[2:])[0])
                    device.acknowledged.add(seq)
                    del device.unacknowledged[seq]
            finally:
                sending.cancel()

    async def _send(self, device: Device, writer: asyncio.StreamWriter, in_flight: dict[int, int]) -> None:
        while not self._finishing:
            if len(in_flight) < WINDOW:
                self._say(device, writer, in_flight)
            await asyncio.sleep(device.rng.random() * 2 * self._pause_s)
        if not device.unacknowledged:  # who waits for acknowledgements learns by one that this was the last
            self._say(device, writer, in_flight)

    def _say(self, device: Device, writer: asyncio.StreamWriter, in_flight: dict[int, int]) -> None:
        seq, payload = device.next_payload()
        device.unacknowledged[seq] = payload
        in_flight[seq & 0xFFFF or 1] = seq
        writer.write(_publish(device.device_id, seq, payload, again=False))


def _publish(device_id: str, seq: int, payload: bytes, *, again: bool) -> bytes:
    topic = f"carebell/{device_id}/up".encode()
    body = struct.pack("!H", len(topic)) + topic + struct.pack("!H", seq & 0xFFFF or 1) + payload
    return bytes([0x3A if again else 0x32]) + _length(len(body)) + body


def _length(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)
