"""``[ble]``: Bluetooth LE."""

from __future__ import annotations

from pydantic import Field

from gateway.config_types import Section


class BleSection(Section):
    """One adapter and how it is shared. Without an adapter nothing of Bluetooth is loaded."""

    adapter: str = Field("", pattern=r"^(auto|hci[0-9]{1,3})?$")
    bind_keys_file: str = ""
    connections: int = Field(3, ge=1, le=20)
    quiet_s: float = Field(10.0, ge=0.5, le=600)
    turn_s: float = Field(10.0, ge=1, le=3600)
    rest_s: float = Field(10.0, ge=0, le=3600)
    silence_s: float = Field(120.0, ge=5, le=86_400)
    set_clock: bool = True
    trust_unpaired: bool = True
    trust_plain_advertisements: bool = False
