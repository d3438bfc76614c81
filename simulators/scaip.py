"""A social alarm unit that speaks SCAIP over SIP (UDP or TCP), by hand; answered inline or in a MESSAGE of its own."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final
from xml.sax.saxutils import escape

from msgspec import Struct

T1_S: Final = 0.5
T2_S: Final = 4.0
_numbers = itertools.count(1)


class Answered(Struct, frozen=True):
    status: int
    body: bytes


def mrq(**tags: str) -> str:
    """The request document with these tags, in the order given."""
    return "<mrq>" + "".join(f"<{name}>{escape(text)}</{name}>" for name, text in tags.items()) + "</mrq>"


class Unit:
    """``cid`` is its controller id, ``address`` what it calls its own."""

    def __init__(self, cid: str, address: str, transport: str = "UDP") -> None:
        self._cid = cid
        self._address = address
        self._transport = transport
        self.repeated = 0

    def message(self, body: str) -> bytes:
        return self.request("MESSAGE", "application/scaip+xml", body)

    def request(self, method: str, kind: str, body: str) -> bytes:
        number = next(_numbers)
        data = body.encode()
        lines = [
            f"{method} sip:arc@carebell SIP/2.0",
            f"Via: SIP/2.0/{self._transport} {self._address};branch=z9hG4bKs{number};rport",
            f"From: <sip:{self._cid}@{self._address}>;tag=s{number}",
            "To: <sip:arc@carebell>",
            f"Call-ID: s{number}@{self._address}",
            f"CSeq: {number} {method}",
            "Max-Forwards: 70",
            *([f"Content-Type: {kind}"] if kind else []),
            f"Content-Length: {len(data)}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data

    async def send(self, body: str, host: str, port: int) -> Answered:
        """Send over UDP until it is answered, by timers E and F of RFC 3261, 17.1.2.2; the document is the answer's,
        or that of the MESSAGE behind it, which is answered with 200. Raises ConnectionError after 32 s.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[bytes] = asyncio.Queue()

        class Endpoint(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                del addr
                came.put_nowait(data)

        transport, _ = await loop.create_datagram_endpoint(Endpoint, remote_addr=(host, port))
        payload = self.message(body)
        pause_s, until_s = T1_S, loop.time() + 64 * T1_S
        status = 0
        try:
            transport.sendto(payload)
            while True:
                try:
                    async with asyncio.timeout(pause_s):
                        said = await came.get()
                except TimeoutError:
                    if loop.time() >= until_s:
                        raise ConnectionError("no answer") from None
                    if not status:  # a response ends the repeating; a lost MESSAGE behind it is repeated to us
                        transport.sendto(payload)
                        self.repeated += 1
                    pause_s = min(T2_S, pause_s * 2)
                    continue
                head, _, document = said.partition(b"\r\n\r\n")
                if head.startswith(b"SIP/2.0 "):
                    status = int(head[8:11])
                else:
                    transport.sendto(accepted(said))
                if status and (document or status != 200):
                    return Answered(status, document)
        finally:
            transport.close()


def accepted(request: bytes) -> bytes:
    """200 for a request."""
    kept = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:")
    lines = [line for line in request.split(b"\r\n\r\n")[0].split(b"\r\n") if line.lower().startswith(kept)]
    return b"\r\n".join([b"SIP/2.0 200 OK", *lines, b"Content-Length: 0", b"", b""])
