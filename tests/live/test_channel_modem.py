"""The GSM modem on a pseudo-terminal: sending, reports, what comes in, and what goes wrong at a serial port."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from alerts.channel import Receipt
from alerts.channels import modem_link, modem_pdu
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError
from simulators.modem import Fault
from tests.live.modem_harness import SETTINGS, ModemHarness, modem_harness
from tests.provider_contract import CONTRACT, Check, name_of, run_check, same, until

HELP = "0891683108200105F0040D91683108108300F0000862112201203023086551547D6551547D"
FIRST_PART = "00440D91683108108300F00008621122012030230A0500032A020165514E86"
SECOND_PART = "00440D91683108108300F00008621122012030230A0500032A020265514E86"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated modem is quick: no need to leave it a fifth of a second for late answers."""
    monkeypatch.setattr(modem_link, "QUIET_S", 0.02)


@pytest.mark.parametrize("check", CONTRACT, ids=name_of)
def test_contract(check: Check, tmp_path: Path) -> None:
    run_check(check, partial(modem_harness, tmp_path))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize(
    "options", [{}, {"chunk": 1}, {"noise": b"\r\n\xff\x00~!\r\n"}, {"chunk": 3, "noise": b"\r\n@@\r\n"}]
)
def test_a_long_message_and_its_report(run: Any, options: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path, **options) as harness:
            receipt = await harness.provider.send(harness.notice("a-1", text="急" * 100))
            assert receipt == Receipt("251,252", {"parts": 2})
            assert [sent.length for sent in harness.modem.sent] == [155, 87]
            await until(lambda: bool(harness.heard), "the report")
            (told,) = harness.heard
            assert (told.attempt_id, told.provider_id, told.state) == ("a-1", "251,252", "delivered")
            found = await harness.provider.find(harness.notice("a-1"))
            assert found is not None
            assert same(found) == same(told)

    run(main())


def test_a_message_that_fails_later_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path, report_status=0x41) as harness:
            await harness.provider.send(harness.notice("a-1", text="急" * 100))
            await until(lambda: bool(harness.heard), "the report")
            assert {(told.state, told.detail["status"]) for told in harness.heard} == {("undelivered", 0x41)}, (
                "of each part"
            )

    asyncio.run(main())


def test_reports_that_are_not_the_last_word(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path, report_status=None) as harness:
            await harness.provider.send(harness.notice("a-1"))
            (sent,) = harness.modem.sent
            harness.modem.report(sent, 0x20)  # they still try
            harness.modem.report(sent, 0x00)
            harness.modem.report(sent, 0x00)
            harness.modem.say("+CDS: 25", "no PDU at all", "+CDS: 99", "00FF")
            await harness.provider.send(harness.notice("a-2"))
            await until(lambda: bool(harness.heard), "the report")
            assert [(told.attempt_id, told.state) for told in harness.heard] == [("a-1", "delivered")]

    asyncio.run(main())


def test_an_emergency_goes_before_the_parts_of_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path, answer_s=0.02) as harness, asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(harness.provider.send(harness.notice(f"n-{number}", text="长" * 260, priority=3)))
            await until(lambda: bool(harness.modem.sent), "the first part")
            await harness.provider.send(harness.notice("urgent", text="urgent"))
            alphabets = [sent.pdu[26:28] for sent in harness.modem.sent]
            assert alphabets.index("00") <= 3
            assert len(alphabets) < 12

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "error", "sent"),
    [
        (Fault.NUMBER, DeliveryRefusedError, 0),
        (Fault.UNPLUG_BEFORE, DeliveryDeferredError, 0),
        (Fault.UNPLUG_AFTER, DeliveryUnknownError, 1),
        (Fault.NO_PROMPT, DeliveryDeferredError, 0),
        (Fault.SILENCE, DeliveryUnknownError, 1),
        (Fault.LATE_ANSWER, DeliveryUnknownError, 1),
    ],
)
def test_failures(fault: Fault, error: type[Exception], sent: int, tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            harness.arrange(fault)
            with pytest.raises(error):
                await harness.provider.send(harness.notice("a-1"))
            assert len(harness.modem.sent) == sent
            if not harness.modem.plugged:
                await harness.be_up()
            await harness.ready()
            receipt = await harness.provider.send(harness.notice("a-2"))
            assert receipt.reference == str(harness.modem.sent[-1].reference)

    asyncio.run(main())


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.NETWORK, Fault.ERROR])
def test_a_short_trouble_is_overcome(fault: Fault, tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            harness.modem.fail(fault, fault)
            await harness.provider.send(harness.notice("a-1"))
            assert len(harness.modem.sent) == 1
            harness.modem.fail(fault, fault, fault)
            with pytest.raises(DeliveryDeferredError):
                await harness.provider.send(harness.notice("a-2"))

    asyncio.run(main())


def test_unplugged_it_says_so_at_once_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            for _ in range(3):
                await harness.be_down()
                with pytest.raises(DeliveryDeferredError, match="away"):
                    await harness.provider.send(harness.notice("a-1"))
                await harness.be_up()
                await harness.provider.send(harness.notice("a-1"))
            assert len(harness.modem.sent) == 3

    asyncio.run(main())


def test_a_modem_that_falls_silent_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modem_link.ModemLink.command, "__defaults__", (0.2,))
    monkeypatch.setattr(modem_link, "RECOVER_S", 0.1)

    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            harness.modem.silent = True
            await until(lambda: not harness.provider.state()[0], "that it is silent")
            harness.modem.silent = False
            await harness.ready()

    asyncio.run(main())


def test_without_a_network_nothing_is_tried(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path, ready=False, registration=2, signal=99) as harness:
            await until(lambda: harness.provider.state()[1] == "not registered in a network", "the state")
            with pytest.raises(DeliveryDeferredError, match="registered"):
                await harness.provider.send(harness.notice("a-1"))
            harness.modem.registration, harness.modem.signal = 5, 31
            await harness.ready()
            await until(lambda: "-51 dBm" in harness.provider.state()[1], "the signal")
            assert not any("CMGS" in command for command in harness.modem.commands)

    asyncio.run(main())


def test_a_wrong_pin_is_tried_once(tmp_path: Path) -> None:
    pin_file = tmp_path / "pin"
    settings = msgspec.structs.replace(SETTINGS, pin_file=str(pin_file))

    async def main(pin: str, works: bool) -> None:
        pin_file.write_text(pin)
        async with modem_harness(tmp_path, settings=settings, ready=False, pin="1234") as harness:
            if works:
                await harness.ready()
            else:
                await until(lambda: harness.provider.state()[1] == "the SIM is locked", "the state")
                await asyncio.sleep(0.3)
            assert sum(command.startswith('AT+CPIN="') for command in harness.modem.commands) == 1

    asyncio.run(main("1234\n", works=True))
    asyncio.run(main("9999", works=False))


def test_a_message_is_deleted_only_after_it_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            harness.refuses = True
            harness.modem.receive(HELP)
            await until(lambda: sum("CMGL" in command for command in harness.modem.commands) >= 3, "readings")
            assert harness.modem.memory
            assert not any("CMGD" in command for command in harness.modem.commands)
            harness.refuses = False
            await until(lambda: not harness.modem.memory, "the deletion")
            (message,) = harness.messages
            assert (message.sender, message.text, message.complete) == ("+8613800138000", "救命救命", True)
            assert message.key == modem_pdu.key_of(HELP)

    asyncio.run(main())


def test_what_came_before_the_start_and_without_a_word_is_found(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path, ready=False) as harness:
            harness.modem.receive(HELP, announce=False)
            await until(lambda: len(harness.messages) == 1, "the message")
            harness.modem.receive(HELP, "00", "zz", announce=False)
            await until(lambda: len(harness.messages) == 4 and not harness.modem.memory, "the others")
            assert [bool(message.fault) for message in harness.messages] == [False, False, True, True]
            assert harness.messages[2].raw == ("00",)

    asyncio.run(main())


def test_a_long_message_is_put_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            harness.modem.receive(SECOND_PART)
            await until(lambda: sum("CMGL" in command for command in harness.modem.commands) >= 2, "readings")
            assert not harness.messages
            harness.modem.receive(FIRST_PART)
            await until(lambda: bool(harness.messages) and not harness.modem.memory, "the whole")
            assert [message.text for message in harness.messages] == ["救了救了"]

    asyncio.run(main())


def test_who_rings_is_told_once_and_hung_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            for _ in range(3):
                harness.modem.ring("8613800000009")
            await until(lambda: "AT+CHUP" in harness.modem.commands and bool(harness.calls), "the hanging up")
            assert [call.number for call in harness.calls] == ["+8613800000009"]
            harness.modem.say("NO CARRIER")
            harness.modem.ring("02287654321", 129)
            await until(lambda: len(harness.calls) == 2, "the second call")
            harness.modem.say("NO CARRIER")
            for _ in range(2):
                harness.modem.ring("")
            await until(lambda: len(harness.calls) == 3, "the call without a number")
            assert [call.number for call in harness.calls[1:]] == ["02287654321", ""]

    asyncio.run(main())


def test_calls_and_reports_wait_until_they_can_be_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            harness.refuses = True
            harness.modem.ring("8613800000009")
            await harness.provider.send(harness.notice("a-1"))
            await asyncio.sleep(0.2)
            assert not harness.calls
            harness.refuses = False
            await until(lambda: bool(harness.calls and harness.heard), "both")
            assert len(harness.calls) == len(harness.heard) == 1

    asyncio.run(main())


def test_too_many_messages_wait_elsewhere_and_emergencies_find_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with modem_harness(tmp_path) as harness:
            results = await _all(harness, [harness.notice(f"n-{number}", priority=3) for number in range(110)])
            assert sum(isinstance(result, DeliveryDeferredError) for result in results) >= 9
            many = [harness.notice(f"m-{number}", priority=3) for number in range(100)]
            results = await _all(harness, [*many, harness.notice("urgent", priority=1)])
            assert isinstance(results[-1], Receipt)

    asyncio.run(main())


async def _all(harness: ModemHarness, notices: list[Any]) -> list[object]:
    results: list[object] = [None] * len(notices)

    async def one(index: int, work: Coroutine[Any, Any, Receipt]) -> None:
        try:
            results[index] = await work
        except DeliveryDeferredError as error:
            results[index] = error

    async with asyncio.TaskGroup() as group:
        for index, notice in enumerate(notices):
            group.create_task(one(index, harness.provider.send(notice)))
    return results
