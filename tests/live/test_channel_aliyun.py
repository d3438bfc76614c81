"""Aliyun's messages and calls against the simulated carrier: the contract of providers, and what is Aliyun's own."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import msgspec
import pytest

from alerts.channels.aliyun import VOICE_QUOTA, SmsTemplate, _template
from alerts.notice import Medium
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError, NotFoundError
from simulators.carrier_state import Fault
from simulators.people import BUSY, HANGS_UP, IGNORES, LISTENS, SWITCHED_OFF, Behaviour, People, presses
from tests.live.aliyun_harness import CONTACT, TOKEN, aliyun_harness
from tests.provider_contract import CONTRACT, Check, name_of, run_check, until


@pytest.mark.parametrize("medium", ["sms", "voice"])
@pytest.mark.parametrize("check", CONTRACT, ids=name_of)
def test_contract(check: Check, medium: Medium, tmp_path: Path) -> None:
    run_check(check, partial(aliyun_harness, tmp_path, medium))


def test_a_message_whose_answer_was_lost_is_found_by_number_and_day(tmp_path: Path) -> None:
    async def main() -> None:
        async with aliyun_harness(tmp_path, sms_quota=()) as harness:
            harness.aliyun.fail(Fault.RESET_AFTER)
            notice = harness.notice("a-1")
            with pytest.raises(DeliveryUnknownError):
                await harness.provider.send(notice)
            async with asyncio.TaskGroup() as group:  # more than one page of newer ones
                for number in range(52):
                    group.create_task(harness.provider.send(harness.notice(f"newer-{number}")))
            effects = harness.effects()
            told = await harness.provider.find(notice)
            assert told is not None
            assert told.attempt_id == "a-1"
            assert told.state in {"sent", "delivered"}
            assert await harness.provider.find(harness.notice("a-2")) is None
            assert harness.effects() == effects

    asyncio.run(main())


def test_a_call_is_asked_for_by_its_id(tmp_path: Path) -> None:
    async def main() -> None:
        people = People()
        people.set(CONTACT, presses("1"))
        async with aliyun_harness(tmp_path, "voice", people) as harness:
            harness.aliyun.fail(Fault.NO_CALLBACK)
            notice = harness.notice("a-1")
            receipt = await harness.provider.send(notice)
            await until(lambda: harness.aliyun.made[receipt.reference].status != "", "the end of the call")
            told = await harness.provider.find(notice)
            assert told is not None
            assert (told.provider_id, told.state, told.digits) == (receipt.reference, "answered", "1")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("behaviour", "state", "digits"),
    [
        (presses("1"), "answered", "1"),
        (presses("2"), "answered", "2"),
        (presses("5", "1"), "answered", "51"),
        (LISTENS, "answered", ""),
        (HANGS_UP, "answered", ""),
        (Behaviour(machine=True, keys=("1",)), "answered", ""),
        (IGNORES, "no_answer", ""),
        (SWITCHED_OFF, "no_answer", ""),
        (BUSY, "busy", ""),
    ],
)
def test_only_a_key_is_an_answer(behaviour: Behaviour, state: str, digits: str, tmp_path: Path) -> None:
    async def main() -> None:
        people = People()
        people.set(CONTACT, behaviour)
        async with aliyun_harness(tmp_path, "voice", people) as harness:
            await harness.provider.send(harness.notice("a-1"))
            await until(lambda: bool(harness.heard), "its receipt")
            told = harness.heard[-1]
            assert (told.state, told.digits) == (state, digits)
            assert (told.duration_s or 0) == sum(made.seconds for made in harness.aliyun.made.values())

    asyncio.run(main())


def test_a_call_asks_for_a_key_only_when_an_answer_is_wanted(tmp_path: Path) -> None:
    async def main() -> None:
        async with aliyun_harness(tmp_path, "voice") as harness:
            await harness.provider.send(harness.notice("a-1"))
            await harness.provider.send(harness.notice("a-2", wants_answer=False))
            asked, told = harness.aliyun.made.values()
            assert asked.kind == "IvrCall"
            assert asked.parameters["MenuKeyMap.1.Key"] == "1"
            assert asked.parameters["MenuKeyMap.2.Key"] == "2"
            assert asked.parameters["PlayTimes"] == "2"
            assert told.kind == "SingleCallByTts"
            assert "MenuKeyMap.1.Key" not in told.parameters

    asyncio.run(main())


def test_a_second_call_within_a_minute_is_deferred_without_asking(tmp_path: Path) -> None:
    async def main() -> None:
        async with aliyun_harness(tmp_path, "voice", limited=True, voice_quota=VOICE_QUOTA) as harness:
            await harness.provider.send(harness.notice("a-1"))
            asked = len(harness.aliyun.requests)
            with pytest.raises(DeliveryDeferredError) as caught:
                await harness.provider.send(harness.notice("a-2"))
            assert 30 < (caught.value.retry_after_s or 0) <= 60
            assert len(harness.aliyun.requests) == asked
            await harness.provider.send(harness.notice("a-3", to="+8613800000002"))  # the next contact
            assert harness.effects() == 2

    asyncio.run(main())


def test_the_carriers_own_limit_is_believed(tmp_path: Path) -> None:
    """A process that has just started does not know of the calls before it."""

    async def main() -> None:
        async with aliyun_harness(tmp_path, "voice", limited=True, voice_quota=VOICE_QUOTA) as harness:
            await harness.provider.send(harness.notice("a-1"))
            provider = await harness.reborn()
            for _ in range(2):
                with pytest.raises(DeliveryDeferredError) as caught:
                    await provider.send(harness.notice("a-2"))
                assert 0 < (caught.value.retry_after_s or 0) <= 60
            assert [request["Action"] for request in harness.aliyun.requests].count("IvrCall") == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.ERROR, DeliveryUnknownError),
        (Fault.ERROR_AFTER, DeliveryUnknownError),
        (Fault.TOO_MANY, DeliveryDeferredError),
        (Fault.BAD_JSON, DeliveryUnknownError),
    ],
)
def test_other_failures(fault: Fault, error: type[Exception], tmp_path: Path) -> None:
    async def main() -> None:
        async with aliyun_harness(tmp_path) as harness:
            harness.aliyun.fail(fault)
            with pytest.raises(error):
                await harness.provider.send(harness.notice("a-1"))

    asyncio.run(main())


def test_what_was_not_approved_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with aliyun_harness(tmp_path) as harness:
            with pytest.raises(DeliveryRefusedError, match="none for all"):
                _template(dict[str, SmsTemplate](), harness.notice("a-1", template="unknown"))
            with pytest.raises(DeliveryRefusedError, match="lacks what"):
                await harness.provider.send(harness.notice("a-1", params={}))
            assert not harness.aliyun.requests
            await harness.provider.send(harness.notice("a-2", text="长" * 100))
            made = next(iter(harness.aliyun.made.values()))
            assert msgspec.json.decode(made.parameters["TemplateParam"]) == {"what": "长" * 34 + "…"}

    asyncio.run(main())


def test_a_wrong_secret_defers(tmp_path: Path) -> None:
    async def main() -> None:
        async with aliyun_harness(tmp_path) as harness:
            (tmp_path / "key-secret").write_text("old secret")
            with pytest.raises(DeliveryDeferredError, match="SignatureDoesNotMatch"):
                await harness.provider.send(harness.notice("a-1"))
            (tmp_path / "key-secret").unlink()
            with pytest.raises(DeliveryDeferredError, match="cannot be read"):
                await harness.provider.send(harness.notice("a-1"))

    asyncio.run(main())


def test_one_bad_receipt_does_not_lose_its_batch(tmp_path: Path) -> None:
    async def main() -> None:
        async with aliyun_harness(tmp_path) as harness:
            good = {"out_id": "a-1", "biz_id": "9^0", "success": True, "err_code": "DELIVERED"}
            bad: list[object] = [{"out_id": "a-2"}, {"phone_number": CONTACT}]
            assert await harness.aliyun.push([{"success": "yes", "out_id": "a-3"}, *bad, good]) == 200  # type: ignore[list-item]  # on purpose
            assert [(told.attempt_id, told.state) for told in harness.heard] == [("a-1", "delivered")]
            assert harness.provider.handle(f"/callbacks/aliyun/{TOKEN}", b"{")[0] == 400
            assert harness.provider.handle("/callbacks/aliyun/", b"[]")[0] == 404
            with pytest.raises(NotFoundError):
                harness.provider.parse_callback("", b"[]")

    asyncio.run(main())
