"""Codecs of what other programs publish on a broker: total, whole, and honest about what is not a press."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import Frame, Reading, Report
from protocols.codecs import topic_message
from protocols.codecs.topic_message import prefix_of, split
from protocols.registry import CODECS, TEXT_CODECS
from tests.factory import T0_US

NAMES = ("zigbee2mqtt", "chirpstack", "the_things_stack", "theengs")
TOPICS = {
    "zigbee2mqtt": [
        "zigbee2mqtt/door", "zigbee2mqtt/door/availability", "zigbee2mqtt/bridge/devices", "zigbee2mqtt/bridge/state",
        "zigbee2mqtt/bridge/event", "zigbee2mqtt/bridge/response/permit_join", "zigbee2mqtt/bridge/other",
    ],
    "chirpstack": [
        f"application/1/device/24e124535d012345/event/{event}"
        for event in ("up", "join", "ack", "txack", "log", "status", "location", "integration", "new")
    ],
    "the_things_stack": [
        f"v3/care@ttn/devices/pendant-1/{event}"
        for event in ("up", "join", "location/solved", "down/ack", "down/nack", "down/failed", "service/data")
    ],
    "theengs": ["home/TheengsGateway/BTtoMQTT/A4C13812AB34", "home/TheengsGateway/LWT"],
}  # fmt: skip
WORDS = st.sampled_from(
    [
        "action", "contact", "smoke", "battery", "last_seen", "device", "ieee_address", "ieeeAddr", "data", "status",
        "transaction", "deviceInfo", "devEui", "object", "rxInfo", "rssi", "snr", "fPort", "fCnt", "time", "location",
        "latitude", "longitude", "queueItemId", "acknowledged", "batteryLevel", "end_device_ids", "dev_eui",
        "uplink_message", "decoded_payload", "frm_payload", "rx_metadata", "locations", "correlation_ids", "open",
        "downlink_ack", "model", "type", "id", "definition", "friendly_name", "received_at", "session_key_id",
    ]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from(["emergency", "2026-11-22T01:02:03Z", "0x00158d0001a2b3c4", "AQID", "online", "ok"]),
)  # fmt: skip
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=6), inner, max_size=6)
)


def frame(name: str, topic: str, payload: object, *, retained: bool = False, **context: Any) -> Frame:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Frame("broker", name, "test", prefix_of(topic, retained=retained) + body, T0_US, context=context or None)


def parse(name: str, topic: str, payload: object, *, retained: bool = False, **context: Any) -> list[Report]:
    return list(CODECS[name].parse(frame(name, topic, payload, retained=retained, **context)))


def reading_of(report: Report) -> Reading:
    assert report.reading is not None
    return report.reading


# ---- any bytes -------------------------------------------------------------------------------------------------------


def check_total(name: str, payload: bytes) -> None:
    try:
        reports = CODECS[name].parse(Frame("broker", name, "test", payload, T0_US))
    except ParseError:
        return
    for report in reports:
        msgspec.json.encode([report.device_key, report.fields, report.faults, report.dedup_key, report.context])
        if report.reading is not None:
            msgspec.msgpack.encode(report.reading)
        assert len(report.device_key) <= 1100
        assert len(report.dedup_key) <= 200


@pytest.mark.parametrize("name", NAMES)
@given(payload=st.binary(max_size=300))
def test_any_bytes_are_reports_or_a_parse_error(name: str, payload: bytes) -> None:
    check_total(name, payload)
    for topic in TOPICS[name]:
        check_total(name, prefix_of(topic) + payload)


@pytest.mark.parametrize("name", NAMES)
@given(value=JSON, number=st.integers(0, 20), retained=st.booleans())
def test_any_json_is_reports_or_a_parse_error(name: str, value: Any, number: int, retained: bool) -> None:
    topic = TOPICS[name][number % len(TOPICS[name])]
    check_total(name, prefix_of(topic, retained=retained) + json.dumps(value).encode())


@given(topic=st.text(min_size=1, max_size=60), payload=st.binary(max_size=60), retained=st.booleans())
def test_topic_and_payload_come_back(topic: str, payload: bytes, retained: bool) -> None:
    message = split(prefix_of(topic, retained=retained) + payload)
    assert (message.topic, message.payload, message.retained) == (
        topic.encode("utf-8", "replace").decode(), payload, retained,
    )  # fmt: skip


def test_a_payload_beyond_its_bound_is_refused() -> None:
    with pytest.raises(ParseError, match="at most"):
        parse("zigbee2mqtt", "zigbee2mqtt/door", b"x" * 70_000)
    assert set(NAMES) <= TEXT_CODECS


# ---- Zigbee2MQTT -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "signals"),
    [
        ({"action": "emergency"}, {"sos": True}),
        ({"action": "EMERGENCY", "battery_low": True}, {"sos": True, "low_battery": True}),
        ({"action": "single"}, {}),
        ({"contact": False}, {"door_open": True}),
        ({"contact": True}, {"door_closed": True}),
        ({"occupancy": True}, {"motion": True}),
        ({"smoke": True, "tamper": True}, {"smoke": True, "tamper": True}),
        ({"gas": True}, {"gas": True}),
        ({"carbon_monoxide": True}, {"carbon_monoxide": True}),
        ({"water_leak": False}, {"water_leak": False}),
        ({"vibration": True}, {"vibration": True}),
        ({"sos": True}, {"sos": True}),
        ({"smoke": "true"}, {}),
        ({"sos": False, "emergency": True}, {"sos": True}),
    ],
)
def test_common_members_of_zigbee_devices(state: dict[str, Any], signals: dict[str, bool]) -> None:
    (report,) = parse("zigbee2mqtt", "zigbee2mqtt/0x00158d0001A2B3C4", state)
    assert report.device_key == "00158d0001a2b3c4"
    assert (report.reading.signals if report.reading is not None else {}) == signals
    assert report.fields == state


def test_the_list_of_devices_explains_names() -> None:
    listed = [
        {"ieee_address": "0x00124b0000000001", "type": "Coordinator", "friendly_name": "Coordinator"},
        {"ieee_address": "0x00158d0001a2b3c4", "type": "EndDevice", "friendly_name": "客厅/按钮", "definition": None},
        {"ieee_address": "0x00158d0001a2b3c5", "friendly_name": "0x00158d0001a2b3c5", "definition": {"model": "M"}},
        {"friendly_name": "no address"},
        "rubbish",
    ]
    reports = parse("zigbee2mqtt", "zigbee2mqtt/bridge/devices", listed)
    assert [report.device_key for report in reports] == ["00158d0001a2b3c4", "00158d0001a2b3c5"]
    context = reports[-1].context
    assert context is not None
    assert context["names"] == {"客厅/按钮": "00158d0001a2b3c4", "0x00158d0001a2b3c5": "00158d0001a2b3c5"}
    (press,) = parse("zigbee2mqtt", "zigbee2mqtt/客厅/按钮", {"action": "sos"}, **context)
    assert press.device_key == "00158d0001a2b3c4"
    (gone,) = parse("zigbee2mqtt", "zigbee2mqtt/客厅/按钮/availability", b'{"state": "offline"}', **context)
    assert (gone.device_key, reading_of(gone).signals) == ("00158d0001a2b3c4", {"connection_lost": True})
    (unexplained,) = parse("zigbee2mqtt", "zigbee2mqtt/客厅/按钮", {"action": "sos"})
    assert unexplained.device_key == "客厅/按钮"
    assert reading_of(unexplained).signals == {"sos": True}


def test_a_name_that_no_store_can_keep() -> None:
    listed = (
        b'[{"ieee_address": "0x00158d0001a2b3c4", "friendly_name": "half \\ud800", "definition": {"model": "\\ud801"}}]'
    )
    reports = parse("zigbee2mqtt", "zigbee2mqtt/bridge/devices", listed)
    assert reports[0].device_key == "00158d0001a2b3c4"
    msgspec.json.encode([reports[-1].context, reports[0].reading])


def test_a_base_of_several_levels() -> None:
    (report,) = parse("zigbee2mqtt", "site/7/zigbee/door", {"contact": False}, base="site/7/zigbee")
    assert report.device_key == "door"
    with pytest.raises(ParseError):
        parse("zigbee2mqtt", "elsewhere/door", {"contact": False}, base="site/7/zigbee")


def test_a_retained_state_is_a_state_and_a_retained_press_is_none() -> None:
    state = {"action": "emergency", "sos": True, "vibration": True, "smoke": True, "battery": 50}
    (report,) = parse("zigbee2mqtt", "zigbee2mqtt/x", state, retained=True)
    reading = reading_of(report)
    assert reading.signals == {"smoke": True}
    assert reading.measurements == {"battery_percent": 50}
    assert reading.unknown == {"retained": {"action": "emergency", "sos": True, "vibration": True}}
    assert report.fields == {"smoke": True, "battery": 50}


def test_an_answer_of_the_bridge_is_an_answer_to_its_command() -> None:
    answer = {"data": {"id": "0x00158d0001a2b3c4"}, "status": "error", "error": "no", "transaction": "cmd-1"}
    (report,) = parse("zigbee2mqtt", "zigbee2mqtt/bridge/response/device/configure", answer)
    unknown = reading_of(report).unknown
    assert unknown is not None
    assert report.device_key == "00158d0001a2b3c4"
    assert unknown["command_reply"] == {"command": "cmd-1", "result": "refused"}


# ---- LoRaWAN ---------------------------------------------------------------------------------------------------------

UP = "application/1/device/24E124535D012345/event/up"


def test_an_uplink_is_named_by_chirpstacks_own_id() -> None:
    uplink = {"deduplicationId": "abc", "deviceInfo": {"devEui": "24e124535d012345"}, "fPort": 2, "data": "AQI="}
    (report,) = parse("chirpstack", UP, uplink)
    assert (report.device_key, report.dedup_key) == ("24e124535d012345", "chirpstack:up:abc")
    assert report.fields == {"port_2": {"hex": "0102", "b0": 1, "b1": 2}}
    assert report.faults is None


def test_the_device_of_the_topic_counts() -> None:
    (report,) = parse("chirpstack", UP, {"deviceInfo": {"devEui": "ffffffffffffffff"}, "object": {"sos": True}})
    assert report.device_key == "24e124535d012345"
    assert report.faults == ["deviceInfo.devEui: another device than the topic's"]
    assert report.fields == {"object": {"sos": True}}


@pytest.mark.parametrize("data", ["", None, "A", "%%%%", 7, "A" * 2000])
def test_bytes_that_are_none(data: object) -> None:
    (report,) = parse("chirpstack", UP, {"fPort": 2, "data": data})
    assert report.fields is None
    assert (report.faults is None) == (data in ("", None))


def test_only_the_devices_own_word_confirms_a_command() -> None:
    def replied(event: str, told: dict[str, Any]) -> Any:
        (report,) = parse("chirpstack", f"application/1/device/24e124535d012345/event/{event}", told)
        return (reading_of(report).unknown or {}).get("command_reply")

    assert replied("ack", {"queueItemId": "q", "acknowledged": True}) == {"command": "q", "result": "done"}
    assert replied("ack", {"queueItemId": "q", "acknowledged": False}) is None
    assert replied("ack", {"queueItemId": "q"}) is None
    assert replied("txack", {"queueItemId": "q", "acknowledged": True}) is None


def test_a_place_that_the_network_made() -> None:
    place = {"latitude": 39.1, "longitude": 117.2, "altitude": 5, "accuracy": 300, "source": "GEO_RESOLVER_TDOA"}
    (report,) = parse("chirpstack", UP.replace("/up", "/location"), {"location": place})
    position = reading_of(report).position
    assert position is not None
    assert (position.latitude, position.source, position.accuracy_m) == (39.1, "cell", 300)


def test_the_things_stack_uplink() -> None:
    uplink = {
        "end_device_ids": {"device_id": "p-1", "dev_eui": "24E124535D012345"},
        "uplink_message": {
            "session_key_id": "AYx", "f_port": 85, "decoded_payload": {"button": "sos"},
            "rx_metadata": [{"rssi": -120, "snr": -3}, {"rssi": -80, "snr": 9}],
            "locations": {"user": {"latitude": 39.0, "longitude": 117.0, "source": "SOURCE_REGISTRY"},
                          "frm-payload": {"latitude": 39.1, "longitude": 117.1, "source": "SOURCE_GPS"}},
        },
    }  # fmt: skip
    (report,) = parse("the_things_stack", "v3/care@ttn/devices/p-1/up", uplink)
    assert (report.device_key, report.dedup_key) == ("24e124535d012345", "tts:AYx:0:85")
    assert report.fields == {"object": {"button": "sos"}}
    reading = reading_of(report)
    assert reading.measurements["rssi_dbm"] == -80
    assert reading.position is not None
    assert (reading.position.latitude, reading.position.source) == (39.1, "gnss")


def test_a_high_frame_counter_keeps_all_its_digits() -> None:
    def key(counter: int) -> str:
        uplink = {"session_key_id": "AYx", "f_cnt": counter, "f_port": 1, "frm_payload": "AQ=="}
        (report,) = parse("the_things_stack", "v3/care@ttn/devices/p-1/up", {"uplink_message": uplink})
        return report.dedup_key

    assert len({key(4_294_967_290 + step) for step in range(5)}) == 5


def test_the_things_stack_answers_are_known_by_their_correlation() -> None:
    told = {"end_device_ids": {"dev_eui": "24E124535D012345"}, "downlink_ack": {"correlation_ids": ["x", "carebell:7"]}}
    (report,) = parse("the_things_stack", "v3/care@ttn/devices/p-1/down/ack", told)
    assert (reading_of(report).unknown or {})["command_reply"] == {"command": "7", "result": "done"}
    (report,) = parse("the_things_stack", "v3/care@ttn/devices/p-1/down/nack", told)
    assert "command_reply" not in (reading_of(report).unknown or {})


# ---- Theengs ---------------------------------------------------------------------------------------------------------


def test_theengs_advertisements() -> None:
    told = {"id": "A4:C1:38:12:AB:34", "rssi": -60, "model_id": "MCCGQ02HL", "type": "CTMO", "open": True, "batt": 90}
    (report,) = parse("theengs", "home/TheengsGateway/BTtoMQTT/A4C13812AB34", told)
    reading = reading_of(report)
    assert (report.device_key, report.model_hint) == ("a4c13812ab34", "MCCGQ02HL")
    assert reading.signals == {"door_open": True}
    assert reading.measurements == {"battery_percent": 90, "rssi_dbm": -60}
    (gone,) = parse("theengs", "home/TheengsGateway/LWT", b"offline")
    assert (gone.device_key, reading_of(gone).signals) == ("home/TheengsGateway", {"connection_lost": True})


def test_identities_have_one_spelling() -> None:
    for spelled in ("0x00158D0001A2B3C4", "00:15:8d:00:01:a2:b3:c4", "00-15-8D-00-01-A2-B3-C4"):
        assert topic_message.identity(spelled) == "00158d0001a2b3c4"
    assert topic_message.identity("客厅 按钮") == "客厅 按钮"
    assert topic_message.identity(None) == ""
