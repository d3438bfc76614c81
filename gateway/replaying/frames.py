"""The journal's frames, one after another: each with the records that were made of it. Bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apsw
from msgspec import Struct

from gateway.model import Committed, Record
from gateway.storage.journal import CorruptBatch, read_after

BATCHES = 4
"""Rows of the journal that are held at a time; ingest makes them at most a few megabytes each."""


class Kept(Struct):
    """A frame as the journal has it: record i is number ``seq + i``. ``records[0].part`` is 0, or the bytes are not
    here: the frame was a resend whose first report was known.
    """

    seq: int
    records: list[Record]


class Page(Struct):
    """Some frames in order; ``last_seq`` is the last number that was looked at."""

    last_seq: int
    frames: list[Kept]
    corrupt: list[CorruptBatch]


def pages(connection: apsw.Connection, from_seq: int, to_seq: int) -> Iterator[Page]:
    """Frames whose first record is in ``from_seq`` to ``to_seq``. Between two pages nothing is open on the file."""
    seq = max(0, from_seq - 1)
    while seq < to_seq:
        parts = list(read_after(connection, seq, BATCHES))
        if not parts:
            return
        page = Page(seq, [], [])
        for part in parts:
            page.last_seq = part.last_seq
            if isinstance(part, CorruptBatch):
                page.corrupt.append(part)
                continue
            begun = part.first_seq == seq + 1 and part.first_seq == from_seq
            frames = of_batch(part)
            if begun and frames and frames[0].records[0].part:  # the rest of a frame that began before
                frames = frames[1:]
            page.frames += [frame for frame in frames if frame.seq <= to_seq]
        seq = page.last_seq
        yield page


def of_batch(committed: Committed) -> list[Kept]:
    """The frames of one row of the journal; a frame's records stand beside each other in it, by rising part."""
    frames: list[Kept] = []
    for offset, record in enumerate(committed.records):
        if frames and _goes_on(frames[-1].records[-1], record):
            frames[-1].records.append(record)
        else:
            frames.append(Kept(committed.first_seq + offset, [record]))
    return frames


def frames_at(connection: apsw.Connection, seqs: Iterable[int]) -> dict[int, Kept]:
    """The frames whose first records have these numbers, but for those that left the journal or cannot be read."""
    found: dict[int, Kept] = {}
    held: dict[int, Kept] = {}
    last_seq = 0
    for seq in sorted(seqs):
        if seq > last_seq:  # the row that was read last does not hold it
            held = {}
            for part in read_after(connection, seq - 1, 1):
                last_seq = part.last_seq
                if isinstance(part, Committed):
                    held = {kept.seq: kept for kept in of_batch(part)}
        if seq in held:
            found[seq] = held[seq]
    return found


def _goes_on(before: Record, record: Record) -> bool:
    return record.part > before.part and (before.transport, before.codec, before.source, before.received_at_us) == (
        record.transport,
        record.codec,
        record.source,
        record.received_at_us,
    )
