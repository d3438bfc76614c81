"""The sections of what a platform consumes: Redis and webhooks."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from gateway.config_types import Section

EventKind = Literal["observation", "alert", "device", "order"]
ENDPOINT_NAME: Final = r"^[A-Za-z0-9._-]{1,64}$"


def _redis_url(value: str) -> str:
    if not value:
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
        raise ValueError("must be redis://HOST:PORT/DB, rediss://... or unix:///PATH")
    if parts.password is not None:
        raise ValueError("leave the password out; redis.password_file names the file that holds it")
    return value


RedisUrl = Annotated[str, AfterValidator(_redis_url)]


class RedisSection(Section):
    """The event bus and the live state. "" switches both off."""

    url: RedisUrl = ""
    username: str = ""
    password_file: str = ""
    partitions: int = Field(16, ge=1, le=256)
    max_entries: int = Field(100_000, ge=1000, le=100_000_000)
    republish_hours: float = Field(24.0, ge=0, le=8760)


class FeedWebhookSection(Section):
    """One endpoint that is told events, in order."""

    url: str
    secret_files: tuple[str, ...] = Field(min_length=1, max_length=5)
    allowed_networks: tuple[str, ...] = ()
    types: tuple[EventKind, ...] = ("alert", "device", "order")
    disable_after_hours: float = Field(72.0, gt=0, le=8760)


class FeedSection(Section):
    """Endpoints by name; the name is the endpoint's bookmark."""

    webhook: dict[Annotated[str, StringConstraints(pattern=ENDPOINT_NAME)], FeedWebhookSection] = Field({})
