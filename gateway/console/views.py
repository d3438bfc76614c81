"""What the screens show of the queue, made once for everybody who sees the same of it in the same language."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import jinja2
import msgspec
from markupsafe import Markup
from msgspec import Struct

from gateway.console.board import Board, Change, Row, Snapshot
from gateway.console.templating import environment, in_turn
from gateway.console.words import Language, Translator
from gateway.security import mask_name

KEPT: Final = 64
"""News of a view that are kept for screens that lag behind, and for those that come back."""
MAX_VIEWS: Final = 256
LEVELS: Final = (1, 2, 3, 4)


class Sight(Struct, frozen=True):
    """Who sees the same: one language, names in the clear or masked, one district or ("") all."""

    language: Language
    names: bool
    district: str


class News(Struct, frozen=True):
    """A newer state as text of an event stream. A screen that shows ``before`` or later shows ``number`` after it."""

    before: int
    number: int
    seq: int
    text: bytes


class Shown(Struct, frozen=True):
    """What a view shows. ``html`` has the rows in the order of the queue; ``news`` are the newest, the newest last."""

    snapshot: Snapshot
    rows: tuple[Row, ...]
    html: dict[str, tuple[Row, str]]
    news: tuple[News, ...]

    def news_after(self, number: int) -> tuple[News, ...] | None:
        """What a screen that shows ``number`` has not been told yet; None when that reaches back too far."""
        if number >= self.snapshot.number:
            return ()
        if self.news and self.news[-1].before == number:  # as nearly always
            return self.news[-1:]
        found = tuple(each for each in self.news if each.number > number)
        return found if found and found[0].before <= number else None

    def number_of(self, seq: int) -> int:
        """The state that a screen shows that was told of everything up to ``seq``; 0 when nobody knows any more."""
        if seq >= self.snapshot.seq:
            return self.snapshot.number
        return next((each.number for each in reversed(self.news) if each.seq == seq), 0)

    def whole(self) -> Markup:
        """All rows as HTML."""
        return Markup("".join(html for _, html in self.html.values()))  # noqa: S704 - each row's template escaped it


class View:
    """The queue of one Sight. ``shown`` is replaced as a whole: it is read without a lock."""

    def __init__(self, sight: Sight, template: jinja2.Template) -> None:
        self.sight = sight
        self._template = template
        self._say = Translator(sight.language)
        self._following = threading.Lock()
        self.shown = Shown(Snapshot(), (), {}, ())
        self.part: tuple[int, bytes, bytes] = (0, b"", b"")
        """The queue as a part of a page: of which number, plain, and compressed (gateway.console.queue)."""

    def follow(self, snapshot: Snapshot) -> None:
        """Come to this state. An older one than is shown already changes nothing. In a thread: rows are rendered."""
        with self._following:
            if snapshot.number > self.shown.snapshot.number:
                self.shown = self._after(self.shown, snapshot)

    def _after(self, old: Shown, snapshot: Snapshot) -> Shown:
        rows = tuple(self._masked(row) for row in snapshot.rows if row.is_of(self.sight.district))
        html: dict[str, tuple[Row, str]] = {}
        fresh = []
        for row in rows:
            known = old.html.get(row.id)
            if known is None or known[0] != row:
                known = (row, self._template.render(row=row, t=self._say.text, w=self._say.word))
                fresh.append((row.id, known[1]))
            html[row.id] = known
        before = old.snapshot.number
        told = {
            "before": before,
            "number": snapshot.number,
            "rows": fresh,
            "gone": [alert_id for alert_id in old.html if alert_id not in html],
            "facts": facts(rows, snapshot),
        }
        text = event("queue", told, snapshot.seq)
        changes = changes_told(snapshot.changes, self.sight)
        if changes:
            text = event("change", changes, snapshot.seq) + text
        if (
            before != snapshot.number - 1
        ):  # the first, or one was left out, and its changes with it: screens ask the board
            return Shown(snapshot, rows, html, ())
        news = News(before, snapshot.number, snapshot.seq, text)
        return Shown(snapshot, rows, html, (*old.news[1 - KEPT :], news))

    def _masked(self, row: Row) -> Row:
        return row if self.sight.names else msgspec.structs.replace(row, name=mask_name(row.name), address="")


class Views:
    """All views that are in use. ``publish`` is what the board calls."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._template = environment().get_template("queue_row.html")
        self._views: dict[Sight, View] = {}
        self._lock = threading.Lock()
        board.publish = self.publish

    def known(self, sight: Sight) -> View | None:
        """The view of this sight, if it follows the board already."""
        return self._views.get(sight)

    def of(self, sight: Sight) -> View:
        """The view of this sight, at the board's newest state. Call it in a thread: it may have to be made."""
        with self._lock:
            view = self._views.pop(sight, None) or View(sight, self._template)
            self._views[sight] = view  # the newest used stands last
            if len(self._views) > MAX_VIEWS:
                del self._views[next(iter(self._views))]
        view.follow(self._board.snapshot)
        return view

    async def shown(self, sight: Sight) -> Shown:
        """What this sight is shown now; made in a thread where nobody has asked for it before."""
        view = self._views.get(sight)
        if view is None or view.shown.snapshot.number < self._board.snapshot.number:
            view = await in_turn(lambda: self.of(sight))
        return view.shown

    def publish(self, snapshot: Snapshot) -> None:
        """Every view comes to a newer state."""
        with self._lock:
            views = list(self._views.values())
        for view in views:
            view.follow(snapshot)


def changes_told(changes: Sequence[Change], sight: Sight) -> list[dict[str, str]]:
    """What a screen is told of transitions."""
    return [
        {"alert": change.alert_id, "action": change.action} for change in changes if change.is_of(sight.district)
    ]  # fmt: skip


def facts(rows: Sequence[Row], snapshot: Snapshot) -> dict[str, Any]:
    """The figures of the bar. ``oldest_ms``: since when the oldest waits that nobody has accepted."""
    waiting = [row.raised_at_us for row in rows if row.handling == "raised" and not row.suppressed]
    counts = {level: sum(row.severity == level for row in rows) for level in LEVELS}
    return {
        "p1": counts[1],
        "p2": counts[2],
        "p3": counts[3] + counts[4],
        "oldest_ms": min(waiting) // 1000 if waiting else None,
        "left_out": snapshot.left_out,
        "screens": snapshot.screens,
    }


def event(name: str, data: Any, seq: int) -> bytes:
    """One event of an event stream."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, name.encode(), msgspec.json.encode(data))
