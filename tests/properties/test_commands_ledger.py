"""The ledger of commands, whatever happens in whatever order: against a model that knows only what may never be."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from device_profiles.loader import load_profiles
from gateway import audit
from gateway.clock import US_PER_S, VirtualClock
from gateway.commands import ledger
from gateway.commands.states import IN_FLIGHT, MAX_ATTEMPTS, OVER, RESULTS, Event, State
from gateway.downlink import ProfileCommands
from gateway.errors import ConflictError
from gateway.model import Actor
from gateway.registry.devices import add_device
from protocols.registry import CODECS
from tests.quick_file import quick_database

ACTOR = Actor("system", "test")
CATALOG = ProfileCommands(load_profiles(), CODECS)
HARMLESS: dict[str, dict[str, object]] = {"ring": {"seconds": 9}, "call_back": {"number": "+8613800001234"}}
DANGEROUS = ("restart", "power_off")
SPOKEN = {Event.CONFIRM, Event.REFUSE, Event.NOT_KNOWN}


class Ledger(RuleBasedStateMachine):
    """One device. ``out`` counts how often each command may have run; ``last`` is each as it was last seen."""

    commands = Bundle("commands")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = VirtualClock(datetime(2026, 11, 22, tzinfo=UTC))
        self.connection = quick_database(Path(self.folder.name) / "journal.sqlite3")
        with self.connection:
            add_device(
                self.connection, "D-1", {"profile": "carebell.native"}, known_profiles={"carebell.native"},
                at_us=1, actor=ACTOR,
            )  # fmt: skip
        self.out: dict[str, int] = {}
        self.sent_us: dict[str, int] = {}

    @rule(target=commands, name=st.sampled_from([*HARMLESS, *DANGEROUS]), expires_s=st.integers(10, 300))
    def ask(self, name: str, expires_s: int) -> str:
        dangers = [one for one in ledger.open_commands(self.connection) if one.dangerous]
        try:
            with self.connection:
                command = ledger.request(
                    self.connection, CATALOG, "D-1", name, HARMLESS.get(name, {}), expires_s=expires_s,
                    now_us=self.clock.now_us(), actor=ACTOR,
                )  # fmt: skip
        except ConflictError:
            return ""
        assert not (dangers and command.dangerous), "one dangerous command at a time"
        self.out[command.id] = 0
        return command.id

    @rule(
        command_id=commands,
        event=st.sampled_from(list(Event)),
        kept=st.booleans(),
        last_word=st.booleans(),
    )
    def happen(self, command_id: str, event: Event, *, kept: bool, last_word: bool) -> None:
        if not command_id:
            return
        before, now_us = ledger.get(self.connection, command_id), self.clock.now_us()
        handle = 7 if kept and not before.dangerous else None
        with self.connection:
            after = ledger.apply(
                self.connection, command_id, event, now_us=now_us, transport="x", handle=handle, last_word=last_word
            )
        if after is None:
            assert ledger.get(self.connection, command_id) == before
            return
        assert after == ledger.get(self.connection, command_id)
        assert after.version == before.version + 1
        if before.state in OVER:
            assert before.unanswered, "over is over, but for what was never answered"
            assert event in SPOKEN
        if event is Event.SEND:
            assert now_us < before.expires_at_us, "nothing runs late"
            self.out[command_id] += 1
        if event is Event.RELEASE:
            self.out[command_id] -= 1
        if after.state is State.CONFIRMED:
            assert event is Event.CONFIRM
            assert self.out[command_id] > 0, "nobody did what was never sent"
        if after.state in (State.EXPIRED, State.CANCELLED):
            assert event in (Event.EXPIRE, Event.CANCEL)

    @rule(named=st.sampled_from(["", "ring", "restart", "nothing"]), event=st.sampled_from(sorted(SPOKEN)))
    def answer(self, named: str, event: Event) -> None:
        in_flight = [one for one in ledger.open_commands(self.connection) if one.state in IN_FLIGHT]
        fitting = [one for one in in_flight if named in ("", one.name)]
        with self.connection:
            taken = ledger.take_reply(
                self.connection, "D-1", named, event, now_us=self.clock.now_us(), seq=audit.next_seq(self.connection)
            )
        assert (taken is not None) == (len(fitting) > 0 and (named != "" or len(fitting) == 1))
        assert taken is None or taken.id == fitting[0].id

    @rule(seconds=st.integers(0, 200))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def each_is_what_it_says(self) -> None:
        for number_of_times, command in (
            (times, ledger.get(self.connection, command_id)) for command_id, times in self.out.items()
        ):
            assert command.result in RESULTS
            assert (command.state in OVER) <= (command.finished_at_us is not None)
            assert number_of_times <= (1 if command.dangerous else MAX_ATTEMPTS), "at most once, at most a few times"
            assert command.attempts == number_of_times
            if command.state in IN_FLIGHT and command.finished_at_us is None:
                assert command.answer_by_us is not None, "what is in flight ends by itself"
                assert command.answer_by_us <= command.created_at_us + (86_400 + 3600) * US_PER_S
            if command.finished_at_us is not None:
                assert "1380000" not in str(command.parameters)
            steps = ledger.show(self.connection, command.id)["steps"]
            assert len(steps) == command.version
            assert steps[-1]["state"] == command.state

    def teardown(self) -> None:
        assert list(audit.verify(self.connection)) == []
        self.connection.close()
        self.folder.cleanup()


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
