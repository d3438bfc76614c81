"""The event bus: CloudEvents of the journal on Redis Streams (contracts, section 4).

A reader of the journal with its own bookmark. Stream ``carebell:events:<partition>``, entry field ``event``, entry id
``<seq>-<n>`` as in the event; all events of a person are in one partition. One script appends a batch and moves the
bookmark, and refuses when the bookmark in Redis is not the one that it goes on from: whatever part of its memory Redis
lost, the streams and the bookmark tell the same story, and what is missing is published again under the same ids.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.clock import US_PER_S, Clock
from gateway.ports import EventFeed, Store
from gateway.storage import eventbus_state as state
from gateway.storage.journal import last_seq

STREAM: Final = "carebell:events:"
BOOKMARK: Final = "carebell:bookmark"
DEVICES: Final = "carebell:devices"
PERSONS: Final = "carebell:persons"

BATCH: Final = 500
MAINTAIN_S: Final = 1.0
FLOOR_SAVE_S: Final = 30.0
DURABLE_S: Final = 30.0  # so long after it was published, an entry is on Redis's disk (appendfsync everysec)
SLICE: Final = 500
SLICES: Final = 40  # of each partition in one round
PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 10.0
TIMEOUT_S: Final = 10.0

log = structlog.get_logger("eventbus")

_PUBLISH: Final = """
if (redis.call('HGET', KEYS[1], 'seq') or '') ~= ARGV[1] then return 0 end
local newest = {}
for i = 3, #ARGV, 3 do
  local done = redis.pcall('XADD', ARGV[i], ARGV[i + 1], 'event', ARGV[i + 2])
  if type(done) == 'table' and done.err and not string.find(done.err, 'equal or smaller', 1, true) then
    return redis.error_reply(done.err)
  end
  newest[ARGV[i]] = ARGV[i + 1]
end
for stream, id in pairs(newest) do redis.call('HSET', KEYS[1], 'last:' .. stream, id) end
redis.call('HSET', KEYS[1], 'seq', ARGV[2])
return 1
"""

# {removed, the smallest id that a group still needs or "", how many entries that group is behind}
_TRIM: Final = """
local function less(a, b)
  local as, an = string.match(a, '(%d+)-(%d+)')
  local bs, bn = string.match(b, '(%d+)-(%d+)')
  as, an, bs, bn = tonumber(as), tonumber(an), tonumber(bs), tonumber(bn)
  return as < bs or (as == bs and an < bn)
end
local function field(flat, name)
  for i = 1, #flat, 2 do if flat[i] == name then return flat[i + 1] end end
end
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, '', 0} end
local length = redis.call('XLEN', KEYS[1])
local last = field(redis.call('XINFO', 'STREAM', KEYS[1]), 'last-generated-id')
local floor, behind = '', 0
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local need = field(group, 'last-delivered-id')
  local pending = field(group, 'pending')
  if pending > 0 then
    local oldest = redis.call('XPENDING', KEYS[1], field(group, 'name'))[2]
    if less(oldest, need) then need = oldest end
  end
  if pending > 0 or less(need, last) then
    if floor == '' or less(need, floor) then floor = need end
    behind = math.max(behind, pending + (field(group, 'lag') or 0))
  end
end
local surplus = math.min(length - tonumber(ARGV[1]), tonumber(ARGV[2]))
if surplus <= 0 then return {0, floor, behind} end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', surplus + 1)
local cut = oldest[#oldest][1]
if floor ~= '' and less(floor, cut) then cut = floor end
return {redis.call('XTRIM', KEYS[1], 'MINID', cut), floor, behind}
"""


def partition_of(event: dict[str, Any], partitions: int) -> int:
    """Which stream an event goes to: by its person, without one by its device. CRC-32, so that anybody can tell."""
    data = event["data"]
    key = str(event.get("subject") or "").removeprefix("person/") or str(data.get("device_id") or event["source"])
    return zlib.crc32(key.encode()) % partitions


class Live(Protocol):
    """The live state of devices and persons (gateway.live_states.LiveStates)."""

    def take_dirty(self) -> tuple[dict[str, bytes], dict[str, bytes]]: ...

    def keep_dirty(self, devices: Mapping[str, bytes], persons: Mapping[str, bytes]) -> None: ...

    def all_dirty(self) -> None: ...

    def adopt(self, devices: Mapping[str, bytes], persons: Mapping[str, bytes]) -> None: ...


class EventBus:
    """``run`` publishes until cancelled. A HealthPart, and a reader that gateway.housekeeping knows."""

    name: Final = "redis"

    def __init__(
        self,
        *,
        feed: EventFeed,
        store: Store,
        clock: Clock,
        site: str,
        connect: Callable[[], Redis],
        live: Live | None = None,
        partitions: int = 16,
        max_entries: int = 100_000,
        republish_hours: float = 24.0,
    ) -> None:
        self._feed = feed
        self._store = store
        self._clock = clock
        self._site = site
        self._connect = connect
        self._live = live
        self._partitions = partitions
        self._max_entries = max_entries
        self._republish_us = round(republish_hours * 3600 * US_PER_S)
        self._recent: deque[tuple[float, int]] = deque()
        self._durable = 0
        self._floor: int | None = None  # the number behind which some group has not finished, None: nobody waits
        self._floor_saved_s = float("-inf")
        self._live_read = False
        self._told: tuple[bool, str] | None = None
        self._state = (False, "not connected yet")
        self.seq = 0
        self.published = 0
        self.republished = 0
        self.trimmed = 0
        self.behind = 0

    def durable(self) -> int:
        """The last sequence number that the journal may forget for our sake."""
        limit_s = self._clock.monotonic_s() - DURABLE_S
        while self._recent and self._recent[0][0] <= limit_s:
            self._durable = max(self._durable, self._recent.popleft()[1])
        return self._durable

    def state(self) -> tuple[bool, str]:
        ok, text = self._state
        waiting = max(0, self._feed.last_seq() - self.seq)
        return ok, f"{text}, {waiting} wait" if waiting else text

    async def run(self) -> None:
        """Publish until cancelled. Nothing that Redis does gets out; StorageError of our own disk does."""
        pause_s = PAUSE_FIRST_S
        while True:
            begun_s = self._clock.monotonic_s()
            client = self._connect()
            try:
                await self._serve(client)
            except (RedisError, OSError, TimeoutError) as error:
                self._change(False, f"away: {_reason(error)}")
                _heed_cancellation()
            finally:
                await client.aclose()
            if self._clock.monotonic_s() - begun_s > PAUSE_MAX_S:
                pause_s = PAUSE_FIRST_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _serve(self, client: Redis) -> None:
        publish, trim = client.register_script(_PUBLISH), client.register_script(_TRIM)
        maintain_s = float("-inf")
        if not await self._resume(client):
            return
        while True:
            _heed_cancellation()
            now_s = self._clock.monotonic_s()
            if now_s - maintain_s >= MAINTAIN_S:
                maintain_s = now_s
                if not await self._intact(client) and not await self._resume(client):
                    return
                await self._maintain(client, trim)
            reached = self._feed.last_seq()
            events = await self._feed.after(self.seq, BATCH)
            if events:
                reached = int(str(events[-1]["id"]).partition("-")[0])
            if reached > self.seq:
                if not await self._publish(publish, events, reached) and not await self._resume(client):
                    return
            else:
                await self._wait(maintain_s + MAINTAIN_S - self._clock.monotonic_s())

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.01, seconds)):
                await self._feed.wait(self.seq)
        except TimeoutError:
            return  # time for maintenance

    async def _publish(self, script: Any, events: list[dict[str, Any]], reached: int) -> bool:
        """Append a batch. False: the bookmark in Redis is not ours any more."""
        arguments: list[Any] = [self.seq, reached]
        for event in events:
            arguments += (f"{STREAM}{partition_of(event, self._partitions)}", event["id"], msgspec.json.encode(event))
        async with asyncio.timeout(TIMEOUT_S):
            done = await script(keys=[BOOKMARK], args=arguments)
        if not done:
            return False
        self.seq = reached
        self.published += len(events)
        self._recent.append((self._clock.monotonic_s(), reached))
        if len(self._recent) > 10_000:  # a long time without anybody asking for durable()
            self.durable()
        return True

    # ---- what Redis remembers ----------------------------------------------------------------------------------------

    async def _intact(self, client: Redis) -> bool:
        """Whether Redis still has what it was told: its bookmark is ours, and no stream is behind its last entry."""
        kept = await _told(client)
        return kept.get("seq") == str(self.seq) and not await self._lost(client, kept)

    async def _lost(self, client: Redis, kept: dict[str, str]) -> list[str]:
        """Streams that do not reach as far as the bookmark says. Only XADD writes into them, so XTRIM changes nothing.

        A stream of another number of partitions, as of an earlier configuration, is its consumers' own.
        """
        ours = {f"{STREAM}{number}" for number in range(self._partitions)}
        wanted = {key[5:]: value for key, value in kept.items() if key.startswith("last:") and key[5:] in ours}
        if not wanted:
            return []
        pipe = client.pipeline(transaction=False)
        for stream in wanted:
            pipe.xinfo_stream(stream)
        async with asyncio.timeout(TIMEOUT_S):
            answers = await pipe.execute(raise_on_error=False)
        lost = []
        for (stream, last), found in zip(wanted.items(), answers, strict=True):
            if isinstance(found, RedisError) and "no such key" not in str(found):
                raise found
            if isinstance(found, RedisError) or _pair(_text(found["last-generated-id"])) < _pair(last):
                lost.append(stream)
        return lost

    async def _resume(self, client: Redis) -> bool:
        """Find out where to go on. False: these streams are somebody else's; try again later."""
        journal = await self._store.write(state.identity)
        newest = await self._store.read(last_seq)
        kept = await _told(client)
        other = _not_ours(kept, self._site, journal, newest)
        if other:
            self._change(False, other)
            await asyncio.sleep(PAUSE_MAX_S)
            return False
        lost = await self._lost(client, kept)
        if "seq" in kept and not lost:
            begin = int(kept["seq"])
        else:
            begin = await self._floor_of_loss()
            if "seq" in kept:
                begin = min(begin, int(kept["seq"]))
        if begin < self.seq or lost:
            self.republished += 1
            log.error("redis_lost_data", behind_seq=begin, seq=self.seq, streams=len(lost))
        facts = {"site": self._site, "journal": journal, "partitions": self._partitions, "seq": begin}
        pipe = client.pipeline(transaction=True)
        if lost:
            pipe.hdel(BOOKMARK, *(f"last:{stream}" for stream in lost))
        pipe.hset(BOOKMARK, mapping={name: str(value) for name, value in facts.items()})
        async with asyncio.timeout(TIMEOUT_S):
            await pipe.execute()
        self.seq = begin
        if self._live is not None and not self._live_read:
            self._live.adopt(await _hash(client, DEVICES), await _hash(client, PERSONS))
            self._live_read = True
        if self._live is not None:
            self._live.all_dirty()
        self._change(True, "publishes")
        return True

    async def _floor_of_loss(self) -> int:
        """Behind which number everything is published again: what a group had not finished, and the last hours."""
        since_us = self._clock.now_us() - self._republish_us
        begin, saved = await self._store.read(lambda c: (state.seq_before(c, since_us), state.floor(c)))
        floors = [number for number in (self._floor, saved) if number is not None]
        return min([begin, *floors])

    # ---- maintenance -------------------------------------------------------------------------------------------------

    async def _maintain(self, client: Redis, trim: Any) -> None:
        floors: list[int] = []
        behind = 0
        for number in range(self._partitions):
            for _ in range(SLICES):
                async with asyncio.timeout(TIMEOUT_S):
                    removed, floor, waiting = await trim(keys=[f"{STREAM}{number}"], args=[self._max_entries, SLICE])
                self.trimmed += removed
                if removed < SLICE:
                    break
            if floor:
                floors.append(max(0, _pair(_text(floor))[0] - 1))
            behind = max(behind, waiting)
        self.behind = behind
        self._floor = min(floors, default=None)
        now_s = self._clock.monotonic_s()
        if now_s - self._floor_saved_s >= FLOOR_SAVE_S:
            self._floor_saved_s = now_s
            keep = self._floor
            await self._store.write(lambda connection: state.save_floor(connection, keep))
        if self._live is not None:
            await self._write_live(client, self._live)

    async def _write_live(self, client: Redis, live: Live) -> None:
        """Tell Redis what changed since the last round; what could not be told is told again."""
        devices, persons = live.take_dirty()
        if not devices and not persons:
            return
        pipe = client.pipeline(transaction=False)
        for key, rows in ((DEVICES, devices), (PERSONS, persons)):
            if rows:
                pipe.hset(key, mapping=dict[Any, Any](rows))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await pipe.execute()
        except BaseException:
            live.keep_dirty(devices, persons)
            raise

    def _change(self, ok: bool, text: str) -> None:
        self._state = (ok, text)
        if (ok, text) != self._told:
            self._told = (ok, text)
            (log.info if ok else log.error)("redis", ok=ok, state=text, seq=self.seq)


def _heed_cancellation() -> None:
    """The client library was seen to swallow one that came while it read an answer: do not go on for ever."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _not_ours(kept: dict[str, str], site: str, journal: str, newest: int) -> str:
    """Why nothing may be published here, "" when it may."""
    if kept.get("site", site) != site:
        return f"its streams are those of the site {kept['site']!r}: give each gateway a database of its own"
    if kept.get("journal", journal) != journal:
        return f"its streams are of another journal: delete {STREAM}* and {BOOKMARK}, or give another database"
    if int(kept.get("seq", "0")) > newest:
        return f"its streams are ahead of this journal: delete {STREAM}* and {BOOKMARK}, or give another database"
    return ""


async def _told(client: Redis) -> dict[str, str]:
    async with asyncio.timeout(TIMEOUT_S):
        found = await client.hgetall(BOOKMARK)
    return {_text(key): _text(value) for key, value in found.items()}


async def _hash(client: Redis, key: str) -> dict[str, bytes]:
    async with asyncio.timeout(TIMEOUT_S):
        return {_text(name): value async for name, value in client.hscan_iter(key, count=1000)}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _pair(entry_id: str) -> tuple[int, int]:
    seq, _, part = entry_id.partition("-")
    return int(seq), int(part or 0)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
