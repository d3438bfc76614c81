"""``carebell devices claim-code``, ``label``, ``stock``, ``due``, ``visits``, ``brokers``."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_USAGE,
    EXIT_WRONG,
    ConfigOption,
    DataDirOption,
    JsonOption,
    fail,
    print_json,
    settings_of,
)
from gateway.cli.registry_shared import (
    CsvArgument,
    DryRunOption,
    known_profiles,
    now_us,
    print_table,
    reading,
    transaction,
    write_lines,
)

DeviceArgument = Annotated[str, typer.Argument(metavar="ID", help="The device's id.")]
DaysOption = Annotated[
    int, typer.Option("--valid-days", metavar="D", min=1, max=730, help="How long the claim code can be used.")
]
COLUMNS: Final = ("device_id", "token", "claim_code", "scan")


def claim_code(
    device_id: DeviceArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    valid_days: DaysOption = 90,
    json_output: JsonOption = False,
) -> None:
    """A new code with which an installer takes the device into service, once; the earlier code ends.

    Example: carebell devices claim-code D-0001 --valid-days 30
    """
    from gateway.provisioning import claims, codes  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        code = claims.issue(connection, device_id, valid_days=valid_days, at_us=now_us(), actor=CLI_ACTOR)
    content = codes.content_of(code, settings_of(config, data_dir).console.public_url)
    if json_output:
        print_json({"device_id": device_id, "claim_code": codes.grouped(code), "scan": content})
    else:
        print(f"device {device_id}\ncode   {codes.grouped(code)}\nscan   {content}\n只显示这一次 shown this once")


def label(
    device_id: DeviceArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="An SVG picture of 60 by 30 mm.")],
    valid_days: DaysOption = 90,
) -> None:
    """A label with a new claim code as QR and in letters; the earlier code ends.

    Example: carebell devices label D-0001 --out label.svg
    """
    from gateway.provisioning import claims, codes  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.devices import show_device  # noqa: PLC0415

    public_url = settings_of(config, data_dir).console.public_url
    with transaction(config, data_dir) as connection:
        view = show_device(connection, device_id)
        code = claims.issue(connection, device_id, valid_days=valid_days, at_us=now_us(), actor=CLI_ACTOR)
        model = view["model"] or view["profile"]
        write_lines([codes.label_svg(device_id, model, codes.content_of(code, public_url), code)], out, bom=False)
    print(f"label  {out}\nvalid  {valid_days} days, for one claim")


def stock(
    path: CsvArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Tokens and claim codes, a device a line.")],
    labels: Annotated[Path | None, typer.Option("--labels", metavar="DIR", help="A label of each device.")] = None,
    valid_days: DaysOption = 180,
    dry_run: DryRunOption = False,
) -> None:
    """Take a warehouse's list in: devices, tokens, claim codes and labels, 100 devices in each transaction.

    The columns are those of 'devices import'. Everything is checked before the first row is written. A run that was
    interrupted goes on where it was: what stands in --out is done. Devices that are there get a new claim code.
    Example: carebell devices stock pallet-7.csv --out pallet-7-codes.csv --labels labels/
    """
    from gateway.provisioning import stock as shelf  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry import csvio  # noqa: PLC0415

    try:
        data = path.read_bytes()
        done = _done(out)
        plan = csvio.read_plan("devices", data, at_us=now_us(), known_profiles=known_profiles(config, data_dir))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", EXIT_USAGE)
    except csvio.ImportRefusedError as error:
        for problem in error.problems:
            print(f"{path}: {problem}")
        fail(f"{len(error.problems)} problem(s); nothing was taken in", EXIT_WRONG)
    rows = [row for row in plan.rows if row.row_id not in done]
    with reading(config, data_dir) as connection:
        found = shelf.conflicts(connection, rows)
    if found:
        fail("\n".join([*found[:50], f"{len(found)} conflict(s); nothing was taken in"]), EXIT_WRONG)
    if dry_run:
        print(f"{len(rows)} devices would be taken in, {len(plan.rows) - len(rows)} are done")
        return
    public_url = settings_of(config, data_dir).console.public_url
    for chunk in shelf.chunks(rows):
        with transaction(config, data_dir) as connection:
            made = shelf.take_in(connection, chunk, valid_days=valid_days, at_us=now_us(), actor=CLI_ACTOR)
            _keep(out, made, public_url)  # on disk before the commit that makes them count
        if labels is not None:
            _print_labels(labels, made, public_url)
    print(f"{len(rows)} devices were taken in, {len(plan.rows) - len(rows)} were done before; codes are in {out}")


def _done(out: Path) -> set[str]:
    """The devices in a file that an interrupted run left."""
    if not out.exists():
        return set()
    with out.open(encoding="utf-8", newline="") as file:
        return {row["device_id"] for row in csv.DictReader(file) if row.get("claim_code")}


def _keep(out: Path, made: list[Any], public_url: str) -> None:
    from gateway.provisioning import codes  # noqa: PLC0415 - as above

    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - it has a descriptor
        writer = csv.writer(file)
        if os.fstat(descriptor).st_size == 0:
            writer.writerow(COLUMNS)
        for each in made:
            scan = codes.content_of(each.code, public_url)
            writer.writerow([each.device_id, each.token, codes.grouped(each.code), scan])
        file.flush()
        os.fsync(descriptor)


def _print_labels(folder: Path, made: list[Any], public_url: str) -> None:
    from gateway.provisioning import codes  # noqa: PLC0415 - as above

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in made:
        picture = codes.label_svg(each.device_id, each.model, codes.content_of(each.code, public_url), each.code)
        write_lines([picture], folder / f"{each.device_id}.svg", bom=False)


def due(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    district: Annotated[str, typer.Option("--district", metavar="TEXT", help="Only this district.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Devices that wait for a visit, and why. Example: carebell devices due --district 和平"""
    from gateway.provisioning import visits  # noqa: PLC0415 - keeps `--help` quick

    found: list[dict[str, Any]] = []
    with reading(config, data_dir) as connection:
        while page := visits.due(
            connection, now_us(), district=district, after_id=found[-1]["device_id"] if found else "", limit=1000
        ):
            found += page
    if json_output:
        print_json(found)
        return
    for row in found:
        row["why"] = "；".join(visits.REASONS[each["reason"]][0] for each in row["reasons"])
    print_table({"device_id": "编号", "person_id": "人员", "district": "区县", "why": "原因"}, found)


def list_visits(
    device_id: DeviceArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """What was done at a device, newest first. Example: carebell devices visits D-0001 --json"""
    from gateway.provisioning import visits  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        found = visits.list_visits(connection, device_id)
    if json_output:
        print_json(found)
        return
    columns = {"begun_at": "开始", "ended_at": "结束", "test_passed_at": "测试按键", "agreement_ref": "协议"}
    print_table({**columns, "note": "备注"}, found)


def brokers(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    kind: Annotated[Literal["gateway", "mosquitto", "emqx"], typer.Option("--for", help="Which broker asks for them.")],
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="CSV", help="device_id,token: --credentials-out, or --out of 'stock'."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Readable by its owner alone.")],
    host: Annotated[str, typer.Option("--host", metavar="HOST:PORT", help="gateway: where devices reach it.")] = "",
    gateway_user: Annotated[str, typer.Option("--gateway-user", help="mosquitto: carebell's own name.")] = "carebell",
    gateway_password_file: Annotated[
        Path | None, typer.Option("--gateway-password-file", metavar="FILE", help="mosquitto: its password.")
    ] = None,
) -> None:
    """Credentials for the gateway's endpoint, Mosquitto's dynamic-security plugin or EMQX's built-in database.

    Tokens are stored as digests, so that the first two need the file of tokens; each is checked against the registry.
    Example: carebell devices brokers --for emqx --out users.csv
    """
    from gateway.config import read_secret  # noqa: PLC0415 - keeps `--help` quick
    from gateway.provisioning import exports  # noqa: PLC0415

    if kind == "emqx":
        with reading(config, data_dir) as connection:
            write_lines(exports.emqx_users(connection, now_us()), out, bom=False)
        return
    if tokens is None or (kind == "mosquitto" and gateway_password_file is None) or (kind == "gateway" and not host):
        fail("gateway needs --tokens and --host; mosquitto --tokens and --gateway-password-file", EXIT_USAGE)
    try:
        data = tokens.read_bytes()
    except OSError as error:
        fail(f"{tokens}: {error.strerror}", EXIT_USAGE)
    with reading(config, data_dir) as connection:
        good, wrong = exports.checked(connection, exports.read_tokens(data), now_us())
        if wrong:
            fail(f"not in force: the tokens of {', '.join(wrong[:20])} ({len(wrong)}); nothing was written", EXIT_WRONG)
        if kind == "gateway":
            write_lines(exports.gateway_rows(good, host), out, bom=False)
        else:
            password = read_secret(str(gateway_password_file), "--gateway-password-file")
            made = exports.dynamic_security(good, gateway=gateway_user, gateway_password=password)
            write_lines([json.dumps(made, indent=1)], out, bom=False)
    print(f"{len(good)} devices are in {out}")
