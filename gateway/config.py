"""Configuration: one TOML file, each key overridable by ``CAREBELL_<SECTION>__<KEY>``; secrets only from files."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.config_ble import BleSection
from gateway.config_broker import BrokerSection
from gateway.config_coap import CoapSection, Lwm2mSection, PushReceivers
from gateway.config_console import AccessSection, ConsoleSection
from gateway.config_emqx import EmqxSection
from gateway.config_feeds import FeedSection, RedisSection
from gateway.config_house import CtiSection, Dc09Section, ScaipSection, SerialSection
from gateway.config_notify import NotifySection
from gateway.config_types import HistoryDsn, HttpUrl, ListenAddress, Section
from gateway.errors import ConfigError


class MqttSection(Section):
    """The gateway's own MQTT endpoint."""

    listen: ListenAddress = "127.0.0.1:1883"
    tls_listen: ListenAddress = ""
    certificate_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    max_connections: int = Field(20_000, ge=1, le=1_000_000)
    max_packet_bytes: int = Field(70_000, ge=1024, le=1_048_576)
    handshake_s: float = Field(10.0, gt=0, le=120)
    max_unauthenticated_per_address: int = Field(200, ge=1)


class HttpSection(Section):
    """API, ingest, /healthz, /readyz, /metrics."""

    listen: ListenAddress = "127.0.0.1:8080"


class TrackersSection(Section):
    """Listeners for terminals over TCP and UDP, one key for each codec (``gt06 = "0.0.0.0:5023"``)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, ListenAddress]

    host: str = "127.0.0.1"
    max_connections: int = Field(20_000, ge=1, le=1_000_000)
    max_unknown_per_address: int = Field(200, ge=1)
    idle_s: float = Field(3600.0, ge=1, le=86_400)
    resolver_file: str = ""
    resolver_url: HttpUrl = ""
    resolver_timeout_s: float = Field(5.0, gt=0, le=60)

    @property
    def listen(self) -> dict[str, str]:
        """The addresses that somebody wrote down, by codec; which codecs there are, the registry knows."""
        return dict(self.__pydantic_extra__ or {})


class JournalSection(Section):
    """How long the journal keeps what every reader has finished, and how it treats the disk."""

    keep_days: float = Field(30.0, gt=0)
    max_gigabytes: float = Field(20.0, gt=0)
    reserve_megabytes: int = Field(16, ge=1, le=4096)
    linger_max_ms: float = Field(250.0, ge=0, le=5000)


class HistorySection(Section):
    """PostgreSQL or TimescaleDB. ``embedded`` supervises a PostgreSQL of our own; "" switches history off."""

    dsn: HistoryDsn = "embedded"
    keep_days: int = Field(1100, ge=1)


class CallsSection(Section):
    """How long the call log and the references of recordings are kept; the standards' least can only be raised."""

    recording_days: int = Field(92, ge=92, le=36_500)
    call_days: int = Field(1096, ge=1096, le=36_500)


class OrderApiSection(Section):
    """The platform's order API. Without a base_url orders wait in the outbox."""

    base_url: HttpUrl = ""
    token_file: str = ""
    timeout_s: float = Field(10.0, gt=0, le=60)


class Settings(BaseSettings):
    """Everything that can be configured. Each section is documented in docs/configuration.md."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix="CAREBELL_", env_nested_delimiter="__", frozen=True)

    data_dir: Path = Path("var")
    site: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    timezone: str = "Asia/Shanghai"
    log_format: Literal["auto", "json", "console"] = "auto"
    profiles_dir: Path = Path("profiles.d")
    rules_dir: Path = Path("rules.d")
    policies_dir: Path = Path("policies.d")
    templates_dir: Path = Path("templates.d")
    mqtt: MqttSection = MqttSection()
    http: HttpSection = HttpSection()
    journal: JournalSection = JournalSection()
    history: HistorySection = HistorySection()
    order_api: OrderApiSection = OrderApiSection()
    notify: NotifySection = NotifySection()
    calls: CallsSection = CallsSection()
    coap: CoapSection = CoapSection()
    lwm2m: Lwm2mSection = Lwm2mSection()
    push: PushReceivers = PushReceivers()
    trackers: TrackersSection = TrackersSection()
    access: AccessSection = AccessSection()
    console: ConsoleSection = ConsoleSection()
    emqx: EmqxSection = EmqxSection()
    dc09: Dc09Section = Dc09Section()
    scaip: ScaipSection = ScaipSection()
    cti: CtiSection = CtiSection()
    broker: list[BrokerSection] = []
    serial: list[SerialSection] = []
    ble: BleSection = BleSection()
    redis: RedisSection = RedisSection()
    feed: FeedSection = FeedSection()

    def not_in_this_version(self) -> list[str]:
        """Sections of the contract that ask for something which this version of carebell cannot do yet."""
        return [name for name in LATER_SECTIONS if _asks_for_something(getattr(self, name))]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings  # the environment overrides the file


LATER_SECTIONS: tuple[str, ...] = ()
"""Sections of the contract whose part of carebell is not in this version: read, and said aloud at start."""


def _asks_for_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_asks_for_something(member) for member in value.values())
    if isinstance(value, list):
        return any(_asks_for_something(member) for member in value)
    return value not in ("", None, False)


def load_settings(path: Path | None, data_dir: Path | None = None) -> Settings:
    """Read the file (or the defaults), apply the environment, and resolve paths against the file's folder.

    Raises ConfigError with one line per fault: file, key, what is wrong, what to do.
    """
    values: dict[str, Any] = {}
    base = Path.cwd()
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: there is no such file") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        base = path.resolve().parent
    if data_dir is not None:
        values["data_dir"] = str(data_dir.resolve())
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, error))) from error
    except ValueError as error:  # pydantic-settings: an environment variable that is not JSON where it must be
        raise ConfigError(f"environment: {error}") from error
    folders = ("data_dir", "profiles_dir", "rules_dir", "policies_dir", "templates_dir")
    resolved: dict[str, Any] = {name: base / getattr(settings, name) for name in folders}
    resolved |= {
        name: _resolve_files(getattr(settings, name), base)
        for name in (
            "mqtt",
            "coap",
            "push",
            "order_api",
            "notify",
            "ble",
            "trackers",
            "dc09",
            "scaip",
            "access",
            "console",
        )
    }
    resolved |= {name: _resolve_files(getattr(settings, name), base) for name in ("redis", "feed")}
    resolved["emqx"] = _resolve_files(settings.emqx, base)
    resolved["broker"] = [_resolve_files(section, base) for section in settings.broker]
    return settings.model_copy(update=resolved)


def _resolve_files(section: Section, base: Path) -> Section:
    """The section with every ``..._file`` that is given taken relative to the configuration's folder."""
    return section.model_copy(update={name: _resolved(name, value, base) for name, value in section})


def _resolved(name: str, value: Any, base: Path) -> Any:
    if isinstance(value, Section):
        return _resolve_files(value, base)
    if isinstance(value, dict):
        return {key: _resolved(key, member, base) for key, member in value.items()}
    if name.endswith("_file") and isinstance(value, str) and value:
        return str(base / value)
    if name.endswith("_files") and isinstance(value, tuple):
        return tuple(str(base / each) for each in value)
    return value


def _explain(path: Path | None, error: ValidationError) -> Iterable[str]:
    source = "configuration" if path is None else str(path)
    for fault in error.errors():
        location = [str(part) for part in fault["loc"]]
        key = ".".join(location)
        if fault["type"] == "extra_forbidden":
            known = _known_keys(location[:-1])
            nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            hint = f'; did you mean "{nearest[0]}"?' if nearest else f"; known here: {', '.join(sorted(known))}"
            yield f"{source}: {key}: unknown key{hint}"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            yield f"{source}: {key}: {message} (it is {fault['input']!r})"


def _known_keys(location: list[str]) -> list[str]:
    annotation: Any = Settings
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[part].annotation
        else:  # sections by names of the site's own, or a list of them
            annotation = (*get_args(annotation), None)[0 if get_origin(annotation) is list else 1]
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def read_secret(file: str, key: str) -> str:
    """The stripped content of a secret's file. Raises ConfigError that names the key, never the content."""
    try:
        secret = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: cannot read {file}: {error}") from error
    if not secret:
        raise ConfigError(f"{key}: {file} is empty")
    return secret
