"""A social alarm unit that speaks SCAIP over SIP (UDP or TCP), by hand; answered inline or in a MESSAGE of its own."""

from __future__ import annotations

import asyncio
import itertools
from xml.sax.saxutils import escape

from msgspec import Struct

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

    async def send(self, body: str, host: str, port: int, *, tries: int = 3, wait_s: float = 2.0) -> Answered:
        """Send over UDP until it is answered; the document is the answer's, or the MESSAGE's behind it."""
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[bytes] = asyncio.Queue()

        class Endpoint(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                del addr
                came.put_nowait(data)

        transport, _ = await loop.create_datagram_endpoint(Endpoint, remote_addr=(host, port))
        payload = self.message(body)
        try:
            for _ in range(tries):
                transport.sendto(payload)
                try:
                    async with asyncio.timeout(wait_s):
                        return await _whole_answer(came)
                except TimeoutError:
                    continue
        finally:
            transport.close()
        raise ConnectionError("no answer")


async def _whole_answer(came: asyncio.Queue[bytes]) -> Answered:
    status = 0
    while True:
        head, _, body = (await came.get()).partition(b"\r\n\r\n")
        if head.startswith(b"SIP/2.0 "):
            status = int(head[8:11])
        if status and (body or status != 200):
            return Answered(status, body)
