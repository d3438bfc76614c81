"""A coverage-guided fuzz target: ``python -m tests.chaos.fuzz_codec CODEC CORPUS SECONDS`` (needs atheris).

The input is fed to the codec as a frame and, where it has a framer, as a stream. Ends with a crash file when a
codec raises anything but ParseError, says what no journal can keep, or a framer forgets its bound.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # has no types, and is optional

with atheris.instrument_imports(include=["protocols"]):
    from gateway.errors import FramingError
    from protocols.registry import CODECS, RECEIVERS, TERMINALS
    from tests.chaos.codec_seeds import seeds
    from tests.properties.test_mobile_codecs import examine as examine_any
    from tests.properties.test_terminal_codecs import examine as examine_talker

TALKERS = {**TERMINALS, **RECEIVERS}


def main() -> None:
    codec, corpus, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(codec)):
        (corpus / f"own-{number}").write_bytes(seed)
    assert codec in CODECS

    def one(data: bytes) -> None:
        if codec not in TALKERS:
            examine_any(codec, data)
            return
        examine_talker(codec, data)
        framer = TALKERS[codec].framer()
        with contextlib.suppress(FramingError):
            for at in range(0, len(data), 7):
                for frame in framer.feed(data[at : at + 7]):
                    examine_talker(codec, frame)

    flags = [f"-max_total_time={seconds}", "-max_len=2048", f"-artifact_prefix={corpus.parent}/", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
