"""The screens that are connected, and whether the sessions of their people still are in force."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gateway.access.door import Door
from gateway.access.sessions import WATCHED_EVERY_S, Session

MAX_SCREENS: Final = 2000
SOON_S: Final = 5.0
TOGETHER: Final = 200
"""Sessions that are looked up in one read."""


class Connected(Protocol):
    """The stream of one page."""

    check_at_s: float
    """When its session is looked at next, on the loop's clock."""

    @property
    def session(self) -> Session: ...

    def end(self) -> None: ...


class Screens:
    """Add a stream to ``open`` while it is connected."""

    def __init__(self) -> None:
        self.open: dict[Connected, None] = {}

    def is_full(self) -> bool:
        return len(self.open) >= MAX_SCREENS

    async def check(self, due: Connected, door: Door) -> None:
        """Look at the session of this screen, and of those whose turn comes soon, all in one go.

        The streams of sessions that are over, or that see something else now, end. Raises StorageError.
        """
        now_s = asyncio.get_running_loop().time()
        together = [each for each in self.open if each.check_at_s <= now_s + SOON_S and each is not due]
        together = [due, *together[: TOGETHER - 1]]
        for each in together:
            each.check_at_s = now_s + WATCHED_EVERY_S
        known = await door.watched([each.session.token for each in together])
        for each in together:
            session, before = known.get(each.session.token), each.session.user
            if session is None or (session.user.role, session.user.district) != (before.role, before.district):
                each.end()
