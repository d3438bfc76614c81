"""The reader that judges: committed records go through the rules, what they find goes to the alerts.

The rules' state is saved now and then with a bookmark; what came after it is judged again at start. Effects carry ids
that are the same every time, so that judging twice raises once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Final, Protocol

import apsw
import structlog

from gateway import crashpoints
from gateway.clock import Clock
from gateway.errors import StorageBrokenError, StorageError
from gateway.model import Committed, Effect
from gateway.ports import Engine, Store
from gateway.storage import journal
from gateway.storage.many import upsert

READER: Final = "rules"
TICK_S: Final = 0.25
SAVE_S: Final = 15.0
SAVE_SLICE: Final = 500
"""States that are encoded in one turn of the loop, about a millisecond."""

log = structlog.get_logger("judge")


class EffectSink(Protocol):
    """Who makes effects durable, in order (alerts.service.AlertService)."""

    def submit(self, effects: Sequence[Effect]) -> None: ...
    async def drained(self) -> None: ...


class Follower(Protocol):
    """Who does what committed records ask for besides the rules (gateway.duties)."""

    def __call__(self, committed: Committed) -> None: ...
    def is_open(self) -> bool: ...


class Judge:
    """``observe`` is a listener of ingest; ``run`` ticks and saves. Everything on the loop."""

    def __init__(self, *, engine: Engine, alerts: EffectSink, store: Store, clock: Clock) -> None:
        self._engine = engine
        self._alerts = alerts
        self._store = store
        self._clock = clock
        self._unsaved: dict[tuple[str, str], bytes | None] = {}
        self._failing = False
        self._followers: list[Follower] = []
        self.seq = 0
        self.saved_seq = 0
        self.ticked_us = 0

    def follow(self, follower: Follower) -> None:
        """It hears what is judged again at start, and the bookmark does not pass what it has still to do."""
        self._followers.append(follower)

    def observe(self, committed: Committed) -> None:
        crashpoints.reached(crashpoints.BEFORE_JUDGING)
        effects = self._engine.observe(committed)
        self.seq = committed.last_seq
        if effects:
            self._alerts.submit(effects)

    def recover(self, connection: apsw.Connection) -> int:
        """Take up the saved state and judge what was committed after it; returns how many records that were.

        Call it before anything is taken in. The effects found here are submitted; most of them are known already.
        """
        self._engine.restore(connection.execute("SELECT rule_id, subject, state FROM rule_state"))
        self.seq = self.saved_seq = journal.readers(connection).get(READER, 0)
        first = self.seq
        while True:
            parts = list(journal.read_after(connection, self.seq))
            if not parts:
                return self.seq - first
            for part in parts:
                if isinstance(part, Committed):
                    self.observe(part)
                    for follower in self._followers:
                        follower(part)
                else:
                    log.error("batch_corrupt", first_seq=part.first_seq, last_seq=part.last_seq, reason=part.reason)
                    self.seq = part.last_seq

    async def run(self) -> None:
        """Fire what is due, and save the state every SAVE_S seconds. Raises StorageBrokenError."""
        loop = asyncio.get_running_loop()
        save_at_s = loop.time() + SAVE_S
        while True:
            self.tick()
            if loop.time() >= save_at_s:
                await self._try_to_save()
                save_at_s = loop.time() + SAVE_S
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        now_us = self._clock.now_us()
        wake_us = self._engine.next_wake_us()
        if wake_us is not None and wake_us <= now_us:
            effects = self._engine.tick(now_us)
            if effects:
                self._alerts.submit(effects)
        self.ticked_us = now_us

    async def _try_to_save(self) -> None:
        """Save, or later: a disk that is full or a file that is held must not end the process that takes alarms."""
        try:
            await self.save()
        except StorageBrokenError:
            raise
        except StorageError as error:
            if not self._failing:  # once per change of state
                self._failing = True
                log.error("rules_not_saved", error=str(error))
        else:
            self._failing = False

    async def save(self) -> None:
        """Write the states that changed, and the bookmark; not before the effects they led to are durable.

        Raises StorageError; what was not written is written with the next call, as it is while a follower is at work.
        """
        seq = self.seq
        changed = iter(self._engine.dirty())  # as of seq, whatever changes meanwhile
        while part := list(islice(changed, SAVE_SLICE)):
            self._unsaved |= {(rule_id, subject): state for rule_id, subject, state in part}
            await asyncio.sleep(0)
        rows = [(*key, state) for key, state in self._unsaved.items()]
        if seq == self.saved_seq and not rows:
            return
        if any(follower.is_open() for follower in self._followers):
            return
        await self._alerts.drained()
        now_us = self._clock.now_us()

        def write(connection: apsw.Connection) -> None:
            upsert(connection, "rule_state", ("rule_id", "subject"), "state", [row for row in rows if row[2]])
            connection.executemany(
                "DELETE FROM rule_state WHERE rule_id = ? AND subject = ?", [row[:2] for row in rows if not row[2]]
            )
            journal.set_reader(connection, READER, seq, now_us)

        await self._store.write(write)
        for rule_id, subject, state in rows:
            if self._unsaved.get((rule_id, subject), b"") is state:
                del self._unsaved[rule_id, subject]
        self.saved_seq = max(self.saved_seq, seq)
