"""The WHERE of a question, built of what was asked."""

from __future__ import annotations

from typing import Any

Filter = tuple[object, str, tuple[str | int | None, ...]]
"""Whether it was asked for (a false value: it was not), its SQL, and what is bound to that."""


def where(*filters: Filter) -> tuple[str, tuple[Any, ...]]:
    """`` WHERE ... AND ...`` of the filters that were asked for ("" for none), and their bindings.

    What was not asked for is left out, because SQLite uses no index for ``? = '' OR column = ?``.
    """
    asked = [(text, bindings) for wanted, text, bindings in filters if wanted]
    text = f" WHERE {' AND '.join(text for text, _ in asked)}" if asked else ""
    return text, tuple(value for _, bindings in asked for value in bindings)
