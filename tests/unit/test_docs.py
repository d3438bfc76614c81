"""What the documents promise is there: links, keys, commands, names; and both READMEs say the same."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alerts import states
from gateway import care
from gateway.cli import main as cli
from gateway.config import LATER_SECTIONS, Settings, load_settings
from gateway.model import METRICS, SIGNALS
from protocols.registry import TERMINALS
from rules import schema
from rules.loader import load_rules

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
OF_THE_WORKPLACE = re.compile(r"/[w]ork/|\.\./shared|/tmp/|/root/|contracts\.md|standards\.md|h-seed|\bissue \d")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str = "[a-z]*") -> list[str]:
    return re.findall(rf"^ *```(?:{language})\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def headings(text: str) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", without_code(text), re.MULTILINE)]


def anchor(title: str) -> str:
    """As GitHub makes them."""
    kept = re.sub(r"[^\w\- ]", "", title.lower())
    return kept.replace(" ", "-")


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    text = without_code(read(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if fragment:
            assert fragment in {anchor(title) for _, title in headings(read(file))}, f"{page.name}: {target}"
    folders = "gateway|protocols|device_profiles|rules|alerts|simulators|tests|benchmarks|systemd|docs"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name}: `{name}` is not there"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "LICENSE"], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_project_speaks_of_itself_alone(page: Path) -> None:
    assert OF_THE_WORKPLACE.findall(read(page)) == []


def test_the_licence_is_whole() -> None:
    text = read(ROOT / "LICENSE")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "carebell contributors" in text


# ---- configuration ---------------------------------------------------------------------------------------------------


def known_keys() -> dict[str, Any]:
    """Every key with its default, ``required`` where it has none."""
    keys: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if name not in LATER_SECTIONS:
            keys |= keys_of(name, field)
    return keys | {f"trackers.{name}": f"127.0.0.1:{codec.default_port}" for name, codec in TERMINALS.items()}


def keys_of(name: str, field: FieldInfo) -> dict[str, Any]:
    """A section's keys under its name; those of a table of sections under ``name.NAME``."""
    kind, where = field.annotation, name
    if get_origin(kind) is dict and isinstance(get_args(kind)[1], type) and issubclass(get_args(kind)[1], BaseModel):
        kind, where = get_args(kind)[1], f"{name}.NAME"
    if get_origin(kind) is list and isinstance(get_args(kind)[0], type) and issubclass(get_args(kind)[0], BaseModel):
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found: dict[str, Any] = {}
        for key, inner in kind.model_fields.items():
            found |= keys_of(f"{where}.{key}", inner)
        return found
    if field.is_required():
        return {name: "required"}
    default = str(field.default) if isinstance(field.default, Path) else field.default
    return {name: list(default) if isinstance(default, tuple) else default}


def documented_keys() -> dict[str, Any]:
    keys: dict[str, Any] = {}
    section = ""
    for line in without_code(read(DOCS / "configuration.md")).splitlines():
        if line.startswith("## "):
            found = re.fullmatch(r"## \[([\w.]+)\]", line)
            section = f"{found[1]}." if found else ""
        elif row := re.match(r"\| `(\w+)` \| (?:`([^`]+)`|(required)) \|", line):
            keys[section + row[1]] = row[3] or tomllib.loads(f"value = {row[2]}")["value"]
    return keys


def test_every_configuration_key_is_documented_with_its_default() -> None:
    assert documented_keys() == known_keys()


def test_reserved_sections_are_named() -> None:
    text = read(DOCS / "configuration.md")
    assert [name for name in LATER_SECTIONS if f"`{name}`" not in text] == []


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    for page in (DOCS / "configuration.md", ENGLISH):
        (example,) = blocks(read(page), "toml")
        file = tmp_path / "carebell.toml"
        file.write_text(example, encoding="utf-8")
        assert load_settings(file).order_api.base_url == "https://platform.example/api"


# ---- commands --------------------------------------------------------------------------------------------------------


def commands() -> dict[str, set[str]]:
    """Every command with its subcommands."""
    found: dict[str, set[str]] = {}
    for name in cli.COMMANDS:
        group: Any = typer.main.get_command(cli.build(name))
        command = group.commands[name]
        found[name] = set(getattr(command, "commands", {}))
    return found


def mentioned(text: str) -> Iterator[tuple[str, str]]:
    """Command and subcommand ("" for none) wherever a page shows one in code."""
    code = [*blocks(text), *re.findall(r"`([^`\n]+)`", without_code(text))]
    for piece in code:
        yield from re.findall(r"(?:^|\s|/)carebell (?!ready\b)([a-z]+)(?: ([a-z]+)\b(?![.:/=]))?", piece, re.MULTILINE)


def test_every_command_is_documented() -> None:
    text = read(DOCS / "operations.md") + read(ENGLISH)
    registry = read(DOCS / "registry.md")
    for name, subcommands in commands().items():
        assert f"carebell {name}" in text, name
        where = text if name not in ("persons", "contacts", "devices", "places") else text + registry
        assert [sub for sub in sorted(subcommands) if not re.search(rf"\b{sub}\b", where)] == [], name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_shows_a_command_that_does_not_exist(page: Path) -> None:
    known = commands()
    for name, sub in mentioned(read(page)):
        assert name in known, f"{page.name}: carebell {name}"
        assert not (known[name] and sub) or sub in known[name], f"{page.name}: carebell {name} {sub}"


# ---- READMEs ---------------------------------------------------------------------------------------------------------


def commands_of(text: str) -> list[str]:
    """Lines of code without their comments; pictures are left out."""
    lines = [line for block in blocks(text) if "►" not in block for line in block.splitlines()]
    return [line.partition("  #")[0].rstrip() for line in lines]


def shapes(text: str) -> list[list[int]]:
    """For each section the numbers of its table rows, list items and steps."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    kinds = (r"^\|", r"^- ", r"^\d\. ")
    return [[len(re.findall(kind, section, re.MULTILINE)) for kind in kinds] for section in sections]


def figures(text: str) -> str:
    found = re.search(r"<!-- figures -->\n(.*?)<!-- /figures -->", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_both_readmes_have_the_same_sections() -> None:
    english, chinese = read(ENGLISH), read(CHINESE)
    assert "](README.zh.md)" in english
    assert "](README.md)" in chinese
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]
    assert shapes(english) == shapes(chinese)
    assert commands_of(english) == commands_of(chinese)
    assert sorted(re.findall(r"\]\(((?!README)[^)]+)\)", english)) == sorted(
        re.findall(r"\]\(((?!README)[^)]+)\)", chinese)
    )


def test_both_readmes_have_the_same_figures() -> None:
    def numbers(path: Path) -> list[str]:
        return re.findall(r"\d[\d.,]*\d|\d", figures(read(path)))

    assert numbers(ENGLISH) == numbers(CHINESE)


# ---- names -----------------------------------------------------------------------------------------------------------


def first_column(table: str) -> set[str]:
    """Words in code in the first cell of each row."""
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def quoted(page: str) -> set[str]:
    found: set[str] = set()
    for code in re.findall(r"`([^`\n]+)`", without_code(read(DOCS / page))):
        found.update(re.findall(r"\w+", code))
    return found


def test_every_signal_and_metric_is_in_the_page_for_makers() -> None:
    assert {*SIGNALS, *METRICS} - quoted("devices.md") == set()


def test_every_key_of_rule_files_and_care_plans_is_documented() -> None:
    names: set[str] = set()
    for module in (care, schema):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__:
                names.update(kind.__struct_fields__)
    assert names - quoted("rules.md") == set()


def test_examples_of_rules_are_valid(tmp_path: Path) -> None:
    text = read(DOCS / "rules.md")
    (rules,), (plan,) = blocks(text, "toml"), blocks(text, "json")
    (tmp_path / "site.toml").write_text(rules, encoding="utf-8")
    assert "room-temperature" in load_rules([tmp_path]).thresholds
    assert care.problems(care.plan_from_json(plan)) == []


def test_the_tables_of_default_limits_and_signals_are_those_of_the_rules() -> None:
    lines = {line for line in read(DOCS / "rules.md").splitlines() if line.startswith("| `")}
    found = load_rules()
    for rule in found.thresholds.values():
        rows: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
        for band in rule.config.band:
            sign = {"high": ">", "low": "<"}[band.side]
            if band.inclusive:
                sign = {">": "≥", "<": "≤"}[sign]
            row = rows.setdefault((band.metric, band.conditions), {})
            row[f"{band.level} {band.side}"] = f"{sign} {band.limit:g}"
        for (metric, conditions), row in rows.items():
            cells = [row.get(side, "–") for side in ("urgent low", "advisory low", "advisory high", "urgent high")]
            name = f"`{metric}` ({', '.join(conditions)})" if conditions else f"`{metric}`"
            assert f"| {name} | {' | '.join(cells)} |" in lines
    for rule in found.signals.values():
        config = rule.config
        until = ", ".join(f"`{name}`" for name in config.ended_by) or "it ends"
        told = f"once, until {until}" if config.latched else "each report"
        assert f"| `{config.signal}` | `{config.alert}` | {config.severity} | {told} |" in lines


def test_the_life_cycle_is_documented() -> None:
    wanted = {*states.OUTCOMES, *states.PROGRESS, *states.Handling, *states.Condition}
    assert {str(name) for name in wanted} - quoted("alerts.md") == set()
    text = read(DOCS / "alerts.md")
    table = text[text.index("| action |") : text.index("Sub-states of")]
    named = {
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert len(named) > 15
    assert named - set(states.TABLE) == set()


def test_metrics_that_are_named_exist() -> None:
    sources = [read(path) for folder in ("gateway", "alerts") for path in (ROOT / folder).rglob("*.py")]
    known = {name for text in sources for name in re.findall(r'"(carebell_\w+)"', text)}
    assert {name for name in quoted("operations.md") if name.startswith("carebell_")} - known == set()


def test_events_of_the_log_that_are_named_exist() -> None:
    text = read(DOCS / "operations.md")
    table = text[text.index("| event |") : text.index("## Files of a site")]
    named = {
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    sources = "".join(read(path) for folder in ("gateway", "alerts") for path in (ROOT / folder).rglob("*.py"))
    assert len(named) > 10
    assert [name for name in sorted(named) if f'"{name}"' not in sources] == []


def test_decisions_are_numbered_and_have_their_parts() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(page.name[:3]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = read(page)
        assert text.startswith(f"# {page.name[:3]}: "), page.name
        assert [part for part in ("**Question.**", "Choice", "**Measurement.**") if part not in text] == [], page.name
