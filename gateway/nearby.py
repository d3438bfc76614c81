"""Bluetooth in the daemon: built from the configuration, and what is wrong with that before anything runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from gateway.clock import Clock
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.ports import Ingest
from gateway.registry.directory import Registry
from protocols.transports.ble.hub import BleHub
from protocols.transports.ble.options import BleOptions, load_bind_keys

STATE_FILE: Final = "ble.json"


def ble_options(settings: Settings) -> BleOptions | None:
    """What the hub is told, None when Bluetooth is off. Raises ConfigError."""
    section = settings.ble
    if not section.adapter:
        return None
    missing = [name for name in ("bleak", "cryptography") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ble.adapter: {missing[0]} is not installed; pip install 'carebell[ble]'")
    return BleOptions(
        adapter=section.adapter,
        bind_keys=load_bind_keys(Path(section.bind_keys_file)) if section.bind_keys_file else {},
        connections=section.connections,
        quiet_s=section.quiet_s,
        turn_s=section.turn_s,
        rest_s=section.rest_s,
        silence_s=section.silence_s,
        set_clock=section.set_clock,
        trust_unpaired=section.trust_unpaired,
        trust_plain_advertisements=section.trust_plain_advertisements,
    )


def ble_hub(settings: Settings, *, ingest: Ingest, registry: Registry, clock: Clock) -> BleHub | None:
    """The hub, None when Bluetooth is off. Raises ConfigError."""
    options = ble_options(settings)
    if options is None:
        return None

    def zone_of(person_id: str) -> str:
        plan = registry.plan(person_id) if person_id else None
        return settings.timezone if plan is None else plan.timezone

    return BleHub(
        options,
        ingest=ingest,
        directory=registry,
        clock=clock,
        state_file=Path(settings.data_dir) / STATE_FILE,
        zone_of=zone_of,
    )
