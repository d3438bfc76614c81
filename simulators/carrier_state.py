"""What the simulated carrier knows: messages, calls and conferences, and how Twilio's API shows them."""

from __future__ import annotations

import asyncio
import enum
import secrets
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

from msgspec import Struct, field

API_VERSION: Final = "2010-04-01"
ENDED: Final = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})


class Fault(enum.StrEnum):
    """What goes wrong with one request, or with the callbacks of what it makes."""

    ERROR = "error"  # 500, nothing is made
    ERROR_AFTER = "error_after"  # it is made, then 500
    UNAVAILABLE = "unavailable"  # 503
    TOO_MANY = "too_many"  # 429, error 20429, with Retry-After
    QUOTA = "quota"  # 429, error 63038: the day's messages are used up
    SLOW = "slow"  # it is made, the answer comes late
    RESET_BEFORE = "reset_before"  # the connection breaks, nothing is made
    RESET_AFTER = "reset_after"  # it is made, the connection breaks before the answer
    BAD_JSON = "bad_json"  # it is made, the answer is none
    INVALID_NUMBER = "invalid_number"  # 400, error 21211
    NO_CALLBACK = "no_callback"  # its status never comes
    TWICE = "twice"  # each of its callbacks comes twice
    LATE = "late"  # its callbacks come late, and then all at once


OF_CALLBACKS: Final = frozenset({Fault.NO_CALLBACK, Fault.TWICE, Fault.LATE})


class Message(Struct, kw_only=True):
    sid: str
    account_sid: str
    to: str
    sender: str
    service_sid: str | None
    body: str
    callback: str
    status: str = "queued"
    error_code: int | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    sent: datetime | None = None
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    fault: Fault | None = None

    def shown(self) -> dict[str, Any]:
        uri = f"/{API_VERSION}/Accounts/{self.account_sid}/Messages/{self.sid}"
        return {
            "sid": self.sid, "account_sid": self.account_sid, "api_version": API_VERSION, "to": self.to,
            "from": self.sender or None, "messaging_service_sid": self.service_sid, "body": self.body,
            "num_segments": str(segments(self.body)), "num_media": "0", "direction": "outbound-api",
            "status": self.status, "error_code": self.error_code, "error_message": None, "price": None,
            "price_unit": "USD", "date_created": rfc2822(self.created), "date_updated": rfc2822(self.updated),
            "date_sent": rfc2822(self.sent), "uri": f"{uri}.json", "subresource_uris": {"media": f"{uri}/Media.json"},
        }  # fmt: skip


class Call(Struct, kw_only=True):
    """``scope`` bounds what is said; ending it hangs up, with ``redirected`` set it goes on with that TwiML."""

    sid: str
    account_sid: str
    to: str
    sender: str
    twiml: str
    url: str
    callback: str
    events: frozenset[str]
    ring_s: float
    amd_callback: str = ""
    status: str = "queued"
    answered_by: str | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    ended: datetime | None = None
    duration_s: int | None = None
    sequence: int = 0
    asked: int = 0  # how often a key was asked for
    told: list[str] = field(default_factory=list)  # what the person heard and did
    requests: list[dict[str, Any]] = field(default_factory=list)  # what belongs to this call, for Events.json
    conference_sid: str | None = None
    redirected: str = ""
    scope: asyncio.Timeout | None = None
    fault: Fault | None = None

    def hang_up(self) -> None:
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(asyncio.get_running_loop().time())

    def shown(self) -> dict[str, Any]:
        uri = f"/{API_VERSION}/Accounts/{self.account_sid}/Calls/{self.sid}"
        return {
            "sid": self.sid, "account_sid": self.account_sid, "api_version": API_VERSION, "to": self.to,
            "to_formatted": self.to, "from": self.sender, "from_formatted": self.sender, "parent_call_sid": None,
            "phone_number_sid": "PN" + "0" * 32, "direction": "outbound-api",
            "status": "queued" if self.status == "initiated" else self.status,  # that is a word of callbacks alone
            "answered_by": self.answered_by,
            "start_time": rfc2822(self.started), "end_time": rfc2822(self.ended),
            "duration": None if self.duration_s is None else str(self.duration_s), "price": None, "price_unit": "USD",
            "forwarded_from": None, "group_sid": None, "caller_name": None, "queue_time": "0", "trunk_sid": None,
            "date_created": rfc2822(self.created), "date_updated": rfc2822(self.updated), "uri": f"{uri}.json",
            "subresource_uris": {"events": f"{uri}/Events.json", "recordings": f"{uri}/Recordings.json"},
        }  # fmt: skip


class Participant(Struct, kw_only=True):
    call: Call
    label: str | None
    ends_it: bool
    starts_it: bool
    status: str = "queued"
    muted: bool = False
    hold: bool = False
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def shown(self, conference: Conference) -> dict[str, Any]:
        uri = f"/{API_VERSION}/Accounts/{self.call.account_sid}/Conferences/{conference.sid}/Participants"
        return {
            "account_sid": self.call.account_sid, "call_sid": self.call.sid, "conference_sid": conference.sid,
            "label": self.label, "muted": self.muted, "hold": self.hold, "coaching": False, "call_sid_to_coach": None,
            "end_conference_on_exit": self.ends_it, "start_conference_on_enter": self.starts_it, "status": self.status,
            "date_created": rfc2822(self.created), "date_updated": rfc2822(self.created), "queue_time": "0",
            "uri": f"{uri}/{self.call.sid}.json",
        }  # fmt: skip


class Conference(Struct, kw_only=True):
    sid: str
    account_sid: str
    name: str
    record: bool = False
    callback: str = ""
    events: frozenset[str] = frozenset()
    recording_callback: str = ""
    status: str = "init"
    participants: dict[str, Participant] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    sequence: int = 0
    told: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        uri = f"/{API_VERSION}/Accounts/{self.account_sid}/Conferences/{self.sid}"
        ended = {"reason_conference_ended": "last-participant-left"} if self.status == "completed" else {}
        return ended | {
            "sid": self.sid, "account_sid": self.account_sid, "api_version": API_VERSION, "friendly_name": self.name,
            "region": "us1", "status": self.status, "date_created": rfc2822(self.created),
            "date_updated": rfc2822(self.created), "uri": f"{uri}.json",
            "call_sid_ending_conference": None,
            "subresource_uris": {"participants": f"{uri}/Participants.json", "recordings": f"{uri}/Recordings.json"},
        }  # fmt: skip


def new_sid(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


def rfc2822(at: datetime | None) -> str | None:
    return None if at is None else format_datetime(at)


def segments(body: str) -> int:
    """Of a text in UCS-2, or in one octet a character where ASCII is enough."""
    single, part = (160, 153) if body.isascii() else (70, 67)
    length = len(body.encode("utf-16-le")) // 2
    return 1 if length <= single else -(-length // part)
