"""``carebell check``: everything that can be wrong before the daemon runs, said at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

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
    """What a check found: what it looked at, and one line per problem."""

    summary: str
    problems: list[str]


Check = Callable[[Settings], Finding]
"""Raises ConfigError when files cannot be used at all; then ``carebell run`` would refuse them too (exit code 78)."""


def check_configuration(settings: Settings) -> Finding:
    """The file was read already; what is left are sections that this version cannot do."""
    from gateway.terminals import places  # noqa: PLC0415 - keeps `--help` quick

    places(settings.trackers)
    later = settings.not_in_this_version()
    return Finding(
        f"site {settings.site}, data in {settings.data_dir}",
        [f"configuration: [{name}] is not in this version of carebell; remove it" for name in later],
    )


def check_profiles(settings: Settings) -> Finding:
    """Every profile is well-formed, names a codec that exists, and means what its vectors say."""
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - keeps `--help` quick
    from device_profiles.vectors import check_vectors  # noqa: PLC0415 - keeps `--help` quick
    from protocols.registry import CODECS  # noqa: PLC0415 - keeps `--help` quick

    profiles = load_profiles([settings.profiles_dir])
    problems: list[str] = []
    for name in profiles.names():
        codec = CODECS.get(profiles.codec_of(name))
        if codec is None:
            known = ", ".join(sorted(CODECS))
            problems.append(f"{name}: codec: there is no codec {profiles.codec_of(name)}; known: {known}")
        else:
            problems.extend(check_vectors(profiles, name, codec))
    return Finding(f"{len(profiles.names())} profiles with their vectors", problems)


def check_rules(settings: Settings) -> Finding:
    """The default rules together with the site's own."""
    from rules.loader import load_rules  # noqa: PLC0415 - keeps `--help` quick

    files = load_rules([settings.rules_dir]).files
    return Finding(f"rules from {len(files)} files", [])


def check_registry(settings: Settings) -> Finding:
    """Every person in care reaches somebody, and every device has a profile that is installed."""
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - keeps `--help` quick
    from gateway.storage.database import FILE_NAME, open_database  # noqa: PLC0415 - keeps `--help` quick

    path = settings.data_dir / FILE_NAME
    if not path.exists():
        return Finding("no registry yet", [])
    connection = open_database(path, read_only=True)
    try:
        persons = connection.execute("SELECT count(*) FROM person WHERE state != 'ceased'").fetchone()
        alone = connection.execute(
            "SELECT id FROM person WHERE state != 'ceased'"
            " AND NOT EXISTS (SELECT 1 FROM contact WHERE contact.person_id = person.id) ORDER BY id"
        ).fetchall()
        devices = connection.execute("SELECT id, profile FROM device WHERE state != 'retired' ORDER BY id").fetchall()
    finally:
        connection.close()
    known = load_profiles([settings.profiles_dir])
    problems = [
        f"device {device}: its profile {profile} is not installed"
        for device, profile in devices
        if known.get(str(profile)) is None
    ]
    if not settings.order_api.base_url:
        problems += [
            f"person {person}: reaches nobody: has no contact, and order_api.base_url is not set" for (person,) in alone
        ]
    assert persons is not None
    return Finding(f"{persons[0]} persons in care, {len(devices)} devices", problems)


CHECKS: Final[list[tuple[str, Check]]] = [
    ("configuration", check_configuration),
    ("profiles", check_profiles),
    ("rules", check_rules),
    ("registry", check_registry),
]
"""In the order of the report."""


def check(config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Validate configuration, profiles with their vectors, rules, and that every person in care reaches somebody.

    Exit codes: 0 all is well, 1 something is wrong, 78 a file cannot be used at all.

    Example: carebell check -c /etc/carebell/carebell.toml
    """
    settings = settings_of(config, data_dir)
    worst = EXIT_DONE
    report: list[dict[str, Any]] = []
    for name, run in CHECKS:
        try:
            summary, problems = run(settings)
        except ConfigError as error:
            summary, problems = "cannot be used", str(error).splitlines()
            worst = EXIT_CONFIG
        if problems and worst == EXIT_DONE:
            worst = EXIT_WRONG
        report.append({"check": name, "ok": not problems, "summary": summary, "problems": problems})
    if as_json:
        print_json({"ok": worst == EXIT_DONE, "checks": report})
    else:
        for row in report:
            print(f"{'ok  ' if row['ok'] else 'FAIL'}  {row['check']}: {row['summary']}")
            for problem in row["problems"]:
                print(f"      {problem}")
    raise typer.Exit(worst)
