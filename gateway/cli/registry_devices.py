"""``carebell devices``: the ledger of devices, their tokens, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import apsw
import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, print_json, settings_of
from gateway.cli.registry_shared import (
    PAGE,
    ReasonOption,
    SearchOption,
    SetOption,
    StateOption,
    given,
    known_profiles,
    now_us,
    print_table,
    reading,
    transaction,
)
from gateway.cli.registry_sheets import Help, Sheet, View, add_commands

devices = typer.Typer(help="Devices and their credentials.", no_args_is_help=True, add_completion=False)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The device's id.")]
IdOption = Annotated[str, typer.Option("--id", metavar="ID", help="编号 Id: letters, digits, '.', '_', '-'.")]
ProfileOption = Annotated[str | None, typer.Option("--profile", metavar="P", help="型号配置 Profile.")]
PersonOption = Annotated[str | None, typer.Option("--person", metavar="ID", help="人员 Whose it is; '' is nobody's.")]
SerialOption = Annotated[str | None, typer.Option("--serial", metavar="TEXT", help="序列号 Serial number.")]
ImeiOption = Annotated[str | None, typer.Option("--imei", metavar="DIGITS", help="IMEI.")]
IccidOption = Annotated[str | None, typer.Option("--iccid", metavar="DIGITS", help="ICCID of the SIM card.")]
DevEuiOption = Annotated[str | None, typer.Option("--deveui", metavar="HEX", help="LoRaWAN DevEUI.")]
MacOption = Annotated[str | None, typer.Option("--mac", metavar="HEX", help="MAC or EUI-64.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="TEXT", help="其他标识 Any other name it gives itself.")
]
ModelOption = Annotated[str | None, typer.Option("--model", metavar="TEXT", help="型号 Model.")]
FirmwareOption = Annotated[str | None, typer.Option("--firmware", metavar="TEXT", help="固件 Firmware.")]
PlaceOption = Annotated[str | None, typer.Option("--install-place", metavar="TEXT", help="安装位置 Where it hangs.")]
AgreementOption = Annotated[str | None, typer.Option("--agreement", metavar="REF", help="协议 Service agreement.")]


def _options(**options: str | None) -> dict[str, Any]:
    names = {"person": "person_id", "key": "other_key", "agreement": "agreement_ref"}
    return {names.get(name, name): value for name, value in options.items()}


def _print_token(device_id: str, token: str, view: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        shown = {name: view[name] for name in ("profile", "person_id", "state") if name in view}
        print_json({"device_id": device_id, "token": token or None, **shown})
        return
    print(f"device {device_id}")
    if token:
        print(f"token  {token}")
        print("只显示这一次 shown this once")


@devices.command()
def add(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    device_id: IdOption,
    profile: ProfileOption = None,
    person: PersonOption = None,
    serial: SerialOption = None,
    imei: ImeiOption = None,
    iccid: IccidOption = None,
    deveui: DevEuiOption = None,
    mac: MacOption = None,
    key: KeyOption = None,
    model: ModelOption = None,
    firmware: FirmwareOption = None,
    install_place: PlaceOption = None,
    agreement: AgreementOption = None,
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Enter a device; prints its token once. Example: carebell devices add --id D-0001 --profile carebell.native"""
    from gateway.registry.devices import add_device  # noqa: PLC0415 - keeps `--help` quick

    options = _options(profile=profile, person=person, serial=serial, imei=imei, iccid=iccid, deveui=deveui, mac=mac)
    options |= _options(key=key, model=model, firmware=firmware, install_place=install_place, agreement=agreement)
    values = given(options, extra)
    profiles = known_profiles(config, data_dir)
    with transaction(config, data_dir) as connection:
        view, token = add_device(
            connection, device_id, values, known_profiles=profiles, at_us=now_us(), actor=CLI_ACTOR
        )
    _print_token(view["device_id"], token, view, json_output=json_output)


@devices.command()
def update(
    device_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    profile: ProfileOption = None,
    person: PersonOption = None,
    serial: SerialOption = None,
    imei: ImeiOption = None,
    iccid: IccidOption = None,
    deveui: DevEuiOption = None,
    mac: MacOption = None,
    key: KeyOption = None,
    model: ModelOption = None,
    firmware: FirmwareOption = None,
    install_place: PlaceOption = None,
    agreement: AgreementOption = None,
    reason: ReasonOption = "",
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Change what is given; an empty text clears a field. Example: carebell devices update D-0001 --person P-0002"""
    from gateway.registry.devices import update_device  # noqa: PLC0415 - keeps `--help` quick

    options = _options(profile=profile, person=person, serial=serial, imei=imei, iccid=iccid, deveui=deveui, mac=mac)
    options |= _options(key=key, model=model, firmware=firmware, install_place=install_place, agreement=agreement)
    values = given(options, extra)
    profiles = known_profiles(config, data_dir)
    with transaction(config, data_dir) as connection:
        view = update_device(
            connection, device_id, values, known_profiles=profiles, at_us=now_us(), actor=CLI_ACTOR, reason=reason
        )
    if json_output:
        print_json(view)
    else:
        print(f"device {device_id} is at version {view['version']}")


def _exported(connection: apsw.Connection, after_id: str) -> list[View]:
    from gateway.registry.devices import list_devices  # noqa: PLC0415 - keeps `--help` quick

    return list_devices(connection, after_id=after_id, limit=PAGE)


SHEET = Sheet(
    table="devices",
    help=Help(
        show="Everything about one device. Example: carebell devices show D-0001",
        list="All devices. Example: carebell devices list --person P-0001",
        import_="""Add the devices of a file, and update those that exist: all of it or nothing.

    Columns: device_id, profile and, optionally, person_id, serial, imei and the other fields of 'devices show'.
    Example: carebell devices import devices.csv --credentials-out tokens.csv
    """,
        export="All devices as CSV, without tokens, as 'import' takes it."
        " Example: carebell devices export -o devices.csv",
    ),
    filters={
        "person_id": (Annotated[str, typer.Option("--person", metavar="ID", help="Only this person's.")], ""),
        "profile": (Annotated[str, typer.Option("--profile", metavar="P", help="Only those of this profile.")], ""),
        "state": (StateOption, ""),
        "search": (SearchOption, ""),
        "unassigned": (
            Annotated[bool, typer.Option("--unassigned", help="Only those in service that are nobody's.")],
            False,
        ),
    },
    columns={"device_id": "编号", "profile": "型号配置", "person_id": "人员", "serial": "序列号", "state": "状态"},
    exported=_exported,
    import_options={
        "credentials_out": (
            Annotated[
                Path | None,
                typer.Option(
                    "--credentials-out", metavar="FILE", help="The new devices' tokens, readable by its owner alone."
                ),
            ],
            None,
        )
    },
)
add_commands(devices, SHEET)


@devices.command()
def credentials(
    device_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    grace_hours: Annotated[
        int, typer.Option("--grace-hours", metavar="H", min=0, max=720, help="The old token works so long still.")
    ] = 0,
    json_output: JsonOption = False,
) -> None:
    """A new token, printed once; the old one ends. Example: carebell devices credentials D-0001 --grace-hours 24"""
    from gateway.registry.credentials import issue_token  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        token = issue_token(connection, device_id, at_us=now_us(), actor=CLI_ACTOR, grace_s=grace_hours * 3600)
    _print_token(device_id, token, {}, json_output=json_output)


def _change_state(
    config: Path | None, data_dir: Path | None, device_id: str, action: str, reason: str, *, json_output: bool
) -> None:
    from gateway.registry.devices import set_state  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        view = set_state(connection, device_id, action, at_us=now_us(), actor=CLI_ACTOR, reason=reason)
    if json_output:
        print_json(view)
    else:
        print(f"device {device_id} is {view['state']}")


@devices.command()
def suspend(
    device_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: ReasonOption = "",
    json_output: JsonOption = False,
) -> None:
    """Stop a device from connecting, for now. Example: carebell devices suspend D-0001 --reason 'lost'"""
    _change_state(config, data_dir, device_id, "suspend", reason, json_output=json_output)


@devices.command()
def resume(
    device_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: ReasonOption = "",
    json_output: JsonOption = False,
) -> None:
    """Let a device serve again; one that was retired needs new credentials. Example: carebell devices resume D-0001"""
    _change_state(config, data_dir, device_id, "resume", reason, json_output=json_output)


@devices.command()
def retire(
    device_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: ReasonOption = "",
    json_output: JsonOption = False,
) -> None:
    """End a device's service, its binding and its tokens. Example: carebell devices retire D-0001 --reason 'broken'"""
    _change_state(config, data_dir, device_id, "retire", reason, json_output=json_output)


@devices.command()
def replace(
    device_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    new_id: Annotated[str, typer.Option("--by", metavar="ID", help="The id of the new device.")],
    profile: ProfileOption = None,
    serial: SerialOption = None,
    imei: ImeiOption = None,
    iccid: IccidOption = None,
    mac: MacOption = None,
    reason: ReasonOption = "",
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Put a new device in the place of another. Example: carebell devices replace D-0001 --by D-0102"""
    from gateway.registry.devices import replace_device  # noqa: PLC0415 - keeps `--help` quick

    values = given(_options(profile=profile, serial=serial, imei=imei, iccid=iccid, mac=mac), extra)
    profiles = known_profiles(config, data_dir)
    with transaction(config, data_dir) as connection:
        view, token = replace_device(
            connection,
            device_id,
            new_id,
            values,
            known_profiles=profiles,
            at_us=now_us(),
            actor=CLI_ACTOR,
            reason=reason,
        )
    _print_token(new_id, token, view, json_output=json_output)


@devices.command()
def unknown(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    claimed: Annotated[bool, typer.Option("--claimed", help="Also those that were claimed.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Devices that send and are not in the registry. Example: carebell devices unknown --json"""
    from gateway.registry.unknown import list_unknown  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        found = list_unknown(connection, include_claimed=claimed, limit=10_000)
    if json_output:
        print_json(found)
        return
    columns = {"device_key": "标识", "codec": "协议", "frames": "帧数", "last_seen_at": "最近", "claimed_by": "归于"}
    print_table(columns, found)


@devices.command()
def claim(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="What the device calls itself ('carebell devices unknown').")
    ],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    device_id: IdOption,
    profile: ProfileOption = None,
    person: PersonOption = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="serial|imei|...", help="What kind of identity KEY is.")
    ] = "other_key",
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make an unknown device known, as a new device or as one that exists.

    Example: carebell devices claim 861234567890123 --id D-0007 --profile generic.gps-pendant --kind imei
    """
    from gateway.registry import unknown as claims  # noqa: PLC0415 - keeps `--help` quick

    values = given(_options(profile=profile, person=person), extra)
    profiles = known_profiles(config, data_dir)
    with transaction(config, data_dir) as connection:
        view, token = claims.claim(
            connection, key, device_id, values, kind=kind, known_profiles=profiles, at_us=now_us(), actor=CLI_ACTOR
        )
    if json_output:
        print_json({"device_id": device_id, "token": token or None, **view})
        return
    _print_token(device_id, token, {}, json_output=False)
    print(f"its {view['frames']} frames before this are in the journal from sequence {view['first_seq']} on")


@devices.command()
def fault(
    device_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What is wrong; no personal data.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Open a repair ticket, a maintenance order. Example: carebell devices fault D-0001 --note 'cracked'"""
    from alerts.lifecycle import apply_effects  # noqa: PLC0415 - keeps `--help` quick
    from alerts.policy import Policy  # noqa: PLC0415
    from gateway.model import Raise, Severity  # noqa: PLC0415
    from gateway.registry.devices import show_device  # noqa: PLC0415

    at_us = now_us()
    with transaction(config, data_dir) as connection:
        view = show_device(connection, device_id)
        effect = Raise(
            effect_id=f"cli/fault/{device_id}/{at_us}",
            kind="device_fault",
            severity=Severity.P4,
            person_id=view["person_id"] or "",
            device_id=device_id,
            seq=0,
            occurred_at_us=at_us,
            received_at_us=at_us,
            rule_id="carebell.reported-fault",
            rule_version="1",
            evidence={"reported_by": CLI_ACTOR.id, "note": note[:500]},
        )
        apply_effects(connection, [effect], at_us, Policy(site=settings_of(config, data_dir).site))
    if json_output:
        print_json({"device_id": device_id, "kind": "device_fault", "effect_id": effect.effect_id})
    else:
        print(f"a repair ticket for device {device_id} is open")
