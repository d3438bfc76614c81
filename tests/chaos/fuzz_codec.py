"""A coverage-guided fuzz target: ``python -m tests.chaos.fuzz_codec CODEC CORPUS SECONDS`` (needs atheris).

The input is fed to the codec as a frame and to its framer as a stream. Ends with a crash file when a codec raises
anything but ParseError, says what no journal can keep, or a framer forgets its bound.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # has no types, and is optional

with atheris.instrument_imports(include=["protocols"]):
    from gateway.errors import FramingError
    from protocols.registry import TERMINALS
    from tests.properties.test_terminal_codecs import examine
    from tests.vectors import own


def main() -> None:
    codec, corpus, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, vector in enumerate(own.vectors(codec)):
        (corpus / f"own-{number}").write_bytes(vector.payload)

    def one(data: bytes) -> None:
        examine(codec, data)
        framer = TERMINALS[codec].framer()
        with contextlib.suppress(FramingError):
            for at in range(0, len(data), 7):
                for frame in framer.feed(data[at : at + 7]):
                    examine(codec, frame)

    flags = [f"-max_total_time={seconds}", "-max_len=2048", f"-artifact_prefix={corpus.parent}/", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
