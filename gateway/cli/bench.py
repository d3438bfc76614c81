"""``carebell bench``: the benchmarks of the README, measured on this machine."""

from __future__ import annotations

import json
import resource
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.common import EXIT_USAGE, JsonOption, fail, print_json


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[FIGURE]...", help="Which figures, or all.")] = None,
    *,
    scale: Annotated[
        float, typer.Option("--scale", min=0.01, max=1, help="Part of the full length and of the number of devices.")
    ] = 1.0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write one JSON file a figure.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Start a daemon in a temporary folder, load it, print what was measured. Example: carebell bench sustained

    Figures: sustained, open_20000, sos_among_5000, idle_10000, storm_5000, broker (needs Mosquitto), consoles_1000,
    call_among_5000 and alerts_5000 (these two need the Twilio SDK). All of them take about ten minutes.
    """
    import uvloop  # noqa: PLC0415 - keeps `--help` quick

    from simulators.bench import figures, measure  # noqa: PLC0415

    known = figures(scale)
    wanted = list(known) if not names or names == ["all"] else names
    for name in wanted:
        if name not in known:
            fail(f"there is no figure {name!r}; known are {', '.join(known)}", EXIT_USAGE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65_536), hard))
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="carebell-bench-") as folder:
            found: dict[str, Any] = uvloop.run(measure(name, scale, Path(folder)))
        if json_output:
            print_json(found)
        else:
            _print(found)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print(found: dict[str, Any]) -> None:
    print(f"{found['figure']} (scale {found['scale']:g})")
    for name, value in found.items():
        if name in ("figure", "scale", "machine"):
            continue
        _print_value(name, value)


def _print_value(name: str, value: Any) -> None:
    """Figures of one kind on one line; groups of such figures below each other."""
    if not isinstance(value, dict):
        print(f"  {name:<28} {value}")
    elif any(isinstance(each, dict) for each in value.values()):
        for inner, each in value.items():
            _print_value(f"{name} {inner}", each)
    else:
        print(f"  {name:<28} {'  '.join(f'{key} {number:g}' for key, number in value.items())}")
