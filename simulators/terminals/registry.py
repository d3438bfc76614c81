"""The scripts of simulated terminals by protocol, with the profile that their devices are registered with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from simulators.terminals.base import Script
from simulators.terminals.dc09 import Dc09Script, Dc09UdpScript
from simulators.terminals.eelink import EelinkScript
from simulators.terminals.gl200text import Gl200TextScript
from simulators.terminals.gt06 import Gt06Script
from simulators.terminals.h02 import H02Script
from simulators.terminals.jt808 import Jt808Script
from simulators.terminals.meitrack import MeitrackScript
from simulators.terminals.minifinder import MinifinderScript
from simulators.terminals.minifinder2 import Minifinder2Script
from simulators.terminals.scaip import ScaipScript, ScaipUdpScript
from simulators.terminals.tk103 import Tk103Script
from simulators.terminals.topin import TopinScript
from simulators.terminals.watch import WatchScript


class Kind(Struct, frozen=True):
    """``port`` is the well-known one; ``udp`` what speaks there over UDP where ``script`` does over TCP."""

    script: type[Script]
    profile: str
    port: int
    udp: type[Script] | None = None

    def identity(self, number: int) -> str:
        """15 digits, as an IMEI has: of a type allocation code that is for tests (001...), and of this kind alone."""
        return f"001{self.port:05d}{number:07d}"


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "gt06": Kind(Gt06Script, "trackers.gt06", 5023),
        "jt808": Kind(Jt808Script, "trackers.jt808", 5015),
        "watch": Kind(WatchScript, "trackers.watch", 5093),
        "h02": Kind(H02Script, "trackers.h02", 5013),
        "topin": Kind(TopinScript, "trackers.topin", 5199),
        "tk103": Kind(Tk103Script, "trackers.tk103", 5002),
        "eelink": Kind(EelinkScript, "trackers.eelink", 5064),
        "meitrack": Kind(MeitrackScript, "trackers.meitrack", 5020),
        "minifinder": Kind(MinifinderScript, "trackers.minifinder", 5017),
        "minifinder2": Kind(Minifinder2Script, "trackers.minifinder2", 5115),
        "gl200text": Kind(Gl200TextScript, "trackers.gl200text", 5004),
        "dc09": Kind(Dc09Script, "telecare.dc09_unit", 5094, Dc09UdpScript),
        "scaip": Kind(ScaipScript, "telecare.scaip_unit", 5060, ScaipUdpScript),
    }
)
