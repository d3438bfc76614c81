"""The life of the daemon: check, recover, open the doors, run, drain."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import resource
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

import apsw
import structlog

from gateway.access.passwords import hash_password, new_password
from gateway.access.users import add_user, has_users
from gateway.assembly import Parts
from gateway.clock import Clock, SystemClock
from gateway.config import Settings
from gateway.console.family_link import PURPOSE as FAMILY_LINK
from gateway.errors import CarebellError, ConfigError, StorageBrokenError, StorageError, TransportError
from gateway.model import Actor
from gateway.notify_systemd import Notifier, watch
from gateway.precedence import go_first
from gateway.registry.keys import has_admin_key, issue_api_key
from gateway.registry.site_secret import site_secret
from gateway.storage import integrity
from gateway.supervise import keep_running
from gateway.telemetry import export

REGISTRY_POLL_S: Final = 0.3
UNKNOWN_FLUSH_S: Final = 2.0
STOOD_STILL_S: Final = 30.0
DRAIN_S: Final = 10.0
OPEN_FILES: Final = 65_536
FIRST_USER: Final = "admin"

log = structlog.get_logger("carebell")


class Gateway:
    """One daemon on one data directory. ``say`` prints the few lines that a person at the terminal sees."""

    def __init__(self, settings: Settings, say: Callable[[str], None], clock: Clock | None = None) -> None:
        self._settings = settings
        self._say = say
        self._clock = clock or SystemClock()
        self._stop = asyncio.Event()
        self._broken: StorageBrokenError | None = None
        self._notifier = Notifier()

    def stop(self) -> None:
        """Drain and end."""
        self._stop.set()

    def _on_broken(self, error: StorageBrokenError) -> None:
        self._broken = error
        self._stop.set()

    async def run(self) -> None:
        """Until ``stop``. Raises ConfigError, TransportError (a listener's address), StorageBrokenError."""
        data_dir = self._settings.data_dir
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(data_dir)
        try:
            faults = integrity.check(data_dir)
            if faults:
                folder = integrity.quarantine(data_dir, faults, self._clock.now_us())
                self._say(f"THE JOURNAL WAS DAMAGED. The damaged files are in {folder}; read report.txt there.")
            (data_dir / integrity.SUSPICION).unlink(missing_ok=True)
            parts = Parts(self._settings, self._clock, self._on_broken)
            try:
                await self._run(parts)
            finally:
                await parts.writer.close()
            if self._broken is not None:
                raise self._broken
        except* StorageBrokenError:  # alone, or out of the tasks that met it
            integrity.suspect(data_dir)
            raise
        finally:
            os.close(lock)

    async def _run(self, parts: Parts) -> None:
        export(parts)
        first_key = await self._recover(parts)
        first_password = await self._first_user(parts)
        for endpoint in parts.mqtt.values():
            await endpoint.start()
        await parts.terminals.start()
        await parts.mobile.start()
        await parts.receivers.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        # What start-up made stays for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(5_000, 2, 5_000)  # short pauses: 50,000 young objects took 13 ms; messages leave none behind
        async with asyncio.TaskGroup() as core:
            inner = [core.create_task(work, name=name) for name, work in self._core(parts).items()]
            databases = core.create_task(self._databases(parts), name="databases")
            doors = core.create_task(self._doors(parts), name="doors")
            api = core.create_task(self._serve_api(parts), name="api")
            faces = core.create_task(self._show_faces(parts), name="faces")
            await self._announce(parts, first_key, first_password)
            await self._stop.wait()
            self._notifier.stopping()
            log.info("draining")
            if parts.faces is not None:
                parts.faces.close()
            if parts.api is not None:
                parts.api.close()
            doors.cancel()
            await asyncio.wait([doors, api, faces], timeout=DRAIN_S)
            if self._broken is None:
                await self._settle(parts)
            databases.cancel()
            await asyncio.wait([databases])
            for task in (*inner, api, faces):
                task.cancel()
        for provider in parts.escalation.providers:
            await provider.close()
        await parts.queries.close()

    async def _recover(self, parts: Parts) -> str | None:
        """Take up what the journal holds, before anything is taken in; returns a new administrator key, if any."""
        now_us = self._clock.now_us()

        def prepare(connection: apsw.Connection) -> str | None:
            names = ["rules", "marks", *(["history"] if parts.history is not None else [])]
            names += parts.feeding.reader_names()
            marks = ", ".join("?" * len(names))
            connection.execute(f"DELETE FROM reader WHERE name NOT IN ({marks})", names)  # noqa: S608 - placeholders
            new = [(name,) for name in names if not name.startswith("webhook:")]
            connection.executemany("INSERT OR IGNORE INTO reader VALUES (?, 0, 0)", new)
            parts.feeding.prepare(connection, now_us)
            if has_admin_key(connection, now_us):
                return None
            system = Actor("system", "first-start")
            return issue_api_key(connection, {"role": "admin", "label": "first start"}, at_us=now_us, actor=system)[1]

        first_key = await parts.writer.write(prepare)
        parts.family.key = await parts.writer.write(lambda c: site_secret(c, FAMILY_LINK))
        parts.terminals.use_secret(await parts.writer.write(lambda c: site_secret(c, "terminals")))
        await parts.writer.read(parts.registry.load)
        await parts.writer.read(parts.housekeeping.recover)
        await parts.writer.read(parts.states.recover)
        judged = await parts.writer.read(parts.judge.recover)
        if parts.judge.seq:  # a gateway that was never there before has not been away either
            parts.engine.resume(now_us)
        parts.feed.committed(parts.judge.seq)
        if judged:
            log.info("journal_replayed", numbers=judged)
        return first_key

    async def _first_user(self, parts: Parts) -> str | None:
        """The password of a first administrator, where there are pages and nobody can sign in to them."""
        if parts.faces is None or await parts.writer.read(has_users):
            return None
        password = new_password()
        encoded = await asyncio.to_thread(hash_password, password)
        now_us, system = self._clock.now_us(), Actor("system", "first-start")
        await parts.writer.write(
            lambda c: add_user(c, FIRST_USER, name="", role="admin", password_hash=encoded, at_us=now_us, actor=system)
        )
        return password

    def _core(self, parts: Parts) -> dict[str, Coroutine[None, None, None]]:
        """Work whose failure ends the process: a restart and the journal's replay are better than going on without."""
        progress = [lambda: self._timers_stand_still(parts)]
        modem = {} if parts.ways.modem is None else {"modem": keep_running("modem", parts.ways.modem.run)}
        return modem | {
            "alerts": parts.alerts.run(),
            "outbox": parts.outbox.run(),
            "judge": parts.judge.run(),
            "care": parts.care.service.run(),
            "housekeeping": parts.housekeeping.run(),
            "feed": parts.feed.run(),
            "lag": parts.lag.run(),
            "load": parts.load.run(),
            "registry": self._follow_registry(parts),
            "unknown": self._write_unknown(parts),
            "replay": parts.replaying.run(),
            "watchdog": watch(self._notifier, parts.health.probe, progress),
        }

    async def _doors(self, parts: Parts) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(parts.terminals.run())
            group.create_task(parts.mobile.run())
            if parts.ble is not None:
                group.create_task(keep_running("ble", parts.ble.run))
            group.create_task(parts.receivers.run())
            group.create_task(parts.serial.run())
            group.create_task(keep_running("call_backs", parts.call_backs.run))
            group.create_task(keep_running("visits", parts.visits.run))
            if parts.ways.alarm_centers is not None:
                group.create_task(keep_running("alarm_centers", parts.ways.alarm_centers.run))
            group.create_task(parts.brokers.run())
            for name, endpoint in parts.mqtt.items():
                group.create_task(keep_running(name, endpoint.run))
            group.create_task(keep_running("commands", parts.commands.run))

    async def _serve_api(self, parts: Parts) -> None:
        if parts.api is not None:
            await parts.api.run()

    async def _show_faces(self, parts: Parts) -> None:
        if parts.faces is not None:
            await parts.faces.run()

    async def _databases(self, parts: Parts) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                if parts.postgres is not None:
                    group.create_task(keep_running("postgresql", parts.postgres.run))
                if parts.history is not None:
                    group.create_task(keep_running("history", parts.history.run))
                group.create_task(parts.feeding.run())
        finally:
            if parts.postgres is not None:
                await parts.postgres.stop()

    async def _announce(self, parts: Parts, first_key: str | None, first_password: str | None) -> None:
        for name, endpoint in parts.mqtt.items():
            self._say(f"{name:<8} {endpoint.address}")
        parts.terminals.announce(self._say)
        parts.mobile.announce(self._say)
        if parts.ble is not None:
            self._say(f"ble      {self._settings.ble.adapter}")
        parts.receivers.announce(self._say)
        parts.serial.announce(self._say)
        parts.brokers.announce(self._say)
        if parts.api is not None:
            async with asyncio.timeout(10):
                await parts.api.started.wait()
            host, port = parts.api.address
            self._say(f"http     http://{host}:{port}")
        self._say(f"data     {self._settings.data_dir}")
        for section in self._settings.not_in_this_version():
            self._say(f"NOTE     [{section}] is configured, but this version of carebell has no such part")
            log.error("section_not_in_this_version", section=section)
        for finding in parts.escalation.findings()[:1]:  # `carebell check` says them all
            self._say(f"NOTE     {finding}")
            log.warning("reach", error=finding)
        if first_key is not None:
            self._say(f"first administrator key (shown this once): {first_key}")
        if first_password is not None:
            self._say(f"first user of /console: {FIRST_USER}, password (shown this once): {first_password}")
        self._say("carebell ready")
        self._notifier.ready("running")

    async def _settle(self, parts: Parts) -> None:
        """The doors are closed: commit what came in, write down what it led to, and how far everybody is."""
        try:
            await parts.ingest.close()
            await parts.alerts.drained()
            await parts.judge.save()
            await parts.housekeeping.save()
            await parts.unknown.flush(parts.writer)
        except StorageError as error:
            log.error("not_settled", error=str(error))

    async def _follow_registry(self, parts: Parts) -> None:
        while True:
            await asyncio.sleep(REGISTRY_POLL_S)
            try:
                await parts.registry.refresh_if_changed()
            except StorageBrokenError:
                raise
            except StorageError as error:
                log.error("registry_not_read", error=str(error))

    async def _write_unknown(self, parts: Parts) -> None:
        while True:
            await asyncio.sleep(UNKNOWN_FLUSH_S)
            try:
                await parts.unknown.flush(parts.writer)
            except StorageBrokenError:
                raise
            except StorageError as error:
                log.error("unknown_devices_not_written", error=str(error))

    def _timers_stand_still(self, parts: Parts) -> str:
        silent_us = self._clock.now_us() - parts.judge.ticked_us
        return "" if silent_us < STOOD_STILL_S * 1e6 else "the rules' timers do not run"


def _lock(data_dir: Path) -> int:
    """Hold the directory for this process. Raises StorageError when another carebell has it."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageError(f"another carebell runs on {data_dir}") from error
    return descriptor


def run(settings: Settings, say: Callable[[str], None]) -> None:
    """Run the daemon on uvloop until a signal ends it."""
    import uvloop  # noqa: PLC0415 - only the daemon needs it

    go_first()

    # Every connection is a file: take as many as the system grants.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(most, OPEN_FILES)
    for limit in (wanted, most):  # only root and the service manager may have more than they were given
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            break
        except (OSError, ValueError):
            continue

    async def main() -> None:
        await Gateway(settings, say).run()

    try:
        uvloop.run(main())
    except* (ConfigError, TransportError, StorageError) as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[CarebellError]) -> CarebellError:
    """The first error in groups within groups: what the command line has a word and an exit code for."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
