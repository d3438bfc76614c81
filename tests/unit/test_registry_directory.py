"""The registry in memory, over the real writer and its reader threads, and beside another process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw

from gateway.care import DeviceCare
from gateway.clock import VirtualClock, from_us
from gateway.errors import StorageBrokenError, StorageError
from gateway.model import Actor, DeviceBinding
from gateway.registry import credentials, devices, directory, keys, persons, unknown
from gateway.registry.directory import Registry, Snapshot
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.writer import JournalWriter
from tests.factory import T0_US, record

T = TypeVar("T")
ACTOR = Actor("operator", "test")
PROFILES = ("carebell.native", "other")
CODECS = {"carebell.native": "native"}


def broken(error: StorageBrokenError) -> None:
    raise error


def with_registry(tmp_path: Path, story: Callable[[JournalWriter, Registry, VirtualClock], Awaitable[None]]) -> None:
    async def main() -> None:
        store = JournalWriter(tmp_path, on_broken=broken, reserve_bytes=4096)
        clock = VirtualClock(from_us(T0_US))
        try:
            registry = Registry(store, codec_of=CODECS.get, clock=clock)
            await story(store, registry, clock)
        finally:
            await store.close()

    asyncio.run(main())


def person(connection: apsw.Connection, person_id: str = "P-1", **values: Any) -> None:
    persons.add_person(connection, person_id, {"name": "王秀英"} | values, at_us=T0_US, actor=ACTOR)


def device(connection: apsw.Connection, device_id: str = "D-1", **values: Any) -> str:
    given = {"profile": "carebell.native"} | values
    return devices.add_device(connection, device_id, given, known_profiles=PROFILES, at_us=T0_US, actor=ACTOR)[1]


def change_device(connection: apsw.Connection, device_id: str, **values: Any) -> None:
    devices.update_device(connection, device_id, values, known_profiles=PROFILES, at_us=T0_US + 1, actor=ACTOR)


def test_a_device_that_was_added_a_moment_ago_may_connect_at_once(tmp_path: Path) -> None:
    async def story(store: JournalWriter, registry: Registry, clock: VirtualClock) -> None:
        assert await registry.authenticate("D-1", b"x" * 43) is None
        await store.write(lambda c: person(c, district="和平区"))
        token = await store.write(lambda c: device(c, person_id="P-1", imei="861234567890123", mac="AA:BB:CC:DD:EE:FF"))
        assert registry.device("D-1") is None  # not read yet
        binding = await registry.authenticate("D-1", token.encode())
        assert binding == DeviceBinding("D-1", "carebell.native", "native", "P-1", "active", "和平区")
        assert await registry.authenticate("D-1", token[:-1].encode()) is None
        assert await registry.authenticate("D-1", b"\xff\x00") is None
        assert await registry.authenticate("D-2", token.encode()) is None
        for key in ("861234567890123", "aa:bb:cc:dd:ee:ff", "AABBCCDDEEFF"):
            assert registry.device_by_key(key) == binding
        assert registry.device_by_key("861234567890124") is None
        assert await registry.by_certificate("D-1") == binding
        assert await registry.by_certificate("861234567890123") == binding
        assert await registry.by_certificate("stranger") is None

    with_registry(tmp_path, story)


def test_changes_reach_the_snapshot(tmp_path: Path) -> None:
    async def story(store: JournalWriter, registry: Registry, clock: VirtualClock) -> None:
        old = await store.write(device)
        assert await registry.refresh_if_changed()
        assert not await registry.refresh_if_changed()
        new = await store.write(lambda c: credentials.issue_token(c, "D-1", at_us=T0_US, actor=ACTOR, grace_s=60))
        await registry.refresh_if_changed()
        assert await registry.authenticate("D-1", old.encode()) is not None
        assert await registry.authenticate("D-1", new.encode()) is not None
        clock.advance(61)
        assert await registry.authenticate("D-1", old.encode()) is None
        assert await registry.authenticate("D-1", new.encode()) is not None

        await store.write(lambda c: devices.set_state(c, "D-1", "suspend", at_us=T0_US, actor=ACTOR))
        await registry.refresh_if_changed()
        assert await registry.authenticate("D-1", new.encode()) is None
        assert await registry.by_certificate("D-1") is None
        assert registry.device("D-1") is not None
        await store.write(lambda c: devices.set_state(c, "D-1", "resume", at_us=T0_US, actor=ACTOR))
        assert await registry.authenticate("D-1", new.encode()) is not None

        await store.write(lambda c: change_device(c, "D-1", serial="S-1"))
        await registry.refresh_if_changed()
        assert registry.device_by_key("s-1") is not None
        await store.write(lambda c: change_device(c, "D-1", serial="", profile="other", model="M-1"))
        await registry.refresh_if_changed()
        assert registry.device_by_key("S-1") is None
        assert registry.device("D-1") == DeviceBinding("D-1", "other", "")  # a profile that is not installed
        assert registry.model_of("D-1") == "M-1"

    with_registry(tmp_path, story)


def test_when_a_service_ends_its_device_is_nobodys_and_cannot_connect(tmp_path: Path) -> None:
    async def story(store: JournalWriter, registry: Registry, clock: VirtualClock) -> None:
        plan = {"expectations": [{"type": "check_in", "expectation_id": "e", "by": "09:00"}]}
        await store.write(lambda c: person(c, care_plan=plan))
        token = await store.write(lambda c: device(c, person_id="P-1"))
        suspended = {"state": "suspended"}
        await store.write(lambda c: persons.update_person(c, "P-1", suspended, at_us=T0_US, actor=ACTOR))
        assert await registry.authenticate("D-1", token.encode()) is not None  # until verified, everything alarms
        assert [found.person_id for found in registry.plans()] == ["P-1"]
        ceased = {"state": "ceased"}
        await store.write(lambda c: persons.update_person(c, "P-1", ceased, at_us=T0_US, actor=ACTOR))
        await registry.refresh_if_changed()
        assert await registry.authenticate("D-1", token.encode()) is None
        binding = registry.device("D-1")
        assert binding is not None
        assert (binding.person_id, binding.state) == ("", "retired")
        assert (registry.plan("P-1"), list(registry.plans())) == (None, [])
        facts = registry.person("P-1")
        assert facts is not None
        assert facts.state == "ceased"

    with_registry(tmp_path, story)


def test_a_persons_district_and_plan_follow_a_change(tmp_path: Path) -> None:
    async def story(store: JournalWriter, registry: Registry, clock: VirtualClock) -> None:
        await store.write(lambda c: person(c, district="A"))
        await store.write(lambda c: device(c, person_id="P-1", district="X"))
        await registry.refresh_if_changed()
        await store.write(lambda c: persons.update_person(c, "P-1", {"district": "B"}, at_us=T0_US, actor=ACTOR))
        heard = []
        registry.on_change(lambda: heard.append(registry.version))
        await registry.refresh_if_changed()
        binding, plan = registry.device("D-1"), registry.plan("P-1")
        assert binding is not None
        assert plan is not None
        assert (binding.district, plan.district, plan.version) == ("B", "B", 2)
        assert heard == [3]

    with_registry(tmp_path, story)


def test_supervision_comes_from_the_profile(tmp_path: Path) -> None:
    async def main() -> None:
        store = JournalWriter(tmp_path, on_broken=broken, reserve_bytes=4096)
        try:
            care = {"carebell.native": DeviceCare(device_id="", heartbeat_s=60)}
            clock = VirtualClock(from_us(T0_US))
            registry = Registry(store, codec_of=CODECS.get, care_of=care.get, clock=clock)
            await store.write(person)
            await store.write(lambda c: device(c, person_id="P-1"))
            await store.write(lambda c: device(c, "D-2", profile="other"))
            await registry.refresh_if_changed()
            assert registry.device_care("D-1") == DeviceCare(device_id="D-1", person_id="P-1", heartbeat_s=60)
            assert registry.device_care("D-2") == DeviceCare(device_id="D-2")
            assert registry.device_care("D-3") is None
            await store.write(lambda c: devices.set_state(c, "D-1", "retire", at_us=T0_US, actor=ACTOR))
            await registry.refresh_if_changed()
            assert registry.device_care("D-1") == DeviceCare(device_id="D-1")  # nobody waits for it any more
        finally:
            await store.close()

    asyncio.run(main())


def test_api_keys_work_until_they_end(tmp_path: Path) -> None:
    async def story(store: JournalWriter, registry: Registry, clock: VirtualClock) -> None:
        values = {"role": "operator", "label": "desk", "district": "A"}
        view, key = await store.write(lambda c: keys.issue_api_key(c, values, at_us=T0_US, actor=ACTOR, valid_days=1))
        found = await registry.api_key(key)
        assert found is not None
        assert (found.key_id, found.role, found.district) == (view["key_id"], "operator", "A")
        for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), "", "carebell_x_y", key + "x", key.upper()):
            assert await registry.api_key(wrong) is None
        clock.advance(86_401)
        assert await registry.api_key(key) is None
        clock.advance(-86_401)
        await store.write(lambda c: keys.revoke_api_key(c, view["key_id"], at_us=T0_US, actor=ACTOR))
        await registry.refresh_if_changed()
        assert await registry.api_key(key) is None

    with_registry(tmp_path, story)


class CountingStore:
    """A store that counts its reads, and can be away."""

    def __init__(self, path: Path) -> None:
        self.connection = open_database(path)
        self.reads = 0
        self.away = False

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        self.reads += 1
        await asyncio.sleep(0.01)
        if self.away:
            raise StorageError("away")
        return fn(self.connection)

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        with self.connection:
            result = fn(self.connection)
        return result  # noqa: RET504 - apsw may swallow, says its type


def test_refusals_that_come_together_share_their_reads(tmp_path: Path) -> None:
    async def main() -> None:
        store = CountingStore(tmp_path / FILE_NAME)
        registry = Registry(store, codec_of=CODECS.get, clock=VirtualClock(from_us(T0_US)))
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(registry.authenticate(f"D-{number}", b"guess"))
        assert store.reads <= 3
        reads = store.reads
        token = await store.write(device)
        assert await registry.authenticate("D-1", token.encode()) is not None
        assert store.reads == reads + 1
        assert await registry.authenticate("D-1", token.encode()) is not None  # who is known costs no read
        assert store.reads == reads + 1
        store.away = True
        assert await registry.authenticate("D-1", token.encode()) is not None
        assert await registry.authenticate("D-1", b"wrong") is None
        store.connection.close()

    asyncio.run(main())


def test_a_restored_backup_is_read_from_the_start(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    with connection:
        device(connection)
    newer = Snapshot(version=99, devices={"D-9": DeviceBinding("D-9", "p", "c")})
    assert set(directory.load_snapshot(connection, CODECS.get, newer).devices) == {"D-1"}
    connection.close()


def test_unknown_devices_are_written_down(tmp_path: Path) -> None:
    async def main() -> None:
        store = JournalWriter(tmp_path, on_broken=broken, reserve_bytes=4096)
        try:
            collector = unknown.UnknownDevices()
            from gateway.model import Committed

            first, second = record(1, device_id=""), record(2, device_id="")
            first.device_key = second.device_key = "861234567890123"
            collector(Committed(10, [first, record(3), second]))
            assert await collector.flush(store) == 1
            assert await collector.flush(store) == 0
            found = await store.read(unknown.list_unknown)
            assert [(row["device_key"], row["frames"], row["first_seq"], row["last_seq"]) for row in found] == [
                ("861234567890123", 2, 10, 12)
            ]
        finally:
            await store.close()

    asyncio.run(main())


ADD_DEVICES = """
import sys
from pathlib import Path
from gateway.model import Actor
from gateway.registry.devices import add_device
from gateway.storage.database import open_database
connection = open_database(Path(sys.argv[1]))
for number in range(40):
    connection.execute("BEGIN IMMEDIATE")
    _, token = add_device(connection, f"C-{number}", {"profile": "carebell.native"},
                          known_profiles=["carebell.native"], at_us=1, actor=Actor("operator", "cli"))
    connection.execute("COMMIT")
    print(f"C-{number}", token, flush=True)
"""


def test_another_process_adds_devices_while_this_one_reads_and_writes(tmp_path: Path) -> None:
    async def story(store: JournalWriter, registry: Registry, clock: VirtualClock) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ADD_DEVICES, str(tmp_path / FILE_NAME), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        seen = 0
        async with asyncio.timeout(60):
            while line := await process.stdout.readline():
                device_id, token = line.decode().split()
                binding = await registry.authenticate(device_id, token.encode())
                assert binding is not None, f"{device_id} was added and may not connect"
                await store.write(lambda c, seen=seen: device(c, f"H-{seen}"))  # type: ignore[misc] # a bound loop variable
                seen += 1
            assert await process.wait() == 0
        assert seen == 40
        await registry.refresh_if_changed()
        assert {f"{kind}-{number}" for kind in "CH" for number in range(40)} == set(registry.snapshot.devices)
        full = await store.read(lambda c: directory.load_snapshot(c, CODECS.get, Snapshot()))
        assert full == registry.snapshot  # what was read piece by piece is what is there

    with_registry(tmp_path, story)
