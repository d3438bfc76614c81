"""Codes on labels: what is printed, what a camera or a person gives back, and the label itself."""

from __future__ import annotations

import io
import re
import secrets
from typing import Final
from xml.sax.saxutils import escape

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""32 characters without 0, 1, I and O, which are read one for another."""
LENGTH: Final = 12
GROUP: Final = 4
LONGEST_SCAN: Final = 500

_SPACING: Final = re.compile(r"[\s·._–—-]+")
_CODE: Final = re.compile(rf"[{ALPHABET}]{{{LENGTH}}}")
_SCHEME: Final = "carebell:claim:"


def new_code() -> str:
    """A fresh claim code: 60 random bits, twelve characters."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def grouped(code: str) -> str:
    """As it is printed: ``ABCD-EFGH-JKLM``."""
    return "-".join(code[start : start + GROUP] for start in range(0, LENGTH, GROUP))


def content_of(code: str, public_url: str) -> str:
    """What the QR code says: the installer's page with the code behind ``#``, where no server's log sees it.

    Without a ``public_url`` a text that only the page's own scanner knows.
    """
    return f"{public_url}/installer#{grouped(code)}" if public_url else _SCHEME + grouped(code)


def read_code(scanned: str) -> str | None:
    """The claim code in what was scanned or typed, None for anything else. Lower case and other spacing will do."""
    if len(scanned) > LONGEST_SCAN:
        return None
    text = scanned.strip()
    _, hash_mark, fragment = text.partition("/installer#")
    if hash_mark:
        text = fragment
    elif text.lower().startswith(_SCHEME):
        text = text[len(_SCHEME) :]
    text = _SPACING.sub("", text).upper()
    return text if _CODE.fullmatch(text) else None


def qr_svg(content: str) -> str:
    """A QR code as an ``<svg>`` element without styles or scripts, 15 % of which may be covered (level M)."""
    import segno  # noqa: PLC0415 - only who prints needs it

    out = io.BytesIO()
    segno.make(content, error="m", micro=False).save(
        out, kind="svg", xmldecl=False, svgns=True, omitsize=True, border=4, dark="#000", light="#fff"
    )
    return out.getvalue().decode()


def label_svg(device_id: str, model: str, content: str, code: str) -> str:
    """A label of 60 by 30 mm: the QR code, the device's id, its model and the code in letters ("" for none)."""
    code_line = f'<text x="29" y="24" font-size="3.1" font-family="monospace">{escape(grouped(code))}</text>'
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="60mm" height="30mm" viewBox="0 0 60 30">',
        '<rect width="60" height="30" fill="#fff"/>',
        qr_svg(content).replace("<svg ", '<svg x="1" y="1" width="28" height="28" ', 1).strip(),
        '<g fill="#000" font-family="sans-serif">',
        '<text x="29" y="7" font-size="4">安心铃 carebell</text>',
        f'<text x="29" y="13" font-size="4" font-weight="bold">{escape(device_id[:22])}</text>',
        f'<text x="29" y="18" font-size="2.8">{escape(model[:32])}</text>',
        code_line if code else "",
        "</g>",
        "</svg>",
    ]
    return "\n".join(line for line in lines if line) + "\n"
