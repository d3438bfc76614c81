"""Whether an emergency of a person would reach anybody, as policies, registry and providers are now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from alerts.notice import Medium
from alerts.people import Contact
from alerts.policy_schema import Reachable, Snapshot, Target


def reaches(snapshot: Snapshot, media: Collection[Medium], contacts: Sequence[Contact]) -> bool:
    """Whether some step of the P1 ladders tells somebody by one of the media that the site can use.

    Hours of duty are not looked at: somebody who is there by day is somebody.
    """
    return any(
        _tells(step, snapshot, [medium for medium in step.media if medium in media], contacts)
        for ladder in snapshot.policy.ladder
        if "P1" in ladder.severities
        for step in ladder.step
    )


def _tells(target: Target, snapshot: Snapshot, media: Sequence[Medium], contacts: Sequence[Contact]) -> bool:
    people: Iterable[Reachable | Contact]
    match target.tell:
        case "contacts" | "next_contact":
            people = [contact for contact in contacts if "P1" in contact.severities]
        case "staff":
            people = [snapshot.staff[role] for role in target.who if role in snapshot.staff]
        case "backup":
            people = [center for center in snapshot.centers.values() if center.backup]
        case "center":
            people = [snapshot.centers[name] for name in snapshot.route if name in snapshot.centers]
        case "console":  # nobody is told who does not look
            people = ()
    return any(who.address(medium) for who in people for medium in media)
