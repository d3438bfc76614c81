"""Reads rule files: the defaults that come with carebell, then the site's ``rules.d``."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.errors import ConfigError
from gateway.model import EMERGENCY_SIGNALS, METRICS, SIGNALS
from gateway.site_files import toml_files
from rules import schema

_TABLES: Final = ("threshold", "signal", "rate", "baseline", "score")


class Versioned(Struct, frozen=True):
    """A rule's configuration with the version of the file that it came from."""

    version: str
    config: Any


class RuleSet(Struct, frozen=True):
    """All rules of a site, by table and id; ``files`` is where they came from, in order."""

    thresholds: dict[str, Versioned]
    signals: dict[str, Versioned]
    rates: dict[str, Versioned]
    baselines: dict[str, Versioned]
    scores: dict[str, Versioned]
    geofence: Versioned
    silence: Versioned
    absence: Versioned
    files: tuple[str, ...] = ()


def load_rules(directories: Sequence[Path] = ()) -> RuleSet:
    """The default rules, changed by the ``*.toml`` files of the directories, in name order; absent ones are skipped.

    Raises ConfigError that names the file, the key, what is wrong and what to do.
    """
    tables: dict[str, dict[str, Versioned]] = {name: {} for name in _TABLES}
    single: dict[str, Versioned] = {}
    used: list[str] = []
    for name, text in toml_files("rules", "defaults", directories):
        document = _parse(name, text)
        _check(name, document)
        used.append(name)
        for table in _TABLES:
            for config in getattr(document, table):
                tables[table][config.id] = Versioned(document.version, config)
        for key in ("geofence", "silence", "absence"):
            if (part := getattr(document, key)) is not None:
                single[key] = Versioned(document.version, part)
        for rule_id in document.disabled:
            if not any(table.pop(rule_id, None) for table in tables.values()):
                raise ConfigError(f"{name}: disabled: there is no rule {rule_id!r}; known: {_known(tables)}")
    return RuleSet(
        thresholds=tables["threshold"],
        signals=tables["signal"],
        rates=tables["rate"],
        baselines=tables["baseline"],
        scores=tables["score"],
        files=tuple(used),
        **single,
    )


def _parse(name: str, text: str) -> schema.Document:
    try:
        return msgspec.convert(tomllib.loads(text), schema.Document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{name}: {error}; see rules/schema.py for the keys and rules/defaults for examples"
        ) from error


def _check(name: str, document: schema.Document) -> None:
    """What types cannot say. Raises ConfigError for the first thing that is wrong."""
    seen: set[str] = set()
    for table in _TABLES:
        for config in getattr(document, table):
            where = f"{name}: [[{table}]] {config.id}"
            if config.id in seen:
                raise ConfigError(f"{where}: this id stands twice in the file; rename one")
            seen.add(config.id)
            if isinstance(config, schema.Threshold):
                _check_threshold(where, config)
            elif isinstance(config, schema.Signal):
                _check_signal(where, config)
            elif isinstance(config, schema.Score):
                _check_score(where, config)
            else:
                _check_metric(f"{where}: metric", config.metric)


def _check_threshold(where: str, config: schema.Threshold) -> None:
    if not config.band:
        raise ConfigError(f"{where}: band: a threshold needs at least one limit")
    for number, band in enumerate(config.band, 1):
        here = f"{where}: band {number}"
        _check_metric(f"{here}: metric", band.metric)
        if not (config.alert_high if band.side == "high" else config.alert_low):
            raise ConfigError(f"{here}: side: the rule has no alert_{band.side}; name the kind of alert")
        if not math.isfinite(band.limit):
            raise ConfigError(f"{here}: limit: must be a finite number")
        low, high = config.plausible.get(band.metric, (-math.inf, math.inf))
        if not low <= band.limit <= high:
            raise ConfigError(f"{here}: limit: {band.limit:g} lies outside the plausible range {low:g} to {high:g}")
    for metric, (low, high) in config.plausible.items():
        _check_metric(f"{where}: plausible", metric)
        if not low < high:
            raise ConfigError(f"{where}: plausible: {metric}: the first number must be below the second")
    for level, confirm in (("advisory", config.advisory), ("urgent", config.urgent)):
        if confirm.count > confirm.of:
            raise ConfigError(
                f"{where}: {level}: count is more than of; at most {confirm.of} of {confirm.of} can be met"
            )
        if not confirm.count and not confirm.for_s:
            raise ConfigError(f"{where}: {level}: neither count nor for_s is set, so nothing would ever be confirmed")


def _check_signal(where: str, config: schema.Signal) -> None:
    for signal in (config.signal, *config.ended_by):
        if signal not in SIGNALS:
            raise ConfigError(f"{where}: {signal!r} is not a signal; known: {', '.join(sorted(SIGNALS))}")
    if config.signal in EMERGENCY_SIGNALS:
        raise ConfigError(f"{where}: {config.signal} is an emergency; those are built in and always raise a P1")


def _check_score(where: str, config: schema.Score) -> None:
    for part in config.part:
        _check_metric(f"{where}: part", part.metric)
        if len(part.points) != len(part.up_to) + 1 or any(a >= b for a, b in pairwise(part.up_to)):
            raise ConfigError(f"{where}: part {part.metric}: up_to must rise, and points be one more than up_to")


def _check_metric(where: str, metric: str) -> None:
    if metric not in METRICS and not metric.startswith("x_"):
        raise ConfigError(f"{where}: {metric!r} is not a metric; known: {', '.join(sorted(METRICS))}, or x_...")


def _known(tables: dict[str, dict[str, Versioned]]) -> str:
    return ", ".join(sorted(rule_id for table in tables.values() for rule_id in table))
