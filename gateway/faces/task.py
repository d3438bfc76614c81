"""What the gateway tells the process of pages and streams when it starts it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Task(Struct, kw_only=True):
    """``passage`` and ``errands`` are inherited descriptors, ``console`` and ``access`` those sections of the
    configuration, ``conferences`` says whether a provider holds them.
    """

    journal: str
    site: str
    parent_pid: int
    passage: int
    errands: int
    log_format: str
    console: dict[str, Any]
    access: dict[str, Any]
    conferences: bool
