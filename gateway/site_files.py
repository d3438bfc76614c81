"""Files that a site may add to or change: carebell's own first, then those of the site's folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from gateway.errors import ConfigError


def toml_files(package: str, own: str, directories: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Name and text of each ``*.toml`` in the folder ``own`` of the package, then in the directories, by name.

    Directories that do not exist hold none. Raises ConfigError for a file that cannot be read.
    """
    for entry in sorted((resources.files(package) / own).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            yield f"{own}/{entry.name}", entry.read_text("utf-8")
    for directory in directories:
        for path in sorted(directory.glob("*.toml")):
            try:
                yield str(path), path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
