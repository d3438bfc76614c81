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


CHECKS: Final[list[tuple[str, Check]]] = [("configuration", check_configuration), ("profiles", check_profiles)]
"""In the order of the report; the roof appends its own."""


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
