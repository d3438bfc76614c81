"""``carebell places`` and ``persons consent`` as scripts call them; what goes out comes in again."""

from __future__ import annotations

import csv
import io
import json
import math
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gateway import audit
from gateway.care import Circle, Corridor, Polygon
from gateway.cli.main import build
from gateway.model import Actor
from gateway.registry import changes, people, persons, place_sheet, places
from gateway.registry.fields import FieldsError
from gateway.storage.database import FILE_NAME, open_database
from tests.factory import T0_US

Carebell = Callable[..., Result]
ACTOR = Actor("operator", "test")
RING = {"type": "Polygon", "coordinates": [[[117.0, 39.0], [117.1, 39.0], [117.1, 39.1], [117.0, 39.0]]]}
WAY = {"type": "LineString", "coordinates": [[117.0, 39.0], [117.1, 39.05]]}
POINT = {"type": "Point", "coordinates": [1, 2]}
NIGHT = {"windows": [{"start": "22:00", "until": "06:00", "days": [1, 7]}]}
HOME = ("--id", "home", "--person", "P-1", "--latitude", "39.12", "--longitude", "117.2", "--radius", "150")


@pytest.fixture
def carebell(tmp_path: Path) -> Carebell:
    runner = CliRunner()

    def run(*arguments: str | Path, code: int = 0, site: str = "data") -> Result:
        result = runner.invoke(build(str(arguments[0])), [*map(str, arguments), "--data-dir", str(tmp_path / site)])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr, result.exception)
        return result

    for site in ("data", "other"):
        for person_id in ("P-1", "P-2"):
            run("persons", "add", "--id", person_id, "--name", "王秀英", site=site)
    return run


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILE_NAME


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def sheet(path: Path, *rows: dict[str, Any], encoding: str = "utf-8") -> Path:
    """A file with the columns of its first row; objects become JSON."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()})
    return path


def circle(place_id: str, **more: Any) -> dict[str, Any]:
    given = {"place_id": place_id, "person_id": "P-1", "kind": "home", "latitude": 39.12, "longitude": 117.2}
    return given | {"radius_m": 150} | more


def problems(result: Result) -> list[tuple[int, str]]:
    return [(problem["line"], problem["column"]) for problem in parsed(result)["problems"]]


def versions(database: Path) -> tuple[Any, ...]:
    """Everything that a change would touch."""
    connection = open_database(database, read_only=True)
    found = connection.execute(
        "SELECT (SELECT max(seq) FROM audit), (SELECT sum(version) FROM person), (SELECT sum(version) FROM place)"
    ).fetchone()
    assert list(audit.verify(connection)) == []
    connection.close()
    assert found is not None
    return tuple(found)


def test_a_place_of_each_shape_becomes_a_fence_of_its_person(
    carebell: Carebell, database: Path, tmp_path: Path
) -> None:
    ring, way = tmp_path / "ring.json", tmp_path / "way.json"
    ring.write_text(json.dumps(RING), encoding="utf-8")
    way.write_text(json.dumps(WAY), encoding="utf-8")
    carebell("places", "add", *HOME, "--name", "家", "--consent", "--consent-by", "本人", "--datum", "gcj02")
    carebell("places", "add", "--id", "lake", "--person", "P-1", "--kind", "forbidden", "--geometry", ring)
    options = ("--kind", "allowed", "--width", "40", "--margin", "5", "--schedule", json.dumps(NIGHT))
    carebell("places", "add", "--id", "way", "--person", "P-1", "--geometry", way, *options, "--consent")
    connection = open_database(database, read_only=True)
    plan = people.plan_of(connection, next(changes.rows(connection, "SELECT * FROM person WHERE id = 'P-1'")))
    connection.close()
    home, lake, corridor = plan.fences
    assert home.shape == Circle(center=(117.2, 39.12), radius_m=150)
    assert (home.kind, home.name, home.datum, home.consent, home.consent_by) == ("home", "家", "gcj02", True, "本人")
    assert isinstance(lake.shape, Polygon)
    assert (lake.kind, lake.consent, lake.schedule, lake.shape.coordinates[0][1]) == (
        "forbidden", False, None, (117.1, 39.0),
    )  # fmt: skip
    assert corridor.shape == Corridor(coordinates=((117.0, 39.0), (117.1, 39.05)), width_m=40)
    assert corridor.schedule is not None
    assert (corridor.margin_m, corridor.schedule.windows[0].days) == (5.0, (1, 7))


def test_show_and_list(carebell: Carebell) -> None:
    carebell("places", "add", *HOME, "--name", "和平区家", "--set", 'settings={"valid_from_us": 7}')
    carebell("places", "add", *HOME[2:], "--id", "Q", "--set", "person_id=P-2")
    view = parsed(carebell("places", "show", "home", "--json"))
    assert view["geometry"] == {"type": "Point", "coordinates": [117.2, 39.12]}
    assert (view["radius_m"], view["settings"]["valid_from_us"], view["version"]) == (150, 7, 1)
    text = carebell("places", "show", "home").stdout
    assert "纬度 latitude: 39.12" in text
    assert "和平区家" in text
    table = carebell("places", "list").stdout
    assert "圆" in table
    assert "39.12" not in table
    assert "和平区家" not in table
    assert [row["place_id"] for row in parsed(carebell("places", "list", "--json"))] == ["Q", "home"]
    assert [row["place_id"] for row in parsed(carebell("places", "list", "--person", "P-2", "--json"))] == ["Q"]
    assert [row["place_id"] for row in parsed(carebell("places", "list", "--search", "和平", "--json"))] == ["home"]


def test_update_changes_what_is_given(carebell: Carebell, database: Path, tmp_path: Path) -> None:
    carebell(
        "places",
        "add",
        *HOME,
        "--name",
        "家",
        "--consent",
        "--consent-by",
        "王芳",
        "--datum",
        "gcj02",
        "--schedule",
        json.dumps(NIGHT),
    )
    before = parsed(carebell("places", "show", "home", "--json"))
    view = parsed(carebell("places", "update", "home", "--radius", "200", "--reason", "garden", "--json"))
    assert view["radius_m"] == 200
    assert (view["geometry"], view["settings"], view["name"]) == (before["geometry"], before["settings"], "家")
    unchanged = versions(database)
    carebell("places", "update", "home", "--radius", "200.0", "--datum", "gcj02")
    assert versions(database)[1:] == unchanged[1:]
    ring = tmp_path / "ring.json"
    ring.write_text(json.dumps(RING), encoding="utf-8")
    options = ("--geometry", ring, "--no-consent", "--consent-by", "", "--datum", "", "--schedule", "")
    view = parsed(carebell("places", "update", "home", *options, "--json"))
    assert (view["geometry"], view["radius_m"]) == (RING, None)  # the radius went with the circle
    assert view["settings"] == {"consent": False}
    view = parsed(carebell("places", "update", "home", *HOME[4:], "--person", "P-2", "--json"))
    assert (view["person_id"], view["geometry"]["type"], view["radius_m"]) == ("P-2", "Point", 150)
    carebell("places", "update", "home", "--state", "removed")
    assert parsed(carebell("places", "list", "--json")) == []
    assert [row["place_id"] for row in parsed(carebell("places", "list", "--state", "removed", "--json"))] == ["home"]
    connection = open_database(database, read_only=True)
    told = str(connection.execute("SELECT * FROM audit WHERE subject = 'place/home'").fetchall())
    connection.close()
    assert "garden" in told
    assert told.count('"consent":true') == 2  # given, and then taken back
    assert told.count('"consent":false') == 1
    assert "117.2" not in told
    assert "王芳" not in told


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (HOME[:-2], 2, "radius_m: a circle needs it"),
        (HOME[:4], 2, "geometry: a place needs latitude"),
        ((*HOME, "--width", "5"), 2, "width_m: only a LineString has it"),
        ((*HOME, "--latitude", "91"), 2, "latitude: must be between -90 and 90"),
        ((*HOME, "--set", 'geometry={"type":"Point","coordinates":[1,2]}'), 2, "latitude: a place has a circle or"),
        ((*HOME[:4], "--set", 'geometry={"type":"Feature"}'), 2, "geometry: a geometry is a Point"),
        ((*HOME[:4], "--set", 'geometry={"type":"LineString","coordinates":[[1,2],[1,3]]}'), 2, "width_m: a Line"),
        ((*HOME[:4], "--set", 'geometry={"type":"Polygon","coordinates":[[[1,2],[1,3]]]}'), 2, "geometry: "),
        ((*HOME, "--schedule", '{"windows":[{"start":"25:00"}]}'), 2, "schedule: "),
        ((*HOME, "--set", 'settings={"consent":true}'), 2, "settings: 'consent' has a column of its own"),
        ((*HOME, "--set", 'settings={"oops":1}'), 2, "settings: "),
        ((*HOME, "--set", 'settings={"valid_from_us":5,"valid_to_us":4}'), 2, "settings: "),
        ((*HOME, "--id", "-home"), 2, "place_id: "),
        ((*HOME, "--kind", "hom"), 2, "kind: must be one of"),
        ((*HOME, "--set", "radus_m=1"), 2, "did you mean 'radius_m'"),
        ((*HOME, "--person", "P-9"), 1, "no person 'P-9'"),
        ((*HOME, "--geometry", "/no/such.json"), 2, "/no/such.json"),
    ],
)
def test_mistakes_are_told_at_their_field_and_change_nothing(
    carebell: Carebell, database: Path, options: tuple[str, ...], code: int, told: str
) -> None:
    before = versions(database)
    assert told in carebell("places", "add", *options, code=code).stderr
    assert versions(database) == before


def test_what_is_there_or_is_not(carebell: Carebell) -> None:
    carebell("places", "add", *HOME)
    assert "exists already" in carebell("places", "add", *HOME, code=1).stderr
    assert "no place 'x'" in carebell("places", "show", "x", code=1).stderr
    assert "no place 'x'" in carebell("places", "update", "x", "--radius", "5", code=1).stderr
    assert "only a LineString" in carebell("places", "update", "home", "--width", "5", code=2).stderr
    assert "a circle needs it" in carebell("places", "update", "home", "--radius", "", code=2).stderr


def test_every_bad_row_is_named_and_nothing_is_applied(carebell: Carebell, database: Path, tmp_path: Path) -> None:
    open_ring = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}
    bare = {"latitude": "", "longitude": "", "radius_m": ""}
    path = sheet(
        tmp_path / "places.csv",
        circle("A", geometry="", schedule="", consent="是"),
        circle("B", latitude="north", consent="perhaps"),
        circle("C", **bare),
        circle("D", **bare, geometry=open_ring),
        circle("E", **bare, geometry="{"),
        circle("F", schedule={"windows": [{"days": [8]}]}),
        circle("G", radius_m=""),
        circle("A"),
    )
    before = versions(database)
    found = problems(carebell("places", "import", path, "--json", code=1))
    assert found == [
        (3, "latitude"), (3, "consent"), (4, "geometry"), (5, "geometry"), (6, "geometry"), (7, "schedule"),
        (8, "radius_m"), (9, "place_id"),
    ]  # fmt: skip
    path = sheet(path, circle("A"), circle("B", person_id="P-9"), circle("C", person_id="P-8"))
    assert problems(carebell("places", "import", path, "--json", code=1)) == [(3, "person_id"), (4, "person_id")]
    assert "line 3, person_id: no person 'P-9'" in carebell("places", "import", path, code=1).stderr
    path = sheet(path, {"place_id": "A", "kind": "home", "radius": 5})
    assert "did you mean 'radius_m'" in carebell("places", "import", path, code=1).stderr
    assert versions(database) == before


def test_import_adds_updates_and_leaves_alone(carebell: Carebell, database: Path, tmp_path: Path) -> None:
    path = sheet(tmp_path / "p.csv", circle("A", name="家", consent="是"), circle("B", name="", consent=""))
    before = versions(database)
    told = parsed(carebell("places", "import", path, "--dry-run", "--json"))
    assert (told["applied"], told["added"]) == (False, 2)
    assert versions(database) == before
    told = parsed(carebell("places", "import", path, "--json"))
    assert (told["added"], told["updated"], told["unchanged"]) == (2, 0, 0)
    after = versions(database)
    told = parsed(carebell("places", "import", path, "--json"))
    assert (told["added"], told["updated"], told["unchanged"]) == (0, 0, 2)
    assert versions(database)[1:] == after[1:]
    # a file without some columns leaves them as they are; a shape of another form replaces the circle
    ring = {"place_id": "B", "person_id": "P-2", "kind": "forbidden", "geometry": RING}
    assert parsed(carebell("places", "import", sheet(path, ring), "--json"))["updated"] == 1
    assert parsed(carebell("places", "import", sheet(path, circle("A", radius_m=300)), "--json"))["updated"] == 1
    one, two = parsed(carebell("places", "list", "--json"))
    assert (one["name"], one["radius_m"], one["settings"]["consent"]) == ("家", 300, True)
    assert (two["person_id"], two["kind"], two["geometry"], two["radius_m"]) == ("P-2", "forbidden", RING, None)


def test_files_of_windows_programs_are_read(carebell: Carebell, tmp_path: Path) -> None:
    path = tmp_path / "gb.csv"
    head = "编号,人员,类别,名称,纬度,经度,半径,坐标系,同意\r\n"
    path.write_bytes((head + "A,P-1,home,家,39.1,117.2,100,gcj02,是\r\n").encode("gb18030"))
    assert parsed(carebell("places", "import", path, "--json"))["encoding"] == "gb18030"
    view = parsed(carebell("places", "show", "A", "--json"))
    assert (view["name"], view["settings"]) == ("家", {"datum": "gcj02", "consent": True})


def test_an_export_is_private_and_comes_back(carebell: Carebell, database: Path, tmp_path: Path) -> None:
    carebell("places", "add", *HOME, "--name", "=1+1", "--consent", "--schedule", json.dumps(NIGHT))
    for place_id, geometry, more in (("ring", RING, "state=removed"), ("way", WAY, "width_m=40")):
        given = ("--id", place_id, "--person", "P-2", "--kind", "allowed", "--set", more)
        carebell("places", "add", *given, "--set", f"geometry={json.dumps(geometry)}")
    connection = open_database(database)  # as others enter them: whole numbers, settings that say the default
    values = {
        "person_id": "P-1",
        "kind": "home",
        "geometry": {"type": "Point", "coordinates": [117, 39]},
        "radius_m": 5,
    }
    settings = {"consent_at_us": 5, "margin_m": 3, "consent": False, "datum": "wgs84", "schedule": None}
    with connection:
        places.add_place(connection, "api", values | {"settings": settings}, at_us=T0_US, actor=ACTOR)
    connection.close()
    path = tmp_path / "out.csv"
    carebell("places", "export", "-o", path, "--bom")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = versions(database)
    told = parsed(carebell("places", "import", path, "--json"))
    assert (told["added"], told["updated"], told["unchanged"]) == (0, 0, 4)
    assert versions(database)[1:] == before[1:]
    assert parsed(carebell("places", "import", path, "--json", site="other"))["added"] == 4
    there = carebell("places", "export", site="other").stdout
    assert there == carebell("places", "export").stdout
    rows = {row["place_id"]: row for row in csv.DictReader(io.StringIO(there))}
    assert (rows["home"]["latitude"], rows["home"]["name"], rows["home"]["geometry"]) == ("39.12", "'=1+1", "")
    assert json.loads(rows["ring"]["geometry"]) == RING
    assert (rows["ring"]["state"], rows["way"]["width_m"]) == ("removed", "40.0")
    view = parsed(carebell("places", "show", "api", "--json", site="other"))
    assert view["settings"]["consent_at_us"] == 5


def test_every_command_has_help_with_an_example() -> None:
    for name in ("add", "list", "show", "update", "import", "export"):
        result = CliRunner().invoke(build("places"), ["places", name, "--help"])
        assert result.exit_code == 0
        assert f"carebell places {name}" in " ".join(result.stdout.split()), name


def test_consents_are_given_and_taken_back(carebell: Carebell, database: Path) -> None:
    consent = ("persons", "consent")
    carebell(*consent, "give", "P-1", "location", "--text-version", "1")
    found = parsed(carebell(*consent, "give", "P-1", "location", "--text-version", "2", "--json"))
    assert [(entry["text_version"], entry["revoked_at"] is None) for entry in found] == [("1", False), ("2", True)]
    carebell(*consent, "revoke", "P-1", "location")
    before = versions(database)
    assert "no consent to 'location'" in carebell(*consent, "revoke", "P-1", "location", code=1).stderr
    assert "no person 'P-9'" in carebell(*consent, "give", "P-9", "health", "--text-version", "1", code=1).stderr
    assert "text_version" in carebell(*consent, "give", "P-1", "health", "--text-version", "", code=2).stderr
    assert versions(database) == before
    shown = parsed(carebell("persons", "show", "P-1", "--json"))["consents"]
    assert [entry["revoked_at"] is None for entry in shown] == [False, False]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path_factory.mktemp("site") / FILE_NAME)
    with connection:
        persons.add_person(connection, "P-1", {"name": "a"}, at_us=T0_US, actor=ACTOR)
    yield connection
    connection.close()


shapes = st.sampled_from(
    [{"geometry": RING}, {"geometry": WAY, "width_m": 9}, {"geometry": POINT, "radius_m": 7}]
) | st.fixed_dictionaries(
    {"latitude": st.floats(-91, 91), "longitude": st.floats(-181, 181), "radius_m": st.integers(1, 50_001)}
)  # fmt: skip
wrong = st.dictionaries(
    st.sampled_from(["latitude", "geometry", "radius_m", "width_m", "margin_m", "schedule", "settings", "datum"]),
    st.sampled_from(
        ["", "x", "{}", 1, {}, {"type": []}, {"kind": "home"}, {"datum": "bd09"}, {"windows": None}, math.inf]
    ),
    max_size=1,
)
more = st.fixed_dictionaries(
    {"person_id": st.just("P-1"), "kind": st.sampled_from(["home", "allowed", "forbidden"])},
    optional={
        "datum": st.sampled_from(["", "gcj02", "wgs84"]),
        "margin_m": st.floats(0, 5_000),
        "schedule": st.sampled_from([NIGHT, {}, ""]),
        "consent": st.booleans(),
        "consent_by": st.text("王芳=' x\t", max_size=5),
        "settings": st.sampled_from(["", {"paused_until_us": 5}, {"version": 3}]),
        "state": st.sampled_from(["", "active", "removed"]),
    },
)
lines = st.builds(lambda *parts: parts[0] | parts[1] | parts[2], shapes | st.just({}), more, wrong)


@settings(max_examples=300, deadline=None)
@given(first=lines, second=lines)
def test_any_line_is_kept_as_a_fence_or_refused_at_a_column(
    site: apsw.Connection, first: dict[str, Any], second: dict[str, Any]
) -> None:
    site.execute("BEGIN IMMEDIATE")
    try:
        for change, values in ((place_sheet.add_line, first), (place_sheet.update_line, second)):
            try:
                view = change(site, "A", values, at_us=T0_US, actor=ACTOR)
            except FieldsError as error:
                told = {problem.field for problem in error.problems}
            else:
                told = set()
            assert told <= set(place_sheet.SPEC.names)
            event(f"{change.__name__} {'refused' if told else 'kept'}")
            if told:
                return
            assert places.fence_of(changes.existing(site, places.SPEC, "A")).fence_id == "A"
            line = place_sheet.show_line(site, "A")
            line.pop("place_id")
            again = place_sheet.update_line(site, "A", line, at_us=T0_US + 1, actor=ACTOR)
            assert again == view  # what is shown and entered again is the same
    finally:
        site.execute("ROLLBACK")
