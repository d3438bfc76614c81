"""The world of the drills: a SQLite file, the timers and the outbox with its workers are real, the clock is virtual.

Only providers, platform and people are made up, and they remember everything that reached them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import apsw
from msgspec import Struct

from alerts import auditor, care_rows, rows
from alerts.care_messages import Care, build_care
from alerts.care_rows import Schedule
from alerts.channel import Dispatch, Receipt
from alerts.escalation import Escalation, build
from alerts.lifecycle import apply_effects, transition
from alerts.notice import AttemptState, Medium, Notice, Provider, Told
from alerts.orders import DestinationWatch, OrderHandler
from alerts.outbox import Outbox
from alerts.policy import Policy
from alerts.policy_files import load_policies
from alerts.replies import Replies
from alerts.rows import Alert
from alerts.service import AlertService
from gateway.clock import US_PER_S, from_us, to_us
from gateway.errors import DeliveryDeferredError
from gateway.model import Actor, Clear, Severity
from tests.alerts_support import FileStore, sos

ZONE: Final = ZoneInfo("Asia/Shanghai")
DAY: Final = datetime(2026, 11, 22, tzinfo=ZONE)
PATIENCE_S: Final = 60.0

SITE: Final = """
version = "drill"
[center.city]
city = true
webhook = "city"
[center.second]
backup = true
webhook = "second"
[staff.duty]
voice = "+862288880001"
[staff.supervisor]
voice = "+862288880002"
"""


class PowerCut(BaseException):
    """The process is gone."""


class DrillClock:
    """A wall that can be set, and a monotonic clock that cannot."""

    def __init__(self, at: datetime) -> None:
        self.wall_us = to_us(at)
        self.steady_us = 0

    def now_us(self) -> int:
        return self.wall_us

    def monotonic_s(self) -> float:
        return self.steady_us / US_PER_S

    def pass_us(self, by_us: int) -> None:
        self.wall_us += by_us
        self.steady_us += by_us


class Happening(Struct, frozen=True):
    """Something that reached somebody."""

    at_us: int
    what: str
    key: str


class Carrier:
    """A provider that always knows what it did, also when the gateway does not."""

    def __init__(self, name: str, media: Sequence[Medium], world: World) -> None:
        self._name = name
        self._media = frozenset(media)
        self._world = world
        self.down = False
        self.calls: list[Notice] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def media(self) -> frozenset[Medium]:
        return self._media

    def ready(self) -> bool:
        return True

    async def send(self, notice: Notice) -> Receipt:
        self._world.reached("before_provider")
        if self.down:
            self._world.note(f"{self._name} refuses {notice.medium}", notice.attempt_id)
            raise DeliveryDeferredError("out of order")
        self.calls.append(notice)
        self._world.note(f"{WORDS[notice.medium]} {self._world.who(notice)}", notice.attempt_id)
        self._world.reached("after_provider")
        return Receipt(f"{self._name}-{len(self.calls)}")

    async def find(self, notice: Notice) -> Told | None:
        for number, made in enumerate(self.calls, 1):
            if made.attempt_id == notice.attempt_id:
                return Told(
                    attempt_id=notice.attempt_id, provider=self._name, provider_id=f"{self._name}-{number}",
                    state="queued", at_us=self._world.clock.now_us(),
                )  # fmt: skip
        return None

    async def close(self) -> None:
        return


WORDS: Final[Mapping[str, str]] = {
    "voice": "call", "sms": "sms", "webhook": "tell", "push": "push", "email": "email", "chat": "chat",
}  # fmt: skip


class Platform:
    """The order API's channel: honours the idempotency key."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.orders: dict[str, str] = {}

    def ready(self) -> bool:
        return True

    async def send(self, dispatch: Dispatch) -> Receipt:
        self._world.reached("before_provider")
        if dispatch.idempotency_key not in self.orders:
            self.orders[dispatch.idempotency_key] = f"O-{len(self.orders) + 1}"
            self._world.note("order", dispatch.idempotency_key)
        self._world.reached("after_provider")
        return Receipt(self.orders[dispatch.idempotency_key], {"status": "accepted"})

    async def close(self) -> None:
        return


class People:
    """A NoticeSource: one person with so many contacts."""

    def __init__(self, contacts: int) -> None:
        self.number_of_contacts = contacts
        self.changes: dict[str, dict[str, Any]] = {}
        self.place: dict[str, Any] = {}

    def person(self, connection: apsw.Connection, person_id: str) -> Mapping[str, Any] | None:
        person = {"name": "王秀英", "phone": "+8613800000001", "address": "和平路1号", "timezone": "Asia/Shanghai"}
        return {**person, **self.place}

    def device(self, connection: apsw.Connection, device_id: str) -> Mapping[str, Any] | None:
        return None

    def contacts(self, connection: apsw.Connection, person_id: str) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "contact_id": f"{person_id}.{number}", "name": f"联系人{number}", "phone": f"+861390000000{number}",
                "email": None, "language": "zh", "channels": ["voice", "sms"], "severities": ["P1", "P2"],
                "quiet_from": None, "quiet_to": None, "position": number,
                **self.changes.get(f"{person_id}.{number}", {}),
            }
            for number in range(1, self.number_of_contacts + 1)
        ]  # fmt: skip


class DrillStore(FileStore):
    """Loses power before or after the n-th commit."""

    def __init__(self, folder: Path, world: World) -> None:
        super().__init__(folder)
        self._world = world

    async def write(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        await asyncio.sleep(0)

        def cut(connection: apsw.Connection) -> Any:
            result = fn(connection)
            self._world.reached("before_commit")
            return result

        with self.connection:
            result = cut(self.connection)
        self._world.reached("after_commit")
        return result


class World:
    """One gateway with one person in care, and everybody around it."""

    def __init__(
        self, folder: Path, *, contacts: int = 3, site: str = SITE, providers: bool = True, start: datetime = DAY
    ) -> None:
        self.folder = folder
        self.clock = DrillClock(start)
        self.people = People(contacts)
        policies = folder / "policies.d"
        policies.mkdir(exist_ok=True)
        (policies / "site.toml").write_text(site, encoding="utf-8")
        self.book = load_policies([policies])
        self.happened: list[Happening] = []
        self.platform = Platform(self)
        self.first = Carrier("first", ("voice", "sms", "webhook"), self)
        self.second = Carrier("second", ("voice", "sms"), self)
        self.carriers: list[Provider] = [self.first, self.second] if providers else []
        self.presses = 0
        self.written = 0
        self.cut_at: tuple[str, int] | None = None
        self.passed: dict[str, int] = {}
        self.cuts = 0
        self.played = False
        self._open()

    # ---- the process -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.store = DrillStore(self.folder, self)
        self.store.connection.pragma("synchronous", "off")  # what is tested here is not the disk
        self.escalation: Escalation = build(
            policy=Policy(), book=self.book, providers=self.carriers, source=self.people, store=self.store,
            clock=self.clock, rng=random.Random(7), failover_s=1.0,
        )  # fmt: skip
        policy = self.escalation.policy
        self.care: Care = build_care(
            policy=policy, providers=self.carriers, source=self.people, store=self.store, clock=self.clock,
            rng=random.Random(7),
        )  # fmt: skip
        self.outbox = Outbox(
            self.store, {"order_api": self.platform, **self.escalation.channels, **self.care.channels}, self.clock,
            handlers={"order": OrderHandler(policy), **self.escalation.handlers, **self.care.handlers},
            technician=DestinationWatch(policy), rng=random.Random(7), workers=4, poll_s=0.01,
        )  # fmt: skip
        self.replies = Replies(self.store, self.clock, policy)
        self.service = AlertService(self.store, self.clock, policy, outbox=self.outbox)
        self.service._anchor()

    def reopen(self) -> None:
        """The process ends without a word and another one starts."""
        self.store.close()
        self._open()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.service._maintain()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.outbox.run())
            await asyncio.sleep(0)
            yield
            task.cancel()

    def reached(self, place: str) -> None:
        """A place where the power may go."""
        self.passed[place] = self.passed.get(place, 0) + 1
        if self.cut_at == (place, self.passed[place]):
            self.cut_at = None
            self.cuts += 1
            raise PowerCut(place)

    # ---- what happens ------------------------------------------------------------------------------------------------

    def note(self, what: str, key: str) -> None:
        self.happened.append(Happening(self.clock.now_us(), what, key))

    def who(self, notice: Notice) -> str:
        if notice.to == "+8613800000001":
            return "person"
        if notice.to.startswith("+8613900000"):
            return f"contact {int(notice.to[-2:])}"
        for role, staff in self.book.staff.items():
            if notice.to in (staff.voice, staff.sms):
                return f"staff {role}"
        return f"center {notice.to}"

    async def settle(self) -> None:
        """Until nothing is due at this moment any more."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await self.service._fire()
                await self.care.service.tick()
                self.outbox.wake()
                await asyncio.sleep(0.001)
                now_us = self.clock.now_us()
                (busy,) = self.store.connection.execute(
                    "SELECT (SELECT count(*) FROM outbox WHERE state = 'sending'"
                    " OR (state IN ('pending', 'retry') AND next_at_us <= ?))"
                    " + (SELECT count(*) FROM timer WHERE due_at_us <= ?)"
                    " + (SELECT count(*) FROM care_schedule WHERE state = 'active' AND next_at_us <= ?)"
                    " + (SELECT count(*) FROM care_occasion WHERE state = 'asking' AND due_at_us <= ?)",
                    (now_us, now_us, now_us, now_us),
                ).fetchone() or (0,)
                if not busy:
                    return

    async def wait_until(self, at_us: int) -> None:
        """Let time pass, from one thing that is due to the next."""
        await self.settle()
        while self.clock.now_us() < at_us:
            due: list[Any] = self.store.connection.execute(
                "SELECT min(due_at_us) FROM timer UNION ALL"
                " SELECT min(next_at_us) FROM outbox WHERE state IN ('pending', 'retry') UNION ALL"
                " SELECT min(next_at_us) FROM care_schedule WHERE state = 'active' UNION ALL"
                " SELECT min(due_at_us) FROM care_occasion WHERE state = 'asking'"
            ).fetchall()
            times = [row[0] for row in due if row[0] is not None and row[0] > self.clock.now_us()]
            self.clock.pass_us(min([at_us, *times]) - self.clock.now_us())
            await self.settle()

    # ---- what people do ----------------------------------------------------------------------------------------------

    async def write(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        result = await self.store.write(fn)
        await self.settle()
        return result

    async def press(self, *, kind: str = "sos", severity: Severity = Severity.P1) -> None:
        self.presses += 1
        effect = sos(self.presses, kind=kind, severity=severity, at_us=self.clock.now_us())
        policy, now_us = self.escalation.policy, self.clock.now_us()
        await self.write(lambda c: apply_effects(c, [effect], now_us, policy))

    def alert(self) -> Alert:
        found = self.store.connection.execute(
            f"SELECT {rows.COLUMNS} FROM alert WHERE person_id <> '' ORDER BY id DESC LIMIT 1"
        ).fetchone()
        assert found is not None
        return rows.alert_of(found)

    async def plan(self, kind: str, medium: str, at: str, contact: str = "") -> None:
        """One more schedule of care."""
        now_us = self.clock.now_us()
        schedule = Schedule(
            id=f"{kind}-{at.replace(':', '')}", person_id="P-0001", contact_id=contact, kind=kind, medium=medium, at=at,
            days="1234567", words="", since="05:00", wait_minutes=15, tries=2, next_at_us=0,
        )  # fmt: skip
        await self.write(
            lambda c: care_rows.add(c, schedule, "Asia/Shanghai", actor=Actor("operator", "U-1"), now_us=now_us)
        )

    async def reply(self, who: str, text: str) -> str:
        """``person``, ``contact N`` or a member of the staff writes back."""
        staff = {f"staff {role}": each.sms or each.voice for role, each in self.book.staff.items()}
        numbers = {"person": "+8613800000001", **staff}
        number = numbers.get(who) or f"+861390000000{who.removeprefix('contact ')}"
        self.written += 1
        came = await self.replies.take_message("first", number, text, f"m-{self.written}")
        await self.settle()
        return came

    async def say_ok(self) -> None:
        """The person presses "I'm OK" on a device."""
        self.presses += 1
        now_us, policy = self.clock.now_us(), self.escalation.policy
        effect = Clear(
            effect_id=f"r{self.presses}:{care_rows.SIGN_RULE}", kind="no_answer", person_id="P-0001",
            device_id="D-0001", seq=self.presses, at_us=now_us, rule_id=care_rows.SIGN_RULE,
        )  # fmt: skip
        await self.write(lambda c: apply_effects(c, [effect], now_us, policy))

    async def act(self, action: str, actor: Actor, **more: Any) -> None:
        alert = self.alert()
        policy, now_us = self.escalation.policy, self.clock.now_us()
        await self.write(
            lambda c: transition(
                c, alert.id, action, expected_version=None, actor=actor, now_us=now_us, policy=policy, **more
            )
        )

    async def tell(self, to: str, digits: str, state: AttemptState = "answered") -> str:
        """The newest call to somebody says this."""
        carrier, notice = next(
            (carrier, notice)
            for carrier in (self.first, self.second)
            for notice in reversed(carrier.calls)
            if notice.medium == "voice" and self.who(notice) == to
        )
        told = Told(
            attempt_id=notice.attempt_id, provider=carrier.name, provider_id=f"{carrier.name}-x",
            state=state, at_us=self.clock.now_us(), digits=digits,
        )  # fmt: skip
        now_us = self.clock.now_us()
        return str(await self.write(lambda c: self.escalation.take_told(c, told, now_us)))

    # ---- what must be true at any time -------------------------------------------------------------------------------

    def check(self) -> None:
        assert auditor.without_next_step(self.store.connection, with_ladders=True) == []

    def told(self, prefix: str = "") -> list[tuple[str, str]]:
        """Time and text of what happened."""
        return [(clock_of(each.at_us), each.what) for each in self.happened if each.what.startswith(prefix)]


def clock_of(at_us: int) -> str:
    return from_us(at_us).astimezone(ZONE).strftime("%H:%M:%S")


def time_of(text: str) -> int:
    """Microseconds of HH:MM:SS, with +N for days later."""
    clock, _, days = text.partition("+")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    at = DAY.replace(hour=hours, minute=minutes, second=seconds).astimezone(UTC)
    return to_us(at) + int(days or 0) * 86_400 * US_PER_S
