"""Reads escalation policies: the default that comes with carebell, then the site's ``policies.d``."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import phonenumbers
from msgspec import Struct

from alerts.policy_schema import (
    Center,
    Document,
    EscalationPolicy,
    Inhibit,
    Quota,
    Reachable,
    Snapshot,
    Target,
)
from gateway.clock import from_us
from gateway.errors import ConfigError
from gateway.model import EMERGENCY_SIGNALS
from gateway.site_files import toml_files

_HINT: Final = "see docs/escalation.md for the keys and alerts/policies/default.toml for an example"
_NEEDS_MEDIA: Final = frozenset({"center", "backup", "staff", "contacts", "next_contact"})


class PolicyBook(Struct, frozen=True, kw_only=True):
    """All policies of a site. ``versions``: that of the file each policy came from."""

    policies: dict[str, EscalationPolicy]
    versions: dict[str, str]
    centers: dict[str, Center]
    staff: dict[str, Reachable]
    holidays: tuple[str, ...]
    quotas: tuple[Quota, ...]
    inhibits: tuple[Inhibit, ...]
    timezone: str
    files: tuple[str, ...]

    def choose(self, kind: str, district: str, community: str) -> EscalationPolicy:
        """The policy that fits best: of the community before of the district before of the kind before the default."""
        best = self.policies["default"]
        highest = 0
        for policy in self.policies.values():
            points = 0
            fits = True
            for names, value, worth in (
                (policy.communities, community, 4),
                (policy.districts, district, 2),
                (policy.kinds, kind, 1),
            ):
                if names:
                    fits = fits and value in names
                    points += worth
            if fits and points > highest:
                best, highest = policy, points
        return best

    def snapshot(self, kind: str, district: str, community: str) -> Snapshot:
        """What an alert of this kind in this place keeps of the book."""
        policy = self.choose(kind, district, community)
        return Snapshot(
            version=self.versions[policy.id],
            policy=policy,
            timezone=self.timezone,
            route=self.route(district, community),
            centers=self.centers,
            staff=self.staff,
            holidays=self.holidays,
            quotas=self.quotas,
        )

    def route(self, district: str, community: str) -> tuple[str, ...]:
        """Centers of the community, then of the district, then of the city, each once."""
        places = self.centers.items()
        found = [name for name, center in places if community and community in center.communities]
        found += [name for name, center in places if district and district in center.districts]
        found += [name for name, center in places if center.city]
        return tuple(dict.fromkeys(found))


def load_policies(directories: Sequence[Path] = (), timezone: str = "Asia/Shanghai") -> PolicyBook:
    """The default policies, changed by the ``*.toml`` files of the directories in name order; absent ones are skipped.

    Raises ConfigError that names the file, the key, what is wrong and what to do.
    """
    policies: dict[str, EscalationPolicy] = {}
    versions: dict[str, str] = {}
    centers: dict[str, Center] = {}
    staff: dict[str, Reachable] = {}
    holidays: set[str] = set()
    quotas: dict[tuple[str, str], Quota] = {}
    inhibits: dict[str, Inhibit] = {}
    sources: dict[str, str] = {}
    files: list[str] = []
    for name, text in toml_files("alerts", "policies", directories):
        document = _parse(name, text)
        files.append(name)
        seen: set[str] = set()
        for policy in document.policy:
            if policy.id in seen:
                raise ConfigError(f"{name}: [[policy]] {policy.id}: this id stands twice in the file; rename one")
            seen.add(policy.id)
            policies[policy.id], versions[policy.id], sources[policy.id] = policy, document.version, name
        centers |= document.center
        staff |= document.staff
        holidays |= set(document.holidays)
        quotas |= {(quota.medium, quota.provider): quota for quota in document.quota}
        inhibits |= {inhibit.while_open: inhibit for inhibit in document.inhibit}
        _check_document(name, document)
    book = PolicyBook(
        policies=policies, versions=versions, centers=centers, staff=staff, holidays=tuple(sorted(holidays)),
        quotas=tuple(quotas.values()), inhibits=tuple(inhibits.values()), timezone=timezone, files=tuple(files),
    )  # fmt: skip
    for policy_id, policy in policies.items():
        _check_policy(f"{sources[policy_id]}: [[policy]] {policy_id}", policy, book)
    if not any(center.city for center in centers.values()):
        raise ConfigError(f"{files[-1]}: center: none has city = true; mark the one that serves everybody else")
    return book


def fingerprint(snapshot: Snapshot) -> tuple[str, str]:
    """The snapshot as JSON, and the SHA-256 of that."""
    body = msgspec.json.encode(snapshot, order="deterministic").decode()
    return body, hashlib.sha256(body.encode()).hexdigest()


@lru_cache(maxsize=256)
def read_snapshot(body: str) -> Snapshot:
    """The snapshot that ``fingerprint`` wrote."""
    return msgspec.json.decode(body, type=Snapshot)


def is_on(who: Reachable, snapshot: Snapshot, now_us: int) -> bool:
    """Whether somebody is on duty now, by the site's local time and holidays."""
    local = from_us(now_us).astimezone(ZoneInfo(snapshot.timezone))
    if not who.on_holidays and local.date().isoformat() in snapshot.holidays:
        return False
    if not who.hours:
        return True
    clock = local.strftime("%H:%M")
    day, yesterday = local.isoweekday(), (local.isoweekday() + 5) % 7 + 1
    for hours in who.hours:
        if hours.start < hours.until:
            if day in hours.days and hours.start <= clock < hours.until:
                return True
        elif (day in hours.days and clock >= hours.start) or (yesterday in hours.days and clock < hours.until):
            return True
    return False


def _parse(name: str, text: str) -> Document:
    try:
        return msgspec.convert(tomllib.loads(text), Document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}; {_HINT}") from error


def _check_document(name: str, document: Document) -> None:
    for day in document.holidays:
        try:
            date.fromisoformat(day)
        except ValueError as error:
            raise ConfigError(f"{name}: holidays: {day} is no date; write it as YYYY-MM-DD") from error
    for inhibit in document.inhibit:
        for kind in inhibit.masks:
            if kind in EMERGENCY_SIGNALS:
                raise ConfigError(
                    f"{name}: [[inhibit]] {inhibit.while_open}: masks: {kind} is an emergency, which nothing masks;"
                    " remove it"
                )
    for table, people in (("center", document.center), ("staff", document.staff)):
        for key, who in people.items():
            for medium in ("voice", "sms"):
                number = who.address(medium)
                if number and not _is_number(number):
                    raise ConfigError(
                        f"{name}: [{table}.{key}] {medium}: {number!r} is not a possible number;"
                        " write it in full, for example +862212349"
                    )


def _is_number(number: str) -> bool:
    try:
        return number.startswith("+") and phonenumbers.is_possible_number(phonenumbers.parse(number))
    except phonenumbers.NumberParseException:
        return False


def _check_policy(where: str, policy: EscalationPolicy, book: PolicyBook) -> None:
    """What types cannot say. Raises ConfigError for the first thing that is wrong."""
    if policy.id == "default" and (policy.kinds or policy.districts or policy.communities):
        raise ConfigError(f"{where}: the default is for everybody; remove kinds, districts and communities")
    if policy.ladder_of("operator", "P1") is None:
        raise ConfigError(f"{where}: ladder: no operator ladder for P1, so nobody would hear of an emergency; add one")
    if policy.accept_sla_s < policy.accept_target_s:
        raise ConfigError(f"{where}: accept_sla_s: is below accept_target_s; make it at least as long")
    taken: set[tuple[str, str]] = set()
    for ladder in policy.ladder:
        here = f"{where}: ladder {ladder.name} {'/'.join(ladder.severities)}"
        for severity in ladder.severities:
            if (ladder.name, severity) in taken:
                raise ConfigError(f"{here}: severities: there are two {ladder.name} ladders for {severity}; merge them")
            taken.add((ladder.name, severity))
        times = [step.at_s for step in ladder.step]
        if times != sorted(times):
            raise ConfigError(f"{here}: step: at_s must not fall from one step to the next; sort the steps")
        if times[-1] > ladder.every_s:
            raise ConfigError(f"{here}: every_s: ends before the last step at {times[-1]:g} s; make it longer")
        if ladder.longest_s < ladder.every_s:
            raise ConfigError(f"{here}: longest_s: is below every_s; make it at least {ladder.every_s:g}")
        for number, step in enumerate(ladder.step, 1):
            _check_target(f"{here}: step {number}", step, book)
    if policy.unpresented is not None:
        _check_target(f"{where}: unpresented", policy.unpresented, book)


def _check_target(where: str, target: Target, book: PolicyBook) -> None:
    if target.tell in _NEEDS_MEDIA and not target.media:
        raise ConfigError(f'{where}: media: tells nobody without one; add for example media = ["voice"]')
    if target.tell in ("staff", "console") and not target.who:
        raise ConfigError(f"{where}: who: name at least one {'role of staff' if target.tell == 'staff' else 'group'}")
    if target.tell == "staff":
        for role in target.who:
            if role not in book.staff:
                known = ", ".join(sorted(book.staff)) or "none"
                raise ConfigError(f"{where}: who: there is no [staff.{role}]; add it, or use one of: {known}")
