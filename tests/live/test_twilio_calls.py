"""Calls to simulated people, and a conference of many parties, end to end over HTTP."""

from __future__ import annotations

import asyncio
import logging

import httpx2
import pytest
from msgspec.structs import replace

from alerts.channels.twilio import TwilioProvider
from alerts.channels.twilio_conference import TwilioConference
from alerts.notice import Told
from gateway.clock import SystemClock
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, NotFoundError, UsageError
from simulators import people
from simulators.carrier import ACCOUNT_SID, AUTH_TOKEN, NUMBER, SimulatedCarrier
from simulators.carrier_state import ENDED, Fault
from simulators.people import Behaviour, People
from tests.live.twilio_harness import CONTACT, TwilioHarness, twilio_harness
from tests.provider_contract import until


def crowd(*script: Behaviour) -> People:
    known = People()
    known.set(CONTACT, *script)
    return known


def over(harness: TwilioHarness) -> bool:
    return any(told.duration_s is not None for told in harness.heard)


@pytest.mark.parametrize(
    ("script", "digits", "last"),
    [
        (people.presses("1"), ["1"], "answered"),
        (people.presses("2"), ["2"], "answered"),
        (people.presses("9"), ["9"], "answered"),
        (people.presses("5", "1"), ["5", "1"], "answered"),
        (people.presses("5", "5", "5", "1"), ["5", "5", "5"], "answered"),
        (people.presses("1", key_after_s=25.0), ["1"], "answered"),
        (people.LISTENS, [], "answered"),
        (people.HANGS_UP, [], "answered"),
        (people.VOICEMAIL, [], "machine"),
        (people.IGNORES, [], "no_answer"),
        (people.BUSY, [], "busy"),
        (people.SWITCHED_OFF, [], "failed"),
    ],
)
def test_only_a_key_is_an_answer(script: Behaviour, digits: list[str], last: str) -> None:
    async def main() -> list[Told]:
        async with twilio_harness("voice", crowd(script)) as harness:
            receipt = await harness.provider.send(harness.notice("a-1"))
            await until(lambda: over(harness), "the end of the call")
            assert {told.provider_id for told in harness.heard} == {receipt.reference}
            (call,) = harness.carrier.calls
            assert call.status in ENDED
            if digits:
                assert any("紧急呼叫" in told for told in call.told)
            return harness.heard

    heard = asyncio.run(main())
    assert [told.digits for told in heard if told.digits] == digits
    final = [told for told in heard if told.duration_s is not None]
    assert [told.state for told in final] == [last]


def test_the_gateway_was_away_for_a_moment_and_hears_it_all_the_same() -> None:
    """Twilio tries a callback again because its address asks for that."""

    async def main() -> None:
        async with twilio_harness() as harness:
            harness.away = 2
            await harness.provider.send(harness.notice("a-1"))
            await until(lambda: {told.state for told in harness.heard} == {"sent", "delivered"}, "both receipts")

    asyncio.run(main())


def test_the_same_words_to_the_same_number_are_told_apart_by_the_call_s_own_log() -> None:
    async def main() -> None:
        async with twilio_harness("voice") as harness:
            first = await harness.provider.send(harness.notice("a-1"))
            second = await harness.provider.send(harness.notice("a-2"))
            provider = await harness.reborn()
            for attempt_id, receipt in (("a-2", second), ("a-1", first)):
                told = await provider.find(harness.notice(attempt_id))
                assert told is not None
                assert told.provider_id == receipt.reference
            assert await provider.find(harness.notice("a-3")) is None

    asyncio.run(main())


def test_an_old_message_is_not_taken_for_a_new_one() -> None:
    async def main() -> None:
        async with twilio_harness() as harness:
            await harness.provider.send(harness.notice("a-1"))
            provider = await harness.reborn()
            notice = harness.notice("a-2")
            late = SystemClock().now_us() + 60_000_000
            assert await provider.find(notice) is not None  # same words: nobody says since when
            assert await (await harness.reborn()).find(replace(notice, since_us=late)) is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.TOO_MANY, DeliveryDeferredError),
        (Fault.QUOTA, DeliveryDeferredError),
        (Fault.UNAVAILABLE, DeliveryDeferredError),
        (Fault.INVALID_NUMBER, DeliveryRefusedError),
    ],
)
def test_what_twilio_answers_is_told_without_numbers(
    fault: Fault, expected: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with twilio_harness() as harness:
            harness.carrier.fail(fault)
            with pytest.raises(expected, match=r"Twilio answered \d+, error \d+") as caught:
                await harness.provider.send(harness.notice("a-1"))
            assert CONTACT not in str(caught.value)
            assert getattr(caught.value, "retry_after_s", None) == (1.0 if expected is DeliveryDeferredError else None)
            await harness.provider.send(harness.notice("a-1"))

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert "13800000001" not in caplog.text
    assert AUTH_TOKEN not in caplog.text


def test_landlines_wrong_tokens_and_what_is_not_configured() -> None:
    async def main() -> None:
        async with twilio_harness() as harness:
            harness.carrier.people.landlines.add(CONTACT)
            with pytest.raises(DeliveryRefusedError, match="21614"):
                await harness.provider.send(harness.notice("a-1"))
            clock = SystemClock()
            wrong = TwilioProvider(ACCOUNT_SID, "wrong", NUMBER, clock=clock, base_url=harness.carrier.url)
            with pytest.raises(DeliveryDeferredError, match="401"):  # an administrator puts it right
                await wrong.send(harness.notice("a-1"))
            await wrong.close()
            assert wrong.media == {"sms"}  # nobody could press a key
            bare = TwilioProvider("", "", "", clock=clock)
            assert not bare.ready()
            with pytest.raises(DeliveryDeferredError, match="not configured"):
                await bare.send(harness.notice("a-1"))
            assert await bare.find(harness.notice("a-1")) is None
            await bare.close()

    asyncio.run(main())


def test_a_text_that_is_too_long_is_cut_and_not_refused() -> None:
    async def main() -> None:
        async with twilio_harness() as harness:
            notice = harness.notice("a-1", text="呼" * 3000)
            await harness.provider.send(notice)
            (message,) = harness.carrier.messages
            assert len(message.body) == 1600
            assert await (await harness.reborn()).find(notice) is not None

    asyncio.run(main())


ELDER, CENTER, DAUGHTER, SON, DOCTOR = (f"+861380000000{number}" for number in range(1, 6))


def test_a_conference_with_everybody() -> None:
    async def main() -> None:
        present = People(Behaviour(answers_after_s=1.0))
        present.set(SON, people.BUSY)
        async with twilio_harness("voice", present, speed=50.0) as harness:
            carrier = harness.carrier
            conference = TwilioConference(harness.provider, "17-0", caller=NUMBER)
            assert await conference.conference_id() is None
            assert await conference.legs() == []
            elder = await conference.add("person", ELDER, "a-1")
            assert elder.call_id.startswith("CA")
            assert elder.label == "person-a-1"
            again = await conference.add("person", ELDER, "a-1")  # asked twice, one leg; meanwhile she may answer
            assert (again.call_id, again.label) == (elder.call_id, elder.label)
            assert [leg.call_id for leg in await conference.legs()] == [elder.call_id]
            assert len(carrier.calls) == 1
            await conference.add("family", DAUGHTER, "a-3", muted=True)
            await conference.add("family", SON, "a-4")
            await conference.add("call_center", CENTER, "a-2")
            await conference.add("doctor", DOCTOR, "a-5")
            with pytest.raises(UsageError, match="a person commands"):
                await conference.add("ems120", "+86120", "a-6")

            def connected() -> set[str]:
                (room,) = carrier.conferences
                return {str(each.label) for each in room.participants.values() if each.status == "connected"}

            everybody = {"person-a-1", "call_center-a-2", "family-a-3", "doctor-a-5"}
            await until(lambda: connected() == everybody, "all but the busy one")
            legs = await conference.legs()
            assert [leg.role for leg in legs] == ["person", "call_center", "family", "doctor"]
            assert [leg.muted for leg in legs] == [False, False, True, False]

            family = legs[2].call_id
            assert await conference.mute("family", on=False) == [family]
            assert await conference.hold("doctor", on=True) == [legs[3].call_id]
            assert [(leg.muted, leg.on_hold) for leg in await conference.legs()] == [(False, False)] * 3 + [
                (False, True)
            ]
            with pytest.raises(UsageError, match="kept"):
                await conference.drop("person")
            for role in ("doctor", "family", "call_center"):
                assert len(await conference.drop(role)) == 1
            await until(lambda: connected() == {"person-a-1"}, "the others gone, the person still there")
            with pytest.raises(NotFoundError):
                await conference.drop("doctor")
            await conference.add("ems120", "+8612000000", "a-6", commanded_by="U-1")
            await until(lambda: connected() == {"person-a-1", "ems120-a-6"}, "120 beside the person")
            conference_id = await conference.conference_id()
            assert await conference.end() == conference_id
            await until(lambda: any(told.recording for told in harness.heard), "the recording")
            assert await conference.conference_id() is None
            assert await conference.end() is None

            events = [told.detail for told in harness.heard if told.attempt_id == "17-0" and "event" in told.detail]
            joined = {detail.get("label") for detail in events if detail["event"] == "participant-join"}
            assert joined == everybody | {"ems120-a-6"}
            assert events[0]["conference_id"] == conference_id
            by_attempt = {told.attempt_id: told.state for told in harness.heard if told.duration_s is not None}
            assert by_attempt["a-4"] == "busy"
            assert all(status == 200 for status, _ in harness.answers)

    asyncio.run(main())


def test_a_contact_who_takes_it_is_brought_to_the_person() -> None:
    """A call that is up is moved into the conference, and hanging up leaves the person there."""

    async def main() -> None:
        known = crowd(Behaviour(answers_after_s=1.0))
        known.set(ELDER, Behaviour(answers_after_s=1.0))
        known.set(DAUGHTER, Behaviour(answers_after_s=1.0))
        async with twilio_harness("voice", known, speed=4.0) as harness:
            conference = TwilioConference(harness.provider, "17-0", caller=NUMBER)
            await conference.add("person", ELDER, "a-1")
            receipt = await harness.provider.send(replace(harness.notice("a-2"), to=DAUGHTER))
            await until(
                lambda: any(told.attempt_id == "a-2" and told.state == "answered" for told in harness.heard), "up"
            )
            await conference.join_call(receipt.reference, "family", "a-2")

            def room() -> list[str]:
                return [event for each in harness.carrier.conferences for event in each.told]

            await until(lambda: "participant-join family-a-2" in room(), "both on one line")
            harness.carrier.board.calls[receipt.reference].hang_up()
            await until(lambda: "participant-leave family-a-2" in room(), "she hung up")
            assert [leg.role for leg in await conference.legs()] == ["person"]
            with pytest.raises(NotFoundError):
                await conference.join_call(receipt.reference, "family", "a-2")
            assert await conference.drop("person", even_the_person=True) == [harness.carrier.calls[0].sid]

    asyncio.run(main())


def test_the_carrier_s_page_and_controls() -> None:
    async def main() -> None:
        async with (
            twilio_harness("voice") as harness,
            httpx2.AsyncClient(base_url=harness.carrier.url, trust_env=False, timeout=60) as client,
        ):
            script = {"script": ["busy", {"answers_after_s": 1, "keys": ["1"]}]}
            assert (await client.put(f"/people/{CONTACT}", json=script)).status_code == 204
            assert (await client.put(f"/people/{CONTACT}", json={"script": ["asleep"]})).status_code == 400
            assert (await client.put(f"/people/{CONTACT}", json={"script": []})).status_code == 400
            assert (await client.post("/faults", json={"fault": "x"})).status_code == 400
            assert (await client.post("/faults", json={"fault": "quota"})).json() == {"planned": ["quota"]}
            assert (await client.post("/faults", json={"heal": True})).json() == {"planned": []}
            assert (await client.get(f"/2010-04-01/Accounts/{ACCOUNT_SID}/Calls.json")).status_code == 401
            await harness.provider.send(harness.notice("a-1", text="<script>"))
            await until(lambda: over(harness), "busy")
            await harness.provider.send(harness.notice("a-2", text="<script>"))
            await until(lambda: any(told.digits == "1" for told in harness.heard), "the key")
            page = await client.get("/")
            assert "busy" in page.text
            assert "按键 pressed 1" in page.text
            assert "<script>" not in page.text

    asyncio.run(main())


def test_dice_with_a_seed_fall_the_same_way() -> None:
    def calls(seed: int) -> list[Behaviour]:
        crowd_ = People(seed=seed)
        return [crowd_.behaviour(f"+86138{number:08d}") for number in range(200) for _ in range(2)]

    assert calls(7) == calls(7)
    assert calls(7) != calls(8)
    assert {behaviour.line for behaviour in calls(7)} == {"free", "busy", "off"}


def test_a_carrier_that_nobody_calls_back_still_works() -> None:
    async def main() -> None:
        async with SimulatedCarrier(speed=100.0, say=lambda _: None) as carrier:
            provider = TwilioProvider(ACCOUNT_SID, AUTH_TOKEN, NUMBER, clock=SystemClock(), base_url=carrier.url)
            harness = TwilioHarness("sms", carrier)
            await provider.send(harness.notice("a-1"))
            await until(lambda: carrier.messages[0].status == "delivered", "delivery")
            told = await provider.find(harness.notice("a-1"))
            assert told is not None
            assert told.state == "delivered"
            await provider.close()

    asyncio.run(main())
