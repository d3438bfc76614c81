"""Claim codes, links, labels, visits, stock lists: the pure parts and the file."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import VirtualClock, from_us, iso, to_us
from gateway.console.family_link import FamilyLinks
from gateway.console.family_sketch import draw, map_links, rings_of
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.live_states import LiveStates
from gateway.model import Actor, Committed, Position, Reading, Record
from gateway.provisioning import claims, codes, links, people, visits
from gateway.provisioning.recent import FRAMES, WATCHED, RecentFrames
from gateway.registry.devices import add_device, set_state, show_device
from gateway.registry.persons import add_person
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import carebell

START = datetime(2026, 11, 22, tzinfo=UTC)
NOW = to_us(START)
DAY = 86_400_000_000
ACTOR = Actor("system", "test")
PROFILE = "carebell.native"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / FILE_NAME)
    with connection:
        for number, district in ((1, "和平"), (2, "河西")):
            values = {
                "name": f"王秀英{number}",
                "phone": f"1380000000{number}",
                "district": district,
                "address": "和平里3号楼1单元402",
            }
            add_person(connection, f"P-{number}", values, at_us=NOW, actor=ACTOR)
        for name in ("D-1", "D-2"):
            add_device(connection, name, {"profile": PROFILE}, known_profiles=[PROFILE], at_us=NOW, actor=ACTOR)
    yield connection
    connection.close()


# ---- codes -----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(["", "https://care.example"]), st.booleans(), st.sampled_from(["-", " ", "", "—", " - "]))
def test_a_code_is_read_however_it_comes_back(public_url: str, lower: bool, between: str) -> None:
    code = codes.new_code()
    assert codes.read_code(codes.content_of(code, public_url)) == code
    typed = between.join(code[start : start + 4] for start in (0, 4, 8))
    assert codes.read_code(f" {typed.lower() if lower else typed}\n") == code


@given(st.text(max_size=600))
def test_anything_else_is_no_code(text: str) -> None:
    read = codes.read_code(text)
    assert read is None or (len(read) == 12 and set(read) <= set(codes.ALPHABET))


def test_lookalikes_are_in_no_code() -> None:
    assert not set("01IO") & set(codes.ALPHABET)
    assert len({codes.new_code() for _ in range(1000)}) == 1000


def test_a_label_is_safe_svg_and_says_its_code() -> None:
    code = codes.new_code()
    label = codes.label_svg("D-1", '<script>"&', codes.content_of(code, "https://care.example"), code)
    root = ET.fromstring(label)
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:] == ["D-1", '<script>"&', codes.grouped(code)]
    assert not re.search(r"style=|onload|href", label)


# ---- claims ----------------------------------------------------------------------------------------------------------


def test_a_code_is_not_in_the_file_and_counts_once(registry: apsw.Connection, tmp_path: Path) -> None:
    with registry:
        code = claims.issue(registry, "D-1", valid_days=1, at_us=NOW, actor=ACTOR)
    stored = b"".join((tmp_path / name).read_bytes() for name in (FILE_NAME, f"{FILE_NAME}-wal"))
    assert code.encode() not in stored
    with registry:
        assert claims.redeem(registry, code, link_id="a", at_us=NOW, actor=ACTOR) == "D-1"
        assert claims.redeem(registry, code, link_id="a", at_us=NOW + 5 * DAY, actor=ACTOR) == "D-1"
        with pytest.raises(ConflictError, match="used before"):
            claims.redeem(registry, code, link_id="b", at_us=NOW, actor=ACTOR)
    (view,) = claims.codes_of(registry, "D-1")
    assert view["used_by"] == "a"


def test_codes_expire_to_the_microsecond_and_end_with_the_device(registry: apsw.Connection) -> None:
    with registry:
        code = claims.issue(registry, "D-1", valid_days=1, at_us=NOW, actor=ACTOR)
        with pytest.raises(ConflictError, match="expired"):
            claims.redeem(registry, code, link_id="a", at_us=NOW + DAY, actor=ACTOR)
        assert claims.redeem(registry, code, link_id="a", at_us=NOW + DAY - 1, actor=ACTOR) == "D-1"
        other = claims.issue(registry, "D-2", at_us=NOW, actor=ACTOR)
        set_state(registry, "D-2", "retire", at_us=NOW, actor=ACTOR)
        with pytest.raises(ConflictError, match="no longer"):
            claims.redeem(registry, other, link_id="a", at_us=NOW, actor=ACTOR)
        with pytest.raises(ConflictError, match="retired"):
            claims.issue(registry, "D-2", at_us=NOW, actor=ACTOR)
        with pytest.raises(UsageError, match="730"):
            claims.issue(registry, "D-1", valid_days=731, at_us=NOW, actor=ACTOR)
        with pytest.raises(NotFoundError):
            claims.redeem(registry, "ABCDEFGHJKLM", link_id="a", at_us=NOW, actor=ACTOR)


def test_wrong_codes_are_counted_by_the_hour(registry: apsw.Connection) -> None:
    with registry:
        link_id, _ = links.issue(registry, "t", "", at_us=NOW, actor=ACTOR)
        for _ in range(links.WRONG_CODES):
            assert links.may_try(registry, link_id, NOW)
            links.note_wrong(registry, link_id, NOW)
        assert not links.may_try(registry, link_id, NOW + links.HOUR_US - 1)
        assert links.may_try(registry, link_id, NOW + links.HOUR_US)
        links.note_wrong(registry, link_id, NOW + links.HOUR_US)
        assert links.may_try(registry, link_id, NOW + links.HOUR_US)


# ---- people ----------------------------------------------------------------------------------------------------------


def test_people_are_found_in_the_district_alone_and_masked(registry: apsw.Connection) -> None:
    found = people.search(registry, "王秀", "和平")
    assert [each["person_id"] for each in found] == ["P-1"]
    assert found[0]["name"] == "王***"
    assert "402" not in found[0]["address"]
    assert people.search(registry, "0001", "和平")[0]["phone"] == "138****0001"
    for nothing in ("王", "", "%", "__", "' OR 1=1 --", "001"):
        assert people.search(registry, nothing, "和平") == []
    assert len(people.search(registry, "王秀英", "")) == 2
    with pytest.raises(NotFoundError):
        people.person_of(registry, "P-2", "和平")


# ---- visits ----------------------------------------------------------------------------------------------------------


def test_what_is_due_for_a_visit_and_why(registry: apsw.Connection) -> None:
    with registry:
        values = {"profile": PROFILE, "person_id": "P-1", "warranty_until": "2026-12-01", "agreement_ref": "A-1"}
        add_device(registry, "D-3", values, known_profiles=[PROFILE], at_us=NOW - 40 * DAY, actor=ACTOR)
        values = {"profile": PROFILE, "person_id": "P-2", "warranty_until": "2028-12-01"}
        add_device(registry, "D-4", values, known_profiles=[PROFILE], at_us=NOW, actor=ACTOR)
        registry.execute("UPDATE credential SET expires_at_us = ? WHERE device_id = 'D-4'", (NOW + DAY,))
    found = {row["device_id"]: [each["reason"] for each in row["reasons"]] for row in visits.due(registry, NOW)}
    assert found == {"D-3": ["warranty_ending", "no_test"], "D-4": ["credential_ending", "no_agreement"]}
    assert [row["device_id"] for row in visits.due(registry, NOW, district="和平")] == ["D-3"]
    assert [row["device_id"] for row in visits.due(registry, NOW, after_id="D-3")] == ["D-4"]
    with registry:
        visits.begin(registry, "D-3", "x", NOW)
        registry.execute("UPDATE visit SET test_passed_at_us = ?", (NOW,))
    assert [each["reason"] for each in visits.due(registry, NOW, district="和平")[0]["reasons"]] == ["warranty_ending"]


@pytest.mark.parametrize("photos", [["x" * 201], ["a"] * 11, ["a\x00"]])
def test_references_are_bounded(registry: apsw.Connection, photos: list[str]) -> None:
    with registry, pytest.raises(UsageError, match="photos"):
        visits.record(registry, "D-1", "x", agreement_ref="", photos=photos, note="", at_us=NOW, actor=ACTOR)


# ---- recent frames ---------------------------------------------------------------------------------------------------


def record(device_id: str, at_us: int, reading: Reading | None) -> Record:
    return Record(at_us, "http", "native", "", b"", device_id, "", "", PROFILE, True, 0, "", reading)


def test_recent_frames_are_bounded_and_tell_no_vital_signs() -> None:
    live = LiveStates(VirtualClock(from_us(NOW)), lambda _: None)
    recent = RecentFrames(live.device)

    def hear(committed: Committed) -> None:
        live.observe(committed)
        recent.observe(committed)

    recent.of("D-0")
    position = Position(39.1, 117.2, NOW)
    for number in range(FRAMES + 3):
        reading = Reading(NOW, {"heart_rate_bpm": 131.0, "battery_percent": float(number)}, {"sos": True}, position)
        hear(Committed(1, [record("D-0", NOW + number, reading), record("", NOW, None)]))
    told = recent.of("D-0")
    assert len(told["frames"]) == FRAMES
    assert told["values"]["battery_percent"]["value"] == FRAMES + 2
    assert told["position"]["latitude"] == 39.1
    assert told["heard_at"] == iso(NOW + FRAMES + 2)
    assert "131" not in str(told)
    stored = Reading(NOW, {"battery_percent": 1.0}, {}, None, None, True)
    hear(Committed(2, [record("D-0", NOW, stored)]))
    assert recent.of("D-0")["values"]["battery_percent"]["value"] == FRAMES + 2, "what was buffered is no news"
    hear(Committed(3, [record("D-0", NOW, Reading(NOW, {}, {}, Position(1.0, 2.0, NOW, valid=False)))]))
    assert recent.of("D-0")["position"] is None, "a last known place is no place to hang a fence on"
    for number in range(1, WATCHED + 1):
        recent.of(f"D-{number}")
    assert recent.of("D-0")["frames"] == [], "frames are kept of the devices that are watched"
    assert recent.of("D-unheard") == {"heard_at": None, "values": {}, "position": None, "frames": []}


# ---- family links ----------------------------------------------------------------------------------------------------

ALERT = "01930000-0000-7000-8000-000000000001"


@given(st.binary(max_size=120), st.integers(0, 400), st.integers(1, 255))
def test_no_other_bytes_open_a_page(noise: bytes, place: int, change: int) -> None:
    family = FamilyLinks("https://care.example", VirtualClock(START), b"key")
    token = family.token(ALERT, "C-1")
    assert family.read(token).contact_id == "C-1"
    with pytest.raises(NotFoundError):
        family.read(noise.decode("latin-1"))
    turned = list(token)
    at = place % (len(turned) - 1)  # the last letter has bits that stand for nothing
    turned[at] = chr((ord(turned[at]) + change) % 128)
    if turned[at] != token[at]:
        with pytest.raises(NotFoundError):
            family.read("".join(turned))


def test_a_family_link_lasts_thirty_minutes() -> None:
    clock = VirtualClock(START)
    family = FamilyLinks("https://care.example", clock, b"key")
    link = family.make(ALERT, "C-1")
    assert len(link) < 120, "it goes into an SMS"
    token = link.rpartition("/")[2]
    clock.advance(1799.999)
    assert family.read(token).alert_id == ALERT
    clock.advance(0.001)
    with pytest.raises(ConflictError):
        family.read(token)
    with pytest.raises(NotFoundError):
        FamilyLinks("", clock, b"").read(token)


def test_the_sketch_keeps_proportions() -> None:
    home = {"latitude": 39.1235, "longitude": 117.2011, "radius_m": 100}
    away = {"latitude": 39.1235 + 300 / 111_320, "longitude": 117.2011, "accuracy_m": 20}
    ring = (
        '{"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[117.2011, 39.12], [117.2011, 39.13]]}}'
    )
    drawn = draw(away, home, rings_of(ring))
    metre = drawn.scale / drawn.scale_m
    assert drawn.accuracy == pytest.approx(20 * metre, abs=0.2)
    assert drawn.home is not None
    assert drawn.home[1] - 100 == pytest.approx(300 * metre, abs=1)
    assert drawn.paths[0].startswith("M160 ")
    assert rings_of("{") == rings_of('{"type": "Polygon"}') == []
    assert map_links(home, "zh")[0][1].startswith("https://uri.amap.com/marker?position=117.20")


# ---- commands --------------------------------------------------------------------------------------------------------


def test_a_pallet_is_taken_in_by_chunks_and_goes_on_where_it_was(tmp_path: Path) -> None:
    data_dir, listed, out = tmp_path / "d", tmp_path / "list.csv", tmp_path / "codes.csv"
    lines = [f"W-{number:04d},{PROFILE},SN-{number:04d}" for number in range(250)]
    listed.write_text("\n".join(["device_id,profile,serial", *lines[:120]]), encoding="utf-8")
    said = carebell("devices", "stock", str(listed), "--out", str(out), data_dir=data_dir)
    assert "120 devices" in said
    listed.write_text("\n".join(["device_id,profile,serial", *lines]), encoding="utf-8")
    labels = tmp_path / "labels"
    carebell("devices", "stock", str(listed), "--out", str(out), "--labels", str(labels), data_dir=data_dir)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["device_id"] for row in rows] == [line.partition(",")[0] for line in lines]
    assert out.stat().st_mode & 0o777 == 0o600
    assert len(list(labels.iterdir())) == 130
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        for row in (rows[0], rows[249]):
            code = codes.read_code(row["scan"])
            assert code is not None
            assert claims.redeem(connection, code, link_id="x", at_us=NOW, actor=ACTOR) == row["device_id"]
    assert show_device(connection, "W-0249")["serial"] == "SN-0249"
    changes = connection.execute("SELECT count(*) FROM audit WHERE action = 'registry.import'").fetchone()
    assert changes == (4,), "100 rows in each transaction"
    connection.close()
    listed.write_text(f"device_id,profile,serial\nX-1,{PROFILE},SN-0001\nX-2,nonsense,", encoding="utf-8")
    assert (
        carebell("devices", "stock", str(listed), "--out", str(out), data_dir=data_dir, check=False).count("line 3")
        == 1
    )
    listed.write_text(f"device_id,profile,serial\nX-1,{PROFILE},SN-0001", encoding="utf-8")
    carebell("devices", "stock", str(listed), "--out", str(out), data_dir=data_dir, check=False)
    found = carebell("devices", "list", "--search", "X-1", "--json", data_dir=data_dir)
    assert found.strip() == "[]", "all is checked before the first row is written"
