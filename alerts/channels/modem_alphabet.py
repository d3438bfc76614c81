"""The GSM 7-bit default alphabet and its extension (3GPP TS 23.038, 6.2.1), and packing septets into octets."""

from __future__ import annotations

from typing import Final

_BASIC: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ESCAPE: Final = 0x1B
_EXTENSION: Final = {
    0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\",
    0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|", 0x65: "€",
}  # fmt: skip
_SEPTETS: Final = {character: (code,) for code, character in enumerate(_BASIC) if code != _ESCAPE} | {
    character: (_ESCAPE, code) for code, character in _EXTENSION.items()
}


def septets(text: str) -> list[int] | None:
    """The text in septets; None when a character is not in the alphabet."""
    found: list[int] = []
    for character in text:
        codes = _SEPTETS.get(character)
        if codes is None:
            return None
        found.extend(codes)
    return found


def width(character: str) -> int:
    """Septets that one character of the alphabet takes: 1, or 2 for those of the extension."""
    return len(_SEPTETS[character])


def text_of(codes: list[int]) -> str:
    """Septets as text. An unknown escape shows the character of the basic table, as the standard asks."""
    shown: list[str] = []
    escaped = False
    for code in codes:
        if code == _ESCAPE and not escaped:
            escaped = True
            continue
        shown.append(_EXTENSION.get(code, _BASIC[code]) if escaped else _BASIC[code])
        escaped = False
    return "".join(shown).replace("\x1b", " ")


def pack(codes: list[int], fill_bits: int = 0) -> bytes:
    """Septets as octets, lowest bits first, behind ``fill_bits`` zero bits."""
    value = 0
    for position, code in enumerate(codes):
        value |= code << (7 * position + fill_bits)
    return value.to_bytes((7 * len(codes) + fill_bits + 7) // 8, "little")


def unpack(data: bytes, count: int, fill_bits: int = 0) -> list[int]:
    """At most ``count`` septets of the octets, behind ``fill_bits`` bits."""
    value = int.from_bytes(data, "little") >> fill_bits
    available = max(len(data) * 8 - fill_bits, 0) // 7
    return [(value >> (7 * position)) & 0x7F for position in range(min(count, available))]
