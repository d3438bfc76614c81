"""The site's own secret."""

from __future__ import annotations

from pathlib import Path

from gateway.registry.site_secret import site_secret
from gateway.storage.database import FILE_NAME, open_database


def test_it_is_made_once_and_is_another_for_each_purpose_and_site(tmp_path: Path) -> None:
    first = open_database(tmp_path / FILE_NAME)
    with first:
        terminals, links = site_secret(first, "terminals"), site_secret(first, "links")
    first.close()
    assert len(terminals) == len(links) == 32
    assert terminals != links
    again = open_database(tmp_path / FILE_NAME)
    with again:
        assert site_secret(again, "terminals") == terminals
    again.close()
    other = open_database(tmp_path / "other.sqlite3")
    with other:
        assert site_secret(other, "terminals") != terminals
    other.close()
