"""From a press over MQTT to somebody who presses 1: the real daemon, the simulated carrier and platform."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from simulators.people import presses
from tests.live.escalation_daemon import DUTY, by, contact_number, town

pytestmark = pytest.mark.live
pytest.importorskip("twilio", reason="needs the Twilio SDK: pip install 'carebell[twilio]'")


def test_the_first_does_not_answer_the_second_presses_1_and_the_duty_officer_accepts(tmp_path: Path) -> None:
    async def story() -> None:
        async with town(tmp_path) as place:
            first, second = contact_number(1, 1), contact_number(1, 2)
            place.people.set(second, presses("1"))
            place.people.set(DUTY, presses("1"))
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            alert = await place.until(1, lambda a: a["escalation"]["ladders"]["family"]["taken_by"])
            assert alert["escalation"]["ladders"]["family"]["taken_by"] == "P-1.2"
            assert alert["handling"] == "raised", "the family's 1 does not end the operators' ladder"
            assert place.numbers_called() == [first, second]
            assert sorted(message.to for message in place.carrier.messages) == [first, second]

            alert = await place.until(1, lambda a: a["handling"] != "raised")
            assert alert["owner"] == "staff:duty"
            (accepted,) = by(alert, "accept")
            assert accepted["actor"]["channel"] == "voice"
            assert place.numbers_called() == [first, second, DUTY]
            alert = await place.until(1, lambda a: (a["order"] or {}).get("status") == "accepted")
            assert len(place.platform.orders_for(alert["id"])) == 1
            calls = {each["contact_id"]: each for each in alert["attempts"] if each["medium"] == "voice"}
            assert (calls["P-1.1"]["state"], calls["P-1.1"]["digits"]) == ("no_answer", "")
            assert (calls["P-1.2"]["state"], calls["P-1.2"]["digits"]) == ("answered", "1")
            texts = {each["contact_id"]: each["state"] for each in alert["attempts"] if each["medium"] == "sms"}
            assert texts == {"P-1.1": "delivered", "P-1.2": "delivered"}
            assert [each["provider"] for each in alert["attempts"]] == ["twilio"] * 5
            told = [each for call in place.carrier.calls for each in call.told]
            assert any("按了紧急呼叫" in words for words in told), told

    asyncio.run(story())


def test_only_the_carrier_is_believed(tmp_path: Path) -> None:
    async def story() -> None:
        async with town(tmp_path) as place:
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            await place.until(1, lambda a: any(each["medium"] == "voice" for each in a["attempts"]))
            url = next(call.callback for call in place.carrier.calls).partition("#")[0]
            form = {"CallSid": "CA1", "Digits": "1", "AccountSid": place.carrier.account_sid}
            async with httpx2.AsyncClient(trust_env=False) as client:
                forged = await client.post(url.replace("/call?", "/gather?"), data=form)
                assert forged.status_code == 403
                headers = {"X-Twilio-Signature": "AAAA"}
                assert (await client.post(url, data=form, headers=headers)).status_code == 403
                assert (await client.post(f"{place.daemon.url}/callbacks/twilio/x", data=form)).status_code == 404
                assert (await client.post(f"{place.daemon.url}/callbacks/aliyun/x", content=b"[]")).status_code == 404
                assert (await client.get(url)).status_code == 405
                assert "/callbacks" not in (await client.get(f"{place.daemon.url}/openapi.json")).text
            alert = await place.alert(1)
            assert by(alert, "accept") == by(alert, "family_accept") == []

    asyncio.run(story())
