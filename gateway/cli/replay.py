"""``carebell replay``: understand the journal's frames again, and repair what was not understood then."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import apsw
import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_CONFIG,
    EXIT_USAGE,
    EXIT_WRONG,
    ConfigOption,
    DataDirOption,
    JsonOption,
    fail,
    open_journal,
    print_json,
    settings_of,
)
from gateway.errors import ConfigError

if TYPE_CHECKING:  # imported when it runs: keeps `--help` quick
    from gateway.config import Settings
    from gateway.replaying.compare import Finding, Part, Repair
    from gateway.replaying.frames import Kept
    from gateway.replaying.reader import Reader

ROWS: Final = 1000
"""Repairs of one transaction: a few milliseconds in which a daemon waits."""
NICE: Final = 10


def replay(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    from_seq: Annotated[int, typer.Option("--from", metavar="SEQ", min=0, help="First sequence number.")] = 0,
    to_seq: Annotated[int, typer.Option("--to", metavar="SEQ", min=0, help="Last sequence number; 0: all.")] = 0,
    device: Annotated[str, typer.Option("--device", metavar="D", help="Only this device (id, or what it says).")] = "",
    faults: Annotated[bool, typer.Option("--faults", help="Only records with a fault.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Repair values that read otherwise too; what was said then stays.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Repair; without it nothing is changed.")] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit; --apply needs it.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Understand the frames of the journal again, with the codecs and profiles of now, and show what differs.

    Exit code 1 when something differs. With --apply what a record lacks becomes a record of its own, late, by the
    running daemon or the next one.

    Example: carebell replay --faults --apply --reason "profile acme.clip corrected"
    """
    if apply and not reason.strip():
        fail("--apply needs a --reason; the audit keeps it", EXIT_USAGE)
    if to_seq and to_seq < from_seq:
        fail(f"--to {to_seq} is before --from {from_seq}", EXIT_USAGE)
    with contextlib.suppress(OSError):
        os.nice(NICE)  # a daemon beside it goes first
    settings = settings_of(config, data_dir)
    with open_journal(config, data_dir, read_only=not apply) as connection:
        try:
            reader = _reader(settings, connection, also_changed=changed)
        except ConfigError as error:
            fail(str(error), EXIT_CONFIG)
        run = _Run(connection, reader, device=device, faults=faults, apply=apply, reason=reason, as_json=json_output)
        run.go(from_seq, to_seq)
        run.tell(settings.data_dir)
    if run.differing and not apply:
        raise typer.Exit(EXIT_WRONG)


def _reader(settings: Settings, connection: apsw.Connection, *, also_changed: bool) -> Reader:
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - keeps `--help` quick
    from gateway.receivers import ReceiverCodecs  # noqa: PLC0415
    from gateway.registry.directory import Snapshot, load_snapshot  # noqa: PLC0415
    from gateway.replaying.reader import Reader  # noqa: PLC0415
    from gateway.replaying.registry import SnapshotDirectory, person_at  # noqa: PLC0415
    from protocols.registry import CODECS  # noqa: PLC0415

    profiles = load_profiles([settings.profiles_dir])

    def codec_of(profile: str) -> str | None:
        known = profiles.get(profile)
        return None if known is None else known.codec

    receivers = ReceiverCodecs(settings, lambda _: None)
    return Reader(
        {**CODECS, **receivers.by_name()},
        profiles,
        SnapshotDirectory(load_snapshot(connection, codec_of, Snapshot())),
        lambda device_id, at_us: person_at(connection, device_id, at_us),
        also_changed=also_changed,
    )


class _Run:
    """One pass: prints what differs as it finds it, and queues the repairs in transactions of their own."""

    def __init__(
        self,
        connection: apsw.Connection,
        reader: Reader,
        *,
        device: str,
        faults: bool,
        apply: bool,
        reason: str,
        as_json: bool,
    ) -> None:
        from gateway.replaying import queue  # noqa: PLC0415 - keeps `--help` quick

        self._connection = connection
        self._reader = reader
        self._device = device
        self._faults = faults
        self._apply = apply
        self._reason = reason
        self._as_json = as_json
        self._has_table = queue.exists(connection)
        self._rows: list[tuple[int, int, bytes, bool]] = []
        self.frames = self.differing = self.better = self.queued = self.unreadable = self.damaged = 0
        self.left: Counter[str] = Counter()

    def go(self, from_seq: int, to_seq: int) -> None:
        from gateway.replaying.frames import pages  # noqa: PLC0415
        from gateway.replaying.queue import forget, known  # noqa: PLC0415
        from gateway.storage.journal import last_record_seq  # noqa: PLC0415

        if self._apply:
            with self._connection:
                forget(self._connection)
        newest = last_record_seq(self._connection)  # what is committed meanwhile was understood by today's daemon
        seq = from_seq
        for page in pages(self._connection, from_seq, min(newest, to_seq or newest)):
            self.damaged += len(page.corrupt)
            repaired = known(self._connection, seq, page.last_seq) if self._has_table else {}
            for kept in page.frames:
                self._look_at(kept, repaired.get(kept.seq, []))
            seq = page.last_seq
            if len(self._rows) >= ROWS:
                self._write()
        self._write()

    def _look_at(self, kept: Kept, rounds: list[list[Repair]]) -> None:
        from gateway.replaying.compare import ALONE, encode  # noqa: PLC0415
        from gateway.replaying.reader import is_repair  # noqa: PLC0415

        if is_repair(kept):  # it is looked at with the record that it repairs
            return
        self.frames += 1
        if not self._reader.can_read(kept):
            self.unreadable += 1
            return
        found = self._reader.look_at(kept, [repair for repairs in rounds for repair in repairs])
        if found is None or not self._is_meant(found):
            return
        if found.why:
            self.left[found.why] += 1
        if found.why == ALONE:  # nobody can say whether it differs
            return
        self.differing += 1
        self.better += not found.why
        if self._apply and (not found.why or found.known):
            self._rows.append((kept.seq, len(rounds) + 1, encode(found.repairs), found.known))
        if not self._apply or self._as_json:
            self._show(kept, found)

    def _is_meant(self, found: Finding) -> bool:
        parts = [*found.was, *found.now]
        if self._device and not any(self._device in (part.device_id, part.device_key) for part in parts):
            return False
        return not self._faults or any(part.fault is not None for part in found.was)

    # ---- applying --------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        from gateway import audit  # noqa: PLC0415
        from gateway.cli.registry_shared import now_us  # noqa: PLC0415
        from gateway.replaying.queue import put  # noqa: PLC0415

        rows, self._rows = self._rows, []
        while part := rows[:ROWS]:
            del rows[:ROWS]
            with self._connection:
                at_us = now_us()
                waiting = put(self._connection, [row for row in part if not row[3]], at_us)
                put(self._connection, [row for row in part if row[3]], at_us)
                if waiting:
                    audit.append(
                        self._connection,
                        at_us=at_us,
                        actor=CLI_ACTOR,
                        action="journal.replay",
                        subject=f"journal/{part[0][0]}-{part[-1][0]}",
                        reason=self._reason,
                        after={"repairs": waiting, "left_alone": dict(self.left)},
                    )
            self.queued += waiting

    # ---- telling ---------------------------------------------------------------------------------------------------

    def _show(self, kept: Kept, found: Finding) -> None:
        from gateway.clock import iso  # noqa: PLC0415
        from gateway.replaying.compare import REASONS  # noqa: PLC0415

        first = kept.records[0]
        device_id = next((part.device_id for part in found.now if part.device_id), first.device_id)
        device_key = first.device_key or next((part.device_key for part in found.now if part.device_key), "")
        shown: dict[str, Any] = {
            "seq": kept.seq,
            "received_at": iso(first.received_at_us),
            "device_id": device_id or None,
            "device_key": device_key or None,
            "codec": first.codec,
            "was": _shown(found.was),
            "now": _shown(found.now),
            "repair": not found.why,
            "why": REASONS[found.why] if found.why else None,
        }
        if self._as_json:
            print_json(shown)
            return
        print(f"{kept.seq:>10}  {shown['received_at']}  {device_id or device_key or '?'}")
        print(f"            was  {_brief(shown['was'])}")
        why = f"  (left alone: {shown['why']})" if found.why else ""
        print(f"            now  {_brief(shown['now'])}{why}")

    def tell(self, data_dir: Path) -> None:
        """The totals, and who does the rest."""
        from gateway.replaying.compare import REASONS  # noqa: PLC0415
        from gateway.replaying.queue import count_waiting  # noqa: PLC0415

        waiting = count_waiting(self._connection) if self._has_table else 0
        running = _daemon_runs(data_dir)
        if self._as_json:
            totals = {
                "frames": self.frames, "differing": self.differing, "better": self.better,
                "left_alone": dict(sorted(self.left.items())), "unreadable": self.unreadable,
                "damaged_rows": self.damaged, "queued": self.queued, "waiting": waiting, "daemon_runs": running,
            }  # fmt: skip
            print_json({"totals": totals})
            return
        print(f"{self.frames} frames, {self.differing} are understood differently now, "
              f"{self.better} of them better")  # fmt: skip
        for why, count in sorted(self.left.items()):
            print(f"{count} left alone: {REASONS[why]}")
        if self.unreadable:
            print(f"{self.unreadable} not looked at: their bytes stand with an earlier frame, or their codec is gone")
        if self.damaged:
            print(f"{self.damaged} rows of the journal cannot be read")
        if self._apply:
            print(f"{self.queued} repairs queued")
        if waiting:
            who = "the running daemon takes them up now" if running else "no daemon runs: the next one takes them up"
            print(f"{waiting} repairs wait; {who}")
        elif self.better and not self._apply:
            print('repair them with: carebell replay --apply --reason "..."')


def _shown(parts: list[Part]) -> dict[str, Any]:
    from gateway.observations import observations  # noqa: PLC0415

    faults = [part.fault for part in parts if part.fault is not None]
    return {
        "fault": "; ".join(faults) or None,
        "observations": [each for part in parts if part.reading is not None for each in observations(part.reading)],
    }


def _brief(shown: dict[str, Any]) -> str:
    from gateway.cli.journal import brief  # noqa: PLC0415

    said = " ".join(brief(observation) for observation in shown["observations"])
    fault = f"[{shown['fault']}]" if shown["fault"] else ""
    return " ".join(text for text in (said, fault) if text) or "nothing"


def _daemon_runs(data_dir: Path) -> bool:
    """Whether a daemon holds the directory."""
    with _opened(data_dir / "lock") as descriptor:
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
