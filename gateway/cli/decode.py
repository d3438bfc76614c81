"""``carebell decode``: what frames mean, without a daemon."""

from __future__ import annotations

import binascii
import difflib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec
import typer

from gateway.cli.common import EXIT_CONFIG, EXIT_USAGE, ConfigOption, fail, settings_of
from gateway.clock import iso
from gateway.errors import ConfigError, FrameError, UsageError
from gateway.model import Frame, Report
from gateway.observations import observations
from gateway.ports import Codec, Profiles

MAX_LINE_BYTES: Final = 4 << 20


def decode(
    codec: Annotated[str, typer.Argument(help="The codec's name, for example native or json.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Frames, one per line; - or nothing reads standard input.")
    ] = None,
    device_key: Annotated[
        str, typer.Option("--device-key", metavar="KEY", help="The device of frames that carry no identity.")
    ] = "",
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Accept a bad checksum, where the codec has one; it is told as a fault.")
    ] = False,
    hexadecimal: Annotated[bool, typer.Option("--hex", help="The lines of a text codec are hexadecimal too.")] = False,
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="P", help="Explain fields by this profile, for example generic.json_button."),
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Say what frames mean: per line one JSON object with reports, observations and reply, or with a fault.

    Binary codecs take hexadecimal lines, text codecs the text itself, and those that speak both (h02) either. The
    lines are the frames of one connection: what a login teaches holds for the lines behind it. A line that cannot be
    read is a fault in the output, and the exit code stays 0.

    Example: echo '{"signals": ["sos"]}' | carebell decode native
    """
    from protocols.registry import CODECS, TEXT_CODECS  # noqa: PLC0415 - keeps `--help` quick
    from protocols.registry import lenient as lenient_codec  # noqa: PLC0415

    chosen = CODECS.get(codec)
    if chosen is None:
        close = difflib.get_close_matches(codec, CODECS, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(CODECS))}"
        fail(f"there is no codec {codec!r}{hint}", EXIT_USAGE)
    profiles = _profiles(profile, config) if profile else None
    as_hex = hexadecimal or codec not in TEXT_CODECS
    if lenient:
        chosen = lenient_codec(codec)
    connection = _Connection(chosen, as_hex=as_hex, device_key=device_key, profile=profile, profiles=profiles)
    with _open(file) as stream:
        for line in _lines(stream):
            outcome = connection.decode(line)
            sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            if file is None:
                sys.stdout.buffer.flush()


def _profiles(profile: str, config: Path | None) -> Profiles:
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - keeps `--help` quick

    try:
        profiles = load_profiles([settings_of(config, None).profiles_dir])
        profiles.codec_of(profile)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    except UsageError as error:
        fail(str(error), EXIT_USAGE)
    return profiles


def _open(file: Path | None) -> BinaryIO:
    if file is None or str(file) == "-":
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", EXIT_USAGE)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their end; one that is longer than MAX_LINE_BYTES is cut there, and its rest is left out."""
    while line := stream.readline(MAX_LINE_BYTES):
        whole = line.endswith(b"\n")
        yield line.rstrip(b"\r\n")
        while not whole and (rest := stream.readline(MAX_LINE_BYTES)):
            whole = rest.endswith(b"\n")


class _Connection:
    """The lines of a file as the frames of one connection, with what they have taught so far."""

    def __init__(self, codec: Codec, *, as_hex: bool, device_key: str, profile: str, profiles: Profiles | None) -> None:
        self._codec = codec
        self._as_hex = as_hex
        self._device_key = device_key
        self._context: Mapping[str, Any] | None = None
        self._profile = profile
        self._profiles = profiles

    def decode(self, line: bytes) -> dict[str, Any]:
        payload = line
        if self._as_hex:
            try:
                payload = binascii.unhexlify(line.replace(b" ", b""))
            except (binascii.Error, ValueError) as error:
                if not getattr(self._codec, "also_text", False):
                    return {"fault": f"not hexadecimal: {error}"}
        received_at_us = time.time_ns() // 1000
        frame = Frame(
            "decode", self._codec.name, "stdin", payload, received_at_us, self._device_key, context=self._context
        )
        try:
            reports = self._codec.parse(frame)
            if self._profiles is not None:
                for report in reports:
                    if report.fields is not None:
                        report.reading = self._profiles.explain(self._profile, report, received_at_us)
        except FrameError as error:
            return {"fault": str(error)}
        for report in reports:
            self._device_key = report.device_key or self._device_key
            self._context = self._context if report.context is None else report.context
        return _outcome(reports)


def _outcome(reports: Sequence[Report]) -> dict[str, Any]:
    if (
        reports
        and not any(report.reply for report in reports)
        and all(report.reading is None and report.fields is None and report.faults for report in reports)
    ):
        return {"fault": "; ".join(fault for report in reports for fault in report.faults or ())}
    return {
        "reports": [_shown(report) for report in reports],
        "observations": [
            observation for report in reports if report.reading for observation in observations(report.reading)
        ],
        "reply": b"".join(report.reply for report in reports if report.reply).hex() or None,
    }


def _shown(report: Report) -> dict[str, Any]:
    numbered = report.seq >= 0
    number = f"{report.boot}:{report.seq}" if report.boot else str(report.seq)  # as the journal writes it
    return {
        "device_key": report.device_key,
        "dedup_key": number if numbered else report.dedup_key,
        "seq": report.seq if numbered else None,
        "boot": report.boot if numbered else None,
        "at": iso(report.at_us) if report.at_us else None,
        "stored": report.stored,
        "model": report.model_hint or None,
        "fields": report.fields,
        "unknown": report.reading.unknown if report.reading is not None else None,
        "faults": report.faults or [],
    }
