"""Which message a status report is about: references (0-255, used again and again) to attempts."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from msgspec import Struct, field

from alerts.channels.modem_pdu import StatusReport
from alerts.notice import AttemptState, Told

PROVIDER: Final = "modem"
MAX_REMEMBERED: Final = 500
_TAIL: Final = 8
"""Digits that tell numbers apart: networks report a number with or without its country code."""


class _Attempt(Struct):
    """Parts of a message: how many there are, the references of those sent, and which of them arrived."""

    total: int
    references: list[int] = field(default_factory=list)
    arrived: set[int] = field(default_factory=set)
    failed: bool = False
    status: int = 0

    @property
    def submitted(self) -> bool:
        return len(self.references) == self.total

    @property
    def settled(self) -> bool:
        return self.failed or (self.submitted and len(self.arrived) == self.total)


class Attempts:
    """The last 500 messages of this process. A modem keeps nothing."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, _Attempt] = OrderedDict()
        self._by_reference: OrderedDict[tuple[int, str], str] = OrderedDict()

    def begin(self, attempt_id: str, total: int) -> None:
        """A message of ``total`` parts is about to be sent, perhaps once more."""
        self._attempts[attempt_id] = _Attempt(total)
        self._attempts.move_to_end(attempt_id)
        if len(self._attempts) > MAX_REMEMBERED:
            self._attempts.popitem(last=False)

    def sent(self, attempt_id: str, recipient: str, reference: int, now_us: int) -> Told | None:
        """A part went out under this reference. A report can be quicker than this; then here is what it told."""
        self._by_reference[reference, recipient[-_TAIL:]] = attempt_id
        if len(self._by_reference) > MAX_REMEMBERED:
            self._by_reference.popitem(last=False)
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return None
        attempt.references.append(reference)
        return self._told(attempt_id, attempt, now_us) if attempt.settled else None

    def reported(self, report: StatusReport, now_us: int) -> Told | None:
        """What a report settles; None when it is somebody else's, a repetition, or not the last word."""
        attempt_id = self._by_reference.get((report.reference, report.recipient[-_TAIL:]), "")
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.settled or 32 <= report.status < 64:  # 32 to 63: they still try
            return None
        if report.reference not in attempt.references and attempt.total > 1:
            return None  # of an earlier sending, whose other parts are not known any more
        attempt.status = report.status
        if report.status < 32:
            attempt.arrived.add(report.reference)
        else:
            attempt.failed = True
        return self._told(attempt_id, attempt, now_us) if attempt.settled else None

    def find(self, attempt_id: str, now_us: int) -> Told | None:
        """None too for a message of which not every part is known to have gone out."""
        attempt = self._attempts.get(attempt_id)
        return None if attempt is None or not attempt.submitted else self._told(attempt_id, attempt, now_us)

    @staticmethod
    def _told(attempt_id: str, attempt: _Attempt, now_us: int) -> Told:
        state: AttemptState = "sent"
        if attempt.failed:
            state = "undelivered"
        elif attempt.settled:
            state = "delivered"
        return Told(
            attempt_id=attempt_id,
            provider=PROVIDER,
            provider_id=",".join(str(reference) for reference in attempt.references),
            state=state,
            at_us=now_us,
            detail={"status": attempt.status, "parts": attempt.total},
        )
