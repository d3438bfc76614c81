"""``carebell care``: caring messages, "I'm OK" checks, and who does not want them."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from gateway.cli.common import ConfigOption, DataDirOption, JsonOption, open_journal, print_json, settings_of
from gateway.cli.orders import AsOption
from gateway.clock import SystemClock
from gateway.model import Actor

care = typer.Typer(help="Care.", no_args_is_help=True, add_completion=False)

PersonArgument = Annotated[str, typer.Argument(metavar="PERSON", help="Whose care it is.")]
NameArgument = Annotated[str, typer.Argument(metavar="ID", help="The schedule's name.")]
PersonOption = Annotated[str, typer.Option("--person", metavar="P", help="Only this person's.")]
ContactOption = Annotated[str, typer.Option("--contact", metavar="C", help="Of a contact, not of the person.")]


@care.command()
def add(
    person: PersonArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    name: Annotated[str, typer.Option("--id", help="A name for it; person, kind and time without it.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Ask whether all is well; silence becomes an alert.")] = False,
    medium: Annotated[str, typer.Option("--by", help="sms or voice.")] = "voice",
    at: Annotated[str, typer.Option("--at", metavar="HH:MM", help="In the person's time zone, 07:00 to 20:59.")],
    days: Annotated[str, typer.Option("--days", help="1 is Monday, 7 is Sunday.")] = "1234567",
    words: Annotated[str, typer.Option("--words", help="What to say; standard words without it.")] = "",
    contact: ContactOption = "",
    since: Annotated[
        str, typer.Option("--since", metavar="HH:MM", help="A device's im_ok after this is an answer.")
    ] = "05:00",
    wait: Annotated[int, typer.Option("--wait", metavar="MINUTES", help="For the answer to one question.")] = 15,
    tries: Annotated[int, typer.Option("--tries", help="How often it is asked.")] = 2,
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """One more schedule. Example: carebell care add P-0001 --check --at 09:00"""
    from alerts.care_rows import add as add_row  # noqa: PLC0415 - keeps `--help` quick
    from alerts.care_rows import new_schedule  # noqa: PLC0415
    from gateway.errors import UsageError  # noqa: PLC0415
    from gateway.registry.contacts import show_contact  # noqa: PLC0415
    from gateway.registry.persons import show_person  # noqa: PLC0415

    schedule = new_schedule(
        person, name=name, contact_id=contact, kind="check" if check else "message", medium=medium, at=at, days=days,
        words=words, since=since, wait_minutes=wait, tries=tries,
    )  # fmt: skip
    with open_journal(config, data_dir) as connection, connection:
        timezone = str(show_person(connection, person)["timezone"])
        if contact and show_contact(connection, contact)["person_id"] != person:
            raise UsageError(f"{contact} is not a contact of {person}")
        shown = add_row(connection, schedule, timezone, actor=_actor(operator), now_us=SystemClock().now_us())
    _print(shown, json_output=json_output)


@care.command("list")
def list_schedules(
    config: ConfigOption = None, data_dir: DataDirOption = None, *, person: PersonOption = "",
    json_output: JsonOption = False,
) -> None:  # fmt: skip
    """What is said to whom and when. Example: carebell care list --person P-0001"""
    from alerts.care_rows import list_schedules as read  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = read(connection, person_id=person, limit=10_000)
    for each in found:
        _print(each, json_output=json_output)


@care.command()
def change(
    name: NameArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    medium: Annotated[str | None, typer.Option("--by", help="sms or voice.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="HH:MM", help="In the person's time zone.")] = None,
    days: Annotated[str | None, typer.Option("--days", help="1 is Monday, 7 is Sunday.")] = None,
    words: Annotated[str | None, typer.Option("--words", help="What to say; '' for the standard words.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="HH:MM", help="A sign after this counts.")] = None,
    wait: Annotated[int | None, typer.Option("--wait", metavar="MINUTES", help="For the answer.")] = None,
    tries: Annotated[int | None, typer.Option("--tries", help="How often it is asked.")] = None,
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """What is given is different from now on. Example: carebell care change P-0001-check-0900 --at 08:30"""
    from alerts.care_rows import change as change_row  # noqa: PLC0415 - keeps `--help` quick
    from alerts.care_rows import show_active  # noqa: PLC0415
    from gateway.registry.persons import show_person  # noqa: PLC0415

    given = {
        "medium": medium, "at": at, "days": days, "words": words, "since": since, "wait_minutes": wait, "tries": tries,
    }  # fmt: skip
    changes = {member: value for member, value in given.items() if value is not None}
    with open_journal(config, data_dir) as connection, connection:
        timezone = str(show_person(connection, show_active(connection, name)["person_id"])["timezone"])
        now_us = SystemClock().now_us()
        shown = change_row(connection, name, changes, timezone, actor=_actor(operator), now_us=now_us)
    _print(shown, json_output=json_output)


@care.command()
def remove(
    name: NameArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    operator: AsOption = "",
) -> None:
    """Nothing more is said on it. Example: carebell care remove P-0001-check-0900"""
    from alerts.care_rows import remove as remove_row  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        remove_row(connection, name, actor=_actor(operator), now_us=SystemClock().now_us())
    print(f"{name}: removed")


@care.command()
def optout(
    person: PersonArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    contact: ContactOption = "",
    medium: Annotated[str, typer.Option("--by", help="sms or voice; both without it.")] = "",
    operator: AsOption = "",
) -> None:
    """They do not want it. Alarms still reach everybody. Example: carebell care optout P-0001 --by voice"""
    from alerts.care_rows import opt_out  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.persons import show_person  # noqa: PLC0415

    with open_journal(config, data_dir) as connection, connection:
        show_person(connection, person)
        opt_out(connection, person, contact, medium, actor=_actor(operator), now_us=SystemClock().now_us())
    print(f"{contact or person}: nothing more in care{f' by {medium}' if medium else ''}")


@care.command()
def optin(
    person: PersonArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    contact: ContactOption = "",
    operator: AsOption = "",
) -> None:
    """They want it again. Example: carebell care optin P-0001"""
    from alerts.care_rows import opt_in  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        opt_in(connection, person, contact, actor=_actor(operator), now_us=SystemClock().now_us())
    print(f"{contact or person}: in care again")


@care.command()
def optouts(
    config: ConfigOption = None, data_dir: DataDirOption = None, *, person: PersonOption = "",
    json_output: JsonOption = False,
) -> None:  # fmt: skip
    """Who does not want it. Example: carebell care optouts --json"""
    from alerts.care_rows import list_opt_outs  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = list_opt_outs(connection, person_id=person, limit=10_000)
    for each in found:
        if json_output:
            print_json(each)
        else:
            print(f"person {each['person_id']}  contact {each['contact_id'] or '-'}  {each['medium'] or 'all'}"
                  f"  since {each['at']}  by {each['actor']}")  # fmt: skip


@care.command()
def answer(
    person: PersonArgument,
    said: Annotated[str, typer.Argument(metavar="well|help", help="What the person said.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    operator: AsOption = "",
) -> None:
    """You talked to them: well answers what is asked, help is an SOS. Example: carebell care answer P-0001 well"""
    from alerts.care import told_by  # noqa: PLC0415 - keeps `--help` quick
    from alerts.policy import Policy  # noqa: PLC0415
    from gateway.registry.persons import show_person  # noqa: PLC0415

    policy = Policy(site=settings_of(config, data_dir).site)
    with open_journal(config, data_dir) as connection, connection:
        show_person(connection, person)
        now_us = SystemClock().now_us()
        told_by(connection, person, said, actor=_actor(operator), now_us=now_us, policy=policy)
    print(f"{person}: {'an SOS is raised' if said == 'help' else 'noted as a sign of life'}")


@care.command()
def log(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    person: PersonOption = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000)] = 100,
    json_output: JsonOption = False,
) -> None:
    """What was said and what came of it, newest first. Example: carebell care log --person P-0001 --json"""
    from alerts.care_rows import list_occasions  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = list_occasions(connection, person_id=person, limit=limit)
    for each in found:
        if json_output:
            print_json(each)
        else:
            print(f"{each['day']}  {each['schedule_id']:<28} {each['state']:<10} asked {each['tries']}  "
                  f"{each['reason'] or ''}  {each['alert_id'] or ''}")  # fmt: skip


def _actor(operator: str) -> Actor:
    return Actor("operator", operator or getpass.getuser(), role="operator", channel="cli")


def _print(schedule: dict[str, object], *, json_output: bool) -> None:
    if json_output:
        print_json(schedule)
        return
    print(
        f"{schedule['id']:<28} {schedule['kind']:<8} {schedule['medium']:<6} {schedule['at']} on {schedule['days']:<8}"
        f" person {schedule['person_id']}  contact {schedule['contact_id'] or '-'}  next {schedule['next_at']}"
    )
