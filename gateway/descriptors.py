"""File descriptors: what the sockets of devices must leave to the gateway itself."""

from __future__ import annotations

import resource
from typing import Final

RESERVED: Final = 256
"""For the journal's files, PostgreSQL, the order API, calls and the console: without one no order leaves."""


class Sockets:
    """Counts the sockets of devices over all listeners, since they share what the process may open."""

    def __init__(self) -> None:
        self._held = 0

    def opened(self) -> bool:
        """One more; whether it takes one of the last that the process may have."""
        self._held += 1
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return most != resource.RLIM_INFINITY and self._held > most - min(RESERVED, most // 2)

    def closed(self) -> None:
        self._held -= 1


SOCKETS: Final = Sockets()
"""Of this process, as the limit is."""
