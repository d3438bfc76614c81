"""Commands to devices: what may be asked for, what becomes of it, and who is told what by the sender."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from device_profiles.loader import Profiles, load_profiles
from device_profiles.schema import parse_profile
from gateway import audit
from gateway.clock import VirtualClock
from gateway.commands import ledger
from gateway.commands.catalog import find
from gateway.commands.sender import ABSENT_US, Sender
from gateway.commands.states import Command, Event, State
from gateway.downlink import ProfileCommands, undeliverable
from gateway.errors import ConfigError, ConflictError, NotFoundError, UsageError
from gateway.model import Actor, Committed, DeviceBinding, Frame, Position, Reading, Record, Report, Urgency
from gateway.registry.devices import add_device, set_state
from gateway.storage import journal
from gateway.storage.database import open_database
from protocols.codecs.native import NativeCodec
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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    assert list(audit.verify(it.connection)) == []
    it.connection.close()


# ---- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("rings", {}, "did you mean ring"),
        ("ring", {"seconds": 0}, "seconds: must be a whole number from 1 to 300"),
        ("ring", {"seconds": 1.5}, "whole number"),
        ("ring", {"seconds": True}, "whole number"),
        ("ring", {"seconds": 10**400}, "whole number"),
        ("ring", {"seconds": "nan"}, "whole number"),
        ("ring", {"minutes": 1}, "ring has no such parameter; it has: seconds"),
        ("call_back", {}, "number: must be given (a telephone number)"),
        ("call_back", {"number": "12a"}, "a telephone number"),
        ("contacts", {"numbers": ["1380000000" + str(n) for n in range(17)]}, "a list of 0 to 16 telephone numbers"),
        ("thresholds", {"metric": "steps", "low": 1, "high": 2}, "one of heart_rate_bpm"),
        ("thresholds", {}, "metric: must be given"),
    ],
)
def test_what_the_profile_does_not_allow_is_refused_with_its_reason(
    world: World, name: str, parameters: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        world.ask("D-1", name, parameters)
    assert told in str(caught.value)
    assert ledger.open_commands(world.connection) == []


def test_every_fault_is_told_at_once(world: World) -> None:
    with pytest.raises(UsageError) as caught:
        world.ask("D-1", "thresholds", {"metric": "x", "low": "a", "zz": 1})
    assert re.findall(r"(?:^|; )(\w+):", str(caught.value)) == ["zz", "metric", "low", "high"]


def test_who_and_how_many(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.ask("D-9", "ring")
    with pytest.raises(ledger.NotAllowedError, match="admin or supervisor"):
        world.ask("D-1", "restart", may_be_dangerous=False)
    for seconds in (9, 86_401):
        with pytest.raises(UsageError, match="10 to 86400 seconds"):
            world.ask("D-1", "ring", expires_s=seconds)
    world.ask("D-1", "restart")
    with pytest.raises(ConflictError, match="one at a time"):
        world.ask("D-1", "power_off")
    world.ask("D-2", "restart")  # another device's
    for _ in range(9):
        world.ask("D-1", "ring")
    with pytest.raises(ConflictError, match="wait a little"):
        world.ask("D-1", "ring")
    world.clock.advance(61)
    for _ in range(6):
        world.ask("D-1", "ring")
    with pytest.raises(ConflictError, match="are under way"):
        world.ask("D-1", "ring")
    with world.connection:
        set_state(world.connection, "D-2", "suspend", at_us=1, actor=OPERATOR)
    with pytest.raises(ConflictError, match="suspended"):
        world.ask("D-2", "ring")


def test_a_command_that_the_codec_cannot_say_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="cannot be said in the device's protocol: not 13"):
        world.ask("T-1", "interval", {"seconds": 13})
    with pytest.raises(UsageError, match=r"there are: halt, interval, restart|did you mean"):
        world.ask("T-1", "dance")
    with pytest.raises(UsageError, match="take no commands"):
        find(CATALOG, "test.nothing", "ring")


def test_a_payload_is_json_whatever_the_parameters_say(world: World) -> None:
    text = 'a"}\\ {size} 中'
    command = world.ask("J-1", "name", {"text": text, "many": 'x, y"'})
    world.mailbox.here.add("J-1")
    world.turn()
    sent = msgspec.json.decode(world.mailbox.kept[1][1])
    assert sent == {"n": text, "s": 2.5, "l": ["x", 'y"'], "i": command.id}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ({"payload": "{x}"}, "payload names {x}, which is no parameter"),
        ({"payload": "-", "parameters": {"x": {"minimum": 1, "maximum": 2}}}, "parameter x is not in payload"),
        ({"parameters": {"x": {"minimum": 1}}}, "a number needs minimum and maximum"),
        ({"parameters": {"x": {"minimum": 3, "maximum": 2}}}, "minimum is above maximum"),
        ({"parameters": {"x": {"type": "phone", "choices": ["a"]}}}, "only a text has choices"),
        ({"dangerus": True}, 'did you mean "dangerous"'),
    ],
)
def test_a_profile_that_contradicts_itself_is_refused(command: dict[str, Any], told: str) -> None:
    values = {**JSON_DOOR, "commands": {"c": {"title": {"zh": "某", "en": "Some"}, **command}}}
    with pytest.raises(ConfigError) as caught:
        parse_profile("p.toml", values)
    assert told in str(caught.value)


# ---- what the sender does --------------------------------------------------------------------------------------------


def test_a_sleeping_device_gets_its_commands_in_order_when_it_is_there(world: World) -> None:
    first, second = world.ask("D-1", "ring", {"seconds": "5"}), world.ask("D-1", "locate")
    world.turn()
    assert world.state(first) == (State.QUEUED, "")
    assert not world.mailbox.kept
    world.mailbox.here.add("D-1")
    world.turn()
    envelopes = [msgspec.json.decode(payload) for _, payload in world.mailbox.kept.values()]
    assert envelopes[0] == {
        "command": first.id, "name": "ring", "parameters": {"seconds": 5}, "expires_at": "2026-11-22T12:02:00.000Z",
    }  # fmt: skip
    assert envelopes[1]["command"] == second.id
    assert world.state(first) == (State.SENT, "")
    world.sender.outcome(1, "acknowledged", True)
    world.sender.outcome(2, "refused", True)
    world.turn()
    assert world.state(first) == (State.ACKNOWLEDGED, "")
    assert world.state(second) == (State.FAILED, "refused")
    world.answers("D-1", {"command": first.id, "result": "done"})
    world.turn()
    assert world.state(first) == (State.CONFIRMED, "done")
    assert world.sender.totals == {
        "sent": 2, "acknowledged": 1, "failed_refused": 1, "confirmed": 1,
    }  # fmt: skip


def test_what_came_too_late_is_never_sent(world: World) -> None:
    command = world.ask("D-1", "ring", expires_s=10)
    world.clock.advance(10)
    world.mailbox.here.add("D-1")
    world.turn()
    assert world.state(command) == (State.EXPIRED, "")
    assert not world.mailbox.kept


@pytest.mark.parametrize(("transmitted", "state"), [(False, (State.EXPIRED, "")), (True, (State.FAILED, "unanswered"))])
def test_a_message_that_expired_on_its_way_is_only_called_expired_when_nobody_got_it(
    world: World, transmitted: bool, state: tuple[State, str]
) -> None:
    command = world.ask("D-1", "ring", expires_s=10)
    world.mailbox.here.add("D-1")
    world.turn()
    world.clock.advance(11)
    world.sender.outcome(1, "expired", transmitted)
    world.turn()
    assert world.state(command) == state


def test_a_full_mailbox_is_for_later_and_a_command_too_long_is_not(world: World) -> None:
    world.mailbox.here.add("D-1")
    world.mailbox.full = True
    command = world.ask("D-1", "ring")
    world.turn()
    assert world.state(command) == (State.QUEUED, "")
    world.mailbox.full = False
    world.turn()
    world.sender.outcome(1, "too_large", False)
    world.turn()
    assert world.state(command) == (State.FAILED, "unsendable")


def test_silence_and_the_answer_that_came_late(world: World) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.sender.outcome(1, "acknowledged", True)
    world.turn()
    world.clock.advance(119)
    world.turn()
    assert world.state(command) == (State.ACKNOWLEDGED, "")
    world.clock.advance(1)
    world.turn()
    assert world.state(command) == (State.FAILED, "unanswered")
    world.answers("D-1", {"command": command.id, "result": "done"})
    world.turn()
    assert world.state(command) == (State.CONFIRMED, "done")


@pytest.mark.parametrize(
    "reply",
    [
        {"command": "another", "result": "done"}, {"result": "perhaps", "command": "ring"}, 7, [["ring"]],
        {"command": "x" * 65}, {"command": 5},
    ],
)  # fmt: skip
def test_answers_that_fit_nothing_change_nothing(world: World, reply: Any) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.answers("D-1", reply)
    world.turn()
    assert world.state(command) == (State.SENT, "")


def test_nobody_answers_for_another_device_or_without_a_credential(world: World) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.answers("D-2", {"command": command.id, "result": "done"})
    world.answers("D-1", {"command": command.id, "result": "done"}, verified=False)
    world.turn()
    assert world.state(command) == (State.SENT, "")
    assert world.sender.totals["stray_answer"] == 1


def test_a_terminal_is_told_one_thing_at_a_time_and_answers_by_name(world: World) -> None:
    first, second = world.ask("T-1", "interval", {"seconds": 30}), world.ask("T-1", "interval", {"seconds": 40})
    world.turn()
    assert (world.line.tries, world.line.sent) == (1, [])
    world.turn()
    assert world.line.tries == 1  # it is left alone until it speaks
    world.line.here.add("T-1")
    world.says("T-1", Reading(world.clock.now_us()))
    world.turn()
    assert world.line.sent == [b"[490154203237518*30]"]
    assert world.state(second) == (State.QUEUED, "")
    world.answers("T-1", "interval")
    world.turn()
    assert world.state(first) == (State.CONFIRMED, "done")
    assert world.line.sent[-1] == b"[490154203237518*40]"
    world.answers("T-1", {"result": "refused"})  # it does not say to what
    world.turn()
    assert world.state(second) == (State.FAILED, "refused")


def test_the_key_is_the_one_that_the_terminal_uses(world: World) -> None:
    record = Record(1, "tcp", "terminal", "", b"", "T-1", "0123456789", "", "test.watch", True, 0, "", None)
    world.sender.observe(Committed(1, [record]))
    world.line.here.add("T-1")
    world.ask("T-1", "restart")
    world.turn()
    assert world.line.sent == [b"[0123456789*R]"]


def test_a_harmless_command_without_an_answer_goes_out_again_a_few_times(world: World) -> None:
    command = world.ask("T-1", "interval", expires_s=3600)
    world.line.here.add("T-1")
    for attempt in (1, 2, 3):
        world.turn()
        assert len(world.line.sent) == attempt
        world.clock.advance(120)
        world.turn()
    assert world.state(command) == (State.FAILED, "unanswered")
    world.turn()
    assert len(world.line.sent) == 3


def test_an_absent_terminal_is_tried_now_and_then(world: World) -> None:
    command = world.ask("T-1", "interval", expires_s=3600)
    world.turn()
    world.clock.advance(ABSENT_US / 1e6)
    world.turn()
    assert world.line.tries == 2
    assert world.state(command) == (State.QUEUED, "")
    assert [step["state"] for step in ledger.show(world.connection, command.id)["steps"]] == ["queued"]


def test_a_profile_that_went_away_ends_its_commands(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    monkeypatch.setitem(DEVICES, "D-1", "test.gone")
    world.turn()
    assert world.state(command) == (State.FAILED, "unsendable")


@pytest.mark.parametrize(
    ("error", "harmless", "dangerous"),
    [
        (ConnectionResetError(), (State.QUEUED, ""), (State.SENT, "")),
        (TimeoutError(), (State.QUEUED, ""), (State.SENT, "")),
        (UsageError("too long"), (State.FAILED, "unsendable"), (State.FAILED, "unsendable")),
    ],
)
def test_a_line_that_breaks_while_it_takes_a_command(
    world: World, error: Exception, harmless: tuple[State, str], dangerous: tuple[State, str]
) -> None:
    def broken() -> None:
        raise error

    world.line.on_send = broken
    first = world.ask("T-1", "interval", expires_s=3600)
    world.turn()
    assert world.state(first) == harmless
    with world.connection:
        ledger.apply(world.connection, first.id, Event.CANCEL, now_us=world.clock.now_us())
    second = world.ask("T-1", "restart", expires_s=3600)
    world.sender.contact("T-1")
    world.turn()
    assert world.state(second) == dangerous


# ---- restarts --------------------------------------------------------------------------------------------------------


def test_a_dangerous_command_is_written_down_before_it_goes_and_goes_once(world: World) -> None:
    command = world.ask("T-1", "restart", expires_s=3600)
    world.line.here.add("T-1")
    seen: list[State] = []
    world.line.on_send = lambda: seen.append(ledger.get(world.connection, command.id).state)
    world.turn()
    assert seen == [State.SENT]
    for _ in range(3):
        world.start()
        world.turn(recover=True)
        world.clock.advance(60)
        world.turn()
    assert len(world.line.sent) == 1
    assert world.state(command) == (State.FAILED, "unanswered")


@pytest.mark.parametrize("name", ["restart", "halt"])
def test_a_dangerous_command_whose_device_is_away_waits_and_still_goes_once(world: World, name: str) -> None:
    command = world.ask("T-1", name, expires_s=3600)
    world.turn()
    assert world.state(command) == (State.QUEUED, "")
    world.line.here.add("T-1")
    world.says("T-1", Reading(world.clock.now_us()))
    world.turn()
    world.turn()
    assert len(world.line.sent) == 1
    assert world.state(command) == (State.SENT, "")
    assert (ledger.get(world.connection, command.id).finished_at_us is not None) == (name == "halt")


def test_over_mqtt_a_dangerous_command_never_enters_the_queue(world: World) -> None:
    command = world.ask("D-1", "power_off")
    world.mailbox.here.add("D-1")
    world.turn()
    assert not world.mailbox.kept
    assert [device for device, _ in world.mailbox.once] == ["D-1"]
    world.start()
    world.turn(recover=True)
    assert len(world.mailbox.once) == 1
    world.answers("D-1", {"command": command.id, "result": "done"})
    world.turn()
    assert world.state(command) == (State.CONFIRMED, "done")


def test_after_a_crash_the_answer_in_the_journal_is_found_and_the_rest_sent_again(world: World) -> None:
    first, second = world.ask("T-1", "interval", {"seconds": 1}), world.ask("T-1", "interval", {"seconds": 2})
    world.line.here.add("T-1")
    world.turn()
    world.answers("T-1", {"command": "interval", "result": "done"}, heard=False)  # the crash comes before the sender
    world.start()
    world.turn(recover=True)
    assert world.state(first) == (State.CONFIRMED, "done")
    assert world.line.sent == [b"[490154203237518*1]", b"[490154203237518*2]"]
    world.start()
    world.turn(recover=True)
    assert world.line.sent[2:] == [b"[490154203237518*2]"]
    assert world.state(second) == (State.SENT, "")


def test_what_the_mailbox_keeps_is_not_put_there_twice(world: World) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.start()
    world.turn(recover=True)
    assert len(world.mailbox.kept) == 1
    assert world.state(command) == (State.SENT, "")


# ---- cancelling, looking, forgetting ---------------------------------------------------------------------------------


def test_only_what_was_not_sent_can_be_taken_back(world: World) -> None:
    first, second = world.ask("D-1", "ring"), world.ask("D-2", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    with world.connection, pytest.raises(ConflictError, match="sent already"):
        ledger.cancel(world.connection, first.id, now_us=1, actor=OPERATOR)
    with world.connection:
        ledger.cancel(world.connection, second.id, now_us=1, actor=OPERATOR)
    world.mailbox.here.add("D-2")
    world.turn()
    assert len(world.mailbox.kept) == 1
    with pytest.raises(NotFoundError):
        ledger.show(world.connection, "none")


def test_numbers_are_masked_everywhere_and_forgotten_in_the_end(world: World) -> None:
    command = world.ask("D-1", "contacts", {"numbers": "+8613800001234, 120"})
    assert ledger.view(command)["parameters"] == {"numbers": ["****34", "****"]}
    world.mailbox.here.add("D-1")
    world.turn()
    assert msgspec.json.decode(world.mailbox.kept[1][1])["parameters"]["numbers"] == ["+8613800001234", "120"]
    world.answers("D-1", {"command": command.id, "result": "done"})
    world.turn()
    dump = [row for table in ("command", "audit") for row in world.connection.execute(f"SELECT * FROM {table}")]
    assert "1380000" not in str(dump)


def test_lists_and_retention(world: World) -> None:
    for _ in range(3):
        world.ask("D-1", "ring")
    world.ask("D-2", "ring")
    newest = ledger.list_commands(world.connection, device_id="D-1", limit=2)
    assert [view["number"] for view in newest] == [3, 2]
    assert [view["number"] for view in ledger.list_commands(world.connection, device_id="D-1", before=2)] == [1]
    with pytest.raises(UsageError, match="none of queued"):
        ledger.list_commands(world.connection, state="asleep")
    world.clock.advance(200)
    world.turn()
    assert ledger.list_commands(world.connection, open_only=True) == []
    assert len(ledger.list_commands(world.connection, state="expired")) == 4
    assert ledger.prune(world.connection, now_us=world.clock.now_us()) == 0
    world.clock.advance(93 * 86_400)
    world.turn()
    assert ledger.list_commands(world.connection) == []


# ---- an emergency without a place ------------------------------------------------------------------------------------


def press(world: World, device_id: str, position: Position | None = None, *, stored: bool = False) -> None:
    reading = Reading(world.clock.now_us(), signals={"sos": True}, position=position, stored=stored)
    world.says(device_id, reading, urgency=Urgency.EMERGENCY)


def test_a_press_without_a_place_asks_the_device_where_it_is_once(world: World) -> None:
    world.mailbox.here.add("D-1")
    world.turn()
    press(world, "D-1")
    press(world, "D-1", Position(39.0, 117.0, 1, valid=False))
    world.turn()
    press(world, "D-1")
    world.turn()
    (payload,) = world.mailbox.kept.values()
    assert msgspec.json.decode(payload[1])["name"] == "locate"
    (view,) = ledger.list_commands(world.connection)
    assert view["requested_by"]["id"] == "locate-on-emergency"


def test_a_press_with_a_place_or_from_a_device_that_is_not_there_asks_nothing(world: World) -> None:
    world.mailbox.here |= {"D-1", "J-1"}
    press(world, "D-1", Position(39.0, 117.0, 1))
    press(world, "D-1", stored=True)
    press(world, "D-2")
    press(world, "J-1")  # its profile has no such command
    world.turn()
    assert ledger.list_commands(world.connection) == []


# ---- the native protocol's answer ------------------------------------------------------------------------------------


def parse(payload: bytes) -> Report:
    (report,) = NativeCodec().parse(Frame("mqtt", "native", "", payload, 1, "D-1"))
    return report


def test_a_native_answer_is_no_fault_and_may_stand_beside_readings() -> None:
    report = parse(b'{"seq": 3, "command": "ab12", "result": "refused", "detail": "on charge"}')
    assert report.faults is None
    assert report.seq == 3
    assert report.reading is not None
    assert report.reading.unknown == {"command_reply": {"command": "ab12", "result": "refused", "detail": "on charge"}}
    report = parse(b'{"command": "ab12", "result": "done", "position": {"latitude": 39, "longitude": 117}}')
    assert report.faults is None
    assert report.reading is not None
    assert report.reading.position is not None


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b'{"command": 5, "result": "done"}', "command: not the id"),
        (b'{"command": "", "result": "done"}', "command: not the id"),
        (b'{"command": "a"}', "result: none of done, refused, unknown"),
        (b'{"command": "a", "result": "ok", "signals": ["sos"]}', "result: none of"),
        (b'{"command": "a", "result": "done", "detail": 5}', "detail: a number"),
    ],
)
def test_a_bad_answer_is_a_fault_of_that_member(payload: bytes, fault: str) -> None:
    report = parse(payload)
    assert report.faults is not None
    assert fault in report.faults[0]
    if b"sos" in payload:
        assert report.reading is not None
        assert report.reading.signals == {"sos": True}
