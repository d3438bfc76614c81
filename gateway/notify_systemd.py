"""sd_notify(3): telling systemd that the daemon is ready, what it does, and that it still works."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog


class Notifier:
    """Datagrams to the socket that systemd names in NOTIFY_SOCKET; without one, nothing happens."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and mine else 0.0
        """How often systemd wants to hear of us; 0 when it has no watchdog for this process."""

    def send(self, *assignments: str) -> bool:
        """Send ``NAME=value`` lines; False when there is nobody to hear them."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return False  # systemd is away or its buffer is full; the next message tells the same
        return True

    def ready(self, status: str) -> bool:
        return self.send("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> bool:
        return self.send(f"STATUS={_line(text)}")

    def stopping(self) -> bool:
        return self.send("STOPPING=1", "STATUS=draining")


async def watch(
    notifier: Notifier, probe: Callable[[], Awaitable[str]], progress: Sequence[Callable[[], str]] = ()
) -> None:
    """Ping the watchdog, three times in its interval, for as long as everything makes progress. Runs until cancelled.

    ``probe`` commits something and returns "" or what is wrong; each ``progress`` says what stands still, or "".
    That this task runs at all shows that the loop does. Without a watchdog the probe still runs, for the log.
    """
    log = structlog.get_logger("watchdog")
    interval_s = notifier.watchdog_s / 3 if notifier.watchdog_s else 10.0
    silent = ""
    while True:
        trouble = await probe() or next(filter(None, (check() for check in progress)), "")
        if not trouble:
            notifier.send("WATCHDOG=1")
        if trouble != silent:
            if trouble:
                log.error("watchdog_withheld", reason=trouble)
            else:
                log.info("watchdog_resumed")
            notifier.status(trouble or "running")
            silent = trouble
        await asyncio.sleep(interval_s)


def _line(text: str) -> str:
    return " ".join(text.split())
