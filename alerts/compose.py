"""What a notice says, and who makes its words. The words themselves are templates: alerts.wording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from alerts.facts import Language, Role
from alerts.notice import Medium
from alerts.rows import Alert

__all__ = ["Composer", "Language", "Words", "compose"]


class Words(Struct, frozen=True):
    """What a notice says. ``html`` is beside ``text`` in an e-mail. A line of ``speech`` is followed by a pause."""

    subject: str
    text: str
    speech: str
    params: dict[str, str]
    html: str = ""


class Composer(Protocol):
    """Makes the words of a notice. Pure."""

    def __call__(
        self,
        alert: Alert,
        person: Mapping[str, Any] | None,
        *,
        language: Language,
        recipient: str,
        link: str,
        timezone: str,
        medium: Medium = "sms",
        role: Role = "family",
        device: Mapping[str, Any] | None = None,
    ) -> Words:
        """``recipient``: the address form of who is told, "" for a call center. ``link``: a page of the alert or "".

        Nothing is said that ``role`` may not see. Which keys a call asks for is said by the provider, behind
        ``speech``.
        """
        ...


def compose(
    alert: Alert,
    person: Mapping[str, Any] | None,
    *,
    language: Language,
    recipient: str,
    link: str,
    timezone: str,
    medium: Medium = "sms",
    role: Role = "family",
    device: Mapping[str, Any] | None = None,
) -> Words:
    """Composer: the words that come with carebell."""
    from alerts.wording import own_wording  # noqa: PLC0415 - the template engine, only where something is told

    return own_wording()(
        alert, person, language=language, recipient=recipient, link=link, timezone=timezone, medium=medium, role=role,
        device=device,
    )  # fmt: skip
