"""From a press over MQTT to somebody who presses 1: the real daemon, the simulated carrier and platform."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from simulators.carrier_aliyun import KEY_ID, KEY_SECRET, SimulatedAliyun
from simulators.modem import SimulatedModem
from simulators.people import presses
from tests.daemon import carebell_json
from tests.live.escalation_daemon import DUTY, SPEED, Town, by, contact_number, town

pytestmark = pytest.mark.live
pytest.importorskip("twilio", reason="needs the Twilio SDK: pip install 'carebell[twilio]'")
pytest.importorskip("serialx", reason="needs the extra carebell[modem]: pip install serialx")


def test_the_first_does_not_answer_and_the_second_presses_1(tmp_path: Path) -> None:
    """Nobody else is quicker, however slow the machine is: the duty officer does not pick up."""

    async def story() -> None:
        async with town(tmp_path) as place:
            first, second = contact_number(1, 1), contact_number(1, 2)
            place.people.set(second, presses("1"))
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            alert = await place.until(1, lambda a: a["escalation"]["ladders"]["family"]["taken_by"], 60)
            assert alert["escalation"]["ladders"]["family"]["taken_by"] == "P-1.2"
            assert alert["handling"] == "raised", "the family's 1 does not end the operators' ladder"
            alert = await place.until(1, lambda a: (a["order"] or {}).get("status") == "accepted", 60)
            assert len(place.platform.orders_for(alert["id"])) == 1

            def settled(alert: dict[str, Any]) -> bool:
                calls = {each["contact_id"]: each["state"] for each in alert["attempts"] if each["medium"] == "voice"}
                texts = {each["contact_id"]: each["state"] for each in alert["attempts"] if each["medium"] == "sms"}
                return (calls.get("P-1.1"), calls.get("P-1.2")) == ("no_answer", "answered") and texts == {
                    "P-1.1": "delivered", "P-1.2": "delivered",
                }  # fmt: skip

            alert = await place.until(1, settled, 60)
            assert {message.to for message in place.carrier.messages} == {first, second}
            # Begun in this order; how soon each request is at the carrier is another matter.
            begun = [each["contact_id"] for each in alert["attempts"] if each["medium"] == "voice"]
            assert [contact for contact in begun if contact in ("P-1.1", "P-1.2")][:2] == ["P-1.1", "P-1.2"]
            pressed = {each["contact_id"]: each["digits"] for each in alert["attempts"] if each["medium"] == "voice"}
            assert (pressed["P-1.1"], pressed["P-1.2"]) == ("", "1")
            assert {each["provider"] for each in alert["attempts"]} == {"twilio"}
            told = [each for call in place.carrier.calls for each in call.told]
            assert any("按了紧急呼叫" in words for words in told), told

    asyncio.run(story())


def test_the_officer_on_duty_presses_1_and_has_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with town(tmp_path) as place:
            place.people.set(DUTY, presses("1"))
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            alert = await place.until(1, lambda a: a["handling"] != "raised", 60)
            assert alert["owner"] == "staff:duty"
            (accepted,) = by(alert, "accept")
            assert accepted["actor"]["channel"] == "voice"
            assert by(alert, "family_accept") == []

    asyncio.run(story())


def test_only_the_carrier_is_believed(tmp_path: Path) -> None:
    async def story() -> None:
        async with town(tmp_path) as place:
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            await place.until(1, lambda _alert: bool(place.carrier.calls))
            url = next(call.callback for call in place.carrier.calls).partition("#")[0]
            form = {"CallSid": "CA1", "Digits": "1", "AccountSid": place.carrier.account_sid}
            async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
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


def aliyun_site(place: Town, aliyun: SimulatedAliyun) -> None:
    """Alibaba Cloud in place of Twilio."""
    (place.folder / "aliyun.secret").write_text(KEY_SECRET)
    (place.folder / "aliyun.token").write_text("callback-token-of-32-random-letters")
    aliyun.callback_url = f"{place.daemon.url}/callbacks/aliyun/callback-token-of-32-random-letters"
    for name in [name for name in place.daemon.environment if "TWILIO" in name]:
        del place.daemon.environment[name]
    keys = {"1": "TTS_1", "2": "TTS_1", "9": "TTS_1"}
    place.daemon.environment |= {
        "CAREBELL_NOTIFY__ALIYUN__ACCESS_KEY_ID": KEY_ID,
        "CAREBELL_NOTIFY__ALIYUN__ACCESS_KEY_SECRET_FILE": str(place.folder / "aliyun.secret"),
        "CAREBELL_NOTIFY__ALIYUN__CALLBACK_TOKEN_FILE": str(place.folder / "aliyun.token"),
        "CAREBELL_NOTIFY__ALIYUN__SHOW_NUMBER": "02287654321",
        "CAREBELL_NOTIFY__ALIYUN__SMS_BASE_URL": aliyun.url,
        "CAREBELL_NOTIFY__ALIYUN__VOICE_BASE_URL": aliyun.url,
        "CAREBELL_NOTIFY__ALIYUN__SMS": json.dumps({"alert": {"code": "SMS_1", "params": {"name": 20, "what": 35}}}),
        "CAREBELL_NOTIFY__ALIYUN__VOICE": json.dumps(
            {"alert": {"code": "TTS_1", "params": {"name": 20, "what": 35}, "keys": keys}}
        ),
    }


def test_aliyun_and_the_modem(tmp_path: Path) -> None:
    """A key pressed in Aliyun's call counts; when Aliyun is down messages leave through the modem, and it listens."""

    async def story() -> None:
        async with (
            town(tmp_path) as place,
            SimulatedModem(tmp_path) as modem,
            SimulatedAliyun(place.people, speed=SPEED, say=lambda _line: None) as aliyun,
        ):
            aliyun_site(place, aliyun)
            place.daemon.environment["CAREBELL_NOTIFY__MODEM__PORT"] = str(modem.port)
            place.people.set(contact_number(1, 1), presses("1"))
            await asyncio.to_thread(place.daemon.start)
            assert await place.press(1)
            alert = await place.until(1, lambda a: bool(a["escalation"]["ladders"]["family"]["taken_by"]))
            assert alert["escalation"]["ladders"]["family"]["taken_by"] == "P-1.1"
            await place.until(1, lambda a: {each["provider"] for each in a["attempts"]} == {"aliyun"})
            await aliyun.stop()
            await resolve(place)
            assert await place.press(1, seq=2), "again: the alert is opened once more"
            await place.until(
                1, lambda a: sum(e["provider"] == "modem" and e["sent_at"] is not None for e in a["attempts"]) >= 2
            )
            modem.ring("8613800000009")
            while not (heard := [r for r in await records(place) if r["transport"] == "modem"]):
                await asyncio.sleep(0.2)
            assert b"13800000009" in base64.b64decode(heard[0]["payload"])

    asyncio.run(story())


async def resolve(place: Town) -> None:
    """The person's alert as it is at that moment: its ladders go on between the look and the act."""
    async with asyncio.timeout(60):
        while True:
            alert = await place.alert(1)
            body = {"version": alert["version"], "outcome": "assistance"}
            answer = await place.post(f"/api/v1/alerts/{alert['id']}/resolve", body)
            if answer.status_code == 200:
                return
            assert answer.status_code == 409, answer.text


async def records(place: Town) -> list[dict[str, Any]]:
    """The journal, payloads included."""
    return await asyncio.to_thread(carebell_json, "journal", "list", "--payload", data_dir=place.data_dir)
