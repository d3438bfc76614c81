"""What the simulated carrier's REST interface makes, shows and refuses: Twilio's shapes and words."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from simulators.carrier_calls import Switchboard
from simulators.carrier_state import ENDED, Call, Conference, Message, Participant, new_sid
from simulators.people import People

MAX_TWIML: Final = 4000
_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")


class Refused(Exception):  # noqa: N818 - an answer, not an accident
    """An answer in Twilio's words. Handler: the route."""

    def __init__(self, status: int, code: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.response = JSONResponse(
            {
                "code": code,
                "message": message,
                "more_info": f"https://www.twilio.com/docs/errors/{code}",
                "status": status,
            },
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )


class Resources:
    """Messages, calls and conferences of one account, as REST shows them. Handlers raise Refused."""

    def __init__(self, account_sid: str, people: People, board: Switchboard) -> None:
        self.account_sid = account_sid
        self.people = people
        self.board = board

    # ---- messages ----------------------------------------------------------------------------------------------------

    def create_message(self, request: Request, form: dict[str, list[str]]) -> Response:
        to = self._number(form)
        if to in self.people.landlines:
            raise Refused(400, 21614, "'To' number is not a valid mobile number")
        sender, service = _one(form, "From"), _one(form, "MessagingServiceSid")
        if not sender and not service:
            raise Refused(400, 21603, "A 'From' or 'MessagingServiceSid' parameter is required")
        body = _one(form, "Body")
        if not body:
            raise Refused(400, 21602, "Message body is required.")
        if len(body) > 1600:
            raise Refused(400, 21617, "The concatenated message body exceeds the 1600 character limit.")
        message = Message(
            sid=new_sid("SM"), account_sid=self.account_sid, to=to, sender=sender, service_sid=service or None,
            body=body, callback=_address(form, "StatusCallback"), fault=request.state.fault,
        )  # fmt: skip
        self.board.send(message)
        return JSONResponse(message.shown(), 201)

    def list_messages(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        query = request.query_params
        chosen = [
            message.shown()
            for message in reversed(self.board.messages.values())
            if query.get("To") in (None, message.to) and query.get("From") in (None, message.sender)
        ]
        return self._list(request, "messages", chosen)

    def message(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        return JSONResponse(_known(self.board.messages, request).shown())

    # ---- calls -------------------------------------------------------------------------------------------------------

    def create_call(self, request: Request, form: dict[str, list[str]]) -> Response:
        call = self._new_call(request, form)
        call.twiml, call.url = _one(form, "Twiml"), _address(form, "Url")
        if not call.twiml and not call.url:
            raise Refused(400, 21205, "Url parameter is required.")
        if len(call.twiml) > MAX_TWIML:
            raise Refused(400, 21626, "The Twiml parameter is longer than 4000 characters")
        self.board.dial(call)
        return JSONResponse(call.shown(), 201)

    def _new_call(self, request: Request, form: dict[str, list[str]]) -> Call:
        if not _one(form, "From"):
            raise Refused(400, 21213, "'From' phone number is required")
        detects = bool(_one(form, "MachineDetection")) and _one(form, "AsyncAmd") == "true"
        call = Call(
            sid=new_sid("CA"), account_sid=self.account_sid, to=self._number(form), sender=_one(form, "From"), twiml="",
            url="", callback=_address(form, "StatusCallback"),
            events=frozenset(form.get("StatusCallbackEvent", form.get("StatusCallbackEvent[]", ["completed"]))),
            ring_s=float(_one(form, "Timeout") or 60), fault=request.state.fault,
            amd_callback=_address(form, "AsyncAmdStatusCallback") if detects else "",
        )  # fmt: skip
        parameters = {name: values[0] for name, values in form.items()}
        call.requests.append({"method": "POST", "url": request.url.path, "parameters": parameters})
        return call

    def list_calls(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        query = request.query_params
        chosen = [
            call.shown()
            for call in reversed(self.board.calls.values())
            if query.get("To") in (None, call.to)
            and query.get("From") in (None, call.sender)
            and query.get("Status") in (None, call.status)
        ]
        return self._list(request, "calls", chosen)

    def call(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        return JSONResponse(_known(self.board.calls, request).shown())

    def change_call(self, request: Request, form: dict[str, list[str]]) -> Response:
        call: Call = _known(self.board.calls, request)
        if call.status in ENDED:
            raise Refused(400, 21220, "Call is not in-progress. Cannot redirect.")
        if _one(form, "Twiml"):
            call.redirected = _one(form, "Twiml")
        elif _one(form, "Status") == "canceled" and call.status != "in-progress":
            call.status = "canceled"
        call.hang_up()
        return JSONResponse(call.shown())

    def call_events(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        call: Call = _known(self.board.calls, request)
        return self._list(request, "events", [{"request": each, "response": {}} for each in call.requests])

    # ---- conferences -------------------------------------------------------------------------------------------------

    def list_conferences(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        query = request.query_params
        chosen = [
            conference.shown()
            for conference in reversed(self.board.conferences.values())
            if query.get("FriendlyName") in (None, conference.name) and query.get("Status") in (None, conference.status)
        ]
        return self._list(request, "conferences", chosen)

    def conference(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        return JSONResponse(self._room(request).shown())

    def end_conference(self, request: Request, form: dict[str, list[str]]) -> Response:
        conference = self._room(request)
        if _one(form, "Status") == "completed":
            self.board.end(conference)
        return JSONResponse(conference.shown())

    def create_participant(self, request: Request, form: dict[str, list[str]]) -> Response:
        call = self._new_call(request, form)
        name = request.path_params["conference"]
        known = self.board.conferences.get(name)
        conference = known or self.board.room(name, self.account_sid)
        if known is not None and known.status == "completed":
            raise missing(request)
        if not conference.participants:
            conference.record = _one(form, "ConferenceRecord") in ("true", "record-from-start")
            conference.callback = _address(form, "ConferenceStatusCallback")
            conference.events = frozenset(" ".join(form.get("ConferenceStatusCallbackEvent", [])).split())
            conference.recording_callback = _address(form, "ConferenceRecordingStatusCallback")
        label = _one(form, "Label") or None
        if label is not None and any(each.label == label for each in conference.participants.values()):
            raise Refused(400, 16025, "The participant label is in use")
        participant = Participant(
            call=call, label=label, ends_it=_one(form, "EndConferenceOnExit") == "true",
            starts_it=_one(form, "StartConferenceOnEnter") != "false", muted=_one(form, "Muted") == "true",
        )  # fmt: skip
        conference.participants[call.sid] = participant
        call.conference_sid = conference.sid
        call.twiml = f"<Response><Dial><Conference>{conference.name}</Conference></Dial></Response>"
        self.board.dial(call)
        return JSONResponse(participant.shown(conference), 201)

    def list_participants(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        conference = self._room(request)
        return self._list(
            request, "participants", [each.shown(conference) for each in conference.participants.values()]
        )

    def participant(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        conference = self._room(request)
        return JSONResponse(self._present(conference, request).shown(conference))

    def change_participant(self, request: Request, form: dict[str, list[str]]) -> Response:
        conference = self._room(request)
        participant = self._present(conference, request)
        muted, hold = _one(form, "Muted"), _one(form, "Hold")
        self.board.change(
            conference, participant, muted=muted == "true" if muted else None, hold=hold == "true" if hold else None
        )
        return JSONResponse(participant.shown(conference))

    def drop_participant(self, request: Request, form: dict[str, list[str]]) -> Response:
        del form
        self._present(self._room(request), request).call.hang_up()
        return Response(status_code=204)

    def _room(self, request: Request) -> Conference:
        conference = self.board.conferences.get(request.path_params["conference"])
        if conference is None:
            raise missing(request)
        return conference

    def _present(self, conference: Conference, request: Request) -> Participant:
        asked = request.path_params["sid"]
        for participant in conference.participants.values():
            if asked in (participant.call.sid, participant.label):
                return participant
        raise missing(request)

    # ---- shapes ------------------------------------------------------------------------------------------------------

    def _number(self, form: dict[str, list[str]]) -> str:
        to = _one(form, "To")
        if not to:
            raise Refused(400, 21604, "A 'To' phone number is required.")
        if not (_NUMBER.fullmatch(to) or to.startswith("sip:")) or to in self.people.invalid:
            raise invalid_number()
        return to

    def _list(self, request: Request, name: str, entries: Iterable[dict[str, Any]]) -> Response:
        size = int(request.query_params.get("PageSize", "50"))
        page = list(entries)[:size]
        uri = f"{request.url.path}?PageSize={size}&Page=0"
        return JSONResponse(
            {
                name: page, "page": 0, "page_size": size, "start": 0, "end": max(len(page) - 1, 0), "uri": uri,
                "first_page_uri": uri, "next_page_uri": None, "previous_page_uri": None,
            }
        )  # fmt: skip


def _known(book: OrderedDict[str, Any], request: Request) -> Any:
    entry = book.get(request.path_params["sid"])
    if entry is None:
        raise missing(request)
    return entry


def invalid_number() -> Refused:
    return Refused(400, 21211, "Invalid 'To' Phone Number: XXX")


def missing(request: Request) -> Refused:
    return Refused(404, 20404, f"The requested resource {request.url.path} was not found")


def _one(form: dict[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0]


def _address(form: dict[str, list[str]], name: str) -> str:
    url = _one(form, name)
    if url and not url.startswith(("http://", "https://")):
        raise Refused(400, 21609, f"Invalid '{name}'")
    return url
