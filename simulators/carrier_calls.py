"""The life of messages, calls and conferences at the simulated carrier, which executes TwiML as far as it is used."""

from __future__ import annotations

import asyncio
import contextlib
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from simulators.carrier_post import CallbackPoster, Posted
from simulators.carrier_state import API_VERSION, Call, Conference, Message, Participant, new_sid
from simulators.people import Behaviour, People

MAX_KEPT: Final = 20_000
MAX_DOCUMENTS: Final = 50
MACHINE_KNOWN_S: Final = 4.0
CHARACTERS_PER_S: Final = 4.0
ASCII_PER_S: Final = 13.0
ENDED_ZH: Final[Mapping[str, str]] = MappingProxyType(
    {"completed": "通话结束", "no-answer": "无人接听", "busy": "占线", "failed": "打不通", "canceled": "取消"}
)


class Switchboard:
    """Calls people and tells what became of it. ``speed`` is how many simulated seconds pass in a real one."""

    def __init__(
        self,
        people: People,
        poster: CallbackPoster,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        speed: float,
        say: Callable[[str], None],
    ) -> None:
        self.messages: OrderedDict[str, Message] = OrderedDict()
        self.calls: OrderedDict[str, Call] = OrderedDict()
        self.conferences: OrderedDict[str, Conference] = OrderedDict()
        self._people = people
        self._poster = poster
        self._spawn = spawn
        self._speed = speed
        self._say = say

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)

    # ---- messages ----------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        _keep(self.messages, message.sid, message)
        self._say(f"短信 SMS {message.to}: {message.body}")
        self._spawn(self._deliver(message))

    async def _deliver(self, message: Message) -> None:
        behaviour = self._people.behaviour(message.to, "message")
        await self._sleep(0.5)
        message.sent = datetime.now(UTC)
        self._message_is(message, "sent")
        if behaviour.messages == "never":
            return
        await self._sleep(1.5)
        if behaviour.messages == "undelivered":
            message.error_code = 30003  # unreachable handset
        self._message_is(message, behaviour.messages)

    def _message_is(self, message: Message, status: str) -> None:
        message.status = status
        message.updated = datetime.now(UTC)
        form = {
            "AccountSid": message.account_sid, "ApiVersion": API_VERSION, "MessageSid": message.sid,
            "SmsSid": message.sid, "MessageStatus": status, "SmsStatus": status, "To": message.to,
            "From": message.sender,
        }  # fmt: skip
        if message.error_code is not None:
            form["ErrorCode"] = str(message.error_code)
        self._poster.tell(message.callback, form, message.fault)

    # ---- calls -------------------------------------------------------------------------------------------------------

    def dial(self, call: Call) -> None:
        _keep(self.calls, call.sid, call)
        self._spawn(self._live(call))

    async def _live(self, call: Call) -> None:
        behaviour = self._people.behaviour(call.to)
        self._say(f"电话 call {call.to}: 拨号 dialled")
        self._call_is(call, "initiated", "initiated")
        await self._sleep(1.0)
        ended = await self._ring(call, behaviour)
        if not ended:
            await self._talk(call, behaviour)
            ended = "completed"
        call.ended = datetime.now(UTC)
        if call.started is not None:
            call.duration_s = round((call.ended - call.started).total_seconds() * self._speed)
        self._leave(call)
        self._call_is(call, "completed", ended)
        self._say(" · ".join([f"电话 call {call.to}: {ENDED_ZH[ended]} {ended}", *call.told[-3:]]))

    async def _ring(self, call: Call, behaviour: Behaviour) -> str:
        """How it ended without an answer; "" when somebody or something picked up."""
        if call.status == "canceled":
            return "canceled"
        if behaviour.line == "off":
            return "failed"
        if behaviour.line == "busy":
            return "busy"
        self._call_is(call, "ringing", "ringing")
        answers_s = behaviour.answers_after_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as call.scope:
                await self._sleep(call.ring_s if answers_s is None else min(answers_s, call.ring_s))
        if call.status == "canceled":
            return "canceled"
        return "no-answer" if answers_s is None or answers_s > call.ring_s else ""

    async def _talk(self, call: Call, behaviour: Behaviour) -> None:
        call.started = datetime.now(UTC)
        call.told.append("答录机 voicemail" if behaviour.machine else "接听 picked up")
        self._call_is(call, "answered", "in-progress")
        if call.amd_callback:
            self._spawn(self._detect_machine(call, behaviour))
        loop = asyncio.get_running_loop()
        ends_at = None
        if behaviour.hangs_up_after_s is not None:
            ends_at = loop.time() + behaviour.hangs_up_after_s / self._speed
        document: str | None = call.twiml
        for _ in range(MAX_DOCUMENTS):
            try:
                async with asyncio.timeout_at(ends_at) as call.scope:
                    if document is None:
                        document = await self._fetch(call, call.url)
                    document = await self._execute(call, document, behaviour)
            except TimeoutError:
                document, call.redirected = call.redirected, ""
                self._leave(call)
                if not document:
                    call.told.append("挂断 hung up")
            except (Posted, ET.ParseError) as error:
                call.told.append(f"应用程序错误 application error {error}")
                document = None
            if not document:
                return

    async def _detect_machine(self, call: Call, behaviour: Behaviour) -> None:
        await self._sleep(MACHINE_KNOWN_S)
        call.answered_by = "machine_start" if behaviour.machine else "human"
        if call.status == "in-progress":
            form = self._call_form(call) | {"AnsweredBy": call.answered_by, "MachineDetectionDuration": "3900"}
            self._tell(call, call.amd_callback, form)

    def _call_is(self, call: Call, event: str, status: str) -> None:
        call.status = status
        call.updated = datetime.now(UTC)
        if event in call.events:
            form = self._call_form(call) | {
                "CallbackSource": "call-progress-events", "SequenceNumber": str(call.sequence),
                "Timestamp": call.updated.strftime("%a, %d %b %Y %H:%M:%S +0000"),
            }  # fmt: skip
            if call.answered_by is not None:
                form["AnsweredBy"] = call.answered_by
            if event == "completed":
                form |= {"CallDuration": str(call.duration_s or 0), "Duration": str(-(-(call.duration_s or 0) // 60))}
                if status == "failed":
                    form["SipResponseCode"] = "480"
            self._tell(call, call.callback, form)
        call.sequence += 1

    def _call_form(self, call: Call) -> dict[str, str]:
        return {
            "AccountSid": call.account_sid, "ApiVersion": API_VERSION, "CallSid": call.sid, "CallStatus": call.status,
            "Direction": "outbound-api", "To": call.to, "From": call.sender, "Called": call.to, "Caller": call.sender,
        }  # fmt: skip

    def _tell(self, call: Call, url: str, form: dict[str, str]) -> None:
        if url:
            call.requests.append({"method": "POST", "url": url, "parameters": form})
        self._poster.tell(url, form, call.fault)

    # ---- TwiML -------------------------------------------------------------------------------------------------------

    async def _fetch(self, call: Call, url: str, **more: str) -> str:
        form = self._call_form(call) | more
        call.requests.append({"method": "POST", "url": url, "parameters": form})
        return await self._poster.ask(url, form, call.fault)

    async def _execute(self, call: Call, document: str, behaviour: Behaviour) -> str | None:
        """Do what a document says; the next document, None at the end of the call."""
        for verb in ET.fromstring(document.encode()):  # noqa: S314 - a document of the program under test
            if verb.tag in ("Say", "Pause"):
                await self._hear(call, verb)
            elif verb.tag == "Gather":
                answer = await self._gather(call, verb, behaviour)
                if answer is not None:
                    return answer
            elif verb.tag == "Redirect":
                return await self._fetch(call, (verb.text or "").strip())
            elif verb.tag == "Dial":
                await self._confer(call, verb)
            elif verb.tag in ("Hangup", "Reject"):
                return None
        return None

    async def _hear(self, call: Call, verb: ET.Element) -> None:
        await self._sleep(self._begin_to_hear(call, verb))

    def _begin_to_hear(self, call: Call, verb: ET.Element) -> float:
        """How many seconds it takes to hear all of it."""
        if verb.tag == "Pause":
            return float(verb.get("length", "1"))
        words = "".join(verb.itertext()).strip()
        call.told.append(f"听到 heard: {words}")
        return len(words) / (ASCII_PER_S if words.isascii() else CHARACTERS_PER_S)

    async def _gather(self, call: Call, verb: ET.Element, behaviour: Behaviour) -> str | None:
        """Keys interrupt what is said. None: no key, and the action is not asked for that.

        When a key is pressed goes by how long things take to say, not by a timer: a slow machine hears as much.
        """
        key = behaviour.keys[call.asked] if call.asked < len(behaviour.keys) and not behaviour.machine else ""
        call.asked += 1
        left_s = behaviour.key_after_s
        for nested in (*verb, None):
            lasts_s = float(verb.get("timeout", "5")) if nested is None else self._begin_to_hear(call, nested)
            await self._sleep(min(lasts_s, left_s) if key else lasts_s)
            if key and lasts_s >= left_s:
                call.told.append(f"按键 pressed {key}")
                break
            left_s -= lasts_s
        else:
            key = ""
        if not key and verb.get("actionOnEmptyResult") != "true":
            return None
        return await self._fetch(call, verb.get("action", ""), Digits=key, msg="Gather End", FinishedOnKey="")

    async def _confer(self, call: Call, dial: ET.Element) -> None:
        verb = dial.find("Conference")
        if verb is None:
            return
        conference = self.room((verb.text or "").strip(), call.account_sid)
        if not conference.callback:
            conference.callback = verb.get("statusCallback", "")
            conference.events = frozenset(verb.get("statusCallbackEvent", "").split())
            conference.record = verb.get("record") == "record-from-start"
            conference.recording_callback = verb.get("recordingStatusCallback", "")
        self.enter(
            conference,
            Participant(
                call=call, label=verb.get("participantLabel"), ends_it=verb.get("endConferenceOnExit") == "true",
                starts_it=verb.get("startConferenceOnEnter", "true") == "true",
            ),
        )  # fmt: skip
        await asyncio.Event().wait()  # until somebody hangs up

    # ---- conferences -------------------------------------------------------------------------------------------------

    def room(self, name: str, account_sid: str) -> Conference:
        """The conference of this name that is not over, or a new one."""
        for conference in reversed(self.conferences.values()):
            if conference.name == name and conference.status != "completed":
                return conference
        conference = Conference(sid=new_sid("CF"), account_sid=account_sid, name=name)
        _keep(self.conferences, conference.sid, conference)
        return conference

    def enter(self, conference: Conference, participant: Participant) -> None:
        call = participant.call
        known = conference.participants.get(call.sid)
        if known is not None:  # called by the API: its place was kept for it
            participant = known
        conference.participants[call.sid] = participant
        participant.status = "connected"
        call.conference_sid = conference.sid
        if conference.status == "init" and participant.starts_it:
            conference.status = "in-progress"
            self._conference_tells(conference, "conference-start", None)
        self._conference_tells(conference, "participant-join", participant)

    def change(
        self, conference: Conference, participant: Participant, *, muted: bool | None, hold: bool | None
    ) -> None:
        if muted is not None:
            participant.muted = muted
            self._conference_tells(conference, "participant-mute" if muted else "participant-unmute", participant)
        if hold is not None:
            participant.hold = hold
            self._conference_tells(conference, "participant-hold" if hold else "participant-unhold", participant)

    def end(self, conference: Conference) -> None:
        for participant in list(conference.participants.values()):
            participant.call.hang_up()

    def _leave(self, call: Call) -> None:
        conference = self.conferences.get(call.conference_sid or "")
        participant = conference.participants.pop(call.sid, None) if conference is not None else None
        call.conference_sid = None
        if conference is None or participant is None:
            return
        if participant.status == "connected":
            self._conference_tells(conference, "participant-leave", participant)
        if conference.status == "completed":
            return
        if participant.ends_it:
            self.end(conference)
        if not any(each.status == "connected" for each in conference.participants.values()):
            if conference.participants and conference.status == "init":
                return
            self.end(conference)
            conference.status = "completed"
            self._conference_tells(conference, "conference-end", None)
            if conference.record:
                form = {
                    "AccountSid": conference.account_sid, "ConferenceSid": conference.sid,
                    "RecordingSid": new_sid("RE"), "RecordingStatus": "completed", "RecordingDuration": "60",
                    "RecordingChannels": "1", "RecordingSource": "Conference",
                }  # fmt: skip
                self._poster.tell(conference.recording_callback, form, call.fault)

    def _conference_tells(self, conference: Conference, event: str, participant: Participant | None) -> None:
        conference.sequence += 1
        conference.told.append(event if participant is None else f"{event} {participant.label}")
        kind = event.partition("-")[2].removeprefix("un")
        if kind not in conference.events:
            return
        form = {
            "AccountSid": conference.account_sid, "ConferenceSid": conference.sid, "FriendlyName": conference.name,
            "StatusCallbackEvent": event, "SequenceNumber": str(conference.sequence),
        }  # fmt: skip
        fault = None
        if participant is not None:
            fault = participant.call.fault
            form |= {
                "CallSid": participant.call.sid, "ParticipantLabel": participant.label or "",
                "Muted": str(participant.muted).lower(), "Hold": str(participant.hold).lower(),
            }  # fmt: skip
        self._poster.tell(conference.callback, form, fault)


def _keep(book: OrderedDict[str, Any], sid: str, entry: Any) -> None:
    book[sid] = entry
    while len(book) > MAX_KEPT:
        book.popitem(last=False)
