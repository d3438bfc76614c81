"""One-button telephones: an incoming call or message becomes the alert of whoever's number it is.

A number is looked for among the devices (as serial number), then among the persons: a person who calls from the
telephone in the registry gets a device ``tel-<person id>`` (profile ``telecare.landline_button``), entered at the first
call. Unknown and withheld numbers are kept and shown as unverified, within bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import apsw
import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.errors import CarebellError, StorageError
from gateway.model import Actor, DeviceBinding, Frame, Reading, Report, Verdict
from gateway.ports import Codec, Directory, Ingest, Store
from gateway.registry.devices import add_device
from protocols.codecs.cti import cries_for_help, number_of
from protocols.transports.http_ingest import SourceLimiter

PROFILE: Final = "telecare.landline_button"
CODEC: Final = "cti"
REPEAT_S: Final = 10.0
REMEMBERED: Final = 10_000
UNKNOWN_PER_MINUTE: Final = 10.0  # of one number
UNKNOWN_TOTAL_PER_MINUTE: Final = 300.0
ACTOR: Final = Actor("system", "telephones")

log = structlog.get_logger("telephones")


class _Ring(Struct):
    heard_s: float
    key: str


class Telephones:
    """Calls and messages, from wherever they are told. Counters by what became of them."""

    def __init__(
        self,
        *,
        ingest: Ingest,
        store: Store,
        directory: Directory,
        refresh: Callable[[], Awaitable[Any]],
        clock: Clock,
        codec: Codec,
        repeat_s: float = REPEAT_S,
    ) -> None:
        """``refresh`` makes the directory know what was just entered. ``repeat_s``: rings so close are one press."""
        self._ingest = ingest
        self._store = store
        self._directory = directory
        self._refresh = refresh
        self._clock = clock
        self._codec = codec
        self._repeat_s = repeat_s
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        self._unknown = SourceLimiter(
            clock, per_minute=UNKNOWN_PER_MINUTE, total_per_minute=UNKNOWN_TOTAL_PER_MINUTE
        )  # fmt: skip
        self.counts = dict.fromkeys(("calls", "messages", "repeated", "unknown", "shed", "entered"), 0)

    async def told(self, payload: bytes, source: str, *, verified: bool, key: str = "") -> Verdict:
        """What a telephone system told (protocols.codecs.cti). Raises ParseError; StorageError when nobody can look.

        ``verified`` False: whoever told it proved nothing. ``key`` names the call, where the system does.
        """
        self.counts["calls"] += 1
        frame = Frame("http", CODEC, source, payload, self._clock.now_us(), verified=verified)
        reports = self._codec.parse(frame)
        number = reports[0].device_key
        ringing = any(report.reading is not None and report.reading.signals for report in reports)
        frame.idempotency_key = f"call/{key}" if key else (self._ring(number) if ringing else "")
        return await self._keep(frame, number, list(reports))

    async def call(self, number: str, at_us: int, payload: bytes) -> Verdict:
        """A call that rang at the modem; "" is a withheld number."""
        self.counts["calls"] += 1
        number = number_of(number)
        frame = Frame("modem", "call", number or "withheld", payload, at_us, idempotency_key=self._ring(number))
        return await self._keep(frame, number, [Report(number, Reading(at_us, signals={"sos": True}), at_us=at_us)])

    async def message(
        self, number: str, text: str, at_us: int, payload: bytes, *, key: str, reply: bool, transport: str = "modem"
    ) -> Verdict:
        """A message that came in, to the modem or through the carrier that ``transport`` names. ``reply``: it answers
        a message of ours, so that only words of help count.

        A cry for help is an SOS, and so is an empty message; anything else that somebody in care writes asks for a
        person to read it. Messages of strangers raise nothing but words of help.
        """
        self.counts["messages"] += 1
        number = number_of(number)
        frame = Frame(transport, "sms", number or "withheld", payload, at_us, idempotency_key=key)
        help_wanted = cries_for_help(text)
        signal = "sos" if help_wanted or not text.strip() else "service_call"
        known = Report(number, Reading(at_us, signals={} if reply and not help_wanted else {signal: True}), at_us=at_us)
        strange = Report(number, Reading(at_us, signals={"sos": True} if help_wanted else {}), at_us=at_us)
        return await self._keep(frame, number, [known], [strange])

    def _ring(self, number: str) -> str:
        """The key of the call that this ring belongs to."""
        now_s = self._clock.monotonic_s()
        ring = self._rings.pop(number, None)
        if ring is None or now_s - ring.heard_s > self._repeat_s:
            ring = _Ring(now_s, f"ring/{number}/{self._clock.now_us()}")
            while len(self._rings) >= REMEMBERED:
                self._rings.popitem(last=False)
        else:
            self.counts["repeated"] += 1
        ring.heard_s = now_s
        self._rings[number] = ring
        return ring.key

    async def _keep(
        self, frame: Frame, number: str, reports: list[Report], of_stranger: list[Report] | None = None
    ) -> Verdict:
        binding = await self._whose(number) if number and frame.verified else None
        if binding is None:
            self.counts["unknown"] += 1
            if not self._unknown.allow(number):
                self.counts["shed"] += 1
                return Verdict.ACCEPTED  # a stranger who calls all the time: what came before is kept
            frame.verified = False
            reports = reports if of_stranger is None else of_stranger
        else:
            frame.device_key = binding.device_id
        frame.reports = reports
        return await self._ingest.deliver([frame])

    # ---- whose number ------------------------------------------------------------------------------------------------

    async def _whose(self, number: str) -> DeviceBinding | None:
        spelled = spellings(number)
        for each in spelled:
            found = self._directory.device_by_key(each)
            if found is not None:
                return found if found.codec == CODEC else None  # no number speaks for a device that proves itself
        try:
            person_id = await self._store.read(lambda c: _person_of(c, spelled))
            return None if person_id is None else await self._device_of(person_id)
        except StorageError:
            raise
        except CarebellError as error:
            log.error("telephone_not_entered", error=str(error))
            return None

    async def _device_of(self, person_id: str) -> DeviceBinding | None:
        device_id = f"tel-{person_id}"[:64]
        known = self._directory.device(device_id)
        if known is None:
            now_us = self._clock.now_us()
            values = {"profile": PROFILE, "person_id": person_id, "note": "来电号码 by the number that called"}

            def enter(connection: apsw.Connection) -> bool:
                if connection.execute("SELECT 1 FROM device WHERE id = ?", (device_id,)).fetchone():
                    return False
                add_device(connection, device_id, values, known_profiles=[PROFILE], at_us=now_us, actor=ACTOR)
                return True

            if await self._store.write(enter):
                self.counts["entered"] += 1
                log.info("telephone_entered", device=device_id, person=person_id)
            await self._refresh()
            known = self._directory.device(device_id)
        return known if known is not None and known.codec == CODEC else None


def spellings(number: str) -> list[str]:
    """A number as it was told, in E.164, and as it is dialled inside China."""
    import phonenumbers  # noqa: PLC0415 - its metadata take 40 ms

    found = [number]
    try:
        parsed = phonenumbers.parse(number, "CN")
    except phonenumbers.NumberParseException:
        return found
    international = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    national = phonenumbers.national_significant_number(parsed)
    found += [international, international[1:], national, f"0{national}"]
    return list(dict.fromkeys(found))


def _person_of(connection: apsw.Connection, spelled: list[str]) -> str | None:
    """Of several who share a number the first by id: they share the home as well."""
    marks = ", ".join("?" * len(spelled))
    row = connection.execute(
        f"SELECT id FROM person WHERE phone IN ({marks}) AND state = 'active' ORDER BY id LIMIT 1",  # noqa: S608
        spelled,
    ).fetchone()
    return None if row is None else str(row[0])
