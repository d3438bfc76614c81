"""A ledger of commands with devices in it, and a sender that moves when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from device_profiles.loader import Profiles, load_profiles
from device_profiles.schema import parse_profile
from gateway import audit
from gateway.clock import VirtualClock
from gateway.commands import ledger
from gateway.commands.sender import Sender
from gateway.commands.states import Command, State
from gateway.downlink import ProfileCommands, undeliverable
from gateway.errors import ConflictError
from gateway.model import Actor, Committed, DeviceBinding, Frame, Reading, Record, Report, Urgency
from gateway.registry.devices import add_device
from gateway.storage import journal
from gateway.storage.database import open_database
from protocols.registry import CODECS

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
OPERATOR = Actor("operator", "key-1", role="operator", channel="api")
JSON_DOOR = {
    "id": "test.door", "vendor": "test", "model": "door", "kind": "door", "codec": "json", "transports": ["mqtt"],
    "raises": ["door_open"], "title": {"zh": "门", "en": "Door"}, "fields": {"d": {"values": {"1": "door_open"}}},
    "commands": {
        "name": {
            "title": {"zh": "名", "en": "Name"},
            "payload": '{"n": "{text}", "s": {size}, "l": {many}, "i": "{command_id}"}',
            "parameters": {
                "text": {"type": "text", "maximum": 20}, "size": {"minimum": 0, "maximum": 9, "default": 2.5},
                "many": {"type": "texts", "default": []},
            },
        }
    },
}  # fmt: skip


class Terminal:
    """A codec of terminals that knows one command."""

    name = "terminal"

    def parse(self, frame: Frame) -> list[Report]:
        return [Report(frame.device_key)]

    def framer(self) -> None:
        """What tells a codec of terminals from the others."""

    @property
    def commands(self) -> Mapping[str, Callable[[Mapping[str, Any], str], bytes]]:
        def interval(parameters: Mapping[str, Any], key: str) -> bytes:
            if parameters["seconds"] == 13:
                raise ValueError("not 13")
            return f"[{key}*{parameters['seconds']}]".encode()

        return {
            "interval": interval,
            "restart": lambda _parameters, key: f"[{key}*R]".encode(),
            "halt": lambda _parameters, key: f"[{key}*H]".encode(),
        }


TERMINAL = {
    "id": "test.watch", "vendor": "test", "model": "watch", "kind": "watch", "codec": "terminal",
    "transports": ["tcp"], "raises": [], "title": {"zh": "表", "en": "Watch"},
    "commands": {
        "interval": {
            "title": {"zh": "间隔", "en": "Interval"},
            "parameters": {"seconds": {"type": "integer", "minimum": 1, "maximum": 600, "default": 60}},
        },
        "restart": {"title": {"zh": "重启", "en": "Restart"}, "dangerous": True},
        "halt": {"title": {"zh": "停", "en": "Halt"}, "dangerous": True, "confirms": False},
        "dance": {"title": {"zh": "舞", "en": "Dance"}},
    },
}  # fmt: skip


def catalog() -> ProfileCommands:
    shipped = load_profiles()
    native = shipped.get("carebell.native")
    assert native is not None
    extra = [parse_profile("test", dict(values)) for values in (JSON_DOOR, TERMINAL)]
    profiles = Profiles([(profile, Path("x.toml")) for profile in (native, *extra)])
    assert undeliverable(profiles, {**CODECS, "terminal": Terminal()}, "test.watch") == ["dance"]
    return ProfileCommands(profiles, {**CODECS, "terminal": Terminal()})


CATALOG = catalog()
DEVICES = {"D-1": "carebell.native", "D-2": "carebell.native", "J-1": "test.door", "T-1": "test.watch"}


class Store:
    """ports.Store on a real file, in one thread."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection

    async def write(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        with self.connection:
            result = fn(self.connection)
        return result  # noqa: RET504 - within the with mypy takes the transaction for one that swallows

    async def read(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        return fn(self.connection)


class Mailbox:
    """A transport that keeps what it is given; ``here`` are the devices in contact."""

    def __init__(self) -> None:
        self.here: set[str] = set()
        self.kept: dict[int, tuple[str, bytes]] = {}
        self.once: list[tuple[str, bytes]] = []
        self.full = False

    def reachable(self, device_id: str) -> bool:
        return device_id in self.here

    def put(
        self, connection: apsw.Connection, device_id: str, payload: bytes, *, now_us: int, expires_at_us: int
    ) -> int:
        assert connection.in_transaction
        assert now_us < expires_at_us
        if self.full:
            raise ConflictError("full")
        number = len(self.kept) + 1
        self.kept[number] = (device_id, payload)
        return number

    async def deliver(self) -> None:
        """Everything is where it belongs."""

    async def send(self, device_id: str, payload: bytes) -> bool:
        if device_id in self.here:
            self.once.append((device_id, payload))
        return device_id in self.here


class Line:
    """A transport of live connections only."""

    def __init__(self) -> None:
        self.here: set[str] = set()
        self.sent: list[bytes] = []
        self.tries = 0
        self.on_send: Callable[[], None] = lambda: None

    async def send(self, device_id: str, payload: bytes) -> bool:
        self.tries += 1
        self.on_send()
        if device_id in self.here:
            self.sent.append(payload)
        return device_id in self.here


class World:
    """A ledger with devices in it, and a sender that moves when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock(NOON)
        self.connection = open_database(folder / "journal.sqlite3")
        with self.connection:
            for device_id, profile in DEVICES.items():
                values = {"profile": profile} | ({"imei": "490154203237518"} if device_id == "T-1" else {})
                add_device(
                    self.connection, device_id, values, known_profiles=set(DEVICES.values()),
                    at_us=self.clock.now_us(), actor=OPERATOR,
                )  # fmt: skip
        self.mailbox, self.line = Mailbox(), Line()
        self.start()

    def start(self) -> None:
        """A sender that remembers nothing, as after a crash."""
        self.sender = Sender(
            store=Store(self.connection),
            clock=self.clock,
            catalog=CATALOG,
            directory=self,
            mailbox=self.mailbox,
            downlinks=[("tcp", self.line)],
        )

    def device(self, device_id: str) -> DeviceBinding | None:
        profile = DEVICES.get(device_id)
        return None if profile is None else DeviceBinding(device_id, profile, "native")

    def device_by_key(self, key: str) -> DeviceBinding | None:
        raise AssertionError(key)

    def ask(self, device_id: str, name: str, parameters: Mapping[str, Any] | None = None, **details: Any) -> Command:
        with self.connection:
            command = ledger.request(
                self.connection, CATALOG, device_id, name, parameters or {},
                now_us=self.clock.now_us(), actor=OPERATOR, **details,
            )  # fmt: skip
        return command  # noqa: RET504 - within the with mypy takes the transaction for one that swallows

    def turn(self, *, recover: bool = False) -> None:
        async def once() -> None:
            if recover:
                await self.sender._recover()
            await self.sender._turn()

        asyncio.run(once())

    def state(self, command: Command) -> tuple[State, str]:
        found = ledger.get(self.connection, command.id)
        return found.state, found.result

    def says(self, device_id: str, reading: Reading, **fields: Any) -> None:
        """A committed record, in the journal and in the sender's ear."""
        record = Record(
            self.clock.now_us(), "mqtt", "native", "", b"", device_id, device_id, "", "carebell.native",
            fields.pop("verified", True), fields.pop("urgency", Urgency.ROUTINE), "", reading,
        )  # fmt: skip
        with self.connection:
            seq = journal.insert(self.connection, [record])
        if fields.pop("heard", True):
            self.sender.observe(Committed(seq, [record]))

    def answers(self, device_id: str, reply: Any, **fields: Any) -> None:
        self.says(device_id, Reading(self.clock.now_us(), unknown={"command_reply": reply}), **fields)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[World]:
    """A world; behind it the audit trail is whole."""
    it = World(folder)
    yield it
    assert list(audit.verify(it.connection)) == []
    it.connection.close()
