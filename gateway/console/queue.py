"""The queue: what is open, whose, and for how long already; and the receipt that a person's screen showed it."""

from __future__ import annotations

from typing import Any, Final

import apsw
import msgspec
from starlette.responses import Response

from gateway.access import users
from gateway.api.auth import visible_persons
from gateway.clock import US_PER_S
from gateway.console.board import Row
from gateway.console.frame import Visit
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.security import mask_name

CANARY_US: Final = 24 * 3600 * US_PER_S
MAX_PRESENTED: Final = 200
JSON: Final = {"content-type": "application/json"}


async def home(visit: Visit) -> Response:
    """The queue with no alert chosen."""
    return await visit.page("queue.html", **await context(visit), alert=None)


async def part(visit: Visit) -> Response:
    """The queue alone, for the page's script."""
    return await visit.page("queue_part.html", **await context(visit))


async def context(visit: Visit) -> dict[str, Any]:
    """What both templates of the queue need."""
    rows = await mine(visit)
    board = visit.frame.board
    waiting = [row for row in rows if row.handling == "raised" and not row.suppressed]
    quiet = None if rows else await visit.services.store.read(_calm)
    return {
        "rows": rows,
        "left_out": board.snapshot.left_out,
        "counts": {level: sum(row.severity == level for row in rows) for level in (1, 2, 3, 4)},
        "oldest_us": min((row.raised_at_us for row in waiting), default=None),
        "seq": board.snapshot.seq,
        "now_us": visit.services.clock.now_us(),
        "calm": quiet,
        "screens": sum(board.screens.values()),
        "on_shift": len(board.screens),
    }


async def mine(visit: Visit) -> list[Row]:
    """The rows that the visitor sees, names masked where the role asks for it."""
    rows = visit.frame.board.rows_for(visit.principal, await visible_persons(visit.services, visit.principal))
    if visit.sees_names:
        return rows
    return [msgspec.structs.replace(row, name=mask_name(row.name), address="") for row in rows]


async def presented(visit: Visit) -> Response:
    """The receipts of alerts that this screen shows to a person; the first of each starts no duty phone any more."""
    ids = [each for each in visit.form.get("alerts", "").split(",") if each]
    if len(ids) > MAX_PRESENTED:
        raise UsageError(f"alerts: at most {MAX_PRESENTED} at one time")
    known = {row.id: row for row in await mine(visit)}
    if not visit.may("alerts.present"):
        return Response(status_code=204)
    for alert_id in ids:
        row = known.get(alert_id)
        if row is None or row.presented:
            continue
        try:
            await visit.services.desk.act(alert_id, "presented", actor=visit.actor, version=None)
        except (ConflictError, NotFoundError, UsageError):
            continue  # it ended meanwhile
    return Response(status_code=204)


async def colleagues(visit: Visit) -> Response:
    """Who else is signed in on a connected screen: to whom an alert can be handed over."""
    known = await visit.services.store.read(users.names)
    online = sorted(visit.frame.board.screens.keys() - {visit.actor.id})
    return Response(msgspec.json.encode([(each, known.get(each, each)) for each in online]), 200, JSON)


async def outline(visit: Visit) -> Response:
    """The site's own outline under its maps."""
    if not visit.frame.look.outline:
        raise NotFoundError("this site has no outline")
    return Response(visit.frame.look.outline, 200, JSON)


def _calm(connection: apsw.Connection) -> dict[str, Any]:
    """What an empty queue shows: the newest test press and the newest alert that ended."""
    row: Any = connection.execute(
        "SELECT (SELECT max(raised_at_us) FROM alert WHERE outcome = 'test'),"
        " (SELECT max(resolved_at_us) FROM alert WHERE handling IN ('resolved', 'closed')),"
        " (SELECT last_seq FROM batch ORDER BY first_seq DESC LIMIT 1),"
        " (SELECT received_at_us FROM batch ORDER BY first_seq DESC LIMIT 1)"
    ).fetchone()
    return {"test_us": row[0], "resolved_us": row[1], "frame_us": row[3]}
