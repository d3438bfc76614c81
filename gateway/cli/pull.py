"""``carebell persons pull`` and ``carebell contacts pull``: take over what the platform keeps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
import typer

from gateway.cli.common import (
    EXIT_TEMPORARY,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    EXIT_WRONG,
    fail,
    open_journal,
    print_json,
)
from gateway.cli.factory import JSON, REQUIRED, WHERE, Parameters, add_command
from gateway.clock import SystemClock
from gateway.config import read_secret
from gateway.errors import ConfigError
from gateway.model import Actor

if TYPE_CHECKING:
    from gateway.registry.pull import Kind, PullReport

PAGES: Final = 10_000
PAGE_BYTES: Final = 16 << 20
TIMEOUT_S: Final = 30.0

UrlOption = Annotated[str, typer.Option("--url", metavar="URL", help="Where the platform lists them.")]
TokenOption = Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help="Holds the bearer token.")]
SourceOption = Annotated[
    str, typer.Option("--source", metavar="NAME", help="What this source is called here; the URL's host without it.")
]
FullOption = Annotated[bool, typer.Option("--full", help="From the beginning, not from where the last pull ended.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Take over what was changed here as well.")]
PARAMETERS: Final[Parameters] = {
    "url": (UrlOption, REQUIRED), **WHERE, "token_file": (TokenOption, None), "source": (SourceOption, ""),
    "full": (FullOption, False), "overwrite": (OverwriteOption, False), **JSON,
}  # fmt: skip


class Page(msgspec.Struct):
    """What the platform answers."""

    items: list[dict[str, Any]]
    next: str
    more: bool = False


def add_pull(group: typer.Typer, kind: Kind, text: str) -> None:
    """``pull`` of a group's rows, which are of this kind."""
    add_command(group, "pull", text, PARAMETERS, partial(_pull, kind))


PERSONS: Final = """Take over persons that are new or changed at the platform since the last pull, page by page.

Exit codes: 0 done, 1 a page is bad (nothing of it was taken) or there are conflicts, 69 nobody answers.
Example: carebell persons pull --url https://platform.example/api/persons --token-file token
"""
CONTACTS: Final = """As ``carebell persons pull``, of contacts; pull the persons first.

Example: carebell contacts pull --url https://platform.example/api/contacts --token-file token
"""


def _pull(
    kind: Kind,
    *,
    url: str,
    config: Path | None,
    data_dir: Path | None,
    token_file: Path | None,
    source: str,
    full: bool,
    overwrite: bool,
    json_output: bool,
) -> None:
    from gateway.registry import pull  # noqa: PLC0415 - keeps `--help` quick

    host = urlsplit(url).hostname
    if not url.startswith(("http://", "https://")) or host is None:
        fail("--url: must be an http:// or https:// URL", EXIT_USAGE)
    try:
        token = read_secret(str(token_file), "--token-file") if token_file is not None else ""
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    source = source or host
    actor = Actor("platform", source, "backend", "pull")
    report = pull.PullReport()
    with open_journal(config, data_dir, read_only=True) as connection, connection:
        at = "" if full else pull.cursor(connection, source, kind)
    for _ in range(PAGES):
        page = _page(url, token, at)
        with open_journal(config, data_dir) as connection:
            try:
                with connection:
                    found = pull.apply_page(
                        connection, kind, source, page.items, page.next,
                        at_us=SystemClock().now_us(), actor=actor, overwrite=overwrite,
                    )  # fmt: skip
            except pull.PullError as error:
                _show(report, json_output)
                head = f"of the page behind {at or 'the beginning'} nothing was taken over:"
                fail("\n".join([head, *error.problems]), EXIT_WRONG)
        report.add(found)
        if not page.more or page.next == at:
            break
        at = page.next
    _show(report, json_output)
    if report.conflicts:
        raise typer.Exit(EXIT_WRONG)


def _page(url: str, token: str, at: str) -> Page:
    import httpx2  # noqa: PLC0415 - keeps `--help` quick

    headers = {"accept": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    body = bytearray()
    try:
        with (
            httpx2.Client(timeout=TIMEOUT_S) as client,
            client.stream("GET", url, params={"updated_since": at, "limit": "500"}, headers=headers) as answer,
        ):
            status = answer.status_code
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > PAGE_BYTES:
                    fail(f"a page is longer than {PAGE_BYTES >> 20} MiB; it should heed ?limit=", EXIT_WRONG)
    except httpx2.HTTPError as error:
        fail(f"the platform does not answer: {type(error).__name__}", EXIT_UNREACHABLE)
    if status != 200:
        fail(f"the platform answered {status}", EXIT_TEMPORARY if status in (429, 503) else EXIT_UNREACHABLE)
    try:
        return msgspec.json.decode(bytes(body), type=Page)
    except msgspec.DecodeError as error:
        fail(f"the platform's answer is not {{items, next, more}}: {error}", EXIT_WRONG)


def _show(report: PullReport, json_output: bool) -> None:
    if json_output:
        print_json(msgspec.to_builtins(report))
        return
    print(f"{len(report.added)} added, {len(report.changed)} changed, {len(report.unchanged)} unchanged, "
          f"{len(report.conflicts)} in conflict")  # fmt: skip
    for row_id in report.conflicts:
        print(f"conflict: {row_id} was entered or changed here; settle it, or pull with --overwrite")
