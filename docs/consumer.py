# ruff: noqa: INP001, T201 - a program by itself that prints
"""A reference consumer of carebell's event bus: copy it and replace ``handle``.

    pip install redis
    python consumer.py redis://127.0.0.1:6379/0 --group backend --consumer backend-1 --state consumer.sqlite3

Several processes with the same group and different consumer names share the work; each needs a state file of its own
unless ``handle`` writes into a database that all of them share (then keep ``Seen`` there, in the same transaction).

What it shows:

- Every event has one id, ``<seq>-<n>``, on every channel and after every replay. Delivery is at least once: an event
  may come again, after a crash of this program or when Redis lost data and carebell published
  again. So ``handle`` and the note that the id was handled belong into one transaction.
- A group's place is Redis's memory of it. When Redis lost that (NOGROUP), the group is made again behind the last event
  that this program knows; what is in the stream and was handled already is recognised by its id.
- Entries that another consumer took and never finished are claimed after a minute.
- Events of one person are in one stream, in order. Handle a stream's entries one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

BOOKMARK = "carebell:bookmark"
STREAM = "carebell:events:"
CLAIM_AFTER_MS = 60_000

Event = dict[str, Any]


class Seen:
    """What was handled, in a file: the newest id of each stream. Entries of a stream rise, so one id is enough."""

    def __init__(self, path: str) -> None:
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.execute("CREATE TABLE IF NOT EXISTS seen (stream TEXT PRIMARY KEY, seq INTEGER, part INTEGER)")
        self.database.execute("CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, stream TEXT, body TEXT)")

    @contextlib.contextmanager
    def once(self, stream: str, event: Event) -> Iterator[bool]:
        """Yield whether the event is new; what is done inside and the note of it are one transaction."""
        seq, part = pair(event["id"])
        self.database.execute("BEGIN IMMEDIATE")
        try:
            new = pair(self.last(stream)) < (seq, part)
            yield new
            if new:
                self.database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (stream, seq, part))
            self.database.execute("COMMIT")
        except BaseException:
            self.database.execute("ROLLBACK")
            raise

    def last(self, stream: str) -> str:
        row = self.database.execute("SELECT seq, part FROM seen WHERE stream = ?", (stream,)).fetchone()
        return "0-0" if row is None else f"{row[0]}-{row[1]}"

    def store(self, stream: str, event: Event) -> None:
        """Stands for what your program does with an event."""
        self.database.execute("INSERT INTO event VALUES (?, ?, ?)", (event["id"], stream, json.dumps(event)))


def pair(event_id: str) -> tuple[int, int]:
    seq, _, part = event_id.partition("-")
    return int(seq), int(part)


class Consumer:
    """One consumer of a group, over all partitions."""

    def __init__(self, url: str, group: str, name: str, seen: Seen, handle: Callable[[str, Event], None]) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.group, self.name, self.seen, self.handle = group, name, seen, handle

    def streams(self) -> list[str]:
        return [f"{STREAM}{number}" for number in range(int(self.client.hget(BOOKMARK, "partitions") or 0))]

    def poll(self, block_ms: int = 2000) -> int:
        """Handle what there is; wait up to ``block_ms`` when there is nothing. Returns how many entries were taken."""
        streams = self.streams()
        if not streams:  # carebell has not published here yet
            time.sleep(block_ms / 1000)
            return 0
        try:
            taken = sum(self._take(stream, self._left_behind(stream)) for stream in streams)
            found = self.client.xreadgroup(
                self.group, self.name, dict.fromkeys(streams, ">"), count=100, block=None if taken else block_ms
            )
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            for stream in streams:
                self._make_group(stream)
            return 0
        return taken + sum(self._take(stream, entries) for stream, entries in found)

    def _make_group(self, stream: str) -> None:
        with contextlib.suppress(redis.ResponseError):  # BUSYGROUP: it is there
            self.client.xgroup_create(stream, self.group, id=self.seen.last(stream), mkstream=True)

    def _left_behind(self, stream: str) -> list[Any]:
        mine = self.client.xreadgroup(self.group, self.name, {stream: "0"}, count=100)
        entries = mine[0][1] if mine else []
        return entries or self.client.xautoclaim(stream, self.group, self.name, CLAIM_AFTER_MS, count=100)[1]

    def _take(self, stream: str, entries: list[Any]) -> int:
        for entry_id, fields in entries:
            if fields:  # None: trimmed meanwhile
                event = json.loads(fields["event"])
                with self.seen.once(stream, event) as new:
                    if new:
                        self.handle(stream, event)
            self.client.xack(stream, self.group, entry_id)
        return len(entries)


def main() -> int:
    parser = argparse.ArgumentParser(description="Follow carebell's events on Redis Streams.")
    parser.add_argument("url")
    parser.add_argument("--group", default="backend")
    parser.add_argument("--consumer", default="backend-1")
    parser.add_argument("--state", default="consumer.sqlite3")
    given = parser.parse_args()
    seen = Seen(given.state)

    def handle(stream: str, event: Event) -> None:
        seen.store(stream, event)
        print(event["id"], event["type"], event.get("subject", "-"), flush=True)

    consumer = Consumer(given.url, given.group, given.consumer, seen, handle)
    while True:
        try:
            consumer.poll()
        except redis.ConnectionError as error:
            print(f"Redis is away: {error}", file=sys.stderr)
            time.sleep(2)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
