"""Broker mode without a broker: topics, acknowledgements in order, what is refused before it starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.brokers import StoredMemory, options_of
from gateway.config import load_settings
from gateway.config_broker import BrokerSection, BrokerTopic
from gateway.errors import ConfigError, UsageError
from gateway.model import Frame, Verdict
from protocols.transports.mqtt_broker import tap
from protocols.transports.mqtt_broker.inbox import FULL, Inbox, Unacknowledged
from protocols.transports.mqtt_broker.topics import TopicRule, Topics

ALL = ("zigbee2mqtt", "chirpstack", "the_things_stack", "theengs")


def topics(*rules: TopicRule, codecs: Sequence[str] = ALL, group: str = "", base: str = "zigbee2mqtt") -> Topics:
    return Topics(codecs, rules, base=base, share_group=group, label="c-1")


@pytest.mark.parametrize(
    ("topic", "codec", "key"),
    [
        ("zigbee2mqtt/door", "zigbee2mqtt", ""),
        ("zigbee2mqtt/floor1/button 7", "zigbee2mqtt", ""),
        ("zigbee2mqtt/door/availability", "zigbee2mqtt", ""),
        ("zigbee2mqtt/bridge/devices", "zigbee2mqtt", ""),
        ("zigbee2mqtt/bridge/state", "zigbee2mqtt", ""),
        ("zigbee2mqtt/door/set", "", ""),
        ("zigbee2mqtt/bridge/request/restart", "", ""),
        ("zigbee2mqtt/bridge/logging", "", ""),
        ("application/a/device/24e1/event/up", "chirpstack", ""),
        ("application/a/device/24e1/command/down", "", ""),
        ("v3/care@ttn/devices/p-1/up", "the_things_stack", ""),
        ("v3/care@ttn/devices/p-1/down/push", "", ""),
        ("home/TheengsGateway/BTtoMQTT/A4C1", "theengs", ""),
        ("house/D-1/panic", "json", "D-1"),
        ("house/D-1/calm", "", ""),
        ("bare/topic", "native", "bare/topic"),
        ("other", "", ""),
    ],
)
def test_where_a_topic_leads(topic: str, codec: str, key: str) -> None:
    made = topics(TopicRule("house/{device}/panic"), TopicRule("bare/topic", "native"))
    route = made.route(topic.encode())
    assert (route.codec, route.device_key) == (codec, key)
    assert made.route(topic.encode()) is route
    assert route.source == f"c-1 {topic}"


def test_subscriptions_and_shared_groups() -> None:
    assert topics(TopicRule("house/{device}/#"), codecs=()).subscriptions() == ["house/+/#"]
    shared = topics(codecs=("zigbee2mqtt", "chirpstack"), group="bulk", base="z/1").subscriptions()
    assert shared == ["$share/bulk/z/1/#", "$share/bulk/application/+/device/+/event/+", "z/1/bridge/devices"]


@pytest.mark.parametrize("wrong", ["", "a/#/b", "a/b#", "a/+b", "a{device}/b", "{device}/{device}", "x" * 2000])
def test_what_is_no_filter_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="topic filter"):
        topics(TopicRule(wrong))


def test_ways_down() -> None:
    made = topics(TopicRule("house/{device}/panic", down="house/{device}/do"), TopicRule("mute/{device}"))
    assert made.down("house/D-1/panic", b"ring") == ("house/D-1/do", b"ring")
    assert made.down("mute/D-1", b"ring") is None
    assert made.down("zigbee2mqtt/床头 SOS/availability", b"{}") == ("zigbee2mqtt/床头 SOS/set", b"{}")
    found = made.down("application/a/device/24e1/event/up", b'{"fPort": 2, "devEui": "other"}')
    assert found is not None
    assert (found[0], json.loads(found[1])) == (
        "application/a/device/24e1/command/down",
        {"fPort": 2, "devEui": "24e1"},
    )
    found = made.down("v3/care@ttn/devices/p-1/up", b'{"f_port": 2}')
    assert found is not None
    assert (found[0], json.loads(found[1])) == ("v3/care@ttn/devices/p-1/down/push", {"downlinks": [{"f_port": 2}]})
    with pytest.raises(UsageError):
        made.down("application/a/device/24e1/event/up", b"ring")


# ---- acknowledgements ------------------------------------------------------------------------------------------------


class Held:
    """``ports.Ingest`` whose verdicts the test gives."""

    def __init__(self) -> None:
        self.verdicts: list[asyncio.Future[Verdict]] = []
        self.frames: list[list[Frame]] = []

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        self.frames.append(list(frames))
        self.verdicts.append(asyncio.get_running_loop().create_future())
        return self.verdicts[-1]

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        return await self.offer(frames)


FRAME = Frame("broker", "json", "c-1 t", b"{}", 1)


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    failing=st.integers(-1, 8),
)
def test_acknowledged_in_order_and_only_what_is_stored(sizes: list[int], order: Any, failing: int) -> None:
    async def main() -> None:
        ingest, known = Held(), Unacknowledged()
        acked: list[int] = []
        failed: list[str] = []
        inbox = Inbox(ingest, known, acknowledge=acked.extend, fail=failed.append)
        ids = iter(range(1, 100))
        batches = [[next(ids) for _ in range(size)] for size in sizes]
        for batch in batches:
            for packet_id in batch:
                inbox.add(packet_id, FRAME, packet_id, duplicate=False)
            inbox.offer()
        turn = list(range(len(batches)))
        order.shuffle(turn)
        for index in turn:
            ingest.verdicts[index].set_result(Verdict.RETRY if index == failing else Verdict.ACCEPTED)
            await asyncio.sleep(0)
            assert acked == sorted(acked)
        whole = [packet_id for batch in batches for packet_id in batch]
        if 0 <= failing < len(batches):
            before = [packet_id for batch in batches[:failing] for packet_id in batch]
            after = [packet_id for batch in batches[failing + 1 :] for packet_id in batch]
            assert acked == before
            assert len(failed) == 1
            assert all(known.take(packet_id, packet_id) for packet_id in after), "stored, and forgotten"
            assert not any(known.take(packet_id, packet_id) for packet_id in batches[failing])
        else:
            assert acked == whole
            assert inbox.waiting() == 0

    asyncio.run(main())


def test_only_what_was_never_acknowledged_is_taken_for_a_resend() -> None:
    async def main() -> None:
        ingest, known = Held(), Unacknowledged()
        acked: list[int] = []
        first = Inbox(ingest, known, acknowledge=acked.extend, fail=pytest.fail)
        for packet_id in (1, 2):
            first.add(packet_id, FRAME, 77, duplicate=False)
            first.offer()
        ingest.verdicts[0].set_result(Verdict.ACCEPTED)
        await asyncio.sleep(0)
        first.close()
        ingest.verdicts[1].set_result(Verdict.ACCEPTED)
        await asyncio.sleep(0)
        assert acked == [1], "the second connection's identifiers are not the first one's"
        second = Inbox(ingest, known, acknowledge=acked.extend, fail=pytest.fail)
        second.add(1, FRAME, 77, duplicate=True)  # another press under a number that was free again
        second.add(2, FRAME, 77, duplicate=True)  # the resend
        second.add(3, FRAME, 77, duplicate=True)
        second.offer()
        assert [len(frames) for frames in ingest.frames] == [1, 1, 2]
        assert second.duplicates == 1

    asyncio.run(main())


def test_a_flood_without_acknowledgements_is_not_read_without_bounds() -> None:
    async def main() -> None:
        ingest, paused, acked = Held(), list[bool](), list[int]()
        inbox = Inbox(ingest, Unacknowledged(), acknowledge=acked.extend, fail=pytest.fail, pause=paused.append)
        for _ in range(FULL // 100):
            for _ in range(100):
                inbox.add(0, FRAME, 0, duplicate=False)
            inbox.offer()
        assert paused == [True]
        for verdict in ingest.verdicts:
            verdict.set_result(Verdict.ACCEPTED)
        await asyncio.sleep(0)
        assert paused == [True, False]
        assert acked == []

    asyncio.run(main())


def test_what_needs_no_commit_still_waits_its_turn() -> None:
    async def main() -> None:
        ingest = Held()
        acked: list[int] = []
        inbox = Inbox(ingest, Unacknowledged(), acknowledge=acked.extend, fail=pytest.fail)
        inbox.add(1, FRAME, 1, duplicate=False)
        inbox.offer()
        inbox.add(2, None, 0, duplicate=False)
        inbox.offer()
        await asyncio.sleep(0)
        assert acked == []
        ingest.verdicts[0].set_result(Verdict.ACCEPTED)
        await asyncio.sleep(0)
        assert acked == [1, 2]

    asyncio.run(main())


# ---- configuration ---------------------------------------------------------------------------------------------------


def section(**keys: Any) -> BrokerSection:
    return BrokerSection(**{"url": "mqtt://127.0.0.1:1884", **keys})


@pytest.mark.parametrize(
    ("sections", "word"),
    [
        ([section(), section()], "another"),
        ([section(codecs=["zigbee"])], "zigbee2mqtt"),
        ([section(codecs=["gt06"])], "gt06"),
        ([section(codecs=[])], "subscribes to nothing"),
        ([section(topics=[BrokerTopic(topic="a/#/b")])], "topic filter"),
        ([section(topics=[BrokerTopic(topic="a", codec="gt06")])], "gt06"),
        ([section(password_file="/nowhere/at/all")], "cannot read"),
        ([section(url="mqtts://broker.example", ca_file="/nowhere/at/all")], "CA"),
    ],
)
def test_connections_that_cannot_be(sections: list[BrokerSection], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        options_of(sections)


@pytest.mark.parametrize("url", ["tcp://x", "mqtt://", "mqtt://u:p@x", "mqtt://x/path", "mqtt://x:99999", "x:1883"])
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    file = tmp_path / "carebell.toml"
    file.write_text(f'[[broker]]\nurl = "{url}"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broker\.0\.url"):
        load_settings(file)


def test_a_wrong_key_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "carebell.toml"
    file.write_text('[[broker]]\nurl = "mqtt://x"\nclientid = "a"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match='did you mean "client_id"'):
        load_settings(file)


def test_a_connection_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n", encoding="utf-8")
    file = tmp_path / "carebell.toml"
    file.write_text(
        '[[broker]]\nurl = "mqtt://h:1884"\nclient_id = "c-1"\nusername = "u"\npassword_file = "secret"\n'
        'codecs = []\nversion = "3.1.1"\n[[broker.topics]]\ntopic = "house/{device}/panic"\n',
        encoding="utf-8",
    )
    (options,) = options_of(load_settings(file).broker)
    assert (options.host, options.port, options.version, options.password) == ("h", 1884, 4, "s3cret")
    assert options.topics[0].topic == "house/{device}/panic"


def test_the_dead_name_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = metadata.version

    def version(name: str) -> str:
        return "0.16.2" if name == "asyncio-mqtt" else found(name)

    tap.check_libraries()
    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ConfigError, match="pip uninstall asyncio-mqtt"):
        options_of([section()])


def test_a_memory_that_cannot_be_read_is_none() -> None:
    class Store:
        async def read(self, fn: Any) -> Any:
            return "{broken"

    assert asyncio.run(StoredMemory(Store(), "c-1").load()) == {}  # type: ignore[arg-type]  # all that is asked of it
