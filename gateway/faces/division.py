"""Which requests the process of pages and streams serves. Both processes ask here, so that they agree.

It reads the journal file and writes nothing: what an act changes it asks of the gateway by ``errands``. What writes in
other ways, or needs a provider, is the gateway's: signing in, a look at what is masked, calls, orders, the installer's
and the family's pages.
"""

from __future__ import annotations

import re
from typing import Final

_READ: Final = re.compile(
    r"/console(?:/(?!(?:sign-in|code|password|persons/[^/]+|alerts/[^/]+/conference)$).*)?"
    r"|/api/v1/events(?:/ws)?"
)
_WRITTEN: Final = re.compile(
    r"/console/(?:presented|persons|devices"
    r"|alerts/[^/]+/(?:accept|progress|release|resolve|note|assign|escalate|reopen))"
)


def is_face(method: str, path: str) -> bool:
    """Whether this is served there."""
    if method in ("GET", "HEAD"):
        return _READ.fullmatch(path) is not None
    return method == "POST" and _WRITTEN.fullmatch(path) is not None
