"""A system bus of our own: a private dbus-daemon on a unix socket."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

START_S: Final = 10.0

_CONFIG: Final = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


def missing() -> str:
    """What to install before a bus can be started; "" when nothing is missing."""
    return "" if shutil.which("dbus-daemon") else "dbus-daemon is missing: apt-get install dbus"


class PrivateBus:
    """``with PrivateBus(folder) as bus:`` a bus at ``bus.address`` until the end of the block."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "bus"
        self._config = folder / "bus.conf"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What DBUS_SYSTEM_BUS_ADDRESS is set to."""
        return f"unix:path={self._socket}"

    def start(self) -> None:
        """Raises RuntimeError when the daemon does not come up."""
        self._config.write_text(_CONFIG.format(socket=self._socket), encoding="utf-8")
        self._process = subprocess.Popen(  # noqa: S603 - no shell, our own file
            ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--nopidfile"],  # noqa: S607 - from PATH
            stderr=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until_s:
                self.stop()
                raise RuntimeError("dbus-daemon did not start")
            time.sleep(0.005)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._socket))
            except OSError:
                return False
        return True

    def stop(self) -> None:
        """End the bus; whoever was on it is cut off."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self._socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
