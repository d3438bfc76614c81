"""Configuration: the contract's defaults, the file, the environment over it, and faults that say what to do."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from gateway.config import LATER_SECTIONS, Settings, load_settings, read_secret
from gateway.errors import ConfigError

CONTRACT = """
data_dir = "./var"
site = "default"
[mqtt]
listen = "127.0.0.1:1883"
tls_listen = ""
certificate_file = ""
key_file = ""
client_ca_file = ""
[http]
listen = "127.0.0.1:8080"
[history]
dsn = "embedded"
[order_api]
base_url = ""
token_file = ""
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CAREBELL_")]:
        monkeypatch.delenv(name)


def load(folder: Path, text: str) -> Settings:
    file = folder / "site.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file)


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value).splitlines()


def test_no_file_means_the_defaults_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None)
    assert settings == load(tmp_path, CONTRACT)
    for section, keys in tomllib.loads(CONTRACT).items():
        if isinstance(keys, dict):
            for key, value in keys.items():
                assert getattr(getattr(settings, section), key) == value
    assert settings.data_dir == tmp_path / "var"
    assert settings.not_in_this_version() == []


def test_paths_are_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, 'data_dir = "data"\nprofiles_dir = "/etc/profiles"\n')
    assert settings.data_dir == tmp_path / "data"
    assert settings.profiles_dir == Path("/etc/profiles")
    assert settings.rules_dir == tmp_path / "rules.d"


def test_the_data_dir_of_the_command_line_wins_and_is_meant_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "site.toml"
    file.write_text('data_dir = "data"\n')
    assert load_settings(file, Path("elsewhere")).data_dir == tmp_path / "elsewhere"


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAREBELL_MQTT__LISTEN", "127.0.0.1:7777")
    monkeypatch.setenv("CAREBELL_SITE", "tj-1")
    settings = load(tmp_path, 'site = "a"\n[mqtt]\nlisten = "127.0.0.1:1"\nhandshake_s = 3\n')
    assert (settings.mqtt.listen, settings.site) == ("127.0.0.1:7777", "tj-1")
    assert settings.mqtt.handshake_s == 3, "the rest of the section stays"


def test_a_wrong_value_in_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAREBELL_HTTP__LISTEN", "everywhere")
    (fault,) = faults(tmp_path, "")
    assert "http.listen" in fault
    assert "host:port" in fault
    monkeypatch.setenv("CAREBELL_HTTP__LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("CAREBELL_BROKER", "not JSON")
    with pytest.raises(ConfigError, match="environment"):
        load_settings(None)


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[mqtt]\nlistn = 'x'", "mqtt.listn", '"listen"'),
        ("[mqqt]\nlisten = 'x'", "mqqt", '"mqtt"'),
        ("sight = 'x'", "sight", '"site"'),
        ("[order_api]\nbaseurl = 'x'", "order_api.baseurl", '"base_url"'),
        ("[journal]\nlinger_ms = 3", "journal.linger_ms", '"linger_max_ms"'),
        ("[http]\nzzzzzz = 1", "http.zzzzzz", "known here: listen"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, key: str, hint: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(f"{tmp_path / 'site.toml'}: {key}: unknown key")
    assert hint in fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[mqtt]\nlisten = '1883'", "mqtt.listen: write it as host:port"),
        ("[mqtt]\nlisten = '127.0.0.1:99999'", "mqtt.listen: write it as host:port"),
        ("[mqtt]\nlisten = 'gateway.example:1883'", "'gateway.example' is not an IP address"),
        ("[mqtt]\nmax_connections = 0", "mqtt.max_connections: "),
        ("[mqtt]\nmax_connections = 'many'", "mqtt.max_connections: "),
        ("[history]\ndsn = 'mysql://x'", 'history.dsn: write "embedded"'),
        ("[order_api]\nbase_url = 'ftp://x'", "order_api.base_url: write an http:// or https:// URL"),
        ("site = 'Tian jin'", "site: "),
        ("log_format = 'xml'", "log_format: "),
        ("[journal]\nkeep_days = -1", "journal.keep_days: "),
        ("mqtt = 3", "mqtt: "),
    ],
)
def test_a_wrong_value_says_what_to_write(tmp_path: Path, text: str, says: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(f"{tmp_path / 'site.toml'}: ")
    assert says in fault


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    told = faults(tmp_path, "nonsense = 1\n[mqtt]\nlisten = 'x'\n[http]\nport = 80\n")
    assert len(told) == 3


@pytest.mark.parametrize("listen", ["", "0.0.0.0:1883", "[::1]:1883", "localhost:1883"])
def test_addresses_that_are_good(tmp_path: Path, listen: str) -> None:
    assert load(tmp_path, f"[mqtt]\nlisten = '{listen}'").mqtt.listen == listen


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_settings(tmp_path)
    (fault, *_) = faults(tmp_path, "[mqtt\n")
    assert "line 1" in fault
    (tmp_path / "latin.toml").write_bytes(b'site = "\xe4"')
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        load_settings(tmp_path / "latin.toml")


def test_sections_of_later_versions_are_read_and_told(tmp_path: Path) -> None:
    quiet = load(
        tmp_path,
        '[coap]\nlisten = ""\n[redis]\nurl = ""\n[ble]\nadapter = ""\n[notify.twilio]\naccount_sid = ""\n',
    )
    assert quiet.not_in_this_version() == [], "what is switched off asks for nothing"
    loud = load(
        tmp_path,
        '[redis]\nurl = "redis://x"\n[[broker]]\nurl = "mqtt://x"\n[notify.twilio]\naccount_sid = "AC"\n',
    )
    assert set(loud.not_in_this_version()) <= set(LATER_SECTIONS)
    assert set(loud.not_in_this_version()) == {"redis", "broker", "notify"} & set(LATER_SECTIONS)


def test_secrets_come_from_files_and_are_never_in_a_message(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  s3cret\n")
    assert read_secret(str(tmp_path / "token"), "order_api.token_file") == "s3cret"
    (tmp_path / "token").write_text(" \n")
    with pytest.raises(ConfigError, match=r"order_api\.token_file: .* is empty"):
        read_secret(str(tmp_path / "token"), "order_api.token_file")
    (tmp_path / "token").write_bytes(b"s3cret\xff")
    with pytest.raises(ConfigError, match=r"order_api\.token_file: cannot read") as caught:
        read_secret(str(tmp_path / "token"), "order_api.token_file")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"order_api\.token_file: cannot read"):
        read_secret(str(tmp_path / "none"), "order_api.token_file")


def test_paths_are_relative_to_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('data_dir = "d"\n[mqtt]\nkey_file = "keys/k.pem"\n[order_api]\ntoken_file = "/run/token"\n')
    settings = load_settings(file)
    assert settings.data_dir == tmp_path / "d"
    assert settings.mqtt.key_file == str(tmp_path / "keys/k.pem")
    assert settings.mqtt.certificate_file == ""
    assert settings.order_api.token_file == "/run/token"
