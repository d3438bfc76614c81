"""``carebell simulate coap``: a button that speaks CoAP, or LwM2M."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.common import EXIT_UNREACHABLE, EXIT_USAGE, EXIT_WRONG, JsonOption, fail, print_json


def coap(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The id of a registered device.")],
    token_file: Annotated[Path, typer.Option("--token-file", metavar="FILE", help="The device's token.")],
    *,
    lwm2m: Annotated[
        bool, typer.Option("--lwm2m", help="Register as a client of LwM2M 1.1, and press when it is observed.")
    ] = False,
    presses: Annotated[int, typer.Option("--presses", min=1, max=100_000, help="How often it is pressed.")] = 1,
    every_s: Annotated[float, typer.Option("--every", min=0.0, metavar="SECONDS", help="How far apart.")] = 1.0,
    host: Annotated[str, typer.Option("--host", help="Where the gateway listens for CoAP.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="Its CoAP port.")] = 5683,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Allow a gateway on another machine.")] = False,
    json_output: JsonOption = False,
) -> None:
    """A button over CoAP: press, wait for the acknowledgement, say how long it took. Exit code 1 when one is missing.

    Example: carebell simulate coap D-0001 --token-file token --presses 3
    """
    from gateway.cli.simulate_fleet import refuse_remote  # noqa: PLC0415 - keeps `--help` quick
    from simulators.devices import NotAcknowledgedError  # noqa: PLC0415

    refuse_remote(host, allowed=allow_remote)
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{token_file}: {error}", EXIT_USAGE)
    play = _lwm2m if lwm2m else _plain
    try:
        found = asyncio.run(play(host, port, device, token, presses, every_s))
    except NotAcknowledgedError as error:
        fail(f"{host}:{port}: {error}", EXIT_UNREACHABLE if "no ACK" in str(error) else EXIT_WRONG)
    if json_output:
        print_json(found)
    else:
        print(f"已确认 acknowledged {found['acknowledged']}/{presses}   ms {found['ack_ms']}")
    if found["acknowledged"] < presses:
        raise typer.Exit(EXIT_WRONG)


async def _plain(host: str, port: int, device: str, token: str, presses: int, every_s: float) -> dict[str, Any]:
    from simulators.coap import CoapLink  # noqa: PLC0415

    link = CoapLink(host, port, device, token)
    boot = int(time.time())
    took = []
    for number in range(1, presses + 1):
        payload = f'{{"boot": {boot}, "seq": {number}, "signals": ["sos"]}}'.encode()
        took.append(round(await link.send(payload) * 1000, 1))
        await asyncio.sleep(every_s if number < presses else 0)
    await link.break_off()
    return {"device": device, "acknowledged": len(took), "ack_ms": took}


async def _lwm2m(host: str, port: int, device: str, token: str, presses: int, every_s: float) -> dict[str, Any]:
    from simulators.lwm2m import Lwm2mButton  # noqa: PLC0415

    button = Lwm2mButton(host, port, device, token)
    await button.start()
    async with asyncio.timeout(60):
        while not button.observes("/3347/0"):
            await asyncio.sleep(0.05)
    took = []
    for number in range(1, presses + 1):
        began_s = time.monotonic()
        await button.press()
        took.append(round((time.monotonic() - began_s) * 1000, 1))
        await asyncio.sleep(every_s if number < presses else 0)
    await button.end()
    button.close()
    await asyncio.sleep(0)
    return {"device": device, "acknowledged": len(took), "ack_ms": took}
