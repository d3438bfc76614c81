"""The end of the daemon: whatever task met the error, the command line gets the error itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import app
from gateway.config import load_settings
from gateway.errors import StorageBrokenError, StorageError
from gateway.storage import integrity


def test_an_error_deep_in_the_tasks_comes_out_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_down(*_: object) -> None:
        raise BaseExceptionGroup("core", [BaseExceptionGroup("alerts", [StorageBrokenError("the disk says no")])])

    monkeypatch.setattr(app.Gateway, "_run", break_down)
    monkeypatch.setattr(app, "go_first", lambda: False)  # this process is not the daemon
    with pytest.raises(StorageBrokenError, match="the disk says no"):
        app.run(load_settings(None, tmp_path), print)
    assert (tmp_path / integrity.SUSPICION).exists(), "the next start looks at every page"


def test_a_directory_serves_one_daemon(tmp_path: Path) -> None:
    held = app._lock(tmp_path)
    with pytest.raises(StorageError, match="another carebell"):
        app._lock(tmp_path)
    assert held >= 0
