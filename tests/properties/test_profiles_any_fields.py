"""Whatever a device sends, its profile gives a reading; and no garbage hides an alarm beside it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.loader import load_profiles
from device_profiles.schema import Profile
from gateway.model import METRICS, SIGNALS, Frame, Reading, Report
from protocols.registry import CODECS

PROFILES = load_profiles()
EXPLAINING = [name for name in PROFILES.names() if PROFILES.codec_of(name) == "json"]
RECEIVED_AT_US = 1_795_309_323_000_000
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def paths_of(profile: Profile) -> list[str]:
    parts = [profile.time, profile.stored]
    paths = [*profile.fields, *profile.ignore, *(part.field for part in parts if part is not None)]
    if profile.position is not None:
        paths += [profile.position.latitude, profile.position.longitude]
    return [path.removesuffix(".*") for path in paths]


def put(fields: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a path, unless garbage stands in the way."""
    name, _, rest = path.partition(".")
    name, array, _ = name.partition("[]")
    if not rest:
        fields[name] = [value] if array else value
        return
    inner: dict[str, Any] = {}
    held = fields.setdefault(name, [inner] if array else inner)
    target = held[0] if array and isinstance(held, list) and held else held
    if isinstance(target, dict):
        put(target, rest, value)


def explain(name: str, fields: Any) -> list[Reading]:
    """Through the codec, as a frame would go: what it keeps is what a profile may see."""
    payload = json.dumps(fields).encode()
    reports: list[Report] = list(CODECS["json"].parse(Frame("test", "json", "test", payload, RECEIVED_AT_US, "D")))
    readings = [PROFILES.explain(name, report, RECEIVED_AT_US) for report in reports]
    for reading in readings:
        msgspec.msgpack.encode(reading)
        assert set(reading.signals) <= SIGNALS
        for metric, value in reading.measurements.items():
            assert metric.startswith("x_") or METRICS[metric].lowest <= value <= METRICS[metric].highest
        place = reading.position
        assert place is None or (-90 <= place.latitude <= 90 and -180 <= place.longitude <= 180)
    return readings


@pytest.mark.parametrize("name", EXPLAINING)
@given(data=st.data())
def test_any_fields(name: str, data: st.DataObject) -> None:
    profile = PROFILES.get(name)
    assert profile is not None
    fields: dict[str, Any] = data.draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
    for path in data.draw(st.lists(st.sampled_from(paths_of(profile)), max_size=6)):
        put(fields, path, data.draw(JSON | st.integers(0, 255)))
    explain(name, fields)


@pytest.mark.parametrize("name", EXPLAINING)
@given(data=st.data())
def test_an_alarm_survives_garbage_in_every_other_field(name: str, data: st.DataObject) -> None:
    profile = PROFILES.get(name)
    assert profile is not None
    alarms = [
        (path, value, signals)
        for path, field in profile.fields.items()
        for value, signals in [*field.values.items(), *((1 << bit, raised) for bit, raised in field.bits.items())]
        if signals
    ]
    path, value, signals = data.draw(st.sampled_from(alarms))
    fields: dict[str, Any] = data.draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
    root = path.partition(".")[0].removesuffix("[]")
    for other in paths_of(profile):
        if other.partition(".")[0].removesuffix("[]") != root:
            put(fields, other, data.draw(JSON))
    fields.pop(root, None)
    put(fields, path, value)
    (reading,) = explain(name, fields)
    assert all(reading.signals.get(signal) for signal in signals)


@given(percent=st.floats(0, 100), press=st.sampled_from(["sos", "long", "SOS", " Long "]))
def test_a_low_battery_never_hides_an_sos(percent: float, press: str) -> None:
    (reading,) = explain("generic.json_button", {"battery": percent, "press": press})
    assert reading.signals["sos"]
    assert reading.signals.get("low_battery", percent > 20) == (percent <= 20 or not percent >= 60)
