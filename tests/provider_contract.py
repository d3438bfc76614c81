"""What every notification provider must do, whoever stands behind it. Each provider's tests bring a harness.

A test module writes::

    @pytest.mark.parametrize("check", CONTRACT, ids=name_of)
    def test_contract(check: Check) -> None:
        run_check(check, make_harness)

where ``make_harness()`` is an async context manager that gives a Harness with a fresh provider and a fresh simulator.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import httpx2
import msgspec
import pytest

from alerts.channels.http_request import HttpRequester
from alerts.notice import Notice, Provider, Told
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError, UsageError

PATIENCE_S: Final = 60.0
SLOW_LIMIT_S: Final = 1.0
"""A harness gives its provider a minute for each answer, and this long for the one that will be slow."""


class Failure(enum.Enum):
    """What a harness can make go wrong with the next notice."""

    OUTAGE = "the provider answers that it cannot now; nothing happened"
    QUOTA = "a limit is reached; nothing happened"
    BAD_NUMBER = "the address is refused"
    NO_ANSWER = "it has its effect, and the connection breaks before the answer"
    BROKEN_BEFORE = "the connection breaks before it has an effect"
    SLOW = "it has its effect, and the answer comes after the provider's limit"
    LATE_RECEIPT = "its receipts come late"
    RECEIPT_TWICE = "each of its receipts comes twice"
    NO_RECEIPT = "its receipts never come"


class Harness(Protocol):
    """One provider, its simulated other side, and what was heard from there.

    ``cannot`` names what this provider or medium has not got, with the reason: those checks are skipped.
    ``heard`` holds what callbacks (or polls) told, in order.
    """

    @property
    def provider(self) -> Provider: ...

    @property
    def heard(self) -> list[Told]: ...

    @property
    def cannot(self) -> dict[Failure | str, str]:
        """Failures, and the words ``find``, ``receipts``, ``forge``, ``outage`` for whole abilities."""
        ...

    def notice(self, attempt_id: str, *, text: str = "紧急呼叫 emergency call") -> Notice:
        """To one and the same person, with this text."""
        ...

    def fail(self, failure: Failure) -> None: ...

    def effects(self) -> int:
        """How many messages or calls the other side has made."""
        ...

    async def be_down(self) -> None: ...

    async def be_up(self) -> None: ...

    async def reborn(self) -> Provider:
        """The provider as a new process has it: it remembers nothing. The harness closes both."""
        ...

    async def forge(self, attempt_id: str) -> None:
        """Bring a callback that the provider did not make. Raises what the provider's reader raises."""
        ...


Check = Callable[[Harness], Awaitable[None]]


def run_check(check: Check, make_harness: Callable[[], AbstractAsyncContextManager[Harness]]) -> None:
    async def main() -> None:
        async with make_harness() as harness:
            await check(harness)

    asyncio.run(main())


def name_of(check: Check) -> str:
    return getattr(check, "__name__", str(check))


def hurry(requester: HttpRequester) -> None:
    """From now on it gives an answer SLOW_LIMIT_S."""
    requester._timeout_s = SLOW_LIMIT_S
    requester._client.timeout = httpx2.Timeout(SLOW_LIMIT_S)


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"not in time: {what}")


def needs(harness: Harness, *abilities: Failure | str) -> None:
    for ability in abilities:
        if ability in harness.cannot:
            pytest.skip(harness.cannot[ability])


def same(told: Told) -> Told:
    """Without the moment of hearing it."""
    return msgspec.structs.replace(told, at_us=0)


async def a_notice_has_one_effect_and_a_reference(harness: Harness) -> None:
    assert harness.provider.ready()
    notice = harness.notice("a-1")
    assert notice.medium in harness.provider.media
    receipt = await harness.provider.send(notice)
    assert receipt.reference
    assert harness.effects() == 1
    assert notice.to not in str(receipt.detail)


async def an_outage_defers(harness: Harness) -> None:
    needs(harness, Failure.OUTAGE)
    harness.fail(Failure.OUTAGE)
    with pytest.raises(DeliveryDeferredError) as caught:
        await harness.provider.send(harness.notice("a-1"))
    assert harness.effects() == 0
    assert harness.notice("a-1").to not in str(caught.value)
    await harness.provider.send(harness.notice("a-1"))
    assert harness.effects() == 1


async def being_unreachable_defers(harness: Harness) -> None:
    needs(harness, "outage")
    await harness.be_down()
    with pytest.raises(DeliveryDeferredError):
        await harness.provider.send(harness.notice("a-1"))
    await harness.be_up()
    await harness.provider.send(harness.notice("a-1"))
    assert harness.effects() == 1


async def a_quota_defers_and_names_a_time(harness: Harness) -> None:
    needs(harness, Failure.QUOTA)
    harness.fail(Failure.QUOTA)
    with pytest.raises(DeliveryDeferredError) as caught:
        await harness.provider.send(harness.notice("a-1"))
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 86_400
    assert harness.effects() == 0


async def a_bad_number_is_refused(harness: Harness) -> None:
    needs(harness, Failure.BAD_NUMBER)
    harness.fail(Failure.BAD_NUMBER)
    with pytest.raises(DeliveryRefusedError) as caught:
        await harness.provider.send(harness.notice("a-1"))
    assert harness.effects() == 0
    assert harness.notice("a-1").to not in str(caught.value)


async def a_lost_answer_is_unknown_and_found_again(harness: Harness) -> None:
    needs(harness, Failure.NO_ANSWER)
    harness.fail(Failure.NO_ANSWER)
    notice = harness.notice("a-1")
    with pytest.raises(DeliveryUnknownError):
        await harness.provider.send(notice)
    assert harness.effects() == 1
    needs(harness, "find")
    told = await harness.provider.find(notice)
    assert told is not None
    assert (told.attempt_id, told.provider) == ("a-1", harness.provider.name)
    assert told.provider_id
    assert harness.effects() == 1  # asking sends nothing


async def a_slow_answer_is_unknown_and_bounded(harness: Harness) -> None:
    needs(harness, Failure.SLOW)
    harness.fail(Failure.SLOW)
    started_s = time.monotonic()
    with pytest.raises(DeliveryUnknownError):
        await harness.provider.send(harness.notice("a-1"))
    assert time.monotonic() - started_s < PATIENCE_S
    await until(lambda: harness.effects() == 1, "its effect")


async def what_never_arrived_is_not_found(harness: Harness) -> None:
    needs(harness, Failure.BROKEN_BEFORE)
    harness.fail(Failure.BROKEN_BEFORE)
    notice = harness.notice("a-1")
    with pytest.raises((DeliveryUnknownError, DeliveryDeferredError)):
        await harness.provider.send(notice)
    assert harness.effects() == 0
    assert await harness.provider.find(notice) is None
    await harness.provider.send(notice)
    assert harness.effects() == 1


async def a_crash_before_the_reference_is_stored_loses_nothing(harness: Harness) -> None:
    """The new process has the attempt and no reference: it is found, or its receipt names it."""
    notice = harness.notice("a-1")
    receipt = await harness.provider.send(notice)
    provider = await harness.reborn()
    if "find" not in harness.cannot:
        told = await provider.find(notice)
        assert told is not None
        assert (told.attempt_id, told.provider_id) == ("a-1", receipt.reference)
        assert harness.effects() == 1
    needs(harness, "receipts")
    await until(lambda: any(told.provider_id == receipt.reference for told in harness.heard), "a receipt")
    assert {told.attempt_id for told in harness.heard} == {"a-1"}


async def another_attempt_is_not_taken_for_this_one(harness: Harness) -> None:
    """Neither by who sent it nor, in a new process, by what it says."""
    needs(harness, "find")
    await harness.provider.send(harness.notice("a-1", text="第一次 first"))
    second = harness.notice("a-2", text="第二次 second")
    assert await harness.provider.find(second) is None
    assert await (await harness.reborn()).find(second) is None
    await harness.provider.send(second)
    assert harness.effects() == 2


async def receipts_name_their_attempt(harness: Harness) -> None:
    needs(harness, "receipts")
    first = await harness.provider.send(harness.notice("a-1"))
    second = await harness.provider.send(harness.notice("a-2"))
    await until(lambda: {told.attempt_id for told in harness.heard} == {"a-1", "a-2"}, "receipts of both")
    references = {"a-1": first.reference, "a-2": second.reference}
    for told in harness.heard:
        assert told.provider == harness.provider.name
        assert told.provider_id == references[told.attempt_id]
        assert harness.notice("a-1").to not in str(told.detail)


async def a_late_receipt_counts(harness: Harness) -> None:
    needs(harness, "receipts", Failure.LATE_RECEIPT)
    harness.fail(Failure.LATE_RECEIPT)
    receipt = await harness.provider.send(harness.notice("a-1"))
    await until(lambda: bool(harness.heard), "the late receipt")
    assert (harness.heard[-1].attempt_id, harness.heard[-1].provider_id) == ("a-1", receipt.reference)


async def a_receipt_that_comes_twice_says_the_same(harness: Harness) -> None:
    needs(harness, "receipts", Failure.RECEIPT_TWICE)
    harness.fail(Failure.RECEIPT_TWICE)
    await harness.provider.send(harness.notice("a-1"))

    def doubled() -> bool:
        return any(harness.heard.count(told) > 1 for told in harness.heard)

    def said() -> list[Told]:
        return [same(told) for told in harness.heard]

    await until(lambda: doubled() or any(said().count(told) > 1 for told in said()), "an equal pair")


async def without_a_receipt_it_can_still_be_asked(harness: Harness) -> None:
    needs(harness, "find", Failure.NO_RECEIPT)
    harness.fail(Failure.NO_RECEIPT)
    notice = harness.notice("a-1")
    receipt = await harness.provider.send(notice)
    told = await harness.provider.find(notice)
    assert told is not None
    assert told.provider_id == receipt.reference
    assert harness.heard == []


async def a_forged_receipt_is_refused(harness: Harness) -> None:
    needs(harness, "forge")
    await harness.provider.send(harness.notice("a-1"))
    before = len([told for told in harness.heard if told.digits])
    with pytest.raises(UsageError):
        await harness.forge("a-1")
    assert len([told for told in harness.heard if told.digits]) == before


CONTRACT: Final[tuple[Check, ...]] = (
    a_notice_has_one_effect_and_a_reference,
    an_outage_defers,
    being_unreachable_defers,
    a_quota_defers_and_names_a_time,
    a_bad_number_is_refused,
    a_lost_answer_is_unknown_and_found_again,
    a_slow_answer_is_unknown_and_bounded,
    what_never_arrived_is_not_found,
    a_crash_before_the_reference_is_stored_loses_nothing,
    another_attempt_is_not_taken_for_this_one,
    receipts_name_their_attempt,
    a_late_receipt_counts,
    a_receipt_that_comes_twice_says_the_same,
    without_a_receipt_it_can_still_be_asked,
    a_forged_receipt_is_refused,
)
