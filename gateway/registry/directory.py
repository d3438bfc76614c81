"""The registry in memory: what the hot path asks, without touching the disk.

A snapshot is immutable once it is published. A reload runs in the store's reader thread, fetches only the rows that
changed since, and is published by one assignment, so that the loop is never held and a reader never sees a half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import apsw
import msgspec
import structlog
from msgspec import Struct, field, structs

from gateway.care import CarePlan, DeviceCare
from gateway.clock import Clock
from gateway.errors import StorageError
from gateway.model import DeviceBinding
from gateway.ports import Store
from gateway.registry.changes import registry_version, rows
from gateway.registry.fields import normalize_key
from gateway.registry.keys import ApiKey, api_key_of, confirmed, key_id_of
from gateway.registry.people import PersonFacts, facts_of, plan_of
from gateway.security import is_one_of

log: Final = structlog.get_logger("registry")

CodecOf = Callable[[str], str | None]
"""The codec of a profile, None for a profile that is not installed (any more)."""

CareOf = Callable[[str], DeviceCare | None]
"""How the devices of a profile are supervised (their own ids are filled in here), None for no supervision."""

Digests = tuple[tuple[bytes, int | None], ...]
"""Digests of tokens that were not revoked, each with the time it expires at, if it does."""


class Snapshot(Struct, frozen=True):
    """The registry as of one version. Never changed after it was published."""

    version: int = -1
    devices: dict[str, DeviceBinding] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    digests: dict[str, Digests] = field(default_factory=dict)
    people: dict[str, PersonFacts] = field(default_factory=dict)
    plans: dict[str, CarePlan] = field(default_factory=dict)
    cares: dict[str, DeviceCare] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)


def load_snapshot(
    connection: apsw.Connection, codec_of: CodecOf, old: Snapshot, care_of: CareOf = lambda _: None
) -> Snapshot:
    """The registry as it is now; ``old`` itself when nothing changed. Reads only what changed since ``old``."""
    version = registry_version(connection)
    if version == old.version:
        return old
    since = old.version
    if version < since:  # another file took the place of this one: a backup was restored
        old, since = Snapshot(), -1
    new = Snapshot(
        version,
        dict(old.devices),
        dict(old.models),
        dict(old.keys),
        dict(old.digests),
        dict(old.people),
        dict(old.plans),
        dict(old.cares),
        dict(old.api_keys),
    )
    _load_people(connection, new, since)
    _load_devices(connection, new, since, codec_of, care_of)
    _load_api_keys(connection, new, since)
    return new


def _load_people(connection: apsw.Connection, new: Snapshot, since: int) -> None:
    for row in rows(connection, "SELECT * FROM person WHERE changed > ?", (since,)):
        new.people[row["id"]] = facts_of(row)
        try:
            new.plans[row["id"]] = plan_of(connection, row)
        except msgspec.ValidationError:  # of an older carebell; the text may quote personal data
            new.plans[row["id"]] = CarePlan(person_id=row["id"], timezone=row["timezone"])
            log.error("care_plan_unreadable", person=row["id"], version=row["version"])


def _load_devices(connection: apsw.Connection, new: Snapshot, since: int, codec_of: CodecOf, care_of: CareOf) -> None:
    # A device inherits the district of its person, so that a person's change reloads the devices too.
    found = connection.execute(
        "SELECT id FROM device WHERE changed > ?1 UNION SELECT device_id FROM binding"
        " JOIN person ON person.id = person_id WHERE to_us IS NULL AND person.changed > ?1",
        (since,),
    )
    touched = {str(device_id) for (device_id,) in found}
    if not touched:
        return
    for key in [key for key, owner in new.keys.items() if owner in touched]:
        del new.keys[key]
    for device_id in touched:
        new.digests.pop(device_id, None)
    ids = (msgspec.json.encode(sorted(touched)).decode(),)
    for device_id, profile, model, state, person_id, district in connection.execute(
        "SELECT d.id, d.profile, d.model, d.state, b.person_id, coalesce(p.district, d.district, '')"
        " FROM json_each(?) JOIN device d ON d.id = value LEFT JOIN binding b ON b.device_id = d.id AND b.to_us IS NULL"
        " LEFT JOIN person p ON p.id = b.person_id",
        ids,
    ):
        codec = codec_of(profile)
        if codec is None:
            log.error("profile_unknown", device=device_id, profile=profile)
        new.devices[device_id] = DeviceBinding(device_id, profile, codec or "", person_id or "", state, district)
        new.models[device_id] = model or profile
        care = care_of(profile) or DeviceCare(device_id=device_id)
        in_service = state != "retired"
        new.cares[device_id] = structs.replace(
            care if in_service else DeviceCare(device_id=device_id), device_id=device_id, person_id=person_id or ""
        )
    for key, device_id in connection.execute(
        "SELECT k.key, device_id FROM json_each(?) JOIN device_key k ON device_id = value", ids
    ):
        new.keys[key] = device_id
    for device_id, digest, expires in connection.execute(
        "SELECT device_id, digest, expires_at_us FROM json_each(?) JOIN credential ON device_id = value"
        " WHERE revoked_at_us IS NULL",
        ids,
    ):
        new.digests[device_id] = (*new.digests.get(device_id, ()), (digest, expires))


def _load_api_keys(connection: apsw.Connection, new: Snapshot, since: int) -> None:
    for row in rows(connection, "SELECT * FROM api_key WHERE changed > ?", (since,)):
        if row["revoked_at_us"] is not None:
            new.api_keys.pop(row["id"], None)
            continue
        new.api_keys[row["id"]] = api_key_of(row)


class Registry:
    """Implements ``ports.Directory`` and ``ports.Credentials``, and answers the API's question whose a key is.

    ``load`` before use. ``refresh_if_changed`` a few times a second keeps up with what other processes write; every
    refusal looks first, so that what a command added a moment ago is accepted at once.
    """

    def __init__(self, store: Store, *, codec_of: CodecOf, clock: Clock, care_of: CareOf = lambda _: None) -> None:
        self._store = store
        self._codec_of = codec_of
        self._care_of = care_of
        self._clock = clock
        self._snapshot = Snapshot()
        self._lock = asyncio.Lock()
        self._reads_begun = 0
        self._listeners: list[Callable[[], None]] = []

    @property
    def snapshot(self) -> Snapshot:
        """The newest published state, to look at in one piece."""
        return self._snapshot

    @property
    def version(self) -> int:
        return self._snapshot.version

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` on the loop after each reload that found something."""
        self._listeners.append(listener)

    def load(self, connection: apsw.Connection) -> None:
        """Read everything, in the caller's thread: at start, before anything asks."""
        self._snapshot = load_snapshot(connection, self._codec_of, self._snapshot, self._care_of)

    async def refresh_if_changed(self) -> bool:
        """Read what was committed before this call, unless there is nothing new; whether there was.

        Callers that come together share one read. Raises StorageError, and keeps the old state then.
        """
        before = self._snapshot.version
        wanted = self._reads_begun + 1  # the first read that begins after this call
        async with self._lock:
            if self._reads_begun < wanted:
                self._reads_begun += 1
                old = self._snapshot
                self._snapshot = await self._store.read(
                    lambda connection: load_snapshot(connection, self._codec_of, old, self._care_of)
                )
                if self._snapshot is not old:
                    for listener in self._listeners:
                        listener()
        return self._snapshot.version != before

    # ---- ports.Directory ---------------------------------------------------------------------------------------------

    def device(self, device_id: str) -> DeviceBinding | None:
        return self._snapshot.devices.get(device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        snapshot = self._snapshot
        device_id = snapshot.keys.get(key) or snapshot.keys.get(normalize_key(key))
        return None if device_id is None else snapshot.devices.get(device_id)

    def model_of(self, device_id: str) -> str:
        """What the device is, for an order: its model, else its profile; "" when it is not known."""
        return self._snapshot.models.get(device_id, "")

    # ---- what rules and alerts ask (rules.roster.PeopleView) ---------------------------------------------------------

    def plan(self, person_id: str) -> CarePlan | None:
        """The plan of a person in care; None for one who is not known or whose service has ended."""
        snapshot = self._snapshot
        facts = snapshot.people.get(person_id)
        return None if facts is None or facts.state == "ceased" else snapshot.plans.get(person_id)

    def plans(self) -> Iterable[CarePlan]:
        """Every plan of a person in care that expects something."""
        snapshot = self._snapshot
        return [
            plan
            for person_id, plan in snapshot.plans.items()
            if plan.expectations and snapshot.people[person_id].state != "ceased"
        ]

    def device_care(self, device_id: str) -> DeviceCare | None:
        return self._snapshot.cares.get(device_id)

    def person(self, person_id: str) -> PersonFacts | None:
        """State, district, language and the like, without personal data."""
        return self._snapshot.people.get(person_id)

    # ---- ports.Credentials -------------------------------------------------------------------------------------------

    async def authenticate(self, device_id: str, token: bytes) -> DeviceBinding | None:
        binding = self._with_token(device_id, token)
        if binding is None and await self._looked_again():
            binding = self._with_token(device_id, token)
        return binding

    def with_token(self, device_id: str, token: bytes) -> DeviceBinding | None:
        """As ``authenticate``, at once and from what is known now: None may be out of date."""
        return self._with_token(device_id, token)

    async def by_certificate(self, common_name: str) -> DeviceBinding | None:
        binding = self._named(common_name)
        if binding is None and await self._looked_again():
            binding = self._named(common_name)
        return binding

    def stands(self, device_id: str, proof: bytes, common_name: str) -> bool:
        """Whether what let a connection in is still good, as far as is known here.

        ``proof`` is the SHA-256 of the token that was presented; empty: the certificate of this name was.
        """
        if not proof:
            named = self._named(common_name)
            return named is not None and named.device_id == device_id
        binding, now_us = self._snapshot.devices.get(device_id), self._clock.now_us()
        return (
            binding is not None
            and binding.state == "active"
            and any(
                digest == proof and (expires is None or expires > now_us)
                for digest, expires in self._snapshot.digests.get(device_id, ())
            )
        )

    async def api_key(self, presented: str) -> ApiKey | None:
        """The key in force that was presented, else None."""
        found = self._api_key(presented)
        if found is None and key_id_of(presented) and await self._looked_again():
            found = self._api_key(presented)
        return found

    def _with_token(self, device_id: str, token: bytes) -> DeviceBinding | None:
        now_us = self._clock.now_us()
        digests = self._snapshot.digests.get(device_id, ())
        fits = is_one_of(token, [digest for digest, expires in digests if expires is None or expires > now_us])
        binding = self._snapshot.devices.get(device_id)
        return binding if fits and binding is not None and binding.state == "active" else None

    def _named(self, common_name: str) -> DeviceBinding | None:
        binding = self.device(common_name) or self.device_by_key(common_name)
        return binding if binding is not None and binding.state == "active" else None

    def _api_key(self, presented: str) -> ApiKey | None:
        return confirmed(self._snapshot.api_keys.get(key_id_of(presented)), presented, self._clock.now_us())

    async def _looked_again(self) -> bool:
        try:
            return await self.refresh_if_changed()
        except StorageError as error:
            log.warning("registry_not_refreshed", error=type(error).__name__)
            return False
