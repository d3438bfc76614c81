"""How the daemon ends, what it leaves behind, and what it does with what it finds at its next start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import httpx2
import pytest

from gateway.storage import journal
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import Daemon, carebell, carebell_json, provision
from tests.live.history_support import open_folder
from tests.mqtt_wire import Client, play, puback, publish_packet

pytestmark = pytest.mark.live

SOS = b'{"signals":["sos"]}'


def processes_of(folder: Path) -> dict[int, str]:
    """Living processes that work in this directory, have a file of it open or name it, and their command lines."""
    inside = f"{folder}/"
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            links = [entry / "cwd", *(entry / "fd").iterdir()]
            if line and (str(folder) in line or any(f"{target_of(link)}/".startswith(inside) for link in links)):
                found[int(entry.name)] = line
        except OSError:
            continue
    return found


def target_of(link: Path) -> str:
    """Where it points, "" when it is gone meanwhile."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def log_of(data_dir: Path) -> str:
    return (data_dir.parent / f"{data_dir.name}.log").read_text(encoding="utf-8")


def press(daemon: Daemon, device_id: str, token: str, payload: bytes = SOS) -> None:
    """Connect, press, and see the acknowledgement."""

    async def story() -> None:
        client = await Client.open(daemon.mqtt_port)
        await client.connect(device_id=device_id, token=token.encode(), client_id=device_id)
        client.send(publish_packet(f"carebell/{device_id}/up", payload))
        assert await client.receive() == (0x40, puback(1)[2:])

    play(story())


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a space in its name, that PostgreSQL's user may enter when the tests run as root."""
    with open_folder("a place 安心") as folder:
        yield folder
        for pid in processes_of(folder):  # whatever a failed test left
            os.kill(pid, signal.SIGKILL)


def in_history(daemon: Daemon, data_dir: Path) -> Callable[[], bool]:
    """Whether history has everything that the journal has."""

    def caught_up() -> bool:
        with httpx2.Client(base_url=daemon.url, trust_env=False, timeout=60) as client:
            if client.get("/readyz").status_code != 200:
                return False
        return reached(data_dir)["history"] >= last_record(data_dir)

    return caught_up


def reached(data_dir: Path) -> dict[str, int]:
    connection = open_database(data_dir / FILE_NAME, read_only=True)
    found = journal.readers(connection)
    connection.close()
    return found


def last_record(data_dir: Path) -> int:
    connection = open_database(data_dir / FILE_NAME, read_only=True)
    found = journal.last_record_seq(connection)
    connection.close()
    return found


def test_a_killed_daemon_leaves_no_process_and_recovers_by_itself(place: Path) -> None:
    data_dir = place / "my var"
    token = provision(data_dir, 1)["D-1"]
    daemon = Daemon(data_dir, history="embedded")
    daemon.start()
    press(daemon, "D-1", token, b'{"seq":1,"signals":["sos"]}')
    until(in_history(daemon, data_dir), "history does not follow")
    lines = processes_of(place).values()
    assert any("postgres" in line for line in lines)
    assert any("history.worker" in line for line in lines)
    press(daemon, "D-1", token, b'{"seq":2,"signals":["sos"]}')
    daemon.kill()
    until(lambda: not processes_of(place), f"left behind: {processes_of(place)}")
    # As after a power cut: PostgreSQL's own file says that it runs, under a number that is now somebody else's.
    database = min(data_dir.rglob("PG_VERSION"), key=lambda path: len(path.parts)).parent
    (database / "postmaster.pid").write_text(
        f"{os.getpid()}\n{database}\n{int(time.time())}\n5432\n/tmp\n\n0 0\nready\n"
    )

    daemon.start()
    press(daemon, "D-1", token, b'{"seq":2,"signals":["sos"]}')
    press(daemon, "D-1", token, b'{"seq":3,"signals":["sos"]}')
    until(in_history(daemon, data_dir), "history does not recover")
    assert daemon.stop() == 0
    assert processes_of(place) == {}
    assert list(data_dir.rglob("postmaster.pid")) == [], "PostgreSQL ended in order"
    assert [row["dedup_key"] for row in carebell_json("journal", "list", data_dir=data_dir)] == ["1", "2", "3"]
    (alert,) = carebell_json("alerts", "list", data_dir=data_dir)
    assert (alert["kind"], alert["occurrences"]) == ("sos", 3)
    assert "Traceback" not in log_of(data_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_daemon_drains(place: Path, number: signal.Signals) -> None:
    data_dir = place / "var"
    tokens = provision(data_dir, 3)
    daemon = Daemon(data_dir)
    daemon.start()

    async def story() -> None:
        """Presses on their way while the signal comes: each is acknowledged, or its connection ends without."""
        clients = []
        for device_id, token in tokens.items():
            client = await Client.open(daemon.mqtt_port)
            await client.connect(device_id=device_id, token=token.encode(), client_id=device_id)
            clients.append((device_id, client))
        for device_id, client in clients:
            for seq in range(1, 21):
                payload = b'{"seq":%d,"measurements":{"steps":%d}}' % (seq, seq)
                client.send(publish_packet(f"carebell/{device_id}/up", payload, packet_id=seq))
            client.send(publish_packet(f"carebell/{device_id}/up", b'{"seq":21,"signals":["fall"]}', packet_id=21))
        assert daemon.process is not None
        daemon.process.send_signal(number)
        for device_id, client in clients:
            while (answer := await client.receive(90)) is not None:
                acknowledged.add((device_id, str(int.from_bytes(answer[1][:2], "big"))))

    acknowledged: set[tuple[str, str]] = set()
    play(story())
    assert daemon.wait() == 0
    assert processes_of(place) == {}
    records = carebell_json("journal", "list", data_dir=data_dir)
    assert acknowledged <= {(row["device_id"], row["dedup_key"]) for row in records}
    falls = [row for row in records if row["dedup_key"] == "21"]
    assert len(carebell_json("alerts", "list", data_dir=data_dir)) == len(falls), "what came in was judged"
    assert reached(data_dir)["rules"] == last_record(data_dir), "how far it came is written down"
    assert reached(data_dir)["marks"] == last_record(data_dir)
    assert "Traceback" not in log_of(data_dir)


def test_one_directory_has_one_daemon(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    with Daemon(data_dir):
        second = Daemon(data_dir)
        with pytest.raises(AssertionError, match=f"it ended with {os.EX_TEMPFAIL}"):
            second.start()
        second.wait()
    assert f"another carebell runs on {data_dir}" in log_of(data_dir)
    assert "Traceback" not in log_of(data_dir)


@pytest.mark.parametrize("listener", ["MQTT", "HTTP"])
def test_an_address_in_use_is_named(tmp_path: Path, listener: str) -> None:
    data_dir = tmp_path / "var"
    daemon = Daemon(data_dir)
    port = {"MQTT": daemon.mqtt_port, "HTTP": daemon.http_port}[listener]
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(AssertionError, match=f"it ended with {os.EX_UNAVAILABLE}"):
            daemon.start()
        daemon.wait()
    said = log_of(data_dir)
    assert f"{listener} cannot listen on 127.0.0.1:{port}" in said
    assert "Traceback" not in said


def test_a_damaged_journal_is_put_aside_loudly_and_what_can_be_read_is_kept(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    token = provision(data_dir, 1)["D-1"]
    daemon = Daemon(data_dir)
    with daemon:
        for seq in range(1, 4):
            press(daemon, "D-1", token, b'{"seq":%d,"signals":["sos"]}' % seq)
    raw = apsw.Connection(str(data_dir / FILE_NAME))
    raw.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE first_seq = (SELECT max(first_seq) FROM batch)")
    raw.close()
    with daemon:
        assert any("THE JOURNAL WAS DAMAGED" in line for line in daemon.output)
        press(daemon, "D-1", token, b'{"seq":9,"signals":["sos"]}')
    (folder,) = (data_dir / "quarantine").iterdir()
    assert (folder / FILE_NAME).exists()
    assert "does not match its content" in (folder / "report.txt").read_text()
    assert "journal_quarantined" in log_of(data_dir)
    keys = [row["dedup_key"] for row in carebell_json("journal", "list", data_dir=data_dir)]
    assert keys == ["1", "2", "9"]


def test_a_file_that_is_no_database_does_not_keep_the_doors_closed(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    (data_dir / FILE_NAME).write_bytes(b"no database at all" * 1000)
    daemon = Daemon(data_dir)
    with daemon:
        assert any("THE JOURNAL WAS DAMAGED" in line for line in daemon.output)
    (folder,) = (data_dir / "quarantine").iterdir()
    assert (folder / FILE_NAME).read_bytes() == b"no database at all" * 1000


def test_a_journal_of_a_newer_carebell_is_refused_and_untouched(tmp_path: Path) -> None:
    """Also when it was killed, and when its records are nothing that this carebell can read."""
    newer, data_dir = tmp_path / "newer" / FILE_NAME, tmp_path / "var"
    connection = open_database(newer)
    connection.execute("INSERT INTO batch VALUES (1, 1, 1, 1, x'00')")
    connection.pragma("user_version", 9999)
    data_dir.mkdir()
    before = {}
    for file in newer.parent.iterdir():
        if not file.name.endswith("-shm"):
            before[file.name] = file.read_bytes()
            (data_dir / file.name).write_bytes(before[file.name])
    connection.close()
    assert sorted(before) == [FILE_NAME, f"{FILE_NAME}-wal"]
    daemon = Daemon(data_dir)
    with pytest.raises(AssertionError, match=f"it ended with {os.EX_CONFIG}"):
        daemon.start()
    daemon.wait()
    assert {name: (data_dir / name).read_bytes() for name in before} == before
    assert not (data_dir / "quarantine").exists()
    said = log_of(data_dir)
    assert "its schema is version 9999" in said
    assert "Traceback" not in said


def test_a_device_added_while_it_runs_connects_at_once(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    with Daemon(data_dir) as daemon:
        carebell("persons", "add", "--id", "P-7", "--name", "王秀英", "--phone", "+8613800000001", data_dir=data_dir)
        (added,) = carebell_json(
            "devices", "add", "--id", "D-7", "--profile", "carebell.native", "--person", "P-7", data_dir=data_dir
        )
        press(daemon, "D-7", added["token"])
        carebell("devices", "suspend", "D-7", data_dir=data_dir)

        async def refused() -> bool:
            client = await Client.open(daemon.mqtt_port)
            await client.connect(device_id="D-7", token=added["token"].encode(), client_id="D-7")
            code = client.connack[1]
            await client.close()
            return code != 0

        until(lambda: asyncio.run(refused()), "a suspended device is still let in")
        until(lambda: len(carebell_json("alerts", "list", data_dir=data_dir)) == 1, "no alert")
    (alert,) = carebell_json("alerts", "list", data_dir=data_dir)
    assert (alert["kind"], alert["person_id"], alert["device_id"]) == ("sos", "P-7", "D-7")
