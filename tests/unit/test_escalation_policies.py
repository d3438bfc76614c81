"""Policy files: what is refused and how it is said; routes, hours, holidays, loops."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.escalation import findings
from alerts.policy_files import PolicyBook, fingerprint, is_on, load_policies, read_snapshot
from alerts.policy_schema import Center, Hours, Ladder, Step
from gateway.clock import to_us
from gateway.errors import ConfigError

OPERATORS = """
[[policy.ladder]]
name = "operator"
severities = ["P1"]
every_s = 60
[[policy.ladder.step]]
at_s = 0
tell = "console"
who = ["shift"]
"""


def book(folder: Path, text: str) -> PolicyBook:
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return load_policies([folder])


def test_the_default_is_the_p1_table_of_the_design() -> None:
    policy = load_policies().policies["default"]
    family, operator = policy.ladder_of("family", "P1"), policy.ladder_of("operator", "P1")
    assert family is not None
    assert operator is not None
    assert [(step.at_s, step.tell) for step in family.step] == [
        (0, "contacts"), (30, "next_contact"), (75, "next_contact"), (120, "next_contact"),
    ]  # fmt: skip
    assert [(step.at_s, step.tell) for step in operator.step] == [
        (0, "center"), (60, "console"), (120, "staff"), (180, "backup"),
    ]  # fmt: skip
    assert (policy.present_s, policy.accept_target_s, policy.accept_sla_s) == (5, 30, 60)
    assert [operator.period_s(n) for n in range(4)] == [180] * 4
    assert findings(load_policies(), frozenset())[0] == (
        "nobody can be called: no provider configured; add one under [notify]"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = 1", "Expected `str`"),
        ('version = "1"\nnot toml', "not TOML"),
        ('version = "1"\n[center.a]\nwebhok = "x"', "unknown field `webhok`"),
        ('version = "1"\nholidays = ["2026-02-30"]', "2026-02-30 is no date"),
        ('version = "1"\n[staff.duty]\nvoice = "12349"', "write it in full"),
        ('version = "1"\n[[inhibit]]\nwhile = "device_removed"\nmasks = ["sos"]', "sos is an emergency"),
        ('version = "1"\n[center.city]\nwebhook = "x"', "city = true"),
        ('version = "1"\n[[policy]]\nid = "x"' + OPERATORS.replace("P1", "P2"), "no operator ladder for P1"),
        ('version = "1"\n[[policy]]\nid = "x"' + OPERATORS + OPERATORS, "two operator ladders for P1"),
        ('version = "1"\n[[policy]]\nid = "x"' + OPERATORS.replace("at_s = 0", "at_s = 90"), "ends before the last"),
        ('version = "1"\n[[policy]]\nid = "x"' + OPERATORS.replace('"console"', '"staff"'), "tells nobody without"),
        (
            'version = "1"\n[[policy]]\nid = "x"' + OPERATORS.replace('"console"', '"staff"\nmedia = ["voice"]'),
            "there is no [staff.shift]",
        ),
        ('version = "1"\n[[policy]]\nid = "default"\nkinds = ["fall"]' + OPERATORS, "the default is for everybody"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        book(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "site.toml") in str(caught.value)


def test_the_route_falls_back_from_community_to_district_to_city(tmp_path: Path) -> None:
    made = book(
        tmp_path,
        """
        version = "7"
        [center.west]
        districts = ["和平区"]
        webhook = "west"
        [center.garden]
        communities = ["花园里"]
        webhook = "garden"
        """,
    )
    assert made.route("和平区", "花园里") == ("garden", "west", "city")
    assert made.route("和平区", "") == ("west", "city")
    assert made.route("河西区", "别处") == ("city",)
    assert made.route("", "") == ("city",)


def test_the_policy_that_fits_best(tmp_path: Path) -> None:
    made = book(
        tmp_path,
        'version = "7"\n[[policy]]\nid = "falls"\nkinds = ["fall"]' + OPERATORS
        + '[[policy]]\nid = "west"\ndistricts = ["西区"]' + OPERATORS,
    )  # fmt: skip
    assert made.choose("fall", "", "").id == "falls"
    assert made.choose("fall", "西区", "").id == "west"
    assert made.choose("sos", "东区", "").id == "default"
    snapshot = made.snapshot("fall", "", "")
    body, digest = fingerprint(snapshot)
    assert snapshot.version == "7"
    assert read_snapshot(body) == snapshot
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("at", "on"),
    [
        ("2026-11-23T08:59:00", False),  # a Monday
        ("2026-11-23T09:00:00", True),
        ("2026-11-23T16:59:59", True),
        ("2026-11-23T17:00:00", False),
        ("2026-11-22T10:00:00", False),  # a Sunday
        ("2026-11-24T10:00:00", False),  # a holiday
        ("2026-11-27T23:00:00", True),  # Friday night ...
        ("2026-11-28T05:59:00", True),  # ... into Saturday
        ("2026-11-28T06:00:00", False),
        ("2026-11-28T23:00:00", False),
    ],
)
def test_hours_and_holidays_are_local(at: str, on: bool) -> None:
    snapshot = load_policies().snapshot("sos", "", "")
    snapshot = type(snapshot)(
        version="1", policy=snapshot.policy, timezone="Asia/Shanghai", route=(), centers={}, staff={},
        holidays=("2026-11-24",), quotas=(),
    )  # fmt: skip
    hours = (
        Hours(start="09:00", until="17:00", days=(1, 2, 3, 4, 5)),
        Hours(start="22:00", until="06:00", days=(5,)),
    )
    center = Center(hours=hours, on_holidays=False)
    now_us = to_us(datetime.fromisoformat(at).replace(tzinfo=ZoneInfo("Asia/Shanghai")))
    assert is_on(center, snapshot, now_us) is on
    assert is_on(Center(), snapshot, now_us)


@given(every_s=st.floats(30, 3600), slower=st.floats(1, 4), longest_s=st.floats(30, 3600), number=st.integers(0, 10**6))
def test_loops_slow_down_and_never_end(every_s: float, slower: float, longest_s: float, number: int) -> None:
    step = Step(at_s=0, tell="console", who=("shift",))
    ladder = Ladder(
        name="operator", severities=("P1",), step=(step,), every_s=every_s, slower=slower, longest_s=longest_s
    )
    assert 30 <= ladder.period_s(number) <= ladder.period_s(number + 1) <= 3600
