"""What the devices of each profile can be told, from the profiles and the codecs. Roof: it knows both."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from device_profiles import schema
from device_profiles.loader import Profiles
from gateway.clock import iso
from gateway.commands.catalog import Declaration, Encode, Parameter
from gateway.errors import CarebellError, UsageError
from gateway.ports import Codec

Encoder = Callable[[Mapping[str, Any], str], bytes]
"""A command of a codec: its parameters and the device's key to bytes. Raises UsageError, ValueError, LookupError or
struct.error."""

ENVELOPE: Final = frozenset({"native", "json"})
"""Codecs whose devices get commands as JSON when the profile says nothing else."""


class ProfileCommands:
    """``gateway.commands.catalog.Catalog`` over the loaded profiles."""

    def __init__(self, profiles: Profiles, codecs: Mapping[str, Codec]) -> None:
        self._profiles = profiles
        self._codecs = codecs
        self._declared: dict[str, dict[str, Declaration]] = {}

    def declared(self, profile: str) -> Mapping[str, Declaration]:
        found = self._declared.get(profile)
        if found is None:
            found = self._declared[profile] = self._read(profile)
        return found

    def _read(self, profile: str) -> dict[str, Declaration]:
        known = self._profiles.get(profile)
        if known is None:
            return {}
        codec = self._codecs.get(known.codec)
        return {
            name: _declaration(name, command, known.codec, codec, encode)
            for name, command in known.commands.items()
            if (encode := _encode(name, command, known.codec, codec)) is not None
        }


def undeliverable(profiles: Profiles, codecs: Mapping[str, Codec], profile: str) -> list[str]:
    """Commands of a profile that neither its payloads nor its codec can say."""
    known = profiles.get(profile)
    sayable = ProfileCommands(profiles, codecs).declared(profile)
    return [] if known is None else sorted(set(known.commands) - set(sayable))


def _declaration(
    name: str, command: schema.Command, codec_name: str, codec: Codec | None, encode: Encode
) -> Declaration:
    return Declaration(
        name=name,
        title=command.title.model_dump(),
        parameters={key: _parameter(parameter) for key, parameter in command.parameters.items()},
        dangerous=command.dangerous,
        confirms=not command.payload if command.confirms is None else command.confirms,
        confirm_within_s=command.confirm_within_s,
        expires_s=command.expires_s,
        by_id="{command_id}" in command.payload or (codec_name in ENVELOPE and not command.payload),
        converses=hasattr(codec, "framer"),
        encode=encode,
    )


def _parameter(parameter: schema.Parameter) -> Parameter:
    return Parameter(
        parameter.type,
        parameter.minimum,
        parameter.maximum,
        tuple(parameter.choices),
        parameter.default,
        parameter.personal,
    )


def _encode(name: str, command: schema.Command, codec_name: str, codec: Codec | None) -> Encode | None:
    """How this command is said, None when nobody knows."""
    if command.payload:
        return _template(command.payload)
    encoders: Mapping[str, Encoder] = getattr(codec, "commands", {})
    if name in encoders:
        return _by_codec(encoders[name])
    return _envelope(name) if codec_name in ENVELOPE else None


def _envelope(name: str) -> Encode:
    def encode(parameters: Mapping[str, Any], *, command_id: str, expires_at_us: int, device_key: str) -> bytes:
        del device_key
        message = {"command": command_id, "name": name, "parameters": parameters, "expires_at": iso(expires_at_us)}
        return msgspec.json.encode(message)

    return encode


def _template(payload: str) -> Encode:
    def encode(parameters: Mapping[str, Any], *, command_id: str, expires_at_us: int, device_key: str) -> bytes:
        del device_key
        values = {**parameters, "command_id": command_id, "expires_at": iso(expires_at_us)}
        return schema.PLACEHOLDER.sub(lambda found: _written(values[found[1]]), payload).encode()

    return encode


def _written(value: Any) -> str:
    """As it stands in a JSON payload: a text without its quotes, a list whole."""
    written = msgspec.json.encode(value).decode()
    return written[1:-1] if isinstance(value, str) else written


def _by_codec(encoder: Encoder) -> Encode:
    def encode(parameters: Mapping[str, Any], *, command_id: str, expires_at_us: int, device_key: str) -> bytes:
        del command_id, expires_at_us
        try:
            return encoder(parameters, device_key)
        except (CarebellError, ValueError, LookupError, struct.error) as error:
            raise UsageError(f"this cannot be said in the device's protocol: {error}") from error

    return encode
