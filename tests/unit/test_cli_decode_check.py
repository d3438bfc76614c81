"""``carebell decode`` and ``carebell check`` as scripts use them: as programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_profiles.loader import load_profiles

PROGRAM = (sys.executable, "-c", "from gateway.cli.main import main; main()")


def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run([*PROGRAM, *map(str, arguments)], input=stdin, capture_output=True, timeout=240, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def decode(*arguments: str | Path, stdin: bytes = b"") -> list[dict[str, Any]]:
    code, out, err = run("decode", *arguments, stdin=stdin)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_one_object_per_line_also_for_what_cannot_be_read() -> None:
    whole = (
        b'{"seq": 17, "at": "2026-11-22T01:02:03.250Z", "signals": ["sos"], "measurements": {"heart_rate_bpm": 72}, '
        b'"position": {"latitude": 39.1, "longitude": 117.2, "accuracy_m": 12}}'
    )
    lines = [
        whole,
        b"\xff\x00garbage",
        b"",
        b'{"signals": ["sos"], "measurements": {"steps": "x"}}',
        b'{"measurements": {"steps": "x"}}',
    ]
    good, garbage, empty, mixed, useless = decode("native", "--device-key", "D-1", stdin=b"\r\n".join(lines))
    at = "2026-11-22T01:02:03.250Z"
    assert good["observations"] == [
        {"kind": "signal", "signal": "sos", "active": True, "observed_at": at},
        {"kind": "measurement", "metric": "heart_rate_bpm", "value": 72, "observed_at": at},
        {
            "kind": "position", "latitude": 39.1, "longitude": 117.2, "accuracy_m": 12, "source": "gnss", "valid": True,
            "observed_at": at,
        },
    ]  # fmt: skip
    assert good["reply"] is None
    (report,) = good["reports"]
    assert (report["device_key"], report["seq"], report["dedup_key"], report["at"]) == ("D-1", 17, "17", at)
    assert [set(line) for line in (garbage, empty, useless)] == [{"fault"}] * 3
    assert useless["fault"] == "measurements.steps: a text, not a number"
    assert mixed["observations"][0]["signal"] == "sos"
    assert mixed["reports"][0]["faults"] == [useless["fault"]]


def test_hexadecimal_files_and_profiles(tmp_path: Path) -> None:
    file = tmp_path / "frames.hex"
    file.write_text(b'{"press": "long", "odd": 1}'.hex(" ") + "\nzz\n")
    good, bad = decode("json", "--hex", "--lenient", "--profile", "generic.json_button", file)
    assert [item["signal"] for item in good["observations"]] == ["sos"]
    assert good["reports"][0]["fields"] == {"press": "long", "odd": 1}
    assert good["reports"][0]["unknown"] == {"odd": 1}
    assert bad["fault"].startswith("not hexadecimal")
    (plain,) = decode("json", "-", stdin=b'{"press": "long"}')
    assert (plain["observations"], plain["reports"][0]["fields"]) == ([], {"press": "long"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nativ",), "there is no codec 'nativ'; did you mean native?"),
        (("zzz",), "known: "),
        (("json", "--profile", "generic.json_buton"), "did you mean generic.json_button?"),
        (("native", "/no/such/file"), "cannot read /no/such/file: No such file or directory"),
        (("native", "--devicekey", "x"), "No such option"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("decode", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_help_has_an_example() -> None:
    for command in ("decode", "check"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Example:" in out


def test_lines_are_one_connection(tmp_path: Path) -> None:
    """What a login teaches holds for the lines behind it; a bad checksum is a fault, or a told one with --lenient."""
    login = "78780d0103837141118104150002a2700d0a"
    place = "78781f12110206152731cc003e7e88089239c500380002e4003bf700cbad00451e050d0a"
    lines = tmp_path / "frames.hex"
    lines.write_text(f"{login}\n{place}\n{place.replace('1e05', '1e06')}\n")
    for flags, third in (([], "fault"), (["--lenient"], "reports")):
        code, out, _ = run("decode", "gt06", *flags, lines)
        first, second, last = (json.loads(line) for line in out.splitlines())
        assert code == 0
        assert first["reply"] == "787805010002eb470d0a"
        assert second["reports"][0]["device_key"] == "383714111810415"
        assert third in last
    assert last["reports"][0]["faults"] == ["checksum: CRC 1e06, computed 1e05"]
    code, out, _ = run("decode", "gt06", "--device-key", "T-1", lines)
    assert json.loads(out.splitlines()[0])["reports"][0]["device_key"] == "383714111810415"


def config(tmp_path: Path, text: str = "") -> Path:
    path = tmp_path / "carebell.toml"
    path.write_text(text, encoding="utf-8")
    return path


def button(tmp_path: Path) -> tuple[Path, Path]:
    """A shipped profile and its vectors as a site's own, to be broken."""
    folder = tmp_path / "profiles.d"
    folder.mkdir()
    vectors = load_profiles().vectors_file("generic.json_button")
    copies = folder / "json_button.toml", folder / "json_button.vectors.toml"
    copies[0].write_bytes(vectors.with_name("json_button.toml").read_bytes())
    copies[1].write_bytes(vectors.read_bytes())
    return copies


def checks_of(tmp_path: Path, code: int) -> dict[str, Any]:
    status, out, err = run("check", "-c", tmp_path / "carebell.toml", "--json")
    assert (status, err) == (code, "")
    report = json.loads(out)
    assert report["ok"] == (code == 0)
    return {row["check"]: row for row in report["checks"]}


def test_check_of_a_good_site(tmp_path: Path) -> None:
    config(tmp_path)
    button(tmp_path)
    checks = checks_of(tmp_path, 0)
    assert checks["configuration"]["ok"]
    assert checks["profiles"]["ok"]
    code, out, _ = run("check", "-c", tmp_path / "carebell.toml")
    assert code == 0
    assert "ok    profiles: " in out


def test_check_finds_a_vector_that_is_not_met(tmp_path: Path) -> None:
    config(tmp_path)
    _, vectors = button(tmp_path)
    vectors.write_text(vectors.read_text(encoding="utf-8").replace("value = -61", "value = -60"), encoding="utf-8")
    problems = checks_of(tmp_path, 1)["profiles"]["problems"]
    assert any("rssi_dbm" in problem and str(vectors) in problem for problem in problems)


def test_check_finds_a_codec_that_does_not_exist(tmp_path: Path) -> None:
    config(tmp_path)
    profile, _ = button(tmp_path)
    text = profile.read_text(encoding="utf-8").replace('codec = "json"', 'codec = "jsom"')
    profile.write_text(text, encoding="utf-8")
    (problem,) = checks_of(tmp_path, 1)["profiles"]["problems"]
    assert problem.startswith("generic.json_button: codec: there is no codec jsom")


def test_check_of_files_that_cannot_be_used(tmp_path: Path) -> None:
    config(tmp_path)
    profile, _ = button(tmp_path)
    profile.write_text("idd = 1\n" + profile.read_text(encoding="utf-8"), encoding="utf-8")
    (problem,) = checks_of(tmp_path, 78)["profiles"]["problems"]
    assert problem == f'{profile}: idd: unknown key; did you mean "id"?'
    code, _, err = run("check", "-c", config(tmp_path, "[htpp]\n"))
    assert code == 78
    assert 'did you mean "http"?' in err
