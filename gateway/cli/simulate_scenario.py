"""What ``carebell simulate scenario`` does: a key for the API, the play, and the verdict."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    EXIT_WRONG,
    fail,
    open_journal,
    print_json,
)
from gateway.clock import SystemClock
from simulators import scenario
from simulators.client import ApiError, GatewayApi, UnreachableError
from simulators.devices import Gateway
from simulators.player import Outcome, Player


def list_shipped(*, json_output: bool) -> None:
    """The stories that come with carebell."""
    found = {name: scenario.load(path) for name, path in scenario.shipped().items()}
    if json_output:
        print_json([{"name": name, "zh": story.title.zh, "en": story.title.en} for name, story in found.items()])
        return
    for name, story in found.items():
        print(f"{name:26} {story.title}")


def run(
    name: str,
    gateway: Gateway,
    *,
    config: Path | None,
    data_dir: Path | None,
    api_key_file: Path | None,
    speed: float | None,
    check_orders: bool,
    keep: bool,
    json_output: bool,
) -> None:
    """Play it; exit codes 1 (an expectation failed, the file is wrong), 69 (no gateway)."""
    try:
        story = scenario.load(scenario.find(name))
    except scenario.ScenarioError as error:
        fail(str(error), EXIT_WRONG)
    with _key(config, data_dir, api_key_file) as key:
        try:
            outcome = asyncio.run(
                _play(story, gateway, key, speed=speed, check_orders=check_orders, keep=keep, quiet=json_output)
            )
        except UnreachableError as error:
            fail(str(error), EXIT_UNREACHABLE)
        except ApiError as error:
            fail(str(error), EXIT_WRONG)
    if json_output:
        members = ("steps", "sent", "met", "unchecked", "failures")
        print_json({"scenario": name, **{member: getattr(outcome, member) for member in members}})
    else:
        verdict = "失败 failed" if outcome.failures else "通过 passed"
        print(f"{verdict}: {outcome.met} 项符合 met, {len(outcome.failures)} 项不符 failed")
    if outcome.failures:
        raise typer.Exit(EXIT_WRONG)


async def _play(
    story: scenario.Scenario,
    gateway: Gateway,
    key: str,
    *,
    speed: float | None,
    check_orders: bool,
    keep: bool,
    quiet: bool,
) -> Outcome:
    say = _nothing if quiet else _print
    async with GatewayApi(gateway.http_url, key) as api:
        player = Player(story, api, gateway, speed=speed, check_orders=check_orders, keep=keep, say=say)
        try:
            return await player.play()
        except* ApiError as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None


@contextmanager
def _key(config: Path | None, data_dir: Path | None, api_key_file: Path | None) -> Iterator[str]:
    """An admin key: the one in the file, else one made in the registry for this run and revoked after it."""
    if api_key_file is not None:
        try:
            yield api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{api_key_file}: {error}", EXIT_USAGE)
        return
    from gateway.registry.keys import issue_api_key, revoke_api_key  # noqa: PLC0415 - keeps `--help` quick

    clock = SystemClock()
    values = {"role": "admin", "label": "simulate scenario"}
    with open_journal(config, data_dir) as connection:
        with connection:
            view, key = issue_api_key(connection, values, at_us=clock.now_us(), actor=CLI_ACTOR, valid_days=1)
        try:
            yield key
        finally:
            with connection:
                revoke_api_key(connection, view["key_id"], at_us=clock.now_us(), actor=CLI_ACTOR)


def _print(line: str) -> None:
    print(line)
    sys.stdout.flush()


def _nothing(line: str) -> None:
    del line
