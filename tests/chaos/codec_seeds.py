"""What the fuzzer of a codec begins with: the codec's own vectors, those of profiles that use it, else a hand's few."""

from __future__ import annotations

import tomllib
from pathlib import Path

from protocols.codecs.gatt import packed
from tests.vectors import own

ROOT = Path(__file__).parents[2]
IMEI = b'"861234567890123"'
SENML = b'[{"bn":"urn:dev:mac:0024befffe804ff1/","bt":1795309320,"n":"temp","u":"Cel","v":36},{"n":"sos","vb":true}]'
SEEDS: dict[str, tuple[bytes, ...]] = {
    "native": ((ROOT / "tests/vectors/native.jsonl").read_bytes().splitlines()[0],),
    "senml": (SENML, bytes.fromhex("82a3216162636403001902581a22a2006130041b")),
    "lwm2m": (
        b'{"op":"notify","path":"/3347/0","format":11542,"was":{"/3347/0/5501":3}}\n' + bytes.fromhex("e1157c01"),
        b'{"op":"send","path":"/","format":110}\n[{"n":"/3347/0/5500","vb":true}]',
        b'{"op":"read","path":"/3/0","format":11543}\n{"bn":"/3/0/","e":[{"n":"9","v":50}]}',
    ),
    "onenet": (b'{"type":1,"dev_id":7,"imei":%b,"ds_id":"3347_0_5500","at":1795309320000,"value":true}' % IMEI,),
    "ctwing": (b'{"messageType":"dataReport","IMEI":%b,"timestamp":1795309320000,"payload":{"smoke_state":1}}' % IMEI,),
    "gatt": (packed(0x2A37, bytes.fromhex("1648000004")), packed(0x2A35, bytes.fromhex("0078005000600000"))),
    "bthome": (bytes(6) + bytes.fromhex("4002c40903bf13"), bytes(6) + bytes.fromhex("44000a3a01")),
}  # fmt: skip


def seeds(codec: str) -> list[bytes]:
    """At least one input."""
    found = [vector.payload for vector in own.vectors(codec)] + list(SEEDS.get(codec, ()))
    for path in sorted((ROOT / "device_profiles").glob("*/*.vectors.toml")):
        profile = tomllib.loads(path.with_name(path.name.replace(".vectors.toml", ".toml")).read_text(encoding="utf-8"))
        if profile.get("codec") != codec:
            continue
        for vector in tomllib.loads(path.read_text(encoding="utf-8")).get("vector", ()):
            text, written = vector.get("payload"), vector.get("payload_hex")
            if isinstance(written, str):
                found.append(bytes.fromhex(written))
            elif isinstance(text, str):
                found.append(text.encode())
    return found or [b"{}"]
