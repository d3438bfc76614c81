"""The dialogue with a modem (3GPP TS 27.005 and 27.007): one command at a time, and what it says on its own between."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct, field

MAX_LINE: Final = 2_048
MAX_ANSWER_LINES: Final = 600
COMMAND_S: Final = 8.0
PROMPT_S: Final = 10.0
SUBMIT_S: Final = 60.0
REPORT_LINES: Final = 4
QUIET_S: Final = 0.2
RECOVER_S: Final = 2.0
_ERROR: Final = re.compile(r"\+(CM[ES]) ERROR: *(\d+)")
_UNSOLICITED: Final = ("RING", "NO CARRIER", "+CLIP:", "+CMTI:", "+CDSI:", "+CRING:")
_REPORT: Final = "+CDS:"
_TPDU: Final = re.compile(r"[0-9A-Fa-f]{14,800}")
_SUBMITTED: Final = re.compile(r"\+CMGS: *(\d{1,3})")


class ModemGoneError(Exception):
    """The port closed, or the modem does not answer any more. Handler: the modem, which opens it again."""


class ModemSilentError(Exception):
    """No final answer in time. Handler: the modem, which asks whether anybody is there."""


class ModemRefusedError(Exception):
    """``ERROR``, ``+CME ERROR: n`` or ``+CMS ERROR: n``. Handler: the modem. ``kind`` is "", "CME" or "CMS"."""

    def __init__(self, kind: str = "", code: int | None = None) -> None:
        super().__init__(f"+{kind} ERROR: {code}" if kind else "ERROR")
        self.kind = kind
        self.code = code


class SubmitUncertainError(Exception):
    """A part was not answered. Handler: the modem.

    ``written``: the modem had the PDU, so it may be sent. ``gone``: the port closed.
    """

    def __init__(self, *, written: bool, gone: bool = False) -> None:
        super().__init__("unanswered")
        self.written = written
        self.gone = gone


class PortReader(Protocol):
    async def read(self, n: int = -1, /) -> bytes: ...


class PortWriter(Protocol):
    def write(self, data: bytes, /) -> None: ...

    def close(self) -> None: ...


class _Pending(Struct):
    """A command that waits for its final answer."""

    command: str
    done: asyncio.Future[None]
    prompt: asyncio.Future[None]
    lines: list[str] = field(default_factory=list)


class ModemLink:
    """Not for two commands at once. ``unsolicited`` gets the line, and for a status report the PDU that follows it."""

    def __init__(
        self,
        reader: PortReader,
        writer: PortWriter,
        unsolicited: Callable[[str, str], None],
        *,
        prompt_s: float = PROMPT_S,
        submit_s: float = SUBMIT_S,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._unsolicited = unsolicited
        self._prompt_s = prompt_s
        self._submit_s = submit_s
        self._pending: _Pending | None = None
        self._line = bytearray()
        self._too_long = False
        self._report = ""
        self._report_lines = 0
        self.gone = False  # whether the port has closed
        self.written = False  # whether the modem has had the PDU of the part under way

    async def run(self) -> None:
        """Read until the port closes. Raises ModemGoneError, always."""
        try:
            while chunk := await self._read():
                for octet in chunk:
                    self._feed(octet)
            raise ModemGoneError("the port closed")
        finally:
            self.gone = True
            if self._pending is not None and not self._pending.done.done():
                self._pending.done.set_exception(ModemGoneError("the port closed"))
                self._pending.done.exception()  # seen: whoever waited may be cancelled before it can look
            self._writer.close()

    async def command(self, text: str, timeout_s: float = COMMAND_S) -> list[str]:
        """The lines between a command and its ``OK``. Raises ModemRefused-, ModemSilent- or ModemGoneError."""
        pending = self._begin(text)
        try:
            self._write(f"{text}\r".encode("ascii"))
            async with asyncio.timeout(timeout_s):
                await pending.done
        except TimeoutError as error:
            raise ModemSilentError(text.partition("=")[0]) from error
        finally:
            self._pending = None
        return pending.lines

    async def submit(self, pdu: str, length: int) -> int:
        """Send one message part; returns its message reference (0-255).

        Raises ModemRefusedError (it was not sent) and SubmitUncertainError.
        """
        pending = self._begin(f"AT+CMGS={length}")
        self.written = False
        try:
            self._write(f"AT+CMGS={length}\r".encode("ascii"))
            await self._prompt(pending)
            self.written = True
            self._write(f"{pdu}\x1a".encode("ascii"))
            async with asyncio.timeout(self._submit_s):
                await pending.done
        except TimeoutError as error:
            raise SubmitUncertainError(written=self.written) from error
        except ModemGoneError as error:
            raise SubmitUncertainError(written=self.written, gone=True) from error
        finally:
            self._pending = None
        for line in pending.lines:
            found = _SUBMITTED.search(line)
            if found and int(found[1]) < 256:
                return int(found[1])
        raise SubmitUncertainError(written=True)

    async def recover(self) -> None:
        """After a silence: leave any prompt, let late answers pass, and see that it answers. Raises ModemGoneError."""
        self._write(b"\x1b\r")
        for _ in range(3):
            await asyncio.sleep(QUIET_S)
            try:
                await self.command("AT", RECOVER_S)
            except (ModemSilentError, ModemRefusedError):
                continue
            await asyncio.sleep(QUIET_S)  # an answer to an older command may still follow; it belongs to nobody
            return
        raise ModemGoneError("the modem does not answer")

    async def _prompt(self, pending: _Pending) -> None:
        """Wait for ``> ``, or for the error that comes instead."""
        await asyncio.wait({pending.done, pending.prompt}, timeout=self._prompt_s, return_when=asyncio.FIRST_COMPLETED)
        if pending.done.done():
            pending.done.result()
            raise SubmitUncertainError(written=False)  # an OK without a prompt
        if not pending.prompt.done():
            raise SubmitUncertainError(written=False)

    def _begin(self, text: str) -> _Pending:
        if self.gone:
            raise ModemGoneError("the port closed")
        assert self._pending is None, "one command at a time"
        loop = asyncio.get_running_loop()
        self._pending = _Pending(text, loop.create_future(), loop.create_future())
        return self._pending

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(4096)
        except Exception as error:
            raise ModemGoneError(f"the port failed: {type(error).__name__}") from error

    def _write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
        except Exception as error:
            raise ModemGoneError(f"the port failed: {type(error).__name__}") from error

    def _feed(self, octet: int) -> None:
        if octet in (0x0D, 0x0A):
            line, self._line = bytes(self._line), bytearray()
            too_long, self._too_long = self._too_long, False
            if line and not too_long:
                self._take(line.decode("ascii", "replace").strip())
            return
        if len(self._line) >= MAX_LINE:
            self._too_long = True
            return
        self._line.append(octet)
        pending = self._pending
        if pending is not None and not pending.prompt.done() and (self._line == b">" or self._line.endswith(b"> ")):
            self._line.clear()
            pending.prompt.set_result(None)

    def _take(self, line: str) -> None:
        if not line:
            return
        if self._report:  # its PDU is the next line, unless noise comes between
            self._report_lines -= 1
            head = self._report
            if _TPDU.fullmatch(line):
                self._report = ""
                self._unsolicited(head, line)
                return
            if not self._report_lines:
                self._report = ""
        if line.startswith(_REPORT):
            self._report, self._report_lines = line, REPORT_LINES
            return
        pending = self._pending
        if line.startswith(_UNSOLICITED):
            self._unsolicited(line, "")
            return
        if pending is None or pending.done.done() or line == pending.command:
            return
        if line == "OK":
            pending.done.set_result(None)
        elif line == "ERROR":
            pending.done.set_exception(ModemRefusedError())
        elif found := _ERROR.fullmatch(line):
            pending.done.set_exception(ModemRefusedError(found[1], int(found[2])))
        elif len(pending.lines) < MAX_ANSWER_LINES:
            pending.lines.append(line)
