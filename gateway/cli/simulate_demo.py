"""What ``carebell simulate demo`` does: a folder, free ports, keys, the daemon as a child process, and the day."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import typer
from msgspec import Struct

from gateway.access.passwords import hash_password
from gateway.access.users import add_user, change_password, has_users
from gateway.cli.common import EXIT_TEMPORARY, EXIT_USAGE, EXIT_WRONG, fail, open_journal, print_json
from gateway.clock import SystemClock
from gateway.model import Actor
from gateway.registry.keys import issue_api_key
from gateway.storage import launch
from gateway.supervise import end_child
from simulators.carrier import ACCOUNT_SID, NUMBER, SimulatedCarrier
from simulators.client import ApiError, GatewayApi
from simulators.demo import USUAL_MINUTES, Demo, Keys, loop_for, policy_for, register, relatives_for
from simulators.devices import Gateway
from simulators.neighbourhood import residents
from simulators.outline import outline
from simulators.platform import SimulatedPlatform

MARK: Final = ".carebell-demo"
TOKENS: Final = "devices.json"
OUTLINE: Final = "outline.json"
CONSOLE: Final = "console.password"
LOGIN: Final = "demo"
READY: Final = b"carebell ready"
START_S: Final = 60.0
DRAIN_S: Final = 30.0
MQTT_PORT: Final = 1883
HTTP_PORT: Final = 8080
PLATFORM_PORT: Final = 8090
CARRIER_PORT: Final = 8091
CARRIER_SPEED: Final = 10.0
NO_CALLS: Final = "没有电话和短信 no calls or messages: pip install 'carebell[twilio]'"


class DemoError(Exception):
    """The demo cannot go on; its text says why. Handler: ``run``."""


class Options(Struct, frozen=True):
    folder: Path
    minutes: float
    once: bool
    history: bool
    quiet: bool


def run(data_dir: Path, *, minutes: float, once: bool, keep: bool, history: bool, json_output: bool) -> None:
    """Exit codes 0, 1 (something was not acknowledged, or an urgent alert got no order), 75 (no daemon)."""
    folder = data_dir.resolve()
    _prepare(folder, keep=keep)
    options = Options(folder, minutes, once, history, json_output)
    summary: dict[str, Any] | None = None
    try:
        summary = asyncio.run(_main(options))
    except* (DemoError, ApiError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        fail(str(error), EXIT_TEMPORARY)
    if summary is None:
        return
    if json_output:
        print_json(summary)
    if summary["sent"] != summary["acknowledged"] or summary["urgent_without_order"]:
        raise typer.Exit(EXIT_WRONG)


def _prepare(folder: Path, *, keep: bool) -> None:
    """A folder of the demo's own; nothing is removed that the demo did not make."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            fail(f"{folder} holds something that is not the demo's; name another folder", EXIT_USAGE)
        if not keep:
            for entry in folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


async def _main(options: Options) -> dict[str, Any] | None:
    """The summary of the day; None when somebody ended it before."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    summary: list[dict[str, Any]] = []
    async with asyncio.TaskGroup() as group:
        work = group.create_task(_play(options, summary))
        stopped = group.create_task(stop.wait())
        await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not work.done():
            if not options.quiet:
                print("\n正在结束 ending ...", flush=True)
            work.cancel()
    return summary[0] if summary else None


async def _play(options: Options, summary: list[dict[str, Any]]) -> None:
    with contextlib.ExitStack() as kept:
        ports = [_port(wanted, kept) for wanted in (MQTT_PORT, HTTP_PORT, PLATFORM_PORT, CARRIER_PORT)]
        await _play_at(ports, options, summary)


async def _play_at(ports: list[int], options: Options, summary: list[dict[str, Any]]) -> None:
    mqtt_port, http_port, platform_port, carrier_port = ports
    gateway = Gateway("127.0.0.1", mqtt_port, f"http://127.0.0.1:{http_port}")
    keys = _keys(options.folder / "data")
    password = _console_user(options.folder)
    demo: Demo | None = None

    def hear(line: str) -> None:
        if demo is not None:
            demo.hear_platform(line)

    def hear_carrier(line: str) -> None:
        if demo is not None:
            demo.hear_carrier(line)

    token = secrets.token_urlsafe(32)
    speed = CARRIER_SPEED * USUAL_MINUTES / options.minutes
    carrier = SimulatedCarrier(
        relatives_for(residents()), port=carrier_port, auth_token=token, speed=speed, say=hear_carrier
    )
    platform = SimulatedPlatform(
        port=platform_port,
        token=token,
        gateway_url=gateway.http_url,
        gateway_token=keys.backend,
        loop=loop_for(options.minutes),
        say=hear,
    )
    async with platform, carrier:
        calls = _can_call()
        _configure(options, gateway, platform.url, token, carrier.url if calls else "")
        async with _daemon(options):
            demo = Demo(
                gateway, keys, platform, carrier if calls else None, minutes=options.minutes, quiet=options.quiet
            )
            _greet(options, demo, gateway, platform, keys, password, carrier.url if calls else "")
            tokens = await _tokens(options.folder / TOKENS, gateway, keys, demo)
            with demo.board:
                await demo.play(tokens)
            summary.append(await demo.summary() | _addresses(options, gateway, platform) | {"carrier": carrier.url})
            if not options.quiet:
                _tell(summary[0])
            if not options.once:
                if not options.quiet:
                    _invite(summary[0], keys)
                await demo.watch()
        await carrier.hush()


# ---- preparations ----------------------------------------------------------------------------------------------------


def _port(wanted: int, kept: contextlib.ExitStack) -> int:
    """The usual port when it is free, and no other demo is about to take it until ``kept`` ends; else any."""
    for port in (wanted, 0):
        mark = kept.enter_context(socket.socket(socket.AF_UNIX))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            mark.bind(f"\0carebell-demo-{port or probe.getsockname()[1]}")  # a name that ends with this process
            return int(probe.getsockname()[1])
    raise DemoError("no port is free on 127.0.0.1")


def _keys(data_dir: Path) -> Keys:
    """Keys of this demo, made before the gateway starts, so that it makes none of its own."""
    made = {}
    with open_journal(None, data_dir) as connection, connection:
        for role in ("admin", "operator", "backend"):
            values = {"role": role, "label": "demo"}
            actor = Actor("system", "demo")
            made[role] = issue_api_key(connection, values, at_us=SystemClock().now_us(), actor=actor, valid_days=7)[1]
    return Keys(**made)


def _console_user(folder: Path) -> str:
    """The password of the console's user, of this demo alone; a kept demo keeps it."""
    file = folder / CONSOLE
    if file.exists():
        return file.read_text(encoding="utf-8")
    password = secrets.token_urlsafe(9)
    encoded, actor, now_us = hash_password(password), Actor("system", "demo"), SystemClock().now_us()
    with open_journal(None, folder / "data") as connection, connection:
        if not has_users(connection):
            user = add_user(
                connection, LOGIN, name="演示班长", role="supervisor", password_hash=encoded, at_us=now_us, actor=actor
            )
            change_password(connection, user["user_id"], encoded, at_us=now_us, actor=actor)
    _write_secret(file, password)
    return password


def _can_call() -> bool:
    """Whether the SDK is there by which the gateway speaks with the carrier."""
    return all(importlib.util.find_spec(module) is not None for module in ("twilio", "aiohttp"))


def _configure(options: Options, gateway: Gateway, platform_url: str, token: str, carrier_url: str) -> None:
    """``carrier_url`` "": nobody is called."""
    token_file = options.folder / "order-api.token"
    _write_secret(token_file, token)
    policies = options.folder / "policies.d"
    policies.mkdir(exist_ok=True)
    (policies / "demo.toml").write_text(policy_for(options.minutes), encoding="utf-8")
    ground = options.folder / OUTLINE
    ground.write_text(json.dumps(outline(), ensure_ascii=False), encoding="utf-8")
    http_listen = gateway.http_url.removeprefix("http://")
    lines: tuple[str, ...] = (
        'data_dir = "data"',
        'site = "demo"',
        f'[mqtt]\nlisten = "{gateway.mqtt_host}:{gateway.mqtt_port}"',
        f'[http]\nlisten = "{http_listen}"',
        f'[history]\ndsn = "{"embedded" if options.history else ""}"',
        f'[order_api]\nbase_url = "{platform_url}"\ntoken_file = {json.dumps(str(token_file))}',
        f'[console]\npublic_url = "{gateway.http_url}"\noutline_file = {json.dumps(str(ground))}',
        "[access]\nsecond_factor = false  # a demo on this machine alone",
    )
    if carrier_url:
        lines += (
            f'[notify.twilio]\naccount_sid = "{ACCOUNT_SID}"\nauth_token_file = {json.dumps(str(token_file))}',
            f'from_number = "{NUMBER}"\nbase_url = "{carrier_url}"\npublic_url = "{gateway.http_url}"',
        )
    (options.folder / "carebell.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextlib.asynccontextmanager
async def _daemon(options: Options) -> AsyncIterator[None]:
    """The gateway as a process of its own, that ends with this one, however this one ends."""
    command = [sys.executable, "-c", "from gateway.cli.main import main; main()", "run"]
    command += ["-c", str(options.folder / "carebell.toml")]
    launcher = [sys.executable, "-I", "-S", launch.__file__, "keep", "SIGTERM", str(os.getpid()), str(options.folder)]
    # CAREBELL_ variables of the caller would win over the demo's own configuration.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAREBELL_")}
    log = options.folder / "gateway.log"
    with log.open("ab") as output:
        begun = output.tell()
        process = await asyncio.create_subprocess_exec(
            *launcher,
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal is for the demo, which ends the gateway in order
        )
    try:
        await _until_ready(process, log, begun)
        yield
    finally:
        await end_child(process, DRAIN_S)


async def _until_ready(process: asyncio.subprocess.Process, log: Path, begun: int) -> None:
    """By its own word behind ``begun`` in the log: another gateway may answer at an address that this one wants."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                if READY in _said(log, begun):
                    return
                await asyncio.sleep(0.1)
    raise DemoError(f"the gateway did not start; {log} ends with:\n{_last_lines(log)}")


def _said(log: Path, begun: int) -> list[bytes]:
    return log.read_bytes()[begun:].splitlines()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


async def _tokens(path: Path, gateway: Gateway, keys: Keys, demo: Demo) -> dict[str, str]:
    """Device tokens: those of a kept folder, else of devices that are entered now."""
    kept = _kept_tokens(path)
    if kept is not None:
        return kept
    async with GatewayApi(gateway.http_url, keys.admin) as api:
        tokens = await register(api, demo.people)
    _write_secret(path, json.dumps(tokens))
    return tokens


def _kept_tokens(path: Path) -> dict[str, str] | None:
    try:
        kept: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DemoError(f"{path}: {error}; start without --keep") from error
    return kept


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - it has a descriptor
        file.write(text)


# ---- telling ---------------------------------------------------------------------------------------------------------


def _addresses(options: Options, gateway: Gateway, platform: SimulatedPlatform) -> dict[str, str]:
    return {
        "http": gateway.http_url,
        "mqtt": f"{gateway.mqtt_host}:{gateway.mqtt_port}",
        "platform": platform.url,
        "folder": str(options.folder),
    }


def _greet(
    options: Options,
    demo: Demo,
    gateway: Gateway,
    platform: SimulatedPlatform,
    keys: Keys,
    password: str,
    carrier_url: str,
) -> None:
    if options.quiet:
        return
    print(f"安心铃演示 carebell demo: {len(demo.people)} 人 persons, 一天压缩为 a day in {options.minutes:g} min")
    print("  时间 times     行首是演示时刻,短信和电话里是真实时间 lines: the story's time; messages: the real one")
    print(f"  网关 gateway   {gateway.http_url}/openapi.json   mqtt {gateway.mqtt_host}:{gateway.mqtt_port}")
    print(f"  控制台 console {gateway.http_url}/console   {LOGIN} / {password}")
    print(f"  平台 platform  {platform.url}/")
    print(f"  电信 carrier   {carrier_url or NO_CALLS}")
    print(f"  管理密钥 admin key  {keys.admin}")
    print(f"  文件 files     {options.folder}", flush=True)


def _tell(summary: dict[str, Any]) -> None:
    ack, emergency = summary["ack_ms"], summary["emergency_ack_ms"]
    print("\n一天结束 the day is over")
    print(f"  消息 messages    已发 sent {summary['sent']}, 已确认 acknowledged {summary['acknowledged']}")
    print(f"  确认延迟 ack ms  p50 {ack['p50']}, p99 {ack['p99']}; 紧急 emergencies p50 {emergency['p50']}")
    for name, count in sorted(summary["alerts"].items(), key=lambda item: item[0].split()[1]):
        print(f"  报警 alert       {count} x {name}")
    told = ", ".join(f"{status} {count}" for status, count in summary["orders"].items())
    print(f"  工单 orders      {told or 'none'}")
    calls = ", ".join(f"{status} {count}" for status, count in sorted(summary["calls"].items()))
    print(f"  电话 calls       {calls or 'none'}; 短信 messages {summary['messages']}")
    print(f"  家属接手 family  {', '.join(summary['taken_by_family']) or 'none'}")
    print(f"  未办结 open      {summary['open']}")
    for alert_id in summary["urgent_without_order"]:
        print(f"  没有工单 no order: {alert_id}")
    print(f"  再看一遍 look again: carebell alerts list -c {summary['folder']}/carebell.toml", flush=True)


def _invite(summary: dict[str, Any], keys: Keys) -> None:
    print("\n演示继续运行,按 Ctrl-C 结束。 It stays up; Ctrl-C ends it.")
    print(f"  平台工单 orders of the platform  {summary['platform']}/")
    print(f"  接口 API  {summary['http']}/openapi.json")
    print(f"  curl -H 'Authorization: Bearer {keys.admin}' {summary['http']}/api/v1/alerts", flush=True)
