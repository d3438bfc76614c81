"""One conference for one alert: the person, call center, family, doctor, social worker, 120 on one line (DB4110 5.1).

Legs come and go by role. No leg's end ends the conference, so the person is never left alone on a dead line because
somebody else hung up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from msgspec import Struct

from alerts.call_legs import LONGEST_US
from alerts.channels import twilio_twiml
from alerts.channels.twilio_callbacks import ID
from alerts.channels.twilio_http import TwilioMissingError, TwilioRefusedError
from gateway.errors import DeliveryUnknownError, NotFoundError, UsageError

if TYPE_CHECKING:
    from alerts.channels.twilio import TwilioProvider

Role = Literal["person", "call_center", "family", "doctor", "social_worker", "ems120"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

RING_S: Final[Mapping[Role, int]] = {
    "person": 60, "call_center": 60, "family": 25, "doctor": 25, "social_worker": 25, "ems120": 60,
}  # fmt: skip
MAX_LEGS: Final = 20
MAX_ROUNDS: Final = 20
"""So many conferences of one alert are looked at, the newest first."""
CALL_LIMIT_S: Final = LONGEST_US // 1_000_000
OVER: Final = ("complete", "failed")
"""A participant who is not there any more."""
CALL_IS_OVER: Final = 21220
_EVENTS: Final = "start end join leave mute hold"


class Leg(Struct, frozen=True, kw_only=True):
    """One party. ``label`` is ``<role>-<attempt id>``; ``status`` Twilio's: queued, ringing, connected, complete ..."""

    role: Role
    label: str
    call_id: str
    conference_id: str
    status: str
    muted: bool
    on_hold: bool


class TwilioConference:
    """The conference of one alert; its friendly name is the alert's id. Keeps nothing: Twilio is asked each time.

    ``caller`` is the number that parties see. With ``record`` it is recorded from its start, and the recording's
    reference comes as a callback. All functions are bounded by the provider's time limit per request and raise
    DeliveryError as sending does; a conference or leg that is not there is NotFoundError.
    """

    def __init__(self, provider: TwilioProvider, alert_id: str, *, caller: str, record: bool = True) -> None:
        if not ID.fullmatch(alert_id):
            raise UsageError("this alert's id cannot name a conference")
        self._provider = provider
        self._alert_id = alert_id
        self._caller = caller
        self._record = record

    async def add(self, role: Role, to: str, attempt_id: str, *, muted: bool = False, commanded_by: str = "") -> Leg:
        """Call ``to`` (a number, or sip:... for a terminal) into the conference, which begins with its first leg.

        The same ``attempt_id`` twice is one leg: an unknown outcome may be tried again. 120 is only called when a
        person commands it: ``commanded_by`` names who. Raises UsageError for that and for more than 20 legs.
        """
        if role == "ems120" and not commanded_by:
            raise UsageError("120 is called only when a person commands it")
        if not to.startswith(("+", "sip:")) and role != "ems120":
            raise UsageError("neither an international number nor a SIP address")
        label = leg_label(role, attempt_id)
        present = await self.legs()
        known = next((leg for leg in present if leg.label == label and leg.status not in OVER), None)
        if known is not None:
            return known
        if len(present) >= MAX_LEGS:
            raise UsageError(f"a conference has at most {MAX_LEGS} parties")
        url = self._provider.callbacks.url
        made = (
            await self._provider.client()
            .conferences(self._alert_id)
            .participants.create_async(
                from_=self._caller,
                to=to,
                label=label,
                timeout=RING_S[role],
                time_limit=CALL_LIMIT_S,
                muted=muted,
                beep="onEnter",
                early_media=role != "person",
                start_conference_on_enter=True,
                end_conference_on_exit=False,
                status_callback=url(attempt_id, "leg"),
                status_callback_event=["initiated", "ringing", "answered", "completed"],
                conference_record="record-from-start" if self._record else "do-not-record",
                conference_status_callback=url(self._alert_id, "conference"),
                conference_status_callback_event=_EVENTS.split(),
                conference_recording_status_callback=url(self._alert_id, "recording"),
            )
        )
        leg = _leg(made)
        if leg is None or not leg.call_id:
            raise DeliveryUnknownError("Twilio took it but its answer names no leg")
        return leg

    async def join_call(self, call_id: str, role: Role, attempt_id: str) -> None:
        """Move a call that is up (the person's own, or a contact's who pressed 1) into the conference."""
        try:
            await self._provider.client().calls(call_id).update_async(twiml=self.join_twiml(role, attempt_id))
        except TwilioMissingError as error:
            raise NotFoundError("this call is over") from error
        except TwilioRefusedError as error:
            if error.code == CALL_IS_OVER:
                raise NotFoundError("this call is over") from error
            raise

    def join_twiml(self, role: Role, attempt_id: str) -> str:
        """TwiML that puts a call into the conference, as the answer to an incoming call."""
        url = self._provider.callbacks.url
        callbacks = {"status": url(self._alert_id, "conference"), "recording": url(self._alert_id, "recording")}
        return twilio_twiml.join(self._alert_id, leg_label(role, attempt_id), callbacks=callbacks, record=self._record)

    async def conference_id(self) -> str | None:
        """The provider's id of the running conference; None before its first leg and after its end."""
        found = await self._provider.client().conferences.list_async(
            friendly_name=self._alert_id, limit=MAX_ROUNDS, page_size=MAX_ROUNDS
        )
        return next((str(each.sid) for each in found if each.status in ("init", "in-progress")), None)

    async def legs(self) -> list[Leg]:
        """Who is in it, or being called into it: in the order of the roles, then of joining."""
        conference_id = await self.conference_id()
        if conference_id is None:
            return []
        try:
            participants = (
                await self._provider.client()
                .conferences(conference_id)
                .participants.list_async(limit=2 * MAX_LEGS, page_size=2 * MAX_LEGS)
            )
        except TwilioMissingError:
            return []
        legs = [leg for each in participants if (leg := _leg(each)) is not None]
        return sorted(legs, key=lambda leg: ROLES.index(leg.role))

    async def hold(self, role: Role, *, on: bool) -> list[str]:
        """Put each leg of a role on hold (music, and they hear nobody), or back. The ids of the calls."""
        return await self._change(role, hold=on)

    async def mute(self, role: Role, *, on: bool) -> list[str]:
        return await self._change(role, muted=on)

    async def drop(self, role: Role, *, attempt_id: str = "", even_the_person: bool = False) -> list[str]:
        """Hang up each leg of a role, or that of one attempt; the ids of the calls. The others stay.

        Raises UsageError for the person's leg unless ``even_the_person``: it ends when the person hangs up.
        """
        if role == "person" and not even_the_person:
            raise UsageError("the person's own line is kept")
        dropped = []
        for leg in await self._legs_of(role):
            if attempt_id and leg.label != leg_label(role, attempt_id):
                continue
            try:
                await self._participant(leg).delete_async()
            except TwilioMissingError:
                continue  # hung up meanwhile
            dropped.append(leg.call_id)
        return dropped

    async def end(self) -> str | None:
        """End it for everybody; its id, None when there was none."""
        conference_id = await self.conference_id()
        if conference_id is None:
            return None
        try:
            await self._provider.client().conferences(conference_id).update_async(status="completed")
        except TwilioMissingError:
            return None
        return conference_id

    async def _change(self, role: Role, **members: bool) -> list[str]:
        changed = []
        for leg in await self._legs_of(role):
            try:
                await self._participant(leg).update_async(**members)
            except TwilioMissingError:
                continue  # hung up meanwhile
            changed.append(leg.call_id)
        return changed

    async def _legs_of(self, role: Role) -> list[Leg]:
        legs = [leg for leg in await self.legs() if leg.role == role]
        if not legs:
            raise NotFoundError(f"nobody is in this conference as {role}")
        return legs

    def _participant(self, leg: Leg) -> Any:
        return self._provider.client().conferences(leg.conference_id).participants(leg.call_id)


def leg_label(role: Role, attempt_id: str) -> str:
    """Raises UsageError for an id that is none of ours."""
    if not ID.fullmatch(attempt_id):
        raise UsageError("this attempt's id cannot name a leg")
    return f"{role}-{attempt_id}"


def _leg(participant: Any) -> Leg | None:
    """None for a participant that we did not put there."""
    label = str(participant.label or "")
    role = next((role for role in ROLES if label.startswith(f"{role}-")), None)
    if role is None:
        return None
    return Leg(
        role=role,
        label=label,
        call_id=str(participant.call_sid or ""),
        conference_id=str(participant.conference_sid or ""),
        status=str(participant.status or ""),
        muted=bool(participant.muted),
        on_hold=bool(participant.hold),
    )
