"""Sections of the pages and of who may sign in to them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config_types import HttpUrl, Section


class AccessSection(Section):
    """Sessions of people, and tokens of an identity provider."""

    second_factor: bool = True
    idle_minutes: float = Field(15.0, ge=1, le=120)
    watch_hours: float = Field(13.0, ge=0.1, le=24)
    session_hours: float = Field(13.0, ge=0.1, le=24)
    issuer: str = ""
    audience: str = ""
    jwks_file: str = ""
    jwks_url: HttpUrl = ""
    role_claim: str = Field("roles", min_length=1, max_length=100)


class ConsoleSection(Section):
    """The call center's pages under /console, the installer's and the family's; ``hotline`` is the center's number."""

    enabled: bool = True
    public_url: HttpUrl = ""
    tile_url: str = Field("", pattern=r"^$|^https?://[^\s\"'<>;,]+\{z\}[^\s\"'<>;,]*$")
    tile_datum: Literal["wgs84", "gcj02"] = "gcj02"
    tile_attribution: str = Field("", max_length=200)
    outline_file: str = ""
    hotline: str = Field("", pattern=r"^\+?[0-9]{0,15}$")
