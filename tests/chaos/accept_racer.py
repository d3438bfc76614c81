"""One operator at a terminal who tries to accept each of a thousand alerts; a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from alerts.desk import act
from alerts.policy import Policy
from gateway.errors import ConflictError
from gateway.model import Actor
from gateway.storage.database import FILE_NAME, open_database
from tests.factory import T0_US


def main(folder: str, name: str) -> None:
    """Waits for a line before each race; writes ``won``, or what the loser is told."""
    connection = open_database(Path(folder) / FILE_NAME)
    connection.transaction_mode = "IMMEDIATE"  # as the commands open it
    connection.pragma("synchronous", "off")  # what is tested here is not the disk
    actor, policy = Actor("operator", name, role="operator"), Policy()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        try:
            with connection:
                act(connection, line.strip(), "accept", actor=actor, now_us=T0_US, policy=policy, version=1)
            outcome = "won"
        except ConflictError as error:
            outcome = str(error)
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
