"""Profiles from files: those that come with carebell, and a site's own."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from device_profiles.engine import Plan
from device_profiles.schema import Profile, parse_profile
from gateway.errors import ConfigError, ProfileError, UsageError
from gateway.model import DeviceBinding, Reading, Report

VECTORS_SUFFIX: Final = ".vectors.toml"
MAX_FILE_BYTES: Final = 1 << 20
UNDERSTOOD: Final = frozenset({"command_reply"})
"""What a codec keeps in ``Reading.unknown`` because no observation holds it, and somebody reads there."""


class Profiles:
    """``ports.Profiles``: every profile by its id."""

    def __init__(self, profiles: Sequence[tuple[Profile, Path]]) -> None:
        self._profiles = {profile.id: profile for profile, _ in profiles}
        self._files = {profile.id: path for profile, path in profiles}
        self._plans = {profile.id: Plan(profile) for profile, _ in profiles if profile.explains_fields()}
        self.unknown_fields: dict[str, int] = dict.fromkeys(self._profiles, 0)
        """How many fields without a meaning each profile has met; they are kept in the readings."""

    def explain(self, profile: str, report: Report, received_at_us: int) -> Reading:
        """The observations of a report by the named profile. Raises ProfileError.

        Completes the report in place: ``faults`` of fields that could not be used, ``dedup_key``, ``at_us``, ``stored``
        (so read those afterwards). A report that already carries its reading and no fields is passed through.
        """
        reading = report.reading
        if report.fields is None:
            if reading is None:
                raise ProfileError("nothing to explain: the report has neither observations nor fields")
            if reading.unknown is not None and profile in self.unknown_fields:
                self.unknown_fields[profile] += len(reading.unknown.keys() - UNDERSTOOD)
            return reading
        plan = self._plans.get(profile)
        if plan is None:
            if profile in self._profiles:
                raise ProfileError(f"profile {profile} explains no fields; give the device one that does")
            raise ProfileError(self._no_such(profile))
        reading = plan.explain(report, received_at_us)
        if reading.unknown is not None:
            self.unknown_fields[profile] += len(reading.unknown)
        return reading

    def codec_of(self, profile: str) -> str:
        """The name of the codec that reads the profile's devices. Raises UsageError."""
        known = self._profiles.get(profile)
        if known is None:
            raise UsageError(self._no_such(profile))
        return known.codec

    def get(self, profile: str) -> Profile | None:
        return self._profiles.get(profile)

    def urgent_marks(self, binding: DeviceBinding) -> tuple[bytes, ...] | None:
        """What a payload of this device holds whenever it is urgent; None when nobody can tell."""
        profile = self._profiles.get(binding.profile)
        return None if profile is None else profile.urgent_marks()

    def names(self) -> list[str]:
        return sorted(self._profiles)

    def vectors_file(self, profile: str) -> Path:
        """Where the vectors of a profile are, or should be."""
        path = self._files[profile]
        return path.with_name(path.name.removesuffix(".toml") + VECTORS_SUFFIX)

    def _no_such(self, profile: str) -> str:
        close = difflib.get_close_matches(profile, self._profiles, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(self.names())}"
        return f"there is no profile {profile!r}{hint}"


def load_profiles(directories: Sequence[Path] = ()) -> Profiles:
    """The shipped profiles and those of a site's folders; a site's profile takes the place of a shipped one of its id.

    A folder that does not exist holds none. Raises ConfigError with one line per fault of all the files.
    """
    faults: list[str] = []
    found: dict[str, tuple[Profile, Path]] = {}
    for folder in (shipped_folder(), *directories):
        here: dict[str, Path] = {}
        for path in profile_files(folder):
            try:
                profile = parse_profile(str(path), read_toml(path))
            except ConfigError as error:
                faults.append(str(error))
                continue
            if profile.id in here:
                faults.append(f"{path}: id: {profile.id} is also in {here[profile.id]}; give one of them another id")
            here[profile.id] = path
            found[profile.id] = (profile, path)
    if faults:
        raise ConfigError("\n".join(faults))
    return Profiles(list(found.values()))


def shipped_folder() -> Path:
    with resources.as_file(resources.files("device_profiles")) as folder:
        return folder


def profile_files(folder: Path) -> Iterator[Path]:
    """The profile files of a folder and those below it, sorted, without the files of vectors."""
    for path in sorted(folder.rglob("*.toml")):
        if not path.name.endswith(VECTORS_SUFFIX):
            yield path


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError that names the file, and the line where TOML is wrong."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; a profile is a few hundred lines")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
