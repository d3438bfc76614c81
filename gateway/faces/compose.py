"""What both processes put together alike: the frame of the pages, and who checks tokens."""

from __future__ import annotations

from typing import Any

from gateway.access.door import Attendance, Door
from gateway.access.sessions import Limits
from gateway.access.tokens import TokenVerifier
from gateway.api.services import Shared
from gateway.clock import Clock
from gateway.config_console import AccessSection, ConsoleSection
from gateway.console.board import Board
from gateway.console.frame import Frame, Look
from gateway.console.outline import read_outline
from gateway.faces.errands import Errand
from gateway.model import Actor


def page_frame(
    shared: Shared,
    board: Board,
    console: ConsoleSection,
    access: AccessSection,
    *,
    conferences: bool,
    attendance: Attendance,
) -> Frame:
    """The frame of the console's pages. Raises ConfigError for an outline that cannot be read."""
    datum = console.tile_datum if console.tile_url else "wgs84"
    look = Look(
        public_url=console.public_url,
        tile_url=console.tile_url,
        tile_datum=datum,
        tile_attribution=console.tile_attribution,
        outline=read_outline(console.outline_file, datum),
        hotline=console.hotline,
        conferences=conferences,
    )
    limits = Limits(
        idle_us=round(access.idle_minutes * 60e6),
        watch_us=round(access.watch_hours * 3600e6),
        absolute_us=round(access.session_hours * 3600e6),
    )
    door = Door(shared.store, shared.clock, limits, second_factor=access.second_factor, attendance=attendance)
    return Frame(services=shared, door=door, board=board, look=look)


def errands_of(services: Shared, attendance: Attendance) -> dict[str, Errand]:
    """What the process of pages may ask of the gateway."""

    async def act(actor: dict[str, str], **asked: Any) -> dict[str, Any]:
        return await services.desk.act(actor=Actor(**actor), **asked)

    async def limits(person_id: str) -> list[dict[str, Any]]:
        return [] if services.limits is None else await services.limits(person_id)

    return {"act": act, "seen": attendance.seen, "watched": attendance.watched, "limits": limits}


def token_verifier(access: AccessSection, clock: Clock) -> TokenVerifier | None:
    """Who checks the tokens of the site's identity provider; None when it has none."""
    if not access.issuer:
        return None
    return TokenVerifier(
        issuer=access.issuer,
        audience=access.audience,
        keys_file=access.jwks_file,
        keys_url=access.jwks_url,
        role_claim=access.role_claim,
        clock=clock,
    )
