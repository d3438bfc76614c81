"""What Bluetooth is told: the file of bind keys, the section, and that nothing is loaded where it is off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import load_settings
from gateway.errors import ConfigError
from gateway.nearby import ble_options
from protocols.transports.ble.memory import DIGESTS, Memory
from protocols.transports.ble.options import load_bind_keys

GOOD = '"54:48:E6:8F:80:A5" = "231d39c1d7cc1ab1aee224cd096db932"\n'


def keys(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_bind_keys(tmp_path: Path) -> None:
    found = load_bind_keys(keys(tmp_path, GOOD))
    assert found == {"5448e68f80a5": bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")}


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (GOOD, 0o644, "others may read it"),
        ('"54:48" = "00"', 0o600, "no Bluetooth address"),
        ('"54:48:E6:8F:80:A5" = "secret-that-is-not-hex"', 0o600, "32 hexadecimal digits"),
        ('"54:48:E6:8F:80:A5" = 7', 0o600, "32 hexadecimal digits"),
        (GOOD + GOOD.replace(":", ""), 0o600, "twice"),
        ("no toml", 0o600, "keys.toml"),
    ],
)
def test_bind_keys_that_cannot_be_used(tmp_path: Path, text: str, mode: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        load_bind_keys(keys(tmp_path, text, mode))
    assert "secret" not in str(raised.value)
    assert "231d39" not in str(raised.value)


def test_the_section(tmp_path: Path) -> None:
    keys(tmp_path, GOOD)
    file = tmp_path / "carebell.toml"
    file.write_text('[ble]\nadapter = "hci1"\nbind_keys_file = "keys.toml"\nquiet_s = 3\n', encoding="utf-8")
    options = ble_options(load_settings(file))
    assert options is not None
    assert (options.adapter, options.quiet_s, len(options.bind_keys)) == ("hci1", 3.0, 1)
    file.write_text('[ble]\nadapter = "usb"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"ble\.adapter"):
        load_settings(file)
    assert ble_options(load_settings(None)) is None


def test_nothing_of_bluetooth_is_loaded_where_it_is_off() -> None:
    program = (
        "import sys, gateway.assembly, gateway.app, gateway.nearby, protocols.transports.ble.hub\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('bleak', 'dbus_fast', 'bumble')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[]"


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_outlives_a_restart(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "ble.json")
    for number in range(DIGESTS + 10):
        memory.learn("D-1", f"value {number}", number)
    memory.counted("D-2", b"key", 7)
    memory.counted("D-2", b"key", 5)
    memory.save()
    again = Memory(tmp_path / "ble.json")
    assert len(again.of("D-1").digests) == DIGESTS
    assert not again.knows("D-1", "value 0")
    assert again.knows("D-1", f"value {DIGESTS + 9}")
    assert again.of("D-1").sequence == DIGESTS + 9
    assert again.counter("D-2", b"key") == 7
    assert again.counter("D-2", b"another key") == -1
    assert (tmp_path / "ble.json").stat().st_mode & 0o777 == 0o600
    assert b"key" not in (tmp_path / "ble.json").read_bytes().replace(b'"key"', b"")


def test_a_memory_that_cannot_be_read_or_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "ble.json").write_bytes(b"{broken")
    memory = Memory(tmp_path / "ble.json")
    assert memory.of("D-1").sequence == -1
    elsewhere = Memory(tmp_path / "not there" / "ble.json")
    elsewhere.learn("D-1", "value")
    elsewhere.save()
    elsewhere.save()
    assert elsewhere.knows("D-1", "value")
