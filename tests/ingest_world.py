"""What the tests of the road in share: a journal that commits when it is told to, a directory, codecs, frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gateway.clock import SystemClock
from gateway.errors import ProfileError, StorageError
from gateway.ingest import JournalIngest
from gateway.model import Committed, DeviceBinding, Frame, Reading, Record, Report, Verdict
from gateway.storage.dedup import Marks
from protocols.codecs.native import NativeCodec
from tests.factory import T0_US

SOS = b'{"seq":%d,"signals":["sos"]}'
STEP = b'{"seq":%d,"measurements":{"steps":%d}}'


class Journal:
    """An Appender that commits at once, later, or not at all."""

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[tuple[list[Record], Callable[[int | StorageError], None]]] = []
        self.commits: list[list[Record]] = []
        self.submitted: list[tuple[int, bool]] = []
        self.seq = 0

    def submit(self, records: Sequence[Record], done: Callable[[int | StorageError], None], *, emergency: bool) -> None:
        self.submitted.append((len(records), emergency))
        self.waiting.append((list(records), done))
        if not self.held:
            asyncio.get_running_loop().call_soon(self.commit)

    def commit(self, error: StorageError | None = None, *, count: int = 1_000_000) -> None:
        """The oldest ``count`` submissions, together."""
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        for records, done in batch:
            first = self.seq + 1
            if error is None and records:
                self.seq += len(records)
                self.commits.append(records)
            done(error or first)

    @property
    def records(self) -> list[Record]:
        return [record for records in self.commits for record in records]


class Devices:
    """A directory."""

    def __init__(self) -> None:
        self.known = {
            "D-0001": DeviceBinding("D-0001", "carebell.native", "native", "P-0001"),
            "D-0002": DeviceBinding("D-0002", "vendor.model", "fields", "P-0002"),
            "D-gone": DeviceBinding("D-gone", "carebell.native", "native", "P-0003", state="retired"),
        }

    def device(self, device_id: str) -> DeviceBinding | None:
        return self.known.get(device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return self.known["D-0002"] if key == "IMEI-2" else None


class Codec:
    """Gives what it is told to, or raises it."""

    name = "told"

    def __init__(self, *outcome: Report | Exception) -> None:
        self.outcome = outcome

    def parse(self, frame: Frame) -> Sequence[Report]:
        if self.outcome and isinstance(self.outcome[0], Exception):
            raise self.outcome[0]
        return [report for report in self.outcome if isinstance(report, Report)]


class Profile:
    """Understands ``{"alarm": true}``."""

    def explain(self, profile: str, report: Report, received_at_us: int) -> Reading:
        if profile != "vendor.model":
            raise ProfileError(f"there is no profile {profile!r}")
        assert report.fields is not None
        if "bad" in report.fields:
            report.faults = [*(report.faults or []), "bad: unusable"]
        return Reading(received_at_us, {}, {"sos": True} if report.fields.get("alarm") else {})


class Setting:
    def __init__(self, **options: Any) -> None:
        self.journal = Journal()
        self.devices = Devices()
        self.codecs: dict[str, Any] = {"native": NativeCodec()}
        self.seen: list[Committed] = []
        self.ingest = JournalIngest(
            codecs=self.codecs, profiles=Profile(), directory=self.devices, marks=Marks(), journal=self.journal,
            clock=SystemClock(), **options,
        )  # fmt: skip
        self.ingest.listen(self.see)

    def see(self, committed: Committed) -> None:
        self.seen.append(committed)

    async def take(self, codec: Codec, *, device_key: str = "D-0001", verified: bool = True) -> list[Record]:
        """The records of one frame through this codec."""
        before = len(self.journal.records)
        self.codecs["told"] = codec
        given = Frame("tcp", "told", "127.0.0.1:1", b"raw", T0_US, device_key, verified)
        assert await self.ingest.deliver([given]) is Verdict.ACCEPTED
        return self.journal.records[before:]


def play(story: Callable[[Setting], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        await story(Setting(**options))

    asyncio.run(main())


def other(device_key: str, payload: bytes, *, verified: bool = True, **changes: Any) -> Frame:
    return Frame("mqtt", "native", "127.0.0.1:5000", payload, T0_US, device_key, verified, **changes)
