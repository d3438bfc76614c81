"""Confirmable ``POST /up`` through the whole gateway: each is 2.04 only when it is on disk.

Usage: python benchmarks/coap_posts.py [seconds] [sockets] [window]. The generator is closed loop, in its own process:
each socket keeps so many requests under way. Prints one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.daemon import Daemon, provision


def _post(device: str, token: str) -> tuple[bytes, bytes]:
    """The options before and the text before the number of a message."""
    options = b"\xb2up" + b"\x11\x32"  # Uri-Path, Content-Format 50
    for part in (f"d={device}", f"t={token}"):
        value = part.encode()
        delta = 3 if part.startswith("d=") else 0
        options += bytes((delta << 4 | min(len(value), 13),)) + (bytes((len(value) - 13,)) if len(value) > 12 else b"")
        options += value
    return options, b'\xff{"measurements": {"heart_rate_bpm": 72, "spo2_percent": 97}, "seq": '


def generate(port: int, tokens: dict[str, str], seconds: float, window: int, out: Any) -> None:
    """Send until the time is over; put (acknowledged, other answers, lost, latencies in ms) into the queue."""
    poller = select.poll()
    senders: dict[int, tuple[socket.socket, bytes, bytes]] = {}
    under_way: dict[tuple[int, int], float] = {}
    counts = {"acked": 0, "other": 0}
    latencies: list[float] = []
    seq = 0
    for device, token in tokens.items():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        senders[sock.fileno()] = (sock, *_post(device, token))
        poller.register(sock, select.POLLIN)

    def send(fd: int) -> None:
        nonlocal seq
        seq += 1
        sock, options, text = senders[fd]
        mid = seq & 0xFFFF
        sock.send(struct.pack("!BBH", 0x42, 2, mid) + mid.to_bytes(2) + options + text + b"%d}" % seq)
        under_way[fd, mid] = time.perf_counter()

    began = time.perf_counter()
    for fd in senders:
        for _ in range(window):
            send(fd)
    while (now := time.perf_counter()) - began < seconds:
        for fd, _ in poller.poll(200):
            sock = senders[fd][0]
            while True:
                try:
                    data = sock.recv(256)
                except BlockingIOError:
                    break
                started = under_way.pop((fd, data[2] << 8 | data[3]), None)
                if started is None:
                    continue
                counts["acked" if data[1] == 0x44 else "other"] += 1
                latencies.append((now - started) * 1000)
                send(fd)
    took = time.perf_counter() - began
    lost = sum(1 for started in under_way.values() if time.perf_counter() - started > 1)
    out.put((counts["acked"], counts["other"], lost, took, sorted(latencies)))


def main(seconds: float, sockets: int, window: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="carebell-bench-") as folder:
        data_dir = Path(folder) / "var"
        data_dir.mkdir()
        tokens = provision(data_dir, sockets)
        with Daemon(data_dir) as daemon:
            assert daemon.process is not None
            queue: Any = multiprocessing.Queue()
            ticks = _ticks(daemon.process.pid)
            worker = multiprocessing.Process(
                target=generate, args=(daemon.coap_port, tokens, seconds, window, queue), daemon=True
            )
            worker.start()
            acked, other, lost, took, latencies = queue.get(timeout=seconds + 30)
            worker.join()
            cpu_s = (_ticks(daemon.process.pid) - ticks) / os.sysconf("SC_CLK_TCK")
    return {
        "figure": "coap_posts",
        "posts_per_s": round(acked / took),
        "acknowledged": acked,
        "other_answers": other,
        "not_answered": lost,
        "ack_ms_p50": round(statistics.median(latencies), 2),
        "ack_ms_p99": round(latencies[int(len(latencies) * 0.99)], 2),
        "gateway_cpu_us_per_post": round(cpu_s * 1e6 / max(acked, 1), 1),
        "sockets": sockets,
        "window": window,
    }


def _ticks(pid: int) -> int:
    """Processor time of a process and its threads, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    given = [float(one) for one in sys.argv[1:]] + [None] * 3
    print(json.dumps(main(given[0] or 10.0, int(given[1] or 16), int(given[2] or 16))))
