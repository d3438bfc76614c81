"""The scripts of simulated terminals by protocol, with the profile that their devices are registered with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from simulators.terminals.base import Script
from simulators.terminals.gt06 import Gt06Script


class Kind(Struct, frozen=True):
    """``port`` is the well-known one."""

    script: type[Script]
    profile: str
    port: int


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "gt06": Kind(Gt06Script, "trackers.gt06", 5023),
    }
)
