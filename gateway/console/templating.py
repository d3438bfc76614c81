"""The templates of the pages, compiled once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final, TypeVar

import jinja2

from gateway.clock import to_us

T = TypeVar("T")
_ONE_BY_ONE: Final = ThreadPoolExecutor(1, "pages")
"""Threads share the interpreter evenly: with six of them at work on pages the loop that acknowledges presses got an
eighth of it. One makes as many pages in the same time."""


async def in_turn(make: Callable[[], T]) -> T:
    """The work of a page that takes milliseconds, in the thread of pages."""
    return await asyncio.get_running_loop().run_in_executor(_ONE_BY_ONE, make)


def milliseconds(at: str) -> int:
    """An RFC 3339 time as the page's script counts."""
    return to_us(datetime.fromisoformat(at)) // 1000


def environment() -> jinja2.Environment:
    """Everything that a template prints is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["ms"] = milliseconds
    return made
