"""Passwords: argon2id (RFC 9106). Hashing takes tens of milliseconds, so the loop asks a thread."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from gateway.errors import UsageError

MIN_LENGTH: Final = 12
MAX_LENGTH: Final = 200
AT_ONCE: Final = 2  # each takes a core and 19 MiB
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
# Of a random password: an unknown login then costs what a wrong password does.
_NOBODY: Final = "$argon2id$v=19$m=19456,t=2,p=1$g6nYiar7xbtK4iGZZXg6Bg$C5/mrsEp2BK+MgzW61ivMlWtvMLJdXli7t+VUn8Wc3w"


def new_password() -> str:
    """20 characters without lookalikes, about 115 random bits. Shown once."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(20))


def check_strength(password: str, login: str) -> None:
    """Raises UsageError for a password that is too short, too long, or made of little."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise UsageError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")
    if len(set(password)) < 5 or login.lower() in password.lower():
        raise UsageError("a password has at least five different characters, and not the login in it")


def hash_password(password: str) -> str:
    """The encoded argon2id hash. Takes tens of milliseconds."""
    return _HASHER.hash(password)


def fits(encoded: str | None, password: str) -> bool:
    """Whether this is the password. None takes as long, and never fits."""
    try:
        return _HASHER.verify(encoded or _NOBODY, password) and encoded is not None
    except (VerificationError, InvalidHashError):
        return False


class Hashing:
    """Hashes in threads, ``AT_ONCE`` at a time."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def fits(self, encoded: str | None, password: str) -> bool:
        async with self._slots:
            return await asyncio.to_thread(fits, encoded, password)

    async def hash(self, password: str) -> str:
        async with self._slots:
            return await asyncio.to_thread(hash_password, password)
