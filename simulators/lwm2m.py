"""A simulated emergency button with LwM2M 1.1: registers, answers reads, is observed, sends SenML JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from simulators import coap_wire as wire
from simulators.coap import Peer
from simulators.devices import NotAcknowledgedError

SENML_JSON: Final = 110
LINKS: Final = b'</>;rt="oma.lwm2m";ct=110,</1/0>,</3/0>,</3303/0>,</3347/0>'


class Lwm2mButton:
    """One client on one socket. ``start`` registers; raises NotAcknowledgedError when it is refused."""

    def __init__(
        self, host: str, port: int, endpoint: str, token: str, *, lifetime_s: int = 60, binding: str = "U"
    ) -> None:
        self._address = (host, port)
        self._endpoint = endpoint
        self._token = token
        self._lifetime_s = lifetime_s
        self._binding = binding
        self._location: wire.Options = ()
        self._observed: dict[str, tuple[bytes, int]] = {}
        self.peer: Peer | None = None
        self.values: dict[str, Any] = {
            "/3/0/0": "carebell", "/3/0/9": 90, "/3303/0/5700": 21.5, "/3303/0/5701": "Cel",
            "/3347/0/5500": False, "/3347/0/5501": 0,
        }  # fmt: skip
        self.attributes: dict[str, str] = {}
        self.executed: list[str] = []

    async def start(self) -> None:
        self.peer = await Peer.connect(*self._address)
        self.peer.serve = self._serve
        options = (
            *wire.path("rd"),
            *wire.query(ep=self._endpoint, t=self._token, lt=str(self._lifetime_s), lwm2m="1.1", b=self._binding),
            (wire.CONTENT_FORMAT, wire.number(40)),
        )
        answer = await self.peer.request(wire.POST, options, LINKS)
        if answer.code != wire.CREATED:
            self.close()
            raise NotAcknowledgedError(f"registration answered {answer.code >> 5}.{answer.code & 31:02}")
        self._location = tuple((wire.URI_PATH, value) for key, value in answer.options if key == wire.LOCATION_PATH)

    async def update(self) -> int:
        """The code of the answer."""
        assert self.peer is not None
        return (await self.peer.request(wire.POST, self._location)).code

    async def end(self) -> int:
        """De-register; the code of the answer."""
        assert self.peer is not None
        return (await self.peer.request(wire.DELETE, self._location)).code

    def close(self) -> None:
        if self.peer is not None:
            self.peer.close()

    def observes(self, path: str) -> bool:
        """Whether the server observes this path."""
        return path in self._observed

    async def press(self) -> None:
        """Press and release; each is a notification, confirmed. Raises NotAcknowledgedError."""
        self.values["/3347/0/5501"] += 1
        for state in (True, False):
            self.values["/3347/0/5500"] = state
            await self.notify("/3347/0")

    async def notify(self, path: str) -> None:
        """Tell whoever observes this path."""
        assert self.peer is not None
        found = self._observed.get(path)
        if found is None:
            return
        token, count = found
        self._observed[path] = (token, count + 1)
        message = self._content(wire.CON, self.peer.next_mid(), token, path, count + 1)
        await self.peer.confirm(message)

    async def send(self, **values: Any) -> int:
        """Send (1.1) what stands under these names: ``sos="/3347/0/5500"`` reads as the present values."""
        assert self.peer is not None
        pack = [_record(path, self.values[path]) for path in values.values()]
        options = (*wire.path("dp"), (wire.CONTENT_FORMAT, wire.number(SENML_JSON)))
        return (await self.peer.request(wire.POST, options, json.dumps(pack).encode())).code

    def _serve(self, request: wire.Message) -> wire.Message:
        path = request.path()
        answer = wire.Message(wire.ACK, wire.NOT_FOUND, request.mid, request.token)
        if request.code == wire.GET and any(name.startswith(path) for name in self.values):
            observe = request.option(wire.OBSERVE)
            number = None
            if observe is not None and not any(observe):
                self._observed[path] = (request.token, number := 1)
            return self._content(wire.ACK, request.mid, request.token, path, number)
        if request.code == wire.PUT:
            stated = [value.decode() for key, value in request.options if key == wire.URI_QUERY]
            if stated:
                self.attributes[path] = "&".join(stated)
            else:
                self.values[path] = request.payload.decode("utf-8", "replace")
            answer.code = wire.CHANGED
        elif request.code == wire.POST:
            self.executed.append(path)
            answer.code = wire.CHANGED
        return answer

    def _content(self, kind: int, mid: int, token: bytes, path: str, observe: int | None) -> wire.Message:
        pack = [_record(name, value) for name, value in self.values.items() if name.startswith(path)]
        options: list[tuple[int, bytes]] = [(wire.CONTENT_FORMAT, wire.number(SENML_JSON))]
        if observe is not None:
            options.append((wire.OBSERVE, wire.number(observe)))
        return wire.Message(kind, wire.CONTENT, mid, token, tuple(options), json.dumps(pack).encode())


def _record(path: str, value: Any) -> dict[str, Any]:
    label = "vb" if isinstance(value, bool) else "vs" if isinstance(value, str) else "v"
    return {"n": path, label: value}


async def keep_registered(button: Lwm2mButton, every_s: float) -> None:
    """Update for ever; register anew when the server does not know the registration any more."""
    while True:
        await asyncio.sleep(every_s)
        if await button.update() == wire.NOT_FOUND:
            button.close()
            await button.start()
