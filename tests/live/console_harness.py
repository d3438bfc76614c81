"""The daemon with people who sign in to its pages, and a real browser."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw
import httpx2
import pytest

from gateway.access import totp
from gateway.access.door import set_door_code
from gateway.access.passwords import hash_password
from gateway.access.users import add_user
from gateway.registry.contacts import add_contact
from gateway.registry.devices import update_device
from gateway.registry.persons import update_person
from gateway.registry.places import add_place
from gateway.storage.database import FILE_NAME, open_database
from tests.daemon import ACTOR, Daemon, provision
from tests.npm_packages import npm_packages

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "docs" / "screenshots"
PASSWORD = "correct horse battery"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
HOSTILE = "<script>document.title='XSS'</script><img src=x onerror=\"document.title='XSS'\">'\"{{7*7}}"
DEVICE_TEXTS = ("model", "firmware", "custodian", "install_place", "agreement_ref", "note")
BROWSER_ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


def chromium_path() -> str:
    """The browser of the system; skips the test where there is none."""
    pytest.importorskip("playwright", reason="playwright drives the browser: install the test extra")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser: install the Debian package chromium")
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    path = chromium_path()
    from playwright.sync_api import Error, expect, sync_playwright

    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        try:
            yield opened
        except Exception as error:
            for page in [page for context in opened.contexts for page in context.pages]:
                with suppress(Error):  # the test's own failure is what matters
                    error.add_note(f"---- {page.url}\n{page.locator('body').inner_text(timeout=5000)[:3000]}")
            raise
        finally:
            opened.close()


def furnish(data_dir: Path, *, hostile: bool = False) -> dict[str, str]:
    """Persons with everything that a case shows, and users: chen and li (operators), wang (supervisor), audit, north
    (an operator of the district 北区). Returns the tokens of the devices.
    """
    tokens = provision(data_dir, 3)
    now_us = time.time_ns() // 1000
    person = {
        "name": "王秀英", "address": "和平里 3-1-402", "birth_year": 1941, "district": "和平区",
        "address_form": "王奶奶", "conditions": ["高血压", "糖尿病"], "note": "耳背，请大声",
    }  # fmt: skip
    if hostile:
        person = dict.fromkeys(("address", "district", "note"), HOSTILE) | {
            "name": HOSTILE[:100], "address_form": HOSTILE[:40], "conditions": [HOSTILE[:60]],
            "district": HOSTILE[:100], "community": HOSTILE[:100],
        }  # fmt: skip
    contact = {
        "person_id": "P-1", "name": HOSTILE[:100] if hostile else "李梅", "phone": "+8613900000002",
        "relation": HOSTILE[:50] if hostile else "daughter",
    }  # fmt: skip
    home = {
        "person_id": "P-1", "kind": "home", "name": HOSTILE[:100] if hostile else "家", "radius_m": 200,
        "geometry": {"type": "Point", "coordinates": [117.2011, 39.1235]},
    }  # fmt: skip
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        update_person(connection, "P-1", person, at_us=now_us, actor=ACTOR)
        add_contact(connection, "C-1", contact, at_us=now_us, actor=ACTOR)
        add_place(connection, "H-1", home, at_us=now_us, actor=ACTOR)
        set_door_code(connection, "P-1", HOSTILE[:90] if hostile else "3141#", at_us=now_us, actor=ACTOR)
        if hostile:
            update_device(
                connection, "D-1", dict.fromkeys(DEVICE_TEXTS, HOSTILE[:100]), known_profiles=["carebell.native"],
                at_us=now_us, actor=ACTOR,
            )  # fmt: skip
        add_staff(connection, hostile=hostile)
    connection.close()
    return tokens


def add_staff(connection: apsw.Connection, *, hostile: bool = False) -> None:
    """The users of ``furnish``, with PASSWORD and SECRET."""
    encoded, now_us = hash_password(PASSWORD), time.time_ns() // 1000
    for login, name, role, district in (
        ("chen", "陈静", "operator", ""), ("li", "李强", "operator", ""), ("wang", "王班长", "supervisor", ""),
        ("audit", "审计", "auditor", ""), ("north", "北区坐席", "operator", "北区"),
    ):  # fmt: skip
        shown = HOSTILE[:100] if hostile and login == "li" else name
        add_user(
            connection, login, name=shown, role=role, district=district, password_hash=encoded, at_us=now_us,
            actor=ACTOR,
        )  # fmt: skip
    connection.execute("UPDATE user_account SET must_change = 0, totp_secret = ?, totp_confirmed_at_us = 1", (SECRET,))


@contextmanager
def console_daemon(
    folder: Path, *, hostile: bool = False, prefix: tuple[str, ...] = (), **environment: str
) -> Iterator[tuple[Daemon, dict[str, str]]]:
    """A running gateway without history, and its devices' tokens. ``prefix`` stands before its command."""
    tokens = furnish(folder, hostile=hostile)
    daemon = Daemon(folder, **{"CAREBELL_COAP__LISTEN": "", "CAREBELL_MQTT__LISTEN": "", **environment})
    daemon.start(prefix=prefix)
    try:
        yield daemon, tokens
    finally:
        daemon.stop()


def press(daemon: Daemon, tokens: dict[str, str], device: str = "D-1", **frame: Any) -> None:
    """An SOS with a position."""
    body = {
        "signals": ["sos"], "measurements": {"heart_rate_bpm": 131, "battery_percent": 81},
        "position": {"latitude": 39.1237, "longitude": 117.2015, "accuracy_m": 12, "source": "gnss"},
    } | frame  # fmt: skip
    answer = httpx2.post(
        f"{daemon.url}/ingest/v1/{device}", json=body, headers={"authorization": f"Bearer {tokens[device]}"},
        trust_env=False, timeout=60,
    )  # fmt: skip
    assert answer.status_code == 202, answer.text


def forget_codes(data_dir: Path) -> None:
    """A code counts once in 30 s; several sign-ins of a test are within that."""
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        connection.execute("UPDATE user_account SET totp_step = 0")
    connection.close()


def code_now() -> str:
    return totp.code_at(base64.b32decode(SECRET), int(time.time()) // totp.STEP_S)


def sign_in(page: Any, url: str, login: str, *, ready: str = "#queue") -> None:
    """As a person does it."""
    page.goto(f"{url}/console")
    page.fill("[name=login]", login)
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=code]")
    page.fill("[name=code]", code_now())
    page.keyboard.press("Enter")
    page.wait_for_selector(ready)


def photograph(page: Any, name: str) -> None:
    """Into the documents, when CAREBELL_SCREENSHOTS=1 asks for it; else the tree stays as it is."""
    if os.environ.get("CAREBELL_SCREENSHOTS") == "1":
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")


class Wire:
    """A TCP road to the daemon that can be cut: connections end, and new ones are refused."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open: set[socket.socket] = set()
        self._cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut.set()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._cut.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            if self._cut.is_set():  # since it was asked above
                self.cut()
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._open.discard(each)
            each.close()


AXE: Final = "axe-core@4.14.1"


def axe_source() -> str:
    """The script of axe-core, which judges pages by WCAG; skips the test where npm cannot fetch it."""
    return (npm_packages("axe", AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
