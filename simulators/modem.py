"""A GSM modem on a pseudo-terminal: speaks AT commands in PDU mode, keeps messages, rings, and fails when told to."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import re
import tty
from collections import deque
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

MAX_BUFFER: Final = 4096
_SUBMIT: Final = re.compile(r"AT\+CMGS=(\d{1,3})")
_DELETE: Final = re.compile(r"AT\+CMGD=(\d{1,3})")


class Fault(enum.StrEnum):
    """What happens to the next message that is submitted."""

    BUSY = "busy"  # +CMS ERROR: 314, nothing is sent
    NETWORK = "network"  # +CMS ERROR: 38, nothing is sent
    NUMBER = "number"  # +CMS ERROR: 1, unassigned number
    ERROR = "error"  # a bare ERROR, nothing is sent
    NO_PROMPT = "no_prompt"  # silence instead of the prompt
    SILENCE = "silence"  # it is sent, the answer never comes
    UNPLUG_BEFORE = "unplug_before"  # the port goes instead of the prompt
    UNPLUG_AFTER = "unplug_after"  # it is sent, the port goes before the answer
    LATE_ANSWER = "late_answer"  # it is sent, the answer comes after ``late_s``


class Sent(Struct):
    """A part that the network took: PDU as it came, its length in octets as announced, and its reference."""

    pdu: str
    length: int
    reference: int


class SimulatedModem:
    """``async with SimulatedModem(folder) as modem``: a port at ``modem.port`` until the block ends.

    ``chunk``: bytes that it writes at once (1: one by one). ``noise``: is written before each line.
    ``report_status``: TP-ST of the status report that follows each part that asked for one; None sends none.
    ``answer_s``: how long the network takes for a message.
    """

    def __init__(
        self,
        folder: Path,
        *,
        pin: str = "",
        chunk: int = 4096,
        noise: bytes = b"",
        registration: int = 1,
        signal: int = 20,
        report_status: int | None = 0,
        report_s: float = 0.01,
        answer_s: float = 0.0,
        late_s: float = 0.5,
    ) -> None:
        self.port = folder / "ttyModem"
        self.sent: list[Sent] = []
        self.commands: deque[str] = deque(maxlen=10_000)
        self.memory: dict[int, str] = {}
        self.registration = registration
        self.signal = signal
        self.report_status = report_status
        self.echo = True
        self.silent = False
        self._pin = pin
        self._locked = bool(pin)
        self._chunk = chunk
        self._noise = noise
        self._report_s = report_s
        self._answer_s = answer_s
        self._late_s = late_s
        self._planned: deque[Fault] = deque()
        self._reference = 250
        self._awaits: tuple[int, Fault | None] | None = None
        self._buffer = bytearray()
        self._master = self._slave = -1
        self._work: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self.plug()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.unplug()
        for task in self._work:
            task.cancel()
        await self._stack.aclose()

    def plug(self) -> None:
        """A new device appears under the same name, as udev's links do."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(self._slave))
        self._buffer.clear()
        self._awaits = None
        self.echo = True
        self._locked = bool(self._pin)
        asyncio.get_running_loop().add_reader(self._master, self._readable)

    def unplug(self) -> None:
        if self._master < 0:
            return
        asyncio.get_running_loop().remove_reader(self._master)
        self.port.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    @property
    def plugged(self) -> bool:
        return self._master >= 0

    def fail(self, *faults: Fault) -> None:
        self._planned.extend(faults)

    def receive(self, *pdus: str, announce: bool = True) -> None:
        """Messages come in. ``pdu`` with its SMSC field."""
        for pdu in pdus:
            index = next(number for number in range(1, 256) if number not in self.memory)
            self.memory[index] = pdu
            if announce:
                self.say(f'+CMTI: "SM",{index}')

    def ring(self, number: str, kind: int = 145) -> None:
        """One ring; call it again for the next."""
        self.say("RING")
        if number:
            self.say(f'+CLIP: "{number}",{kind},"",0,"",0')

    def say(self, *lines: str) -> None:
        """Lines as the modem writes them, also on its own."""
        self._write(b"".join(self._noise + b"\r\n" + line.encode() + b"\r\n" for line in lines))

    def report(self, sent: Sent, status: int) -> None:
        """The status report of a part."""
        tpdu = bytes.fromhex(sent.pdu)
        address = tpdu[3 : 5 + (tpdu[3] + 1) // 2]
        stamp = bytes.fromhex("62112210203023")
        octets = bytes((0x06, sent.reference)) + address + stamp + stamp + bytes((status,))
        self.say(f"+CDS: {len(octets)}", f"00{octets.hex().upper()}")

    def _spawn_later(self, seconds: float, *lines: str, report: Sent | None = None) -> None:
        async def later() -> None:
            await asyncio.sleep(seconds)
            if lines:
                self.say(*lines)
            if report is not None and self.report_status is not None:
                self.report(report, self.report_status)

        task = self._group.create_task(later())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _readable(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except (BlockingIOError, OSError):
            return
        for octet in data:
            if self.echo and self._awaits is None and not self.silent:
                self._write(bytes((octet,)))
            self._feed(octet)
            if not self.plugged:
                return

    def _feed(self, octet: int) -> None:
        if octet == 0x1B:
            self._awaits = None
            self._buffer.clear()
        elif self._awaits is not None and octet == 0x1A:
            text = self._buffer.decode("ascii", "replace").strip()
            self._buffer.clear()
            self._submitted(text)
        elif octet == 0x0D and self._awaits is None:
            text = self._buffer.decode("ascii", "replace").strip()
            self._buffer.clear()
            if text:
                self.commands.append(text)
                if not self.silent:
                    self._command(text)
        elif len(self._buffer) < MAX_BUFFER:
            self._buffer.append(octet)

    def _command(self, text: str) -> None:
        if submit := _SUBMIT.fullmatch(text):
            self._prompt(int(submit[1]))
            return
        if delete := _DELETE.fullmatch(text):
            known = self.memory.pop(int(delete[1]), None)
            self.say("OK" if known is not None else "+CMS ERROR: 321")
            return
        if text == "ATE0":
            self.echo = False
        elif text.startswith('AT+CPIN="'):
            if text != f'AT+CPIN="{self._pin}"':
                self.say("+CME ERROR: 16")
                return
            self._locked = False
        elif self._locked and text not in ("AT", "AT+CMEE=1", "AT+CPIN?"):
            self.say("+CME ERROR: 11")
            return
        self.say(*self._answers(text), "OK")

    def _answers(self, text: str) -> list[str]:
        if text == "AT+CPIN?":
            return ["+CPIN: SIM PIN" if self._locked else "+CPIN: READY"]
        if text == "AT+CREG?":
            return [f"+CREG: 0,{self.registration}"]
        if text == "AT+CSQ":
            return [f"+CSQ: {self.signal},99"]
        if text == "AT+CMGL=4":
            return [
                line
                for index, pdu in sorted(self.memory.items())
                for line in (f"+CMGL: {index},0,,{len(pdu) // 2 - 1}", pdu)
            ]
        return []

    def _prompt(self, length: int) -> None:
        fault = self._planned.popleft() if self._planned else None
        if fault is Fault.NO_PROMPT:
            return
        if fault is Fault.UNPLUG_BEFORE:
            self.unplug()
            return
        self._awaits = (length, fault)
        self._write(b"\r\n> ")

    def _submitted(self, pdu: str) -> None:
        assert self._awaits is not None
        (length, fault), self._awaits = self._awaits, None
        errors = {
            Fault.BUSY: "+CMS ERROR: 314",
            Fault.NETWORK: "+CMS ERROR: 38",
            Fault.NUMBER: "+CMS ERROR: 1",
            Fault.ERROR: "ERROR",
        }
        if fault in errors:
            self.say(errors[fault])
            return
        if len(pdu) // 2 - 1 - int(pdu[:2], 16) != length:
            self.say("+CMS ERROR: 304")
            return
        self._reference = (self._reference + 1) % 256
        sent = Sent(pdu, length, self._reference)
        self.sent.append(sent)
        wants_report = self.report_status is not None and bool(int(pdu[2:4], 16) & 0x20)
        if fault is Fault.UNPLUG_AFTER:
            self.unplug()
            return
        answer = (f"+CMGS: {sent.reference}", "OK")
        if fault is Fault.LATE_ANSWER:
            self._spawn_later(self._late_s, *answer)
        elif fault is not Fault.SILENCE and self._answer_s > 0:
            self._spawn_later(self._answer_s, *answer)
        elif fault is not Fault.SILENCE:
            self.say(*answer)
        if wants_report:
            self._spawn_later(self._report_s, report=sent)

    def _write(self, data: bytes) -> None:
        """In pieces, as a slow line brings them. What does not fit is lost, as on a line without flow control."""
        if not self.plugged or self.silent:
            return
        for start in range(0, len(data), self._chunk):
            with contextlib.suppress(BlockingIOError):
                os.write(self._master, data[start : start + self._chunk])
