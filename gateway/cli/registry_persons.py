"""``carebell persons``: who is in care."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import apsw
import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, print_json
from gateway.cli.registry_shared import (
    PAGE,
    ReasonOption,
    SearchOption,
    SetOption,
    StateOption,
    given,
    json_file,
    now_us,
    transaction,
)
from gateway.cli.registry_sheets import Help, Sheet, View, add_commands, with_masks

persons = typer.Typer(help="Persons in care.", no_args_is_help=True, add_completion=False)
consent = typer.Typer(help="What a person agreed to.", no_args_is_help=True, add_completion=False)
persons.add_typer(consent, name="consent")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The person's id.")]
NameOption = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="姓名 Name.")]
PhoneOption = Annotated[
    str | None, typer.Option("--phone", metavar="NUMBER", help="电话 Phone; without + it is Chinese.")
]
AddressOption = Annotated[str | None, typer.Option("--address", metavar="TEXT", help="地址 Where help is to go.")]
YearOption = Annotated[str | None, typer.Option("--birth-year", metavar="YEAR", help="出生年 Year of birth.")]
DistrictOption = Annotated[str | None, typer.Option("--district", metavar="TEXT", help="区县 District.")]
CommunityOption = Annotated[str | None, typer.Option("--community", metavar="TEXT", help="社区 Community.")]
LanguageOption = Annotated[str | None, typer.Option("--language", metavar="zh|en", help="语言 Language.")]
ZoneOption = Annotated[str | None, typer.Option("--timezone", metavar="ZONE", help="时区 IANA time zone.")]
RiskOption = Annotated[bool | None, typer.Option("--high-risk/--no-high-risk", help="高风险 High risk.")]
ConditionOption = Annotated[
    list[str] | None, typer.Option("--condition", metavar="TEXT", help="病症 A condition; may be given again.")
]
PlanOption = Annotated[
    Path | None, typer.Option("--care-plan", metavar="FILE", help="照护计划 JSON: overrides, fences, expectations.")
]
AgreementOption = Annotated[str | None, typer.Option("--agreement", metavar="REF", help="协议 Service agreement.")]
OrganizationOption = Annotated[
    str | None, typer.Option("--preferred-organization", metavar="ID", help="首选机构 Who is to come if possible.")
]
PurposeArgument = Annotated[
    str, typer.Argument(metavar="PURPOSE", help="目的 What it is about: health, location and the like.")
]


@persons.command()
def add(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    person_id: Annotated[str, typer.Option("--id", metavar="ID", help="编号 Id: letters, digits, '.', '_', '-'.")],
    name: NameOption = None,
    phone: PhoneOption = None,
    address: AddressOption = None,
    birth_year: YearOption = None,
    district: DistrictOption = None,
    community: CommunityOption = None,
    language: LanguageOption = None,
    timezone: ZoneOption = None,
    high_risk: RiskOption = None,
    condition: ConditionOption = None,
    care_plan: PlanOption = None,
    agreement: AgreementOption = None,
    preferred_organization: OrganizationOption = None,
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Take a person into care. Example: carebell persons add --id P-0001 --name 王秀英 --phone +8613800000001"""
    from gateway.registry.persons import add_person  # noqa: PLC0415 - keeps `--help` quick

    options = {"name": name, "phone": phone, "address": address, "birth_year": birth_year, "district": district}
    options |= {"community": community, "language": language, "timezone": timezone, "agreement_ref": agreement}
    more = {"preferred_organization": preferred_organization, "high_risk": high_risk, "care_plan": json_file(care_plan)}
    values = given(options | more | {"conditions": condition or None}, extra)
    with transaction(config, data_dir) as connection:
        view = add_person(connection, person_id, values, at_us=now_us(), actor=CLI_ACTOR)
    if json_output:
        print_json(view)
    else:
        print(f"person {view['person_id']} added")


@persons.command()
def update(
    person_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    name: NameOption = None,
    phone: PhoneOption = None,
    address: AddressOption = None,
    birth_year: YearOption = None,
    district: DistrictOption = None,
    community: CommunityOption = None,
    language: LanguageOption = None,
    timezone: ZoneOption = None,
    high_risk: RiskOption = None,
    condition: ConditionOption = None,
    care_plan: PlanOption = None,
    agreement: AgreementOption = None,
    preferred_organization: OrganizationOption = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="active|suspended|ceased",
            help="状态 suspended: being verified, all still alarms. ceased: the service ended, its devices retire.",
        ),
    ] = None,
    reason: ReasonOption = "",
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Change what is given; empty text clears a field. Example: carebell persons update P-0001 --phone 13800000002"""
    from gateway.registry.persons import update_person  # noqa: PLC0415 - keeps `--help` quick

    options = {"name": name, "phone": phone, "address": address, "birth_year": birth_year, "district": district}
    options |= {"community": community, "language": language, "timezone": timezone, "agreement_ref": agreement}
    more = {"preferred_organization": preferred_organization, "high_risk": high_risk, "care_plan": json_file(care_plan)}
    values = given(options | more | {"conditions": condition or None, "state": state}, extra)
    with transaction(config, data_dir) as connection:
        view = update_person(connection, person_id, values, at_us=now_us(), actor=CLI_ACTOR, reason=reason)
    if json_output:
        print_json(view)
    else:
        print(f"person {person_id} is at version {view['version']}")


def _exported(connection: apsw.Connection, after_id: str) -> list[View]:
    from gateway.registry.persons import list_persons  # noqa: PLC0415 - keeps `--help` quick

    return list_persons(connection, after_id=after_id, limit=PAGE)


SHEET = Sheet(
    table="persons",
    help=Help(
        show="Everything about one person. Example: carebell persons show P-0001",
        list="All persons; the table shows names and numbers in part."
        " Example: carebell persons list --state active --json",
        import_="""Add the persons of a file, and update those that exist: all of it or nothing.

    Columns: person_id, name, phone and, optionally, the other fields of 'persons show'.
    Example: carebell persons import persons.csv --dry-run
    """,
        export="All persons as CSV, as 'import' takes it. Example: carebell persons export -o persons.csv",
    ),
    filters={
        "state": (StateOption, ""),
        "district": (
            Annotated[str, typer.Option("--district", metavar="TEXT", help="Only those of this district.")],
            "",
        ),
        "search": (SearchOption, ""),
    },
    columns={"person_id": "编号", "name": "姓名", "phone": "电话", "district": "区县", "state": "状态"},
    masked=with_masks,
    exported=_exported,
)
add_commands(persons, SHEET)


@consent.command()
def give(
    person_id: IdArgument,
    purpose: PurposeArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    text_version: Annotated[
        str, typer.Option("--text-version", metavar="TEXT", help="文本版本 The version of the text that was agreed to.")
    ],
    json_output: JsonOption = False,
) -> None:
    """Record that a person agreed; it replaces an earlier consent to that purpose.

    Example: carebell persons consent give P-0001 location --text-version 2026-1
    """
    from gateway.registry.persons import give_consent  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        found = give_consent(connection, person_id, purpose, text_version, at_us=now_us(), actor=CLI_ACTOR)
    if json_output:
        print_json(found)
    else:
        print(f"person {person_id}: consent to {purpose} is in force")


@consent.command()
def revoke(
    person_id: IdArgument,
    purpose: PurposeArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """Record that a person took a consent back. Example: carebell persons consent revoke P-0001 location"""
    from gateway.registry.persons import revoke_consent  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        found = revoke_consent(connection, person_id, purpose, at_us=now_us(), actor=CLI_ACTOR)
    if json_output:
        print_json(found)
    else:
        print(f"person {person_id}: no consent to {purpose} is in force")
