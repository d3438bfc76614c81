"""What the standards ask to be counted: answer rate, time to accept by hour and district, false presses, devices."""

from __future__ import annotations

from typing import Any, Final

import apsw
from starlette.responses import Response

from gateway.clock import US_PER_S
from gateway.console.frame import Visit
from gateway.errors import UsageError
from gateway.filters import where
from gateway.storage.many import fetch

DAY_US: Final = 24 * 3600 * US_PER_S
SLA_US: Final = 60 * US_PER_S
DAYS: Final = (1, 7, 30, 90)
ASKED: Final = 0.95
"""DB12/T 1234 4.3 and DB15 5.1.5 ask that at least 95 % of calls are answered."""
CHINA_OFFSET_US: Final = 8 * 3600 * US_PER_S


async def page(visit: Visit) -> Response:
    """Figures of the last days, emergencies and urgent alerts alone, test mode left out."""
    asked = visit.request.query_params.get("days", "30")
    if asked not in {str(each) for each in DAYS}:
        raise UsageError(f"days: one of {', '.join(map(str, DAYS))}")
    now_us = visit.services.clock.now_us()
    since_us, district = now_us - int(asked) * DAY_US, visit.principal.district
    found = await visit.services.store.read(lambda c: count(c, since_us, now_us, district))
    return await visit.page("statistics.html", days=int(asked), choices=DAYS, asked=ASKED, **found)


def count(connection: apsw.Connection, since_us: int, now_us: int, district: str) -> dict[str, Any]:
    """Figures of alerts of severity 1 and 2 that were raised in this time; of one district, or ("") of all.

    An alert counts as answered when somebody accepted it within 60 s; one that is younger than that and that
    nobody has yet is not counted.
    """
    asked, values = where(
        (True, "a.id >= ? AND a.raised_at_us >= ?", (_first_id(since_us), since_us)),
        (True, "a.severity <= 2 AND a.outcome <> 'test'", ()),
        (district, "coalesce(p.district, d.district, '') = ?", (district,)),
        (True, "(e.accepted_at_us IS NOT NULL OR a.raised_at_us < ?)", (now_us - SLA_US,)),
    )
    rows = fetch(
        connection,
        ("a.raised_at_us", "e.accepted_at_us", "a.outcome", "coalesce(p.district, d.district, '')"),
        "FROM alert a LEFT JOIN escalation e ON e.alert_id = a.id LEFT JOIN person p ON p.id = a.person_id"
        f" LEFT JOIN device d ON d.id = a.device_id{asked} ORDER BY a.id LIMIT 100000",
        values,
    )
    hours: list[list[int]] = [[] for _ in range(24)]
    by_district: dict[str, list[int | None]] = {}
    for raised_us, accepted_us, _, place in rows:
        taken_us = None if accepted_us is None else accepted_us - raised_us
        by_district.setdefault(place, []).append(taken_us)
        if taken_us is not None:
            hours[(raised_us + CHINA_OFFSET_US) // (3600 * US_PER_S) % 24].append(taken_us)
    ended = [outcome for _, _, outcome, _ in rows if outcome]
    devices: Any = connection.execute(
        "SELECT (SELECT count(*) FROM device WHERE state = 'active'), (SELECT count(DISTINCT device_id) FROM alert"
        " WHERE handling IN ('raised', 'accepted', 'in_progress') AND subject LIKE 'device/%')"
    ).fetchone()
    everything = [taken for each in by_district.values() for taken in each]
    return {
        "whole": _row("", everything),
        "districts": [_row(name, taken) for name, taken in sorted(by_district.items())],
        "hours": [{"hour": hour, "count": len(taken), "median_s": _at(sorted(taken), 0.5)}
                  for hour, taken in enumerate(hours)],
        "longest_s": max((_at(sorted(taken), 0.5) or 0 for taken in hours), default=0) or 1,
        "false_presses": sum(outcome == "false_press" for outcome in ended),
        "ended": len(ended),
        "devices": {"active": devices[0], "faulty": devices[1]},
    }  # fmt: skip


def _first_id(since_us: int) -> str:
    """Ids begin with the milliseconds of their alert (UUID version 7); a minute of slack for late records."""
    text = f"{max(since_us // 1000 - 60_000, 0):012x}"
    return f"{text[:8]}-{text[8:]}"


def _row(name: str, taken: list[int | None]) -> dict[str, Any]:
    known = sorted(each for each in taken if each is not None)
    quick = sum(each <= SLA_US for each in known)
    return {
        "district": name,
        "alerts": len(taken),
        "rate": None if not taken else quick / len(taken),
        "median_s": _at(known, 0.5),
        "p90_s": _at(known, 0.9),
    }


def _at(values: list[int], share: float) -> float | None:
    """The value below which this share of sorted values lies, in seconds."""
    return None if not values else values[min(len(values) - 1, int(len(values) * share))] / US_PER_S
