"""What the tests of alerts and outbox share: a store on a real file, effects, and lookups."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import apsw

from alerts.channel import Channel
from alerts.channels.order_api import OrderApi
from alerts.orders import DestinationWatch, OrderHandler
from alerts.outbox import Outbox, Taking
from alerts.policy import PROMISES, Policy, Promise
from gateway.clock import Clock
from gateway.model import Actor, Clear, Position, Raise, Severity
from gateway.storage.database import FILE_NAME
from tests.factory import T0_US
from tests.quick_file import quick_database

T = TypeVar("T")

OPERATOR = Actor("operator", "U-1", role="operator")
OTHER = Actor("operator", "U-2", role="operator")
FAMILY = Actor("operator", "F-1", role="family")
RULE = Actor("rule", "signal.sos")
SYSTEM = Actor("system", "timer")
PLATFORM = Actor("platform", "platform", role="backend")


UNSUPERVISED = Policy(promises={category: Promise(10**15, 10**15, "arrived") for category in PROMISES})
"""For tests that count timers: nobody waits for orders."""


def committed(connection: apsw.Connection, fn: Callable[[apsw.Connection], T]) -> T:
    """What fn returns, in a transaction of its own."""
    with connection:
        result = fn(connection)
    return result  # noqa: RET504 - to mypy, a with statement may swallow an exception and go on


class FileStore:
    """ports.Store on one connection to a real file; transactions run on the loop, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self.connection = quick_database(self.path)
        self.writes = 0
        self.fail_with: list[Exception] = []

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        await asyncio.sleep(0)
        if self.fail_with:
            raise self.fail_with.pop(0)
        self.writes += 1
        return committed(self.connection, fn)

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        await asyncio.sleep(0)
        return fn(self.connection)

    glance = read

    def close(self) -> None:
        self.connection.close()


class Details:
    """OrderDetails of one made-up person with one made-up device."""

    def person(self, connection: apsw.Connection, person_id: str) -> Mapping[str, Any] | None:
        if not person_id.startswith("P-"):
            return None
        return {"id": person_id, "name": "王秀英", "phone": "+8613800000001", "address": "和平路1号"}

    def device(self, connection: apsw.Connection, device_id: str) -> Mapping[str, Any] | None:
        return {"id": device_id, "model": "carebell.native"}


def sos(
    number: int = 1,
    *,
    person_id: str = "P-0001",
    device_id: str = "D-0001",
    kind: str = "sos",
    severity: Severity = Severity.P1,
    at_us: int = T0_US,
    verified: bool = True,
    late: bool = False,
    position: Position | None = None,
) -> Raise:
    """The effect of record ``number``."""
    return Raise(
        effect_id=f"r{number}:signal.{kind}:{kind}",
        kind=kind,
        severity=severity,
        person_id=person_id,
        device_id=device_id,
        seq=number,
        occurred_at_us=at_us,
        received_at_us=at_us,
        rule_id=f"signal.{kind}",
        rule_version="1",
        evidence={"signal": kind},
        late=late,
        verified=verified,
        position=position,
    )


def cancelled(number: int, *, kind: str = "sos", person_id: str = "P-0001", at_us: int = T0_US) -> Clear:
    return Clear(
        effect_id=f"r{number}:signal.{kind}:{kind}:clear",
        kind=kind,
        person_id=person_id,
        device_id="D-0001",
        seq=number,
        at_us=at_us,
        rule_id=f"signal.{kind}",
    )


class NowhereToGo:
    """An outbox without destinations."""

    def taking(self, most: int) -> Taking:
        return Taking([])


def order_outbox(
    store: FileStore, clock: Clock, base_url: str, *, policy: Policy | None = None, timeout_s: float = 2.0, **more: Any
) -> Outbox:
    """An outbox with the order API behind it."""
    policy = policy or Policy()
    channels: dict[str, Channel] = {"order_api": OrderApi(base_url, "", timeout_s, store=store, details=Details())}
    channels |= more.pop("channels", {})
    return Outbox(
        store,
        channels,
        clock,
        handlers={"order": OrderHandler(policy), **more.pop("handlers", {})},
        technician=DestinationWatch(policy),
        rng=random.Random(7),
        poll_s=0.02,
        **more,
    )
