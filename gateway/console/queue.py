"""The queue: what is open, whose, and for how long already; and the receipt that a person's screen showed it."""

from __future__ import annotations

from typing import Any, Final

import apsw
import msgspec
from starlette.responses import Response

from gateway.access import users
from gateway.console import assets
from gateway.console.board import Row
from gateway.console.frame import Visit
from gateway.console.templating import in_turn
from gateway.console.views import Shown, View, facts
from gateway.errors import ConflictError, NotFoundError, UsageError

NEWEST: Final = 5000
"""The newest test press is looked for among so many alerts."""
MAX_PRESENTED: Final = 200
JSON: Final = {"content-type": "application/json"}
HTML: Final = "text/html; charset=utf-8"
_NOT_CALM: Final[dict[str, Any]] = {"test_us": None, "frame_us": None}


async def home(visit: Visit) -> Response:
    """The queue with no alert chosen."""
    return await visit.page("queue.html", **await context(visit), alert=None)


async def part(visit: Visit) -> Response:
    """The queue alone, for the page's script. As long as nothing changes it is the same for all who see the same."""
    shown = await visit.frame.views.shown(visit.sight)
    if not shown.rows:  # what a calm queue says is as of now
        return await visit.page("queue_part.html", **await context(visit))
    view = visit.frame.views.known(visit.sight)
    if view is None or view.part[0] != view.shown.snapshot.number:
        view = await in_turn(lambda: _remember(visit))
    return assets.either(visit.request, view.part[1], view.part[2], HTML)


def _remember(visit: Visit) -> View:
    """The view with its newest part. Of many who ask at one time the first makes it."""
    view = visit.frame.views.of(visit.sight)
    shown = view.shown
    if view.part[0] != shown.snapshot.number:
        context = {**_told(visit, shown), "calm": _NOT_CALM, "t": visit.say.text, "w": visit.say.word}
        text = visit.frame.templates.get_template("queue_part.html").render(context).encode()
        view.part = (shown.snapshot.number, text, assets.pack(text))
    return view


async def context(visit: Visit) -> dict[str, Any]:
    """What the templates of the queue need."""
    shown = await visit.frame.views.shown(visit.sight)
    calm = {} if shown.rows else await visit.services.store.read(_calm)
    return _told(visit, shown) | {"calm": _NOT_CALM | calm, "now_us": visit.services.clock.now_us()}


def _told(visit: Visit, shown: Shown) -> dict[str, Any]:
    screens = visit.frame.board.screens
    return {
        "rows": shown.rows,
        "rows_html": shown.whole(),
        "facts": facts(shown.rows, shown.snapshot),
        "number": shown.snapshot.number,
        "seq": shown.snapshot.seq,
        "screens": sum(screens.copy().values()),
        "on_shift": len(screens),
    }


async def mine(visit: Visit) -> tuple[Row, ...]:
    """The rows that the visitor sees, names masked where the role asks for it."""
    return (await visit.frame.views.shown(visit.sight)).rows


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
    """What an empty queue shows: the newest test press and the newest frame."""
    row: Any = connection.execute(
        "SELECT (SELECT max(raised_at_us) FROM"
        " (SELECT raised_at_us, outcome FROM alert ORDER BY id DESC LIMIT ?) WHERE outcome = 'test'),"
        " (SELECT received_at_us FROM batch ORDER BY first_seq DESC LIMIT 1)",
        (NEWEST,),
    ).fetchone()
    return {"test_us": row[0], "frame_us": row[1]}
