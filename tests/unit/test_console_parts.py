"""Parts of the pages that need no browser: drawings, datums, words, figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from shapely import Point
from shapely.geometry import shape

from gateway.api.auth import MAY
from gateway.clock import US_PER_S, to_us
from gateway.console import app, charts, statistics
from gateway.console.charts import Limits
from gateway.console.outline import read_outline, shifted
from gateway.console.templating import environment
from gateway.console.words import WORDS, Translator
from gateway.datum import wgs84_to_gcj02
from gateway.errors import ConfigError
from gateway.storage.database import FILE_NAME, open_database
from simulators.neighbourhood import residents
from simulators.outline import outline
from tests.live.api_harness import START

NOW_US = to_us(START)
HOUR_US = 3600 * US_PER_S


def test_a_line_is_broken_where_nobody_knows_what_was() -> None:
    values = [(0, 60.0), (HOUR_US, 80.0), (3 * HOUR_US, 70.0)]
    chart = charts.draw("heart_rate_bpm", values, 0, 4 * HOUR_US, Limits())
    assert [piece[0] for piece in re.findall(r"[ML][\d.]+ [\d.]+", chart.path)] == ["M", "L"]
    assert re.fullmatch(r"M216\.0 [\d.]+h0", chart.dots)  # alone, and seen all the same
    assert (chart.low, chart.high, chart.band, chart.lines) == (60.0, 80.0, None, [])
    assert "nan" not in charts.draw("x", [(0, 5.0), (1, 5.0)], 0, 10, Limits()).path  # all the same


def test_a_chart_shows_the_band_that_is_normal_for_this_person() -> None:
    def limit(metric: str, level: str, side: str, value: float, *, inclusive: bool = True) -> dict[str, object]:
        return {
            "metric": metric,
            "level": level,
            "side": side,
            "limit": value,
            "inclusive": inclusive,
            "own": value == 95,
        }

    told = [
        limit("heart_rate_bpm", "advisory", "high", 110), limit("heart_rate_bpm", "advisory", "high", 95),
        limit("heart_rate_bpm", "advisory", "low", 50), limit("heart_rate_bpm", "urgent", "high", 130),
        limit("spo2_percent", "urgent", "low", 90, inclusive=False),
    ]  # fmt: skip
    found = charts.limits_by_metric(told)
    heart = found["heart_rate_bpm"]
    assert (heart.low, heart.high, heart.urgent_high, heart.own) == (50, 95, 130, True)
    assert [heart.beyond(value) for value in (50, 51, 94, 95, 130)] == [
        "advisory_low", "", "", "advisory_high", "urgent_high",
    ]  # fmt: skip
    assert [found["spo2_percent"].beyond(value) for value in (89, 90)] == ["urgent_low", ""]
    chart = charts.draw("heart_rate_bpm", [(0, 60.0), (1, 140.0)], 0, 10, heart)
    inside = charts.HEIGHT - 2 * charts.EDGE
    assert chart.band is not None
    top, tall = chart.band
    assert top == pytest.approx(charts.EDGE + inside * (140 - 95) / (140 - 50), abs=0.1)
    assert top + tall == pytest.approx(charts.EDGE + inside, abs=0.1)
    assert [level for level, _ in chart.lines] == ["urgent", "advisory", "advisory"]
    assert charts.draw("spo2_percent", [(0, 97.0)], 0, 10, found["spo2_percent"]).band == (
        0.0,
        charts.HEIGHT - charts.EDGE,
    )


def test_maps_of_gcj02_get_gcj02() -> None:
    latitude, longitude = wgs84_to_gcj02(39.1235, 117.2011)
    ring = {"type": "Polygon", "coordinates": [[[117.2011, 39.1235], [2.35, 48.85]]]}
    assert shifted(ring, "gcj02")["coordinates"] == [[[longitude, latitude], [2.35, 48.85]]]
    assert shifted(ring, "wgs84")["coordinates"] == ring["coordinates"]


def test_the_ground_of_the_demo_is_a_sound_map_of_its_neighbourhood(tmp_path: Path) -> None:
    file = tmp_path / "outline.json"
    file.write_text(json.dumps(outline()), encoding="utf-8")
    drawn = json.loads(read_outline(str(file)))
    shapes = [(each["properties"]["kind"], shape(each["geometry"])) for each in drawn["features"]]
    assert all(geometry.is_valid for _, geometry in shapes)
    (edge,) = [geometry for kind, geometry in shapes if kind == "boundary"]
    for person in residents():
        home = Point(person.home.longitude, person.home.latitude)
        assert edge.contains(home)
        assert sum(kind == "building" and geometry.contains(home) for kind, geometry in shapes) == 1
        assert not any(kind == "street" and geometry.distance(home) * 111_320 < 9 for kind, geometry in shapes)
    moved = json.loads(read_outline(str(file), "gcj02"))
    first, before = (each["features"][0]["geometry"]["coordinates"][0][0] for each in (moved, drawn))
    assert first == list(reversed(wgs84_to_gcj02(before[1], before[0])))
    assert moved["features"][0]["properties"] == drawn["features"][0]["properties"]


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "outline_file"), ('{"type":"Feature"}', "no FeatureCollection"),
     ('{"type":"FeatureCollection","features":[{"geometry":{"coordinates":["x"]}}]}', "coordinates that are none")],
)  # fmt: skip
def test_an_outline_that_is_none_is_said_at_start(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_outline(str(tmp_path / "o.json"), "gcj02")


def test_readings_say_how_old_they_are_and_when_there_are_none() -> None:
    told = {"value": 131.0, "at": "2026-11-22T01:00:00.000Z", "unit": "/min"}
    latest = {"metrics": {"heart_rate_bpm": told, "x_<b>": told, "battery_percent": told}, "position": None}
    limits = {"heart_rate_bpm": Limits(advisory_low=50, advisory_high=95, urgent_high=130, own=True)}
    chart = charts.draw("heart_rate_bpm", [(0, 60.0), (1, 80.0)], 0, 10, limits["heart_rate_bpm"])
    say = Translator("zh")
    shared = {"t": say.text, "w": say.word, "visit": SimpleNamespace(), "asset": str, "width": 1, "height": 1}
    shared |= {"limits": limits, "unlimited": Limits(), "units": charts.UNITS}
    page = environment().get_template("readings.html")
    shown = page.render(latest=latest, charts=[chart], away=False, **shared)
    assert shown.count("data-since") == 3
    assert 'aria-label="心率: 24 小时 60–80 /min; 正常 50–95 /min; 紧急 ≥ 130"' in shown
    assert "本人正常 50–95 /min" in shown
    assert "▲ 高于紧急限值" in shown
    assert '<rect class="band"' in shown
    assert "x_&lt;b&gt;" in shown
    assert "未知" in page.render(latest=None, charts=[], away=True, **shared)
    assert "没有读数" in page.render(latest=None, charts=[], away=False, **shared)


def test_every_word_is_there_in_both_languages_and_unknown_codes_stay_readable() -> None:
    assert [code for code, both in WORDS.items() if not all(both)] == []
    assert Translator("en").word("sos") == "SOS"
    assert Translator("zh").word("accept", "action") == "接警"
    assert Translator("zh").word("x_new_kind") == "x_new_kind"


def test_every_page_names_a_permission_but_signing_out() -> None:
    assert [path for path, _, _, permission in app.PAGES if permission not in MAY] == ["/sign-out"]


@pytest.mark.parametrize("template", sorted(environment().list_templates(extensions=["html"])))
def test_templates_compile_and_hold_nothing_that_the_policy_forbids(template: str) -> None:
    environment().get_template(template)
    text = (Path(app.__file__).parent / "templates" / template).read_text(encoding="utf-8")
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=\"|<script(?![^>]* src=)|javascript:|\|\s*safe", text) == []


def test_figures_count_who_was_quick_enough(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    with connection:
        connection.execute("INSERT INTO policy_snapshot VALUES ('h', 'p', '1', '{}')")
        for number, (age_s, taken_s, outcome) in enumerate(
            [(7200, 20, "false_press"), (7200, 90, "assistance"), (3600, None, ""), (30, None, ""), (7200, 5, "test"),
             (40 * 86_400, 5, "")]
        ):  # fmt: skip
            raised_us = NOW_US - age_s * US_PER_S
            text = f"{raised_us // 1000:012x}"
            alert_id = f"{text[:8]}-{text[8:]}-7000-8000-{number:012d}"
            connection.execute(
                "INSERT INTO alert VALUES (?, 1, ?, '', '', 'sos', 1, 'active', 'raised', '', '', ?, 1, 0, 1, ?, ?, ?,"
                " NULL, 'r', '1', '{}', NULL, NULL, 0)",
                (alert_id, f"device/{number}", outcome, raised_us, raised_us, raised_us),
            )
            accepted_us = None if taken_s is None else raised_us + taken_s * US_PER_S
            connection.execute(
                "INSERT INTO escalation VALUES (?, 'h', ?, NULL, ?, NULL, NULL)", (alert_id, raised_us, accepted_us)
            )
    found = statistics.count(connection, NOW_US - 30 * statistics.DAY_US, NOW_US, "")
    connection.close()
    assert (found["whole"]["alerts"], found["false_presses"], found["ended"]) == (
        3,
        1,
        2,
    )  # neither test, young nor old
    assert found["whole"]["rate"] == pytest.approx(1 / 3)
    assert sum(hour["count"] for hour in found["hours"]) == 2
