"""The process of pages: what belongs there, how connections get there, and how it asks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.console.app import PAGES
from gateway.errors import ConflictError, NotFoundError, StorageError, UsageError
from gateway.faces import errands, passage
from gateway.faces.division import is_face
from gateway.faces.errands import Answerer, Asker, Errand

OF_THE_GATEWAY = {
    ("GET", "/persons/{person_id}"),  # opening the card is written to the audit
    ("GET", "/alerts/{alert_id}/conference"),
    ("POST", "/alerts/{alert_id}/conference/{change}"),
    ("POST", "/alerts/{alert_id}/call"),
    ("POST", "/alerts/{alert_id}/order"),
    ("POST", "/alerts/{alert_id}/reveal"),
    ("POST", "/persons/{person_id}/door-code"),
    ("POST", "/sign-out"),
}
"""Pages that write in other ways than by an act, or that ask a provider."""


def test_every_page_belongs_to_one_of_the_two() -> None:
    for path, methods, _, _ in PAGES:
        for method in methods:
            concrete = path.replace("{alert_id}", "A-1").replace("{person_id}", "P-1").replace("{device_id}", "D-1")
            concrete = concrete.replace("{action}", "accept").replace("{change}", "add")
            assert is_face(method, f"/console{concrete}") == ((method, path) not in OF_THE_GATEWAY), (method, path)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/events", True),
        ("GET", "/api/v1/events/ws", True),
        ("HEAD", "/console", True),
        ("GET", "/console/static/console.css", True),
        ("POST", "/console/alerts/A-1/resolve", True),
        ("GET", "/consoles", False),
        ("GET", "/console/sign-in", False),
        ("POST", "/console/sign-in", False),
        ("POST", "/console/password", False),
        ("POST", "/ingest/v1/D-1", False),
        ("POST", "/api/v1/alerts/A-1/accept", False),
        ("GET", "/api/v1/alerts", False),
        ("GET", "/installer", False),
        ("GET", "/f/x", False),
        ("GET", "/healthz", False),
        ("DELETE", "/console", False),
    ],
)
def test_what_belongs_there(method: str, path: str, expected: bool) -> None:
    assert is_face(method, path) is expected


# ---- connections on their way ---------------------------------------------------------------------------------------


def test_a_connection_goes_over_with_what_was_read_of_it() -> None:
    async def main() -> None:
        ours, theirs = passage.pair()
        near, far = socket.socketpair()
        came: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        async def adopt(descriptor: int, begun: bytes) -> None:
            came.set_result((descriptor, begun))

        waiting = passage.Waiting()
        assert waiting.take(os.dup(near.fileno()), b"GET / HTTP/1.1\r\n")  # there is no channel yet
        near.close()
        assert len(waiting) == 1
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            receiving = group.create_task(passage.receive(theirs, adopt))
            waiting.use(ours)
            descriptor, begun = await came
            assert begun == b"GET / HTTP/1.1\r\n"
            with socket.socket(fileno=descriptor) as adopted:
                adopted.sendall(b"hello")
            assert far.recv(16) == b"hello"
            assert far.recv(16) == b""  # nobody else holds it
            waiting.close()
            ours.close()
            await receiving  # the other end closed
        theirs.close()
        far.close()

    asyncio.run(main())


def test_what_a_full_channel_cannot_take_waits_for_its_turn() -> None:
    async def main() -> None:
        ours, theirs = passage.pair()
        waiting = passage.Waiting()
        waiting.use(ours)
        number = 600  # more than a channel holds
        for each in range(number):
            assert waiting.take(os.open(os.devnull, os.O_RDONLY), b"%d" % each)
        assert len(waiting) > 0
        order: list[int] = []

        async def adopt(descriptor: int, begun: bytes) -> None:
            os.close(descriptor)
            order.append(int(begun))

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            receiving = group.create_task(passage.receive(theirs, adopt))
            while len(order) < number:
                await asyncio.sleep(0.001)
            assert order == list(range(number))
            waiting.close()
            ours.close()
            await receiving
        theirs.close()

    asyncio.run(main())


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        waiting = passage.Waiting()
        spare = os.open(os.devnull, os.O_RDONLY)
        assert not waiting.take(spare, b"x" * (passage.MOST_BYTES + 1))
        held = [os.dup(spare) for _ in range(passage.MOST_WAITING)]
        assert all(waiting.take(each, b"x") for each in held)
        assert not waiting.take(spare, b"x")
        os.fstat(spare)  # refused: still the caller's
        waiting.expire()
        assert len(waiting) == passage.MOST_WAITING
        monkeypatch.setattr(passage, "LONGEST_WAIT_S", -1.0)
        waiting.expire()
        assert len(waiting) == 0
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(held[0])
        os.close(spare)

    asyncio.run(main())


# ---- errands --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def asking(known: dict[str, Errand]) -> AsyncIterator[tuple[Asker, Answerer, dict[str, Any]]]:
    """Both ends on a real pair of sockets, and what they were told."""
    told: dict[str, Any] = {}
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near, limit=errands.LONGEST_LINE)
    asker = Asker(reader, writer, lambda dsn: told.update(dsn=dsn))
    reader, far_writer = await asyncio.open_connection(sock=far, limit=errands.LONGEST_LINE)
    answerer = Answerer(reader, far_writer, known, told.update)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(asker.run()), group.create_task(answerer.run())]
        yield asker, answerer, told
        for task in tasks:
            task.cancel()
    writer.close()
    far_writer.close()


def test_an_errand_brings_back_its_value_or_what_it_raised() -> None:
    async def act(kind: str) -> dict[str, str]:
        raised: dict[str, Exception] = {
            "conflict": ConflictError("U-2 has it"), "none": NotFoundError("no alert"),
            "usage": UsageError("no such act"), "disk": StorageError("full"), "bug": ZeroDivisionError("secret"),
        }  # fmt: skip
        if kind in raised:
            raise raised[kind]
        return {"kind": kind}

    async def main() -> None:
        async with asking({"act": act}) as (asker, answerer, told):
            assert await asker.ask("act", kind="fine") == {"kind": "fine"}
            for kind, error, text in (
                ("conflict", ConflictError, "U-2 has it"), ("none", NotFoundError, "no alert"),
                ("usage", UsageError, "no such act"), ("disk", StorageError, "full"),
            ):  # fmt: skip
                with pytest.raises(error, match=text) as caught:
                    await asker.ask("act", kind=kind)
                assert type(caught.value) is error
            with pytest.raises(StorageError, match="it is logged"):  # and not its words
                await asker.ask("act", kind="bug")
            with pytest.raises(StorageError, match="it is logged"):
                await asker.ask("unheard-of")
            await asker.report({"screens": 3})
            answerer.tell("postgresql://")
            while told != {"screens": 3, "dsn": "postgresql://"}:
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_answers_may_come_in_any_order() -> None:
    async def main() -> None:
        first = asyncio.Event()

        async def wait() -> str:
            await first.wait()
            return "late"

        async def go() -> str:
            first.set()
            return "early"

        async with asking({"wait": wait, "go": go}) as (asker, _, _), asyncio.TaskGroup() as group:
            late = group.create_task(asker.ask("wait"))
            await asyncio.sleep(0)
            assert await asker.ask("go") == "early"
            assert await late == "late"

    asyncio.run(main())


def test_a_gateway_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        monkeypatch.setattr(errands, "ANSWER_S", 0.05)
        async with asking({"never": never}) as (asker, _, _):
            with pytest.raises(StorageError, match="does not answer"):
                await asker.ask("never")

    asyncio.run(main())


def test_what_is_no_errand_ends_the_answering_and_nothing_else() -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=far, limit=errands.LONGEST_LINE)
        answerer = Answerer(reader, writer, {}, lambda _: None)
        near.sendall(b"rubbish\n")
        with pytest.raises(ExceptionGroup):  # the supervisor starts the other process again
            async with asyncio.timeout(30):
                await answerer.run()
        writer.close()
        near.close()

    asyncio.run(main())
