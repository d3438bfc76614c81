"""Imports point down: roof, then the packages that know only the kernel, then the kernel."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "protocols", "device_profiles", "rules", "alerts", "simulators")

KERNEL = frozenset(
    f"gateway.{name}"
    for name in (
        "model",
        "errors",
        "ports",
        "clock",
        "address",
        "descriptors",
        "audit",
        "care",
        "datum",
        "observations",
        "events",
        "filters",
        "crashpoints",
        "site_files",
    )
)
ROOF = ("gateway.app", "gateway.cli", "gateway.assembly", "gateway.downlink", "gateway.notifying", "gateway.telemetry",
        "gateway.feeding", "gateway.terminals", "gateway.receivers", "gateway.serial_lines", "gateway.telephones",
        "gateway.cti", "gateway.mobile", "gateway.mqtt", "gateway.brokers", "gateway.outdoors",
        "gateway.nearby", "gateway.faces", "gateway.replaying")  # fmt: skip
FLOOR = ("protocols", "device_profiles", "rules", "alerts", "simulators")
"""Units that import the kernel and themselves. Of gateway, each module or package is such a unit."""

ALLOWED = {
    ("gateway.api", "gateway.registry"),
    ("gateway.api", "gateway.security"),
    ("gateway.api", "gateway.health"),
    ("gateway.api", "gateway.metrics"),
    ("gateway.registry", "gateway.security"),
    ("gateway.registry", "gateway.storage"),
    ("gateway.health", "gateway.metrics"),
    ("gateway.ingest", "gateway.storage"),
    ("gateway.judge", "gateway.storage"),
    ("gateway.call_backs", "gateway.duties"),
    ("gateway.visits", "gateway.duties"),
    ("gateway.housekeeping", "gateway.storage"),
    ("gateway.housekeeping", "gateway.config"),
    ("gateway.config", "gateway.config_broker"),
    ("gateway.config_broker", "gateway.config_types"),
    ("gateway.config", "gateway.config_coap"),
    ("gateway.config", "gateway.config_house"),
    ("gateway.config_house", "gateway.config_types"),
    ("gateway.config", "gateway.config_ble"),
    ("gateway.config_ble", "gateway.config_types"),
    ("gateway.config_coap", "gateway.config_types"),
    ("gateway.config", "gateway.config_notify"),
    ("gateway.config", "gateway.config_types"),
    ("gateway.config_notify", "gateway.config_types"),
    ("gateway.api", "gateway.storage"),
    ("gateway.api", "gateway.commands"),
    ("gateway.storage", "gateway.supervise"),
    ("gateway.config", "gateway.config_feeds"),
    ("gateway.config_feeds", "gateway.config_types"),
    ("gateway.live_states", "gateway.storage"),
    ("gateway.commands", "gateway.storage"),
    ("gateway.config", "gateway.config_console"),
    ("gateway.config_console", "gateway.config_types"),
    ("gateway.access", "gateway.security"),
    ("gateway.api", "gateway.access"),
    ("gateway.console", "gateway.access"),
    ("gateway.console", "gateway.provisioning"),
    ("gateway.provisioning", "gateway.registry"),
    ("gateway.provisioning", "gateway.security"),
    ("gateway.config", "gateway.config_emqx"),
    ("gateway.config_emqx", "gateway.config_types"),
    ("gateway.console", "gateway.api"),
    ("gateway.console", "gateway.registry"),
    ("gateway.console", "gateway.security"),
    ("gateway.console", "gateway.storage"),
}
"""Downward edges inside gateway, besides those to the kernel."""


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module in PACKAGES or any(f"{node.module}.{alias.name}" in KERNEL for alias in node.names):
                for alias in node.names:
                    yield node.lineno, f"{node.module}.{alias.name}"
            else:
                yield node.lineno, node.module


def unit(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "gateway" else parts[0]


def problem(importer: str, imported: str) -> str | None:
    """Why this import points sideways or up; None when it may be."""
    ours, theirs = unit(importer), unit(imported)
    if imported.partition(".")[0] not in PACKAGES or ours in ROOF or ours == theirs:
        return None
    if theirs in ROOF:
        return "only the roof may know the roof"
    if theirs in KERNEL or (ours, theirs) in ALLOWED:
        return None
    if ours == "simulators":
        return None  # they are outside: they use whatever they measure or play
    if theirs == "simulators":
        return "simulators are imported by tests and commands alone"
    return "the kernel imports only itself" if ours in KERNEL else "siblings do not import each other"


def test_imports_point_down() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {imported}: {why}"
        for module, path in modules()
        for line, imported in imports(path)
        if (why := problem(module, imported))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("rules.engine", "alerts.lifecycle"),
        ("gateway.model", "gateway.storage.journal"),
        ("alerts.desk", "gateway.app"),
    ],
)
def test_the_rule_can_fail(importer: str, imported: str) -> None:
    assert problem(importer, imported)


def test_package_markers_are_empty() -> None:
    assert not [
        path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py") if path.read_text().strip()
    ]
