"""The site's own ground: a GeoJSON file under the maps, in the datum of the tiles over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.datum import from_wgs84
from gateway.errors import ConfigError

LARGEST: Final = 4_000_000
"""Characters of the file."""
_INNER: Final = frozenset({"features", "geometry", "geometries"})


def read_outline(file: str, datum: str = "wgs84") -> str:
    """The text of a FeatureCollection in WGS-84, moved to this datum; "" for no file. Raises ConfigError."""
    if not file:
        return ""
    try:
        text = Path(file).read_text(encoding="utf-8")
        decoded: Any = msgspec.json.decode(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"console.outline_file: {file}: {error}") from error
    kind = decoded.get("type") if isinstance(decoded, dict) else None
    if len(text) > LARGEST or kind != "FeatureCollection":
        raise ConfigError(f"console.outline_file: {file}: no FeatureCollection of at most {LARGEST} characters")
    try:
        return msgspec.json.encode(shifted(decoded, datum)).decode()
    except (TypeError, ValueError, IndexError, RecursionError) as error:
        raise ConfigError(f"console.outline_file: {file}: it has coordinates that are none") from error


def shifted(value: Any, datum: str) -> Any:
    """GeoJSON in WGS-84 as GeoJSON in the datum of a map: ``gcj02``, ``bd09``, or for every other name as it is."""
    if datum not in ("gcj02", "bd09"):
        return value
    named: Any = datum

    def move(part: Any) -> Any:
        if isinstance(part[0], int | float):
            latitude, longitude = from_wgs84(part[1], part[0], named)
            return [longitude, latitude]
        return [move(each) for each in part]

    if isinstance(value, list):
        return [shifted(each, datum) for each in value]
    if not isinstance(value, dict):
        return value
    moved = {name: shifted(each, datum) if name in _INNER else each for name, each in value.items()}
    return moved | {"coordinates": move(value["coordinates"])} if value.get("coordinates") else moved
