"""What the tests of the replay share: devices, what ingest makes of frames, and a pass over that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from device_profiles.loader import load_profiles
from gateway.clock import VirtualClock, from_us
from gateway.ingest import JournalIngest
from gateway.model import DeviceBinding, Frame, Reading, Report, Verdict
from gateway.ports import Codec, Profiles
from gateway.replaying.compare import Finding
from gateway.replaying.frames import Kept
from gateway.replaying.reader import Reader
from gateway.storage.dedup import Marks
from protocols.registry import CODECS
from tests.factory import T0_US
from tests.ingest_world import Codec as Told
from tests.ingest_world import Journal

SHIPPED = load_profiles()
IMEI = "860000000000017"
AT_US = T0_US


class Devices:
    """A directory: ``D-1`` of P-1 with a profile, also known by a terminal's identity."""

    def __init__(self, profile: str = "carebell.native") -> None:
        self.known = {"D-1": DeviceBinding("D-1", profile, "", "P-1")}
        self.keys = {IMEI: "D-1"}

    def device(self, device_id: str) -> DeviceBinding | None:
        return self.known.get(device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return self.known.get(self.keys.get(key, ""))


def journalled(
    frames: Sequence[Frame], devices: Devices, codecs: Mapping[str, Codec] = CODECS, profiles: Profiles = SHIPPED
) -> list[Kept]:
    """What ingest makes of frames."""
    kept = Journal()

    async def main() -> None:
        ingest = JournalIngest(
            codecs=codecs, profiles=profiles, directory=devices, marks=Marks(), journal=kept,
            clock=VirtualClock(from_us(AT_US)), linger_max_s=0.0,
        )  # fmt: skip
        for frame in frames:
            assert await ingest.deliver([frame]) is Verdict.ACCEPTED

    asyncio.run(main())
    found, seq = [], 1
    for records in kept.commits:
        found.append(Kept(seq, records))
        seq += len(records)
    return found


def reader(
    devices: Devices, codecs: Mapping[str, Codec] = CODECS, profiles: Profiles = SHIPPED, *, changed: bool = False
) -> Reader:
    return Reader(codecs, profiles, devices, lambda _device, _at_us: "P-1", also_changed=changed)


def told(*outcome: Report | Exception) -> dict[str, Codec]:
    return {"told": Told(*outcome)}


def raw(device_key: str = "D-1", *, verified: bool = True, at_us: int = AT_US, payload: bytes = b"raw") -> Frame:
    return Frame("tcp", "told", "127.0.0.1:1", payload, at_us, device_key, verified)


def report(at_us: int = AT_US, **more: Any) -> Report:
    signals = more.pop("signals", {})
    named = {name: more.pop(name) for name in ("seq", "dedup_key", "device_key", "faults") if name in more}
    return Report(reading=Reading(at_us, {name: float(value) for name, value in more.items()}, signals), **named)


def look(
    kept: Kept, now: Report | Exception, *, devices: Devices | None = None, changed: bool = False
) -> Finding | None:
    return reader(devices or Devices(), told(now), changed=changed).look_at(kept, [])


def differing(again: Reader, kept: Sequence[Kept]) -> list[Finding]:
    """What a pass over these finds."""
    return [found for one in kept if again.can_read(one) and (found := again.look_at(one, [])) is not None]
