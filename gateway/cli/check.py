"""``carebell check``: everything that can be wrong before the daemon runs, said at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import apsw
import typer

from gateway.cli.common import (
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_WRONG,
    ConfigOption,
    DataDirOption,
    JsonOption,
    print_json,
    settings_of,
)
from gateway.config import Settings
from gateway.errors import ConfigError


class Finding(NamedTuple):
    """What a check found: what it looked at, and one line per problem. Warnings do not make the check fail."""

    summary: str
    problems: list[str]
    warnings: Sequence[str] = ()


Check = Callable[[Settings], Finding]
"""Raises ConfigError when files cannot be used at all; then ``carebell run`` would refuse them too (exit code 78)."""


def check_configuration(settings: Settings) -> Finding:
    """The file was read already; what is left are sections that this version cannot do."""
    from gateway.brokers import options_of  # noqa: PLC0415 - keeps `--help` quick
    from gateway.nearby import ble_options  # noqa: PLC0415 - keeps `--help` quick
    from gateway.receivers import ReceiverCodecs  # noqa: PLC0415 - keeps `--help` quick
    from gateway.serial_lines import check as check_lines  # noqa: PLC0415
    from gateway.terminals import places  # noqa: PLC0415

    places(settings.trackers)
    ble_options(settings)
    ReceiverCodecs(settings, lambda _cid: None)
    check_lines(settings.serial)
    options_of(settings.broker)
    later = settings.not_in_this_version()
    return Finding(
        f"site {settings.site}, data in {settings.data_dir}",
        [f"configuration: [{name}] is not in this version of carebell; remove it" for name in later],
    )


def check_profiles(settings: Settings) -> Finding:
    """Every profile is well-formed, names a codec that exists, and means what its vectors say."""
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - keeps `--help` quick
    from device_profiles.vectors import check_vectors  # noqa: PLC0415 - keeps `--help` quick
    from gateway.downlink import undeliverable  # noqa: PLC0415 - keeps `--help` quick
    from protocols.codecs.ble_makers import missing  # noqa: PLC0415 - keeps `--help` quick
    from protocols.registry import CODECS  # noqa: PLC0415 - keeps `--help` quick

    profiles = load_profiles([settings.profiles_dir])
    problems: list[str] = []
    for name in profiles.names():
        codec = CODECS.get(profiles.codec_of(name))
        if codec is None:
            known = ", ".join(sorted(CODECS))
            problems.append(f"{name}: codec: there is no codec {profiles.codec_of(name)}; known: {known}")
        else:
            if not missing(codec.name):  # who has no such device needs no library; the check of the registry names it
                problems.extend(check_vectors(profiles, name, codec))
            problems.extend(
                f"{name}: commands.{command}: its codec {codec.name} has no such command; give it a payload, or drop it"
                for command in undeliverable(profiles, CODECS, name)
            )
    return Finding(f"{len(profiles.names())} profiles with their vectors", problems)


def check_rules(settings: Settings) -> Finding:
    """The default rules together with the site's own."""
    from rules.loader import load_rules  # noqa: PLC0415 - keeps `--help` quick

    files = load_rules([settings.rules_dir]).files
    return Finding(f"rules from {len(files)} files", [])


def check_policies(settings: Settings) -> Finding:
    """Policies are sound, the ways under [notify] can be used, and somebody in the line of duty can be reached."""
    from alerts.escalation import findings  # noqa: PLC0415 - keeps `--help` quick
    from alerts.policy_files import load_policies  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415
    from gateway.notifying import Ways  # noqa: PLC0415

    book = load_policies([settings.policies_dir], settings.timezone)
    ways = Ways(settings.notify, SystemClock())
    names = ", ".join(provider.name for provider in ways.providers if provider.ready()) or "none"
    summary = f"{len(book.policies)} escalation policies from {len(book.files)} files, providers: {names}"
    return Finding(summary, [], findings(book, ways.media()))


def check_templates(settings: Settings) -> Finding:
    """Every message can be said in every language, to every role, and fits its way."""
    from alerts import wording_lint  # noqa: PLC0415 - keeps `--help` quick

    link = settings.notify.alert_url.replace("{id}", "0" * 36)
    report = wording_lint.check(settings.templates_dir, link, replies=settings.notify.replies)
    return Finding("the words of messages and calls", report.problems, report.warnings)


def check_feeds(settings: Settings) -> Finding:
    """Secrets of webhooks and of Redis can be read; a Redis that does not answer now is worth a note."""
    from gateway.feeding import redis_trouble, webhook_endpoint  # noqa: PLC0415 - keeps `--help` quick

    for name in settings.feed.webhook:
        webhook_endpoint(settings, name)
    trouble = redis_trouble(settings.redis) if settings.redis.url else ""
    summary = f"{len(settings.feed.webhook)} webhook endpoints, Redis {'on' if settings.redis.url else 'off'}"
    return Finding(summary, [], [trouble] if trouble else [])


def check_registry(settings: Settings) -> Finding:
    """Every person in care reaches somebody, and every device has a profile that is installed and can be read."""
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - keeps `--help` quick
    from gateway.storage.database import FILE_NAME, open_database  # noqa: PLC0415 - keeps `--help` quick
    from protocols.codecs.ble_makers import missing  # noqa: PLC0415 - keeps `--help` quick

    path = settings.data_dir / FILE_NAME
    if not path.exists():
        return Finding("no registry yet", [])
    connection = open_database(path, read_only=True)
    try:
        devices = connection.execute("SELECT id, profile FROM device WHERE state != 'retired' ORDER BY id").fetchall()
        persons, alone = _persons(settings, connection)
    finally:
        connection.close()
    known = load_profiles([settings.profiles_dir])
    problems = [
        f"device {device}: its profile {profile} is not installed"
        for device, profile in devices
        if known.get(str(profile)) is None
    ]
    problems += [
        f"device {device}: its profile {profile} cannot be read: {lack}"
        for device, profile in devices
        if known.get(str(profile)) is not None and (lack := missing(known.codec_of(str(profile))))
    ]
    return Finding(f"{persons} persons in care, {len(devices)} devices", problems + alone)


def _persons(settings: Settings, connection: apsw.Connection) -> tuple[int, list[str]]:
    """How many are in care, and one line for each whom no emergency would bring anybody."""
    from alerts.people import contact_of  # noqa: PLC0415 - keeps `--help` quick
    from alerts.policy_files import load_policies  # noqa: PLC0415
    from alerts.reachability import reaches  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415
    from gateway.notifying import Ways  # noqa: PLC0415
    from gateway.registry.contacts import list_contacts  # noqa: PLC0415

    found = connection.execute(
        "SELECT id, coalesce(district, ''), coalesce(community, '') FROM person WHERE state != 'ceased' ORDER BY id"
    ).fetchall()
    if settings.order_api.base_url:
        return len(found), []
    try:
        book = load_policies([settings.policies_dir], settings.timezone)
        media = Ways(settings.notify, SystemClock()).media()
    except ConfigError:  # the check of policies says it
        return len(found), []
    alone = []
    for person_id, district, community in found:
        contacts = [contact_of(view) for view in list_contacts(connection, person_id=str(person_id))]
        if not reaches(book.snapshot("sos", str(district), str(community)), media, contacts):
            alone.append(
                f"person {person_id}: reaches nobody: order_api.base_url is not set, and by what [notify] has neither"
                " a contact nor staff nor a center of the policy can be told of an emergency"
            )
    return len(found), alone


CHECKS: Final[list[tuple[str, Check]]] = [
    ("configuration", check_configuration),
    ("profiles", check_profiles),
    ("rules", check_rules),
    ("policies", check_policies),
    ("templates", check_templates),
    ("feeds", check_feeds),
    ("registry", check_registry),
]
"""In the order of the report."""


def check(config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Validate configuration, profiles with their vectors, rules, policies, and that everybody reaches somebody.

    Exit codes: 0 all is well, 1 something is wrong, 78 a file cannot be used at all.

    Example: carebell check -c /etc/carebell/carebell.toml
    """
    settings = settings_of(config, data_dir)
    worst = EXIT_DONE
    report: list[dict[str, Any]] = []
    for name, run in CHECKS:
        try:
            summary, problems, warnings = run(settings)
        except ConfigError as error:
            summary, problems, warnings = "cannot be used", str(error).splitlines(), ()
            worst = EXIT_CONFIG
        if problems and worst == EXIT_DONE:
            worst = EXIT_WRONG
        report.append(
            {"check": name, "ok": not problems, "summary": summary, "problems": problems} | {"warnings": list(warnings)}
        )
    if as_json:
        print_json({"ok": worst == EXIT_DONE, "checks": report})
    else:
        for row in report:
            print(f"{'ok  ' if row['ok'] else 'FAIL'}  {row['check']}: {row['summary']}")
            for problem in row["problems"]:
                print(f"      {problem}")
            for warning in row["warnings"]:
                print(f"      NOTE {warning}")
    raise typer.Exit(worst)
