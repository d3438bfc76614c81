"""The proof of a profile: telegrams with exactly the observations that they must give, in a file beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, model_validator

from device_profiles.loader import Profiles, read_toml
from device_profiles.schema import Table, explain_faults
from gateway.clock import iso, to_us
from gateway.errors import ConfigError, FrameError
from gateway.model import Frame
from gateway.observations import observations
from gateway.ports import Codec

RECEIVED_AT: Final = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)


class Vector(Table):
    """One telegram. ``observations`` may leave ``observed_at`` out where it is the time of receipt, and ``accuracy_m``
    where it is null.
    """

    name: str = Field(min_length=1)
    payload: str = ""
    payload_hex: str = Field("", pattern=r"^(?:[0-9a-fA-F]{2})*$")
    device_key: str = ""
    received_at: datetime = RECEIVED_AT
    observations: list[dict[str, Any]] = Field(default_factory=list)
    unknown: dict[str, Any] = Field(default_factory=dict)
    faults: list[str] = Field(default_factory=list)
    fault: str = ""
    dedup_key: str = ""

    @model_validator(mode="after")
    def _has_one_payload(self) -> Vector:
        if bool(self.payload) == bool(self.payload_hex):
            raise ValueError("write either payload or payload_hex")
        if self.received_at.tzinfo is None:
            raise ValueError("received_at has no offset; write Z behind it")
        return self


class VectorFile(Table):
    vector: list[Vector] = Field(min_length=1)


def load_vectors(path: Path) -> list[Vector]:
    """Raises ConfigError with one line per fault."""
    try:
        return VectorFile.model_validate(read_toml(path)).vector
    except ValidationError as error:
        raise ConfigError("\n".join(explain_faults(str(path), VectorFile, error))) from error


def check_vectors(profiles: Profiles, profile_id: str, codec: Codec) -> list[str]:
    """Run the vectors of one profile; one line per problem, none when all is well.

    A signal that the profile declares and no vector raises is a problem too. Raises UsageError for an unknown profile.
    """
    profiles.codec_of(profile_id)
    profile = profiles.get(profile_id)
    path = profiles.vectors_file(profile_id)
    if not path.exists():
        return [f"{path}: missing; a profile is proved by telegrams and what they mean, see docs/profiles.md"]
    try:
        vectors = load_vectors(path)
    except ConfigError as error:
        return str(error).splitlines()
    problems: list[str] = []
    raised: set[str] = set()
    for vector in vectors:
        outcome = _run(profiles, profile_id, codec, vector)
        raised.update(seen["signal"] for seen in outcome["observations"] if seen["kind"] == "signal" and seen["active"])
        problems.extend(f"{path}: {vector.name}: {problem}" for problem in _compare(vector, outcome))
    unproved = sorted(set(profile.raises if profile is not None else ()) - raised)
    problems.extend(f"{path}: no vector raises {signal}; add one, or drop it from raises" for signal in unproved)
    return problems


def _run(profiles: Profiles, profile_id: str, codec: Codec, vector: Vector) -> dict[str, Any]:
    payload = vector.payload.encode() or bytes.fromhex(vector.payload_hex)
    received_at_us = to_us(vector.received_at)
    frame = Frame("check", codec.name, "vector", payload, received_at_us, vector.device_key)
    outcome: dict[str, Any] = {"observations": [], "unknown": {}, "faults": [], "fault": "", "dedup_key": ""}
    try:
        for report in codec.parse(frame):
            if report.reading is not None or report.fields is not None:
                reading = profiles.explain(profile_id, report, received_at_us)
                outcome["observations"].extend(observations(reading))
                outcome["unknown"].update(reading.unknown or {})
            outcome["faults"].extend(report.faults or ())
            number = f"{report.boot}:{report.seq}" if report.boot else str(report.seq)
            outcome["dedup_key"] = number if report.seq >= 0 else report.dedup_key
    except FrameError as error:
        outcome["fault"] = str(error)
    return outcome


def _compare(vector: Vector, outcome: dict[str, Any]) -> list[str]:
    received_at = iso(to_us(vector.received_at))
    expected: dict[str, Any] = {
        "observations": [_filled(observation, received_at) for observation in vector.observations],
        "unknown": vector.unknown,
        "faults": vector.faults,
        "fault": vector.fault,
    }
    if vector.dedup_key:
        expected["dedup_key"] = vector.dedup_key
    return [
        difference
        for what, wanted in expected.items()
        if outcome[what] != wanted
        for difference in _differences(what, wanted, outcome[what])
    ]


def _filled(observation: dict[str, Any], received_at: str) -> dict[str, Any]:
    """With what may be left out: the time where it is that of receipt, an accuracy that nobody knows."""
    unsaid = {"accuracy_m": None} if observation.get("kind") == "position" else {}
    return {"observed_at": received_at, **unsaid, **observation}


def _differences(what: str, wanted: Any, seen: Any) -> list[str]:
    if not isinstance(wanted, list):
        return [f"{what} should be {wanted!r}, and is {seen!r}"]
    missing = [f"{what}: missing {item!r}" for item in wanted if item not in seen]
    stray = [f"{what}: not expected {item!r}" for item in seen if item not in wanted]
    return missing + stray or [f"{what}: in another order or number; they are {seen!r}"]
