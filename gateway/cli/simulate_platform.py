"""What ``carebell simulate platform`` does."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from gateway.cli.common import EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_USAGE, fail
from gateway.cli.simulate_fleet import refuse_remote
from gateway.config import read_secret
from gateway.errors import ConfigError
from simulators.platform import Loop, SimulatedPlatform


def run(
    listen: str,
    *,
    token_file: Path | None,
    gateway_url: str,
    gateway_key_file: Path | None,
    speed: float,
    fault_rate: float,
    allow_remote: bool,
) -> None:
    """Serve until SIGINT or SIGTERM. Exit codes 2 (address), 69 (address in use), 78 (a secret's file)."""
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        fail(f"--listen {listen}: write it as HOST:PORT, for example 127.0.0.1:8090", EXIT_USAGE)
    refuse_remote(*([gateway_url] if gateway_url else []), host, allowed=allow_remote)
    try:
        token = read_secret(str(token_file), "--token-file") if token_file else ""
        key = read_secret(str(gateway_key_file), "--gateway-key-file") if gateway_key_file else ""
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    platform = SimulatedPlatform(
        host=host,
        port=int(port),
        token=token,
        gateway_url=gateway_url,
        gateway_token=key,
        loop=Loop.compressed(speed),
        fault_rate=fault_rate,
    )
    try:
        asyncio.run(_serve(platform))
    except* OSError as group:
        fail(f"{listen}: {group.exceptions[0]}", EXIT_UNREACHABLE)


async def _serve(platform: SimulatedPlatform) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with platform:
        print(f"模拟平台 simulated platform: {platform.url} (网页 page: {platform.url}/)", flush=True)
        await stop.wait()
