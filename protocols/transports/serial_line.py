"""What serial transports share: a port by its stable path, opened again when it was pulled out, and frames that wait
until they are on disk.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.errors import TransportError
from gateway.model import Frame, Report, Verdict
from gateway.ports import Codec, Directory, Ingest

AGAIN_S: Final = 1.0
NOT_STORED_S: Final = 0.5
TRANSPORT: Final = "serial"

log = structlog.get_logger("serial")


class Line(Struct, frozen=True, kw_only=True):
    """A serial line. ``port`` is best a path under /dev/serial/by-id. ``device`` is whose line it is."""

    port: str
    device: str
    baudrate: int = 9600
    bits: Literal[7, 8] = 8
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1


class Wire(Protocol):
    """An open port."""

    async def read(self, most: int) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class _Open:
    """``Wire`` on serialx."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, most: int) -> bytes:
        data: bytes = await self._reader.read(most)
        return data

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()


async def open_line(line: Line) -> Wire:
    """Raises TransportError."""
    import serialx  # noqa: PLC0415 - only where there is such a line

    try:
        reader, writer = await serialx.open_serial_connection(
            line.port,
            line.baudrate,
            byte_size=line.bits,
            parity={"none": serialx.Parity.NONE, "even": serialx.Parity.EVEN, "odd": serialx.Parity.ODD}[line.parity],
            stopbits=serialx.StopBits.ONE if line.stop_bits == 1 else serialx.StopBits.TWO,
        )
    except (OSError, ValueError) as error:
        raise TransportError(f"{line.port}: {error}") from error
    return _Open(reader, writer)


class SerialTransport(ABC):
    """Opens the port, serves it (``_serve``, of a subclass), and again when it is gone. A ``HealthPart``."""

    def __init__(
        self, line: Line, codec: Codec, *, ingest: Ingest, directory: Directory, clock: Clock, again_s: float = AGAIN_S
    ) -> None:
        self._line = line
        self._codec = codec
        self._ingest = ingest
        self._directory = directory
        self._clock = clock
        self._again_s = again_s
        self.reason = "not opened yet"
        self.counts = dict.fromkeys(("frames", "faults", "opened", "rubbish", "retried"), 0)

    @property
    def name(self) -> str:
        return f"serial {self._line.port}"

    def state(self) -> tuple[bool, str]:
        return not self.reason, self.reason or "open"

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                wire = await open_line(self._line)
            except TransportError as error:
                self._gone(str(error))
                await asyncio.sleep(self._again_s)
                continue
            self.reason = ""
            self.counts["opened"] += 1
            log.info("serial_open", port=self._line.port)
            try:
                await self._serve(wire)
            except (OSError, TransportError) as error:
                self._gone(f"{type(error).__name__}: {error}")
            finally:
                wire.close()
            await asyncio.sleep(self._again_s)

    def _gone(self, reason: str) -> None:
        if not self.reason or self.reason == "not opened yet":
            log.error("serial_gone", port=self._line.port, error=reason)
        self.reason = reason or "gone"

    @abstractmethod
    async def _serve(self, wire: Wire) -> None:
        """Listen or ask until the line is gone. Raises OSError or TransportError."""

    # ---- frames ------------------------------------------------------------------------------------------------------

    def _frame(self, payload: bytes) -> Frame:
        """The frame with its reports, in the name of the call point that the registry knows, else of the line."""
        self.counts["frames"] += 1
        frame = Frame(TRANSPORT, self._codec.name, self._line.port, payload, self._clock.now_us(), self._line.device)
        frame.reports = self._parsed(frame)
        for report in frame.reports or ():
            point = self._directory.device_by_key(report.device_key) if report.device_key else None
            if point is not None:
                frame.device_key = point.device_id
            else:
                report.device_key = ""
        return frame

    def _parsed(self, frame: Frame) -> Sequence[Report] | None:
        try:
            return self._codec.parse(frame)
        except Exception as error:  # noqa: BLE001 - ingest meets it again and writes it down; the line must go on
            self.counts["faults"] += 1
            log.debug("serial_frame_not_read", port=self._line.port, error=type(error).__name__)
            return None

    async def _keep(self, frames: Sequence[Frame]) -> None:
        """Return once they are on disk. Nothing is read meanwhile: what a host sends waits in the port's buffer."""
        while frames and await self._ingest.deliver(frames) is not Verdict.ACCEPTED:
            self.counts["retried"] += 1
            await asyncio.sleep(NOT_STORED_S)
