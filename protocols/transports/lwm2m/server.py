"""The LwM2M server (1.0, and of 1.1: SenML, Send, queue mode by ``Q``): registration, information reporting, requests.

Left out: bootstrap, composite operations, firmware objects. What clients say becomes frames of the codec ``lwm2m``; a
registration or a notification is acknowledged only when it is on disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from aiocoap.message import Message
from aiocoap.numbers import codes
from msgspec import Struct

from gateway.clock import US_PER_S, Clock
from gateway.errors import ParseError, StorageError
from gateway.model import DeviceBinding, Frame, Verdict
from gateway.ports import Credentials, Directory, Ingest, Store
from protocols.codecs.lwm2m_values import FORMATS, TLV, read, read_path
from protocols.transports.coap.endpoint import CoapEndpoint
from protocols.transports.coap.site import Asked
from protocols.transports.coap.stack import PlainAddress
from protocols.transports.http_ingest import SourceLimiter
from protocols.transports.lwm2m import registrations as rows
from protocols.transports.lwm2m.asking import Asking, Order, paths_to_observe, read_order
from protocols.transports.lwm2m.links import (
    lifetime_of,
    names_of,
    objects_of,
    split_endpoint,
    stated_format,
    version_of,
)
from protocols.transports.lwm2m.notifications import Notifications
from protocols.transports.lwm2m.registrations import Observation, Registration, Registrations, new_id, new_token

MAX_ENDPOINT: Final = 128
RESOURCES: Final = {
    3: (9, 11), 4: (2,), 6: (0, 1), 3300: (5700,), 3302: (5500,), 3303: (5700,), 3320: (5700,), 3323: (5700,),
    3346: (5700,), 3347: (5500, 5501),
}  # fmt: skip
"""What is observed of a client that observes no whole instances."""

VENDOR_OBJECTS: Final = 10_241
WORKERS: Final = 8
MAX_ORDERS: Final = 4096
SWEEP_S: Final = 1.0
COMMIT_S: Final = 60.0

log = structlog.get_logger("lwm2m")


class Lwm2mOptions(Struct, frozen=True):
    max_registrations: int = 20_000
    observe: tuple[str, ...] = ()
    pmin_s: int = 0
    pmax_s: int = 3600
    awake_s: float = 93.0


class Lwm2mServer:
    """Serves ``/rd`` and ``/dp`` of a CoapEndpoint. ``load`` before the endpoint starts, ``run`` beside it.

    Implements ``ports.Downlink``: the payload of a command is an order, ``{"op": "read", "path": "/6/0"}``.
    """

    def __init__(
        self,
        options: Lwm2mOptions,
        *,
        coap: CoapEndpoint,
        ingest: Ingest,
        credentials: Credentials,
        directory: Directory,
        store: Store,
        clock: Clock,
        asking: Asking | None = None,
    ) -> None:
        self._options = options
        self._coap = coap
        self.ingest = ingest
        self._credentials = credentials
        self._directory = directory
        self._store = store
        self._clock = clock
        self.asking = asking or Asking()
        self._limit = SourceLimiter(clock, per_minute=10, total_per_minute=300)
        self._orders: deque[tuple[Registration, Order | None]] = deque()
        self._wake = asyncio.Event()
        self.known = Registrations(options.max_registrations)
        self.counts = dict.fromkeys(
            ("registered", "updated", "deregistered", "expired", "refused", "notifications", "sends", "answers"), 0
        )
        self._notifications = Notifications(self)
        coap.serve("rd", self._rd)
        coap.serve("dp", self._dp)
        coap.on_response = self._notifications.take

    # ---- life --------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up the registrations of before a restart. Raises StorageError."""
        now_us = self._clock.now_us()
        for known in await self._store.read(lambda connection: rows.load(connection, now_us)):
            self.known.add(known)

    async def run(self) -> None:
        """Attend to clients and let registrations expire, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())
            while True:
                await asyncio.sleep(SWEEP_S)
                await self._sweep()

    async def _sweep(self) -> None:
        for known in self.known.expired(self._clock.now_us()):
            header = {"op": "expired", "endpoint": known.endpoint}
            if await self.keep(known.device_id, header, b"", known.host) is not Verdict.ACCEPTED:
                continue
            self.counts["expired"] += 1
            log.info("lwm2m_expired", device=known.device_id)
            await self._drop(known)
        changed, self.known.changed = self.known.changed, set()
        found = [self.known.by_id[one] for one in changed if one in self.known.by_id]
        if found:
            try:
                await self._store.write(lambda connection: rows.update(connection, found))
            except StorageError:
                self.known.changed |= changed

    async def _drop(self, known: Registration) -> None:
        self.known.remove(known)
        try:
            await self._store.write(lambda connection: rows.delete(connection, [known.id]))
        except StorageError as fault:
            log.error("lwm2m_not_removed", device=known.device_id, error=type(fault).__name__)

    # ---- frames ------------------------------------------------------------------------------------------------------

    async def keep(
        self, device_id: str, header: Mapping[str, Any], payload: bytes, source: str, *, proved: bool = True
    ) -> Verdict:
        """A frame on its way into the journal, and what became of it."""
        frame = self._frame(device_id, header, payload, source, proved=proved)
        try:
            async with asyncio.timeout(COMMIT_S):
                return await self.ingest.deliver([frame])
        except TimeoutError:
            return Verdict.RETRY

    def frame(self, known: Registration, header: Mapping[str, Any], payload: bytes, key: str) -> Frame:
        """A frame of a client; ``key`` names a resend of it."""
        return self._frame(known.device_id, header, payload, known.host, key=key)

    def _frame(
        self,
        device_id: str,
        header: Mapping[str, Any],
        payload: bytes,
        source: str,
        *,
        key: str = "",
        proved: bool = True,
    ) -> Frame:
        line = msgspec.json.encode(header) + b"\n" + payload
        return Frame(
            transport="coap", codec="lwm2m", source=source, payload=line, received_at_us=self._clock.now_us(),
            device_key=device_id, verified=proved, idempotency_key=key,
        )  # fmt: skip

    def now_s(self) -> float:
        return self._clock.monotonic_s()

    def counters_before(self, known: Registration, path: str, content_format: int, payload: bytes) -> dict[str, int]:
        """The counters of push buttons in a payload as they were before it; the new ones are remembered."""
        if not path.startswith("/3347"):
            return {}
        try:
            items = read(content_format, read_path(path), payload, 0, [])
        except ParseError:
            return {}
        was: dict[str, int] = {}
        for item in items:
            if item.path[2] == 5501 and isinstance(item.value, int) and not isinstance(item.value, bool):
                name = "/" + "/".join(str(part) for part in item.path)
                if name in known.counters:
                    was[name] = known.counters[name]
                if known.counters.get(name) != item.value:
                    known.counters[name] = item.value
                    self.known.changed.add(known.id)
        return was

    # ---- registration ------------------------------------------------------------------------------------------------

    async def _rd(self, asked: Asked) -> Message:
        path, code = asked.request.opt.uri_path, asked.request.code
        if len(path) == 1 and code is codes.POST:
            return await self._register(asked)
        if len(path) == 2:
            known = self.known.by_id.get(path[1])
            if known is None:
                return Message(code=codes.NOT_FOUND)
            if known.secured and asked.proved != known.device_id:
                self.counts["refused"] += 1
                return Message(code=codes.FORBIDDEN)
            if code in (codes.POST, codes.PUT):
                return await self._update(asked, known)
            if code is codes.DELETE:
                return await self._deregister(asked, known)
        return Message(code=codes.METHOD_NOT_ALLOWED if len(path) <= 2 else codes.NOT_FOUND)

    async def _register(self, asked: Asked) -> Message:  # noqa: PLR0911 - each refusal has its own code
        query = asked.query
        endpoint, secret = split_endpoint(query.get("ep", ""), query.get("t", ""))
        lifetime_s, objects = lifetime_of(query.get("lt", "")), objects_of(asked.payload)
        if not endpoint or len(endpoint) > MAX_ENDPOINT or lifetime_s is None or objects is None:
            return Message(code=codes.BAD_REQUEST)
        version = version_of(query.get("lwm2m", "1.0"))
        if version is None:
            return Message(code=codes.PRECONDITION_FAILED)
        try:
            binding = await self._authenticate(endpoint, secret, asked.proved)
            if binding is None:
                return await self._refuse(asked, endpoint, version)
            if len(self.known.by_id) >= self.known.limit and binding.device_id not in self.known.by_device:
                return Message(code=codes.SERVICE_UNAVAILABLE, max_age=300)
            known = self._new(asked, endpoint, binding, version, lifetime_s, objects)
            header = {
                "op": "register", "endpoint": endpoint, "lifetime_s": lifetime_s, "binding": known.binding,
                "version": version,
            }  # fmt: skip
            if await self.keep(known.device_id, header, asked.payload, asked.host) is not Verdict.ACCEPTED:
                return Message(code=codes.SERVICE_UNAVAILABLE, max_age=5)
            await self._store.write(lambda connection: rows.save(connection, known))
        except StorageError:
            return Message(code=codes.SERVICE_UNAVAILABLE, max_age=5)
        for old in [one for one in self.known.by_id.values() if one.device_id == known.device_id]:
            self.known.remove(old)  # and its observations with it
        self.known.add(known)
        self.counts["registered"] += 1
        log.info("lwm2m_registered", device=known.device_id, version=version)
        self.put(known, None)
        answer = Message(code=codes.CREATED)
        answer.opt.location_path = ("rd", known.id)
        return answer

    def _new(
        self, asked: Asked, endpoint: str, binding: DeviceBinding, version: str, lifetime_s: int, objects: list[str]
    ) -> Registration:
        now_us = self._clock.now_us()
        queue_mode = "Q" in asked.query
        known = Registration(
            id=new_id(),
            endpoint=endpoint,
            device_id=binding.device_id,
            secured=bool(asked.proved),
            scheme="",
            host="",
            port=0,
            version=version,
            binding=asked.query.get("b", "U")[:8] + ("Q" if queue_mode else ""),
            lifetime_s=lifetime_s,
            objects=objects,
            registered_at_us=now_us,
            expires_at_us=now_us + lifetime_s * US_PER_S,
            format=stated_format(asked.payload),
        )
        old = self.known.by_device.get(binding.device_id)
        if old is not None:
            known.counters = dict(old.counters)
        self.heard(known, asked.request.remote, asked.messages)
        return known

    async def _authenticate(self, endpoint: str, secret: str, proved: str) -> DeviceBinding | None:
        """The device of an endpoint name, when its sender has proved to be it."""
        names = names_of(endpoint)
        found = (self._directory.device(name) or self._directory.device_by_key(name) for name in names)
        binding = next((one for one in found if one is not None), None)
        if proved:
            return (
                binding if binding is not None and binding.device_id == proved and binding.state == "active" else None
            )
        if not self._coap.tokens_allowed or not secret or len(secret) > 512:
            return None
        device_id = binding.device_id if binding is not None else names[0]  # it may have been added a moment ago
        if self._coap.keys.secured(device_id):
            return None
        return await self._credentials.authenticate(device_id, secret.encode())

    async def _refuse(self, asked: Asked, endpoint: str, version: str) -> Message:
        """4.03. Who tries is noticed, within bounds."""
        self.counts["refused"] += 1
        if self._limit.allow(asked.host):
            header = {"op": "register", "endpoint": endpoint, "version": version}
            await self.keep(endpoint, header, asked.payload[:1024], asked.host, proved=False)
        return Message(code=codes.FORBIDDEN)

    async def _update(self, asked: Asked, known: Registration) -> Message:
        lifetime_s = lifetime_of(asked.query.get("lt", "")) if "lt" in asked.query else known.lifetime_s
        objects = objects_of(asked.payload) if asked.payload else known.objects
        if lifetime_s is None or objects is None:
            return Message(code=codes.BAD_REQUEST)
        verdict = await self.keep(known.device_id, {"op": "update", "endpoint": known.endpoint}, b"", asked.host)
        if verdict is not Verdict.ACCEPTED or known.id not in self.known.by_id:
            return Message(code=codes.SERVICE_UNAVAILABLE, max_age=5)
        known.lifetime_s = lifetime_s
        known.expires_at_us = self._clock.now_us() + lifetime_s * US_PER_S
        known.binding = asked.query.get("b", known.binding)[:8] if "b" in asked.query else known.binding
        moved = objects != known.objects
        known.objects = objects
        self.heard(known, asked.request.remote, asked.messages)
        self.known.changed.add(known.id)
        self.counts["updated"] += 1
        if moved or not known.attended:
            self.put(known, None)
        return Message(code=codes.CHANGED)

    async def _deregister(self, asked: Asked, known: Registration) -> Message:
        header = {"op": "deregister", "endpoint": known.endpoint}
        if await self.keep(known.device_id, header, b"", asked.host) is not Verdict.ACCEPTED:
            return Message(code=codes.SERVICE_UNAVAILABLE, max_age=5)
        self.counts["deregistered"] += 1
        await self._drop(known)
        return Message(code=codes.DELETED)

    def heard(self, known: Registration, remote: Any, messages: Any) -> None:
        """Note where a client speaks from: its mapping in a NAT may have moved."""
        while (outer := getattr(remote, "underlying_address", None)) is not None:
            remote = outer
        known.remote, known.messages = remote, messages
        known.heard_s = self._clock.monotonic_s()
        if isinstance(remote, PlainAddress):
            known.scheme = "coap"
            self.known.move(known, remote.host, int(remote.sockaddr[1]))
        else:
            known.scheme = str(remote.scheme)
            self.known.move(known, str(remote.hostinfo).rpartition(":")[0], known.port)

    # ---- Send (1.1) --------------------------------------------------------------------------------------------------

    async def _dp(self, asked: Asked) -> Message:
        if asked.request.code is not codes.POST:
            return Message(code=codes.METHOD_NOT_ALLOWED)
        stated = asked.request.opt.content_format
        content_format = -1 if stated is None else int(stated)
        if content_format not in FORMATS:
            return Message(code=codes.UNSUPPORTED_CONTENT_FORMAT)
        known = self._sender(asked)
        if known is None:
            return Message(code=codes.NOT_FOUND)
        was = self.counters_before(known, "/3347", content_format, asked.payload)
        header: dict[str, Any] = {"op": "send", "path": "/", "format": content_format} | ({"was": was} if was else {})
        if await self.keep(known.device_id, header, asked.payload, asked.host) is not Verdict.ACCEPTED:
            return Message(code=codes.SERVICE_UNAVAILABLE, max_age=5)
        self.heard(known, asked.request.remote, asked.messages)
        self.counts["sends"] += 1
        return Message(code=codes.CHANGED)

    def _sender(self, asked: Asked) -> Registration | None:
        """The registration of whoever sends: by proof, else by the address that it spoke from last, which outlives
        a restart.
        """
        if asked.proved:
            return self.known.by_device.get(asked.proved)
        remote = asked.request.remote
        if not isinstance(remote, PlainAddress):
            return None
        known = self.known.by_address.get((remote.host, int(remote.sockaddr[1])))
        return known if known is not None and not known.secured and known.scheme == "coap" else None

    # ---- requests to clients -----------------------------------------------------------------------------------------

    def reachable(self, known: Registration) -> bool:
        """Whether a request may be sent now: a client in queue mode listens for a while after it spoke."""
        if known.remote is None and known.scheme == "coap" and self._coap.plain is not None:
            host = known.host
            if self._coap.plain.is_ipv6 and ":" not in host:
                host = f"::ffff:{host}"
            address = (host, known.port, 0, 0) if self._coap.plain.is_ipv6 else (host, known.port)
            known.remote = PlainAddress(address, self._coap.plain)
            known.messages = self._coap.stacks["coap"].messages
        if known.remote is None:
            return False
        return not known.queued or self._clock.monotonic_s() - known.heard_s < self._options.awake_s

    async def send(self, device_id: str, payload: bytes) -> bool:
        """``ports.Downlink``. Raises UsageError for what is no order."""
        known = self.known.by_device.get(device_id)
        if known is None or not self.reachable(known) or len(self._orders) >= MAX_ORDERS:
            return False
        self.put(known, read_order(payload))
        return True

    def put(self, known: Registration, order: Order | None) -> None:
        """Something to do with a client; None: set up what is observed of it."""
        if len(self._orders) < MAX_ORDERS:
            self._orders.append((known, order))
            self._wake.set()

    async def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            known, order = job
            known.asking = True
            try:
                if order is None:
                    await self._attend(known)
                else:
                    await self.carry_out(known, order)
            except StorageError as fault:
                log.error("lwm2m_not_stored", device=known.device_id, error=type(fault).__name__)
            finally:
                known.asking = False
                self._wake.set()

    def _next(self) -> tuple[Registration, Order | None] | None:
        """The oldest job of a client that is not being asked something: one request at a time."""
        for index, (known, order) in enumerate(self._orders):
            if not known.asking:
                del self._orders[index]
                return known, order
        return None

    async def _attend(self, known: Registration) -> None:
        """Observe what is wanted and not yet observed."""
        if known.id not in self.known.by_id or not self.reachable(known):
            return
        await asyncio.sleep(0.05)  # the answer to its registration goes first
        observed = {one.path for one in known.observations.values()}
        wanted = paths_to_observe(known.objects, self._options.observe, lambda number: number >= VENDOR_OBJECTS)
        for path in wanted:
            if path in observed or known.id not in self.known.by_id:
                continue
            if not await self.observe(known, path):  # some clients know resources alone
                for resource in RESOURCES.get(int(path.split("/")[1]), ()):
                    if f"{path}/{resource}" not in observed:
                        await self.observe(known, f"{path}/{resource}")
        known.attended = True

    async def observe(self, known: Registration, path: str) -> bool:
        """Begin to observe; False when the client does not. Raises StorageError."""
        attributes = {"pmin": float(self._options.pmin_s), "pmax": float(self._options.pmax_s)}
        attributes = {name: value for name, value in attributes.items() if value}
        if attributes:
            await self.asking.write_attributes(known, path, attributes)
        token = new_token()
        await self._store.write(lambda connection: rows.save_observation(connection, known.id, token, path))
        self.known.observe(known, Observation(token, path))
        if await self._notifications.begin(known, path, token):
            return True
        await self._forget(known, token)
        return False

    async def _forget(self, known: Registration, token: bytes) -> None:
        self.known.forget(known, token)
        await self._store.write(lambda connection: rows.delete_observation(connection, token))

    async def carry_out(self, known: Registration, order: Order) -> str:
        """Do it and journal what came of it; the code of the answer, "" for none. Raises StorageError."""
        if order.op == "observe":
            return "2.05" if await self.observe(known, order.path) else ""
        if order.op == "cancel":
            for token in [one.token for one in known.observations.values() if one.path == order.path]:
                await self._forget(known, token)  # its next notification is answered by a reset
            return "2.05"
        answer, body = await self.asking.carry_out(known, order)
        code = "" if answer is None else str(answer.code.dotted)
        self.counts["answers"] += answer is not None
        header: dict[str, Any] = {"command": order.command} if order.command else {}
        if answer is not None and order.op == "read" and answer.code.is_successful():
            stated = answer.opt.content_format
            content_format = TLV if stated is None and len(read_path(order.path)) < 3 else int(stated or 0)
            was = self.counters_before(known, order.path, content_format, body)
            header |= {"op": "read", "path": order.path, "format": content_format} | ({"was": was} if was else {})
            await self.keep(known.device_id, header, body, known.host)
        else:
            header |= {"op": "result", "asked": f"{order.op} {order.path}", "code": code or "no answer"}
            await self.keep(known.device_id, header, body[:1024], known.host)
        return code

    # ---- for the metrics ---------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        return {**self.counts, "registrations_now": len(self.known.by_id)}
