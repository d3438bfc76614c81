"""Frames that real terminals sent, read in place: at least 97 % of what holds for a checksum-valid frame holds here."""

from __future__ import annotations

import pytest

from protocols.registry import TERMINALS
from tests.vectors import shared

SHARE = 0.97

pytestmark = pytest.mark.skipif(
    not shared.FOLDER.is_dir(), reason="the public tracker frames (../shared/vectors) are not on this machine"
)


def _files() -> list[tuple[str, str]]:
    found = sorted(path.name for path in shared.FOLDER.glob("*.jsonl")) if shared.FOLDER.is_dir() else []
    files = [(shared.NAMES.get(name.removesuffix(".jsonl"), name.removesuffix(".jsonl")), name) for name in found]
    return [(codec, file) for codec, file in files if codec in TERMINALS]


@pytest.mark.parametrize(("codec", "file"), _files())
def test_statements_hold(codec: str, file: str) -> None:
    failures: list[str] = []
    judged = 0
    for row, problem, was_lenient in shared.statements(codec, file):
        if problem is None or was_lenient or "setup" in row:
            continue
        judged += 1
        if problem:
            failures.append(f"{row['test']} {row['seq']}: {problem} | {row['payload'][:400]} | {row['expect']}")
    assert judged
    assert len(failures) <= (1 - SHARE) * judged, f"{len(failures)} of {judged}:\n" + "\n".join(failures)


def test_answers() -> None:
    """What the server must answer, as logs of real conversations show it."""
    failures = []
    for row in shared.lines("replies.jsonl"):
        if row["protocol"] not in TERMINALS:
            continue
        reports = shared.Line(row["protocol"]).parse(shared.payload_of(row))
        reply = b"".join(report.reply for report in reports if report.reply)
        if row["protocol"] == "jt808":
            continue  # the platform's own serial number stands in the answer; the codec's tests compare these
        if reply.hex() != row["expect"]["reply"] and reply.decode("latin-1") != row["expect"]["reply"]:
            failures.append(f"{row['payload']}: {reply!r}, not {row['expect']['reply']}")
    assert not failures, "\n".join(failures)
