"""Messages that come in through carriers: signed, named, kept, and an answer, a cry for help or a word for somebody."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.storage.database import FILE_NAME, open_database
from simulators.carrier_aliyun import KEY_ID, KEY_SECRET, SimulatedAliyun
from tests.daemon import carebell_json
from tests.live.escalation_daemon import Town, by, contact_number, town

pytestmark = pytest.mark.live
pytest.importorskip("twilio", reason="needs the Twilio SDK: pip install 'carebell[twilio]'")

PHONE = "+8613800000002"  # of P-2
TOKEN = "callback-token-of-32-random-letters"


def settle_in(place: Town, aliyun: SimulatedAliyun) -> None:
    """A site with both carriers; P-2 can be called back."""
    connection = open_database(place.data_dir / FILE_NAME)
    connection.execute("UPDATE person SET phone = ? WHERE id = 'P-2'", (PHONE,))
    connection.close()
    (place.folder / "aliyun.secret").write_text(KEY_SECRET)
    (place.folder / "aliyun.token").write_text(TOKEN)
    aliyun.callback_url = f"{place.daemon.url}/callbacks/aliyun/{TOKEN}"
    place.daemon.environment |= {
        "CAREBELL_NOTIFY__ALIYUN__ACCESS_KEY_ID": KEY_ID,
        "CAREBELL_NOTIFY__ALIYUN__ACCESS_KEY_SECRET_FILE": str(place.folder / "aliyun.secret"),
        "CAREBELL_NOTIFY__ALIYUN__CALLBACK_TOKEN_FILE": str(place.folder / "aliyun.token"),
        "CAREBELL_NOTIFY__ALIYUN__SMS_BASE_URL": aliyun.url,
        "CAREBELL_NOTIFY__ALIYUN__VOICE_BASE_URL": aliyun.url,
        "CAREBELL_NOTIFY__ALIYUN__SMS": json.dumps({"alert": {"code": "SMS_1", "params": {"name": 20, "what": 35}}}),
        "CAREBELL_NOTIFY__ORDER__SMS": json.dumps(["twilio", "aliyun"]),
    }


async def records(place: Town, transport: str) -> list[dict[str, Any]]:
    found = await asyncio.to_thread(carebell_json, "journal", "list", "--payload", data_dir=place.data_dir)
    return [record for record in found if record["transport"] == transport]


def up(number: str, content: str, sequence: int | str) -> dict[str, Any]:
    """A member of SmsUp, as Alibaba Cloud describes it."""
    return {
        "phone_number": number, "send_time": "2026-11-22 09:02:03", "content": content, "sign_name": "安心铃",
        "dest_code": "1234", "sequence_id": sequence,
    }  # fmt: skip


def test_messages_that_come_in(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            town(tmp_path, persons=2) as place,
            SimulatedAliyun(place.people, say=lambda _line: None) as aliyun,
        ):
            settle_in(place, aliyun)
            await asyncio.to_thread(place.daemon.start)
            url = f"{place.daemon.url}/callbacks/twilio/incoming/message"
            await answers(place, url)
            await cries_for_help(place, url)
            await through_aliyun(place, aliyun)

    asyncio.run(story())


async def answers(place: Town, url: str) -> None:
    """A contact answers the message that told them, before any call: their ladder rests."""
    assert await place.press(1)
    second = {"contact_id": "P-1.2", "medium": "sms"}
    await place.until(1, lambda a: any(each["sent_at"] and second.items() <= each.items() for each in a["attempts"]))
    form = {"AccountSid": place.carrier.account_sid, "MessageSid": "SM1", "From": contact_number(1, 1), "Body": "1"}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        assert (await client.post(url, data=form)).status_code == 403
        assert (await client.post(url, data=form, headers={"X-Twilio-Signature": "AAAA"})).status_code == 403
    assert by(await place.alert(1), "family_accept") == []
    for _ in range(2):
        assert await place.carrier.text(url, contact_number(1, 2), "我来处理", sid="SM" + "1" * 32) == 200
    alert = await place.until(1, lambda a: bool(by(a, "family_accept")))
    (accepted,) = by(alert, "family_accept")
    assert accepted["actor"] == {"type": "contact", "id": "P-1.2", "role": "family", "channel": "sms"}
    assert alert["handling"] == "raised"
    (told,) = [each for each in alert["attempts"] if each["digits"]]
    assert (told["contact_id"], told["medium"], told["digits"]) == ("P-1.2", "sms", "1")
    (kept,) = await records(place, "twilio")
    assert contact_number(1, 2).encode() in base64.b64decode(kept["payload"])
    log = await asyncio.to_thread(
        carebell_json, "calls", "list", "--number", contact_number(1, 2), "--medium", "sms", data_dir=place.data_dir
    )
    assert sorted(each["direction"] for each in log) == ["inbound", "outbound"]


async def cries_for_help(place: Town, url: str) -> None:
    """From a number in the registry it is an SOS of that person, however often it is told."""
    for _ in range(2):
        assert await place.carrier.text(url, PHONE, "救命", sid="SM" + "2" * 32) == 200
    alert = await place.until(2, lambda a: a["kind"] == "sos")
    assert (alert["severity"], alert["device_id"], alert["occurrences"]) == ("P1", "tel-P-2", 1)
    assert await place.carrier.text(url, "+8613700000009", "中奖了") == 200
    (strange,) = [record for record in await records(place, "twilio") if not record["device_id"]][-1:]
    assert "credential" in strange["fault"]


async def through_aliyun(place: Town, aliyun: SimulatedAliyun) -> None:
    """The same by the batch push of SmsUp; numbers come without their country."""
    before = (await place.alert(2))["occurrences"]
    batch = [up("13800000002", "SOS", 1234567890), up("13800000002", "SOS", 1234567890), {"x": 1}]
    assert await aliyun.push(batch) == 200
    alert = await place.until(2, lambda a: a["occurrences"] > before)
    assert alert["occurrences"] == before + 1
    assert await aliyun.push([up("13800000002", "SOS", "1234567890")]) == 200
    assert len(await records(place, "aliyun")) == 1
    aliyun.callback_url = aliyun.callback_url.replace(TOKEN, "guessed")
    assert await aliyun.push([up("13800000002", "SOS", 7)]) == 404
