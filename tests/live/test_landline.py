"""Land-line and mobile one-button telephones: a call, told by a telephone system or heard by the modem, is an SOS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest

from alerts.channels.modem_inbox import IncomingCall, IncomingSms
from gateway.clock import VirtualClock
from gateway.errors import StorageError
from gateway.model import DeviceBinding, Verdict
from gateway.notifying import JournalIncoming
from gateway.registry.devices import add_device
from gateway.storage.database import FILE_NAME, open_database
from gateway.telephones import PROFILE, Telephones, spellings
from protocols.codecs.cti import CtiCodec
from simulators.telephones import ring
from tests.daemon import ACTOR, Daemon, carebell_json, provision
from tests.live.test_dc09 import Disk

pytestmark = pytest.mark.live

START = datetime(2026, 11, 22, tzinfo=UTC)
OF_PERSON, OF_BUTTON, STRANGER = "+8613800000001", "+862228880001", "+8613900000009"


def prepared(data_dir: Path) -> dict[str, str]:
    """Person P-1 with OF_PERSON in the registry; T-2, a button of P-2 on a land line."""
    data_dir.mkdir()
    tokens = provision(data_dir, 2)
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        connection.execute("UPDATE person SET phone = ? WHERE id = 'P-1'", (OF_PERSON,))
        values = {"profile": PROFILE, "person_id": "P-2", "serial": OF_BUTTON}
        add_device(connection, "T-2", values, known_profiles=[PROFILE], at_us=time.time_ns() // 1000, actor=ACTOR)
    connection.close()
    return tokens


# ---- on the running daemon -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, dict[str, str]]]:
    data_dir = tmp_path_factory.mktemp("landline") / "var"
    tokens = prepared(data_dir)
    with Daemon(data_dir) as daemon:
        yield daemon, tokens


def alerts(daemon: Daemon, person: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while not (found := carebell_json("alerts", "list", "--person", person, data_dir=daemon.data_dir)):
        assert time.monotonic() < deadline, f"no alert of {person}"
        time.sleep(0.1)
    return found


def test_land_line_a_person_calls_from_the_number_in_the_registry(gateway: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = gateway
    for _ in range(3):
        assert ring(daemon.url, "138 0000 0001", daemon.admin_key).status_code == 202
    (alert,) = alerts(daemon, "P-1")
    assert (alert["kind"], alert["severity"], alert["device_id"]) == ("sos", "P1", "tel-P-1")
    assert alert["occurrences"] == 1, "three rings of one call are one press"
    rows = [row for row in carebell_json("journal", "list", data_dir=daemon.data_dir) if row["device_id"] == "tel-P-1"]
    assert len(rows) == 1


def test_land_line_a_button_by_its_serial_number_told_by_a_device(gateway: tuple[Daemon, dict[str, str]]) -> None:
    """The telephone system is a device of the registry, and has a token as devices have."""
    daemon, tokens = gateway
    assert ring(daemon.url, "022-28880001", tokens["D-1"], device="D-1", call_id="c-1").status_code == 202
    (alert,) = alerts(daemon, "P-2")
    assert (alert["kind"], alert["device_id"]) == ("sos", "T-2")


def test_strangers_withheld_numbers_and_wrong_credentials_are_kept_unverified(
    gateway: tuple[Daemon, dict[str, str]],
) -> None:
    daemon, _ = gateway
    before = len(carebell_json("journal", "list", data_dir=daemon.data_dir))
    assert ring(daemon.url, STRANGER, daemon.admin_key).status_code == 202
    assert ring(daemon.url, "anonymous", daemon.admin_key).status_code == 202
    assert ring(daemon.url, OF_PERSON, "carebell_wrong_key").status_code == 401
    assert ring(daemon.url, OF_PERSON).status_code == 401
    rows = carebell_json("journal", "list", data_dir=daemon.data_dir)[before:]
    assert [row["device_id"] for row in rows] == [None] * 4
    assert all(row["observations"][0]["signal"] == "sos" and "credential" in row["fault"] for row in rows)


def test_what_is_no_call(gateway: tuple[Daemon, dict[str, str]]) -> None:
    daemon, _ = gateway
    headers = {"Authorization": f"Bearer {daemon.admin_key}"}
    for body, status in ((b"[]", 400), (b"\xff", 400), (b" " * 9000, 413)):
        assert httpx2.post(f"{daemon.url}/cti/v1/call", content=body, headers=headers, timeout=60).status_code == status
    assert httpx2.get(f"{daemon.url}/cti/v1/call", headers=headers, timeout=60).status_code == 405
    assert httpx2.post(f"{daemon.url}/cti/v1/other", headers=headers, timeout=60).status_code == 404


# ---- heard by the modem ----------------------------------------------------------------------------------------------


class File:
    """``ports.Store`` and ``ports.Directory`` on one connection."""

    def __init__(self, path: Path) -> None:
        self.connection = open_database(path)

    async def write(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        with self.connection:
            return fn(self.connection)

    async def read(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        return fn(self.connection)

    async def refresh(self) -> None:
        """Always fresh."""

    def _device(self, column: str, value: str) -> DeviceBinding | None:
        row = self.connection.execute(
            f"SELECT id, profile FROM device LEFT JOIN device_key ON device_id = id WHERE {column} = ?", (value,)
        ).fetchone()
        if row is None:
            return None
        return DeviceBinding(row[0], row[1], "cti" if row[1] == PROFILE else "native")

    def device(self, device_id: str) -> DeviceBinding | None:
        return self._device("id", device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return self._device("key", key)


def play(tmp_path: Path, story: Callable[[JournalIncoming, Disk, Telephones], Awaitable[None]]) -> Disk:
    prepared(tmp_path / "var")
    disk, file = Disk(), File(tmp_path / "var" / FILE_NAME)

    async def main() -> None:
        telephones = Telephones(
            ingest=disk, store=file, directory=file, refresh=file.refresh, clock=VirtualClock(START), codec=CtiCodec()
        )
        await story(JournalIncoming(telephones), disk, telephones)

    asyncio.run(main())
    file.connection.close()
    return disk


def sms(sender: str, text: str, key: str = "k") -> IncomingSms:
    return IncomingSms(key=key, sender=sender, text=text, sent_us=None, received_us=1_795_000_000_000_000)


def test_a_call_at_the_modem(tmp_path: Path) -> None:
    async def story(incoming: JournalIncoming, disk: Disk, telephones: Telephones) -> None:
        for number in (OF_PERSON, OF_PERSON, "02228880001", STRANGER, ""):
            await incoming.call(IncomingCall(number=number, at_us=1_795_000_000_000_000))
        assert telephones.counts["entered"] == 1
        assert disk.kept[0].idempotency_key == disk.kept[1].idempotency_key != disk.kept[2].idempotency_key

    assert play(tmp_path, story).signals() == [
        *[("tel-P-1", "sos", True)] * 2, ("T-2", "sos", True), *[("", "sos", False)] * 2,
    ]  # fmt: skip


def test_messages_at_the_modem(tmp_path: Path) -> None:
    """Words of help are an SOS; a reply to ours is none; what somebody in care writes is read by a person."""
    replies: list[tuple[str, str, str]] = []

    class Answers:
        async def take_message(self, provider: str, sender: str, text: str, key: str, to: str = "") -> str:
            replies.append((sender, text, key))
            return "answered" if text == "1" else "unknown"

        async def note_call(self, provider: str, number: str, key: str) -> None:
            raise AssertionError("nobody called")

    async def story(incoming: JournalIncoming, disk: Disk, telephones: Telephones) -> None:
        woken: list[int] = []
        incoming.connect(Answers(), lambda: woken.append(1))
        for number, text in ((OF_PERSON, "SOS"), (OF_PERSON, "1"), (OF_PERSON, "我想换药"), (STRANGER, "广告"),
                             (STRANGER, "救命"), ("", "")):  # fmt: skip
            await incoming.sms(sms(number, text, f"{number}{text}"))
        assert len(replies) == len(woken) == 6
        disk.verdict = Verdict.RETRY
        with pytest.raises(StorageError):
            await incoming.sms(sms(OF_PERSON, "SOS"))

    disk = play(tmp_path, story)
    assert len(disk.kept) == 6, "every message is kept"
    assert disk.signals() == [("tel-P-1", "sos", True), ("tel-P-1", "service_call", True), ("", "sos", False)]


def test_a_stranger_who_calls_all_the_time_is_bounded(tmp_path: Path) -> None:
    async def story(incoming: JournalIncoming, disk: Disk, telephones: Telephones) -> None:
        for _ in range(50):
            await incoming.call(IncomingCall(number=STRANGER, at_us=1_795_000_000_000_000))
        assert telephones.counts["shed"] == 40

    assert len(play(tmp_path, story).kept) == 10


@pytest.mark.parametrize("told", ["+862228880001", "862228880001", "02228880001", "022-2888-0001"])
def test_spellings_of_a_land_line(told: str) -> None:
    from protocols.codecs.cti import number_of

    assert OF_BUTTON in spellings(number_of(told))
