"""A terminal's scan that was acknowledged when the gateway died: the visit is there afterwards, once."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest

from alerts import order_requests
from alerts.lifecycle import apply_effects
from alerts.policy import Policy
from gateway import crashpoints
from gateway.storage.database import FILE_NAME, open_database
from tests.alerts_support import sos
from tests.daemon import Daemon, provision

pytestmark = pytest.mark.live


def service_code(data_dir: Path) -> str:
    """Of an order that waits for whoever was sent."""
    now_us = time.time_ns() // 1000
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        (alert_id,) = apply_effects(connection, [sos(1, at_us=now_us)], now_us, Policy()).raised
    order = order_requests.get(connection, alert_id, 1)
    connection.close()
    assert order is not None
    return order.service_code


def visits(data_dir: Path) -> list[Any]:
    connection = apsw.Connection(str(data_dir / FILE_NAME), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(10_000)
    found: list[Any] = connection.execute(
        "SELECT staff_id, in_device_id, (SELECT count(*) FROM audit WHERE body ->> 'action' = 'service_checkin'),"
        " (SELECT count(*) FROM audit WHERE body ->> 'action' = 'order_code_refused') FROM service_visit"
    ).fetchall()
    connection.close()
    return found


def test_a_scan_outlives_the_gateway(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    tokens = provision(data_dir, 2)
    body = {"seq": 1, "service_checkin": {"service_code": service_code(data_dir), "staff_id": "S-1", "method": "nfc"}}
    daemon = Daemon(data_dir)
    daemon.start({"CAREBELL_CRASH": crashpoints.BEFORE_JUDGING})
    with contextlib.suppress(httpx2.TransportError):  # the answer may have left before it died
        scan(daemon, tokens, body)
    assert daemon.wait() == -signal.SIGKILL
    assert visits(data_dir) == []
    for _ in range(2):  # what was done by the first of them is known to the second
        with daemon:
            until_s = time.monotonic() + 60
            while not visits(data_dir):
                assert time.monotonic() < until_s, "the scan is lost"
                time.sleep(0.05)
            assert scan(daemon, tokens, body).status_code == 202  # the terminal's own resend
    assert visits(data_dir) == [("S-1", "D-1", 1, 0)]


def scan(daemon: Daemon, tokens: dict[str, str], body: dict[str, Any]) -> httpx2.Response:
    url, headers = f"{daemon.url}/ingest/v1/D-1", {"authorization": f"Bearer {tokens['D-1']}"}
    return httpx2.post(url, json=body, headers=headers, trust_env=False, timeout=30)
