"""``carebell simulate``: simulated devices, stories, the simulated platform, and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.common import ConfigOption, DataDirOption, JsonOption
from gateway.cli.simulate_coap import coap
from gateway.cli.simulate_serial import serial

simulate = typer.Typer(
    help="Simulated devices and the simulated platform, over the real protocols. Example: carebell simulate demo",
    no_args_is_help=True,
    add_completion=False,
)
simulate.command()(coap)
simulate.command()(serial)

HostOption = Annotated[str, typer.Option("--host", help="Where the gateway listens for MQTT.")]
PortOption = Annotated[int, typer.Option("--port", min=1, max=65_535, help="Its MQTT port.")]
HttpOption = Annotated[str, typer.Option("--http", metavar="URL", help="Its HTTP API and ingest.")]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="An admin key, for a gateway on another machine."),
]
RemoteOption = Annotated[
    bool, typer.Option("--allow-remote", help="Allow a gateway that is not on this machine. It may be a real one.")
]


@simulate.command()
def fleet(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, max=5000, help="How many devices.")] = 50,
    rate: Annotated[float, typer.Option("--rate", min=0.01, help="Messages per second of all together.")] = 20.0,
    duration: Annotated[
        float, typer.Option("--duration", min=0, metavar="S", help="Seconds to send; 0 until Ctrl-C.")
    ] = 0.0,
    sos_every: Annotated[
        int, typer.Option("--sos-every", min=0, metavar="K", help="Each K-th message is an SOS; 0 for none.")
    ] = 0,
    http_share: Annotated[
        float, typer.Option("--http-share", min=0, max=1, help="Share of devices that send over HTTP.")
    ] = 0.1,
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", metavar="CSV", help="device_id,token of devices that exist. Else: sim-0001 ..."),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 1883,
    http: HttpOption = "http://127.0.0.1:8080",
    allow_remote: RemoteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Many devices at a steady rate; exit code 1 when a message was not acknowledged.

    Without --credentials it registers the persons and devices sim-0001 ... in the registry of --data-dir.
    Example: carebell simulate fleet -n 200 --rate 100 --duration 30 --sos-every 500
    """
    from gateway.cli import simulate_fleet  # noqa: PLC0415 - keeps `--help` quick
    from simulators.devices import Gateway  # noqa: PLC0415
    from simulators.fleet import FleetPlan  # noqa: PLC0415

    simulate_fleet.refuse_remote(host, http, allowed=allow_remote)
    plan = FleetPlan(rate, duration or None, sos_every, http_share)
    known = simulate_fleet.credentials_for(config, data_dir, credentials, devices)
    simulate_fleet.run(Gateway(host, port, http), known, plan, json_output=json_output)


@simulate.command()
def terminals(
    protocol: Annotated[str, typer.Option("--protocol", metavar="P", help="For example gt06.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    count: Annotated[int, typer.Option("--terminals", "-n", min=1, max=5000, help="How many terminals.")] = 20,
    rate: Annotated[float, typer.Option("--rate", min=0.01, help="Reports per second of all together.")] = 10.0,
    duration: Annotated[float, typer.Option("--duration", min=0.1, metavar="S", help="Seconds to send.")] = 10.0,
    sos_every: Annotated[
        int, typer.Option("--sos-every", min=0, metavar="K", help="Each K-th report is an SOS; 0 for none.")
    ] = 0,
    host: Annotated[str, typer.Option("--host", help="Where the gateway listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: the protocol's well-known port.")] = 0,
    udp: Annotated[
        bool, typer.Option("--udp", help="In datagrams, where the protocol has both (dc09, scaip).")
    ] = False,
    allow_remote: RemoteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Terminals of one protocol over TCP or UDP, whole conversations; exit code 1 when a report was not answered.

    It registers the persons sim-p-0001 ... and the devices sim-P-0001 ... in the registry of --data-dir.
    Example: carebell simulate terminals --protocol gt06 -n 50 --rate 20 --sos-every 100
    """
    from gateway.cli import simulate_fleet, simulate_terminals  # noqa: PLC0415 - keeps `--help` quick
    from simulators.terminals.fleet import TerminalPlan  # noqa: PLC0415

    simulate_fleet.refuse_remote(host, allowed=allow_remote)
    kind = simulate_terminals.kind_of(protocol, udp=udp)
    identities = simulate_terminals.registered(config, data_dir, protocol, count)
    plan = TerminalPlan(rate, duration, sos_every)
    simulate_terminals.run(kind, identities, host, port, plan, udp=udp, json_output=json_output)


@simulate.command()
def broker(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    kind: Annotated[str, typer.Option("--kind", metavar="K", help="zigbee2mqtt or chirpstack.")] = "zigbee2mqtt",
    url: Annotated[
        str, typer.Option("--broker", metavar="URL", help="The broker that the gateway listens to, too.")
    ] = "mqtt://127.0.0.1:1884",
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, max=1000, help="How many devices.")] = 10,
    rate: Annotated[float, typer.Option("--rate", min=0.01, help="Messages per second of all together.")] = 5.0,
    duration: Annotated[float, typer.Option("--duration", min=0.1, metavar="S", help="Seconds to send.")] = 10.0,
    sos_every: Annotated[
        int, typer.Option("--sos-every", min=0, metavar="K", help="Each K-th message is a press; 0 for none.")
    ] = 0,
    allow_remote: RemoteOption = False,
    json_output: JsonOption = False,
) -> None:
    """A Zigbee2MQTT or a ChirpStack with buttons, publishing to a broker that carebell is connected to as well.

    It registers the persons sim-p-0001 ... and the devices sim-KIND-0001 ... in the registry of --data-dir.
    Example: carebell simulate broker --kind chirpstack --broker mqtt://127.0.0.1:1884 --sos-every 10
    """
    from gateway.cli import simulate_broker, simulate_fleet  # noqa: PLC0415 - keeps `--help` quick
    from simulators.broker_sites import SitePlan  # noqa: PLC0415

    simulate_fleet.refuse_remote(url, allowed=allow_remote)
    site = simulate_broker.site_of(kind, devices)
    simulate_broker.register(config, data_dir, kind, site, devices)
    simulate_broker.run(kind, site, devices, url, SitePlan(rate, duration, sos_every), json_output=json_output)


@simulate.command()
def scenario(
    story: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A TOML file, or the name of a shipped one.")] = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="Story seconds per second; 0: as the file says.")
    ] = 0.0,
    orders: Annotated[bool, typer.Option("--orders/--no-orders", help="Check what is expected of orders.")] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Leave persons, devices and open alerts as they are.")] = False,
    host: HostOption = "127.0.0.1",
    port: PortOption = 1883,
    http: HttpOption = "http://127.0.0.1:8080",
    api_key_file: KeyFileOption = None,
    allow_remote: RemoteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Play a story and check what comes of it; exit code 1 when an expectation fails. Without a name: lists stories.

    Example: carebell simulate scenario fall --data-dir ./var
    """
    from gateway.cli import simulate_scenario  # noqa: PLC0415 - keeps `--help` quick
    from gateway.cli.simulate_fleet import refuse_remote  # noqa: PLC0415
    from simulators.devices import Gateway  # noqa: PLC0415

    if not story:
        simulate_scenario.list_shipped(json_output=json_output)
        return
    refuse_remote(host, http, allowed=allow_remote)
    simulate_scenario.run(
        story,
        Gateway(host, port, http),
        config=config,
        data_dir=data_dir,
        api_key_file=api_key_file,
        speed=speed or None,
        check_orders=orders,
        keep=keep,
        json_output=json_output,
    )


@simulate.command()
def platform(
    *,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where it serves.")] = "127.0.0.1:8090",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="The token it asks of the gateway.")
    ] = None,
    gateway_url: Annotated[
        str, typer.Option("--gateway", metavar="URL", help="Whom it calls back; empty: no callbacks.")
    ] = "",
    gateway_key_file: Annotated[
        Path | None, typer.Option("--gateway-key-file", metavar="FILE", help="An API key of the role backend.")
    ] = None,
    speed: Annotated[float, typer.Option("--speed", min=0.1, help="How much faster than life it works.")] = 60.0,
    fault_rate: Annotated[float, typer.Option("--fault-rate", min=0, max=1, help="Share of requests that fail.")] = 0.0,
    allow_remote: RemoteOption = False,
) -> None:
    """The platform's order API with the closed loop: accept, dispatch, arrive, complete, follow up; until Ctrl-C.

    Example: carebell simulate platform --gateway http://127.0.0.1:8080 --gateway-key-file backend.key
    """
    from gateway.cli import simulate_platform  # noqa: PLC0415 - keeps `--help` quick

    simulate_platform.run(
        listen,
        token_file=token_file,
        gateway_url=gateway_url,
        gateway_key_file=gateway_key_file,
        speed=speed,
        fault_rate=fault_rate,
        allow_remote=allow_remote,
    )


@simulate.command()
def demo(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", metavar="DIR", help="A folder of its own; emptied first unless --keep.")
    ] = Path("var/demo"),
    *,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, max=1440, help="How long the day lasts.")] = 3.0,
    once: Annotated[bool, typer.Option("--once", help="End after the day instead of staying up.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Go on with what is in the folder.")] = False,
    history: Annotated[bool, typer.Option("--history/--no-history", help="With the embedded PostgreSQL.")] = True,
    json_output: JsonOption = False,
) -> None:
    """A neighbourhood of 30 persons, a gateway and a platform: a day in a few minutes. Ctrl-C ends all of it.

    Example: carebell simulate demo --minutes 5
    """
    from gateway.cli import simulate_demo  # noqa: PLC0415 - keeps `--help` quick

    simulate_demo.run(data_dir, minutes=minutes, once=once, keep=keep, history=history, json_output=json_output)
