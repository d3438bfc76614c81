"""The site's own secret: made once, kept in the file with everything else, so that a backup carries it along."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

import apsw

_KEY: Final = "site_secret"
_BYTES: Final = 32


def site_secret(connection: apsw.Connection, purpose: str) -> bytes:
    """32 bytes for one purpose, the same for ever; nothing of another purpose's can be told from them.

    In the caller's write transaction, since the first call makes the secret (HMAC-SHA256 of the purpose under it).
    """
    connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (_KEY, secrets.token_hex(_BYTES)))
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    assert row is not None
    return hmac.new(bytes.fromhex(str(row[0])), purpose.encode(), hashlib.sha256).digest()
