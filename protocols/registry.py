"""Every codec by its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.ports import Codec
from protocols.codecs.json_fields import JsonFieldsCodec
from protocols.codecs.native import NativeCodec

CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {
        "native": NativeCodec(),
        "json": JsonFieldsCodec(),
    }
)

TEXT_CODECS: Final = frozenset({"native", "json"})
"""Codecs whose frames are lines of text; those of the others are written in hexadecimal."""
