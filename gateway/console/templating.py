"""The templates of the pages, compiled once."""

from __future__ import annotations

from datetime import datetime

import jinja2

from gateway.clock import to_us


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
