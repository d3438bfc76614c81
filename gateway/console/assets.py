"""What goes to a browser: static files read and compressed once, and pages compressed where the browser takes that."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

TYPES: Final = {
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
FOR_EVER: Final = "public, max-age=31536000, immutable"
WORTH_IT: Final = 1024  # bytes; less fits into the packet that goes anyway
PAGE_LEVEL: Final = 1  # of gzip; a page is compressed each time


class Assets:
    """The files of a folder under ``static``. A name that is not among them does not exist: no paths to trick.

    The URL of a file changes with its content, so that browsers keep it for ever.
    """

    def __init__(self, root: str, folder: str = "") -> None:
        self._root = root
        place = resources.files("gateway.console") / "static"
        files = [entry for entry in (place / folder if folder else place).iterdir() if entry.is_file()]
        self.files = {entry.name: entry.read_bytes() for entry in files}
        self._packed = {name: gzip.compress(content, 9, mtime=0) for name, content in self.files.items()}
        self._tags = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in self.files.items()}

    def url(self, name: str) -> str:
        return f"{self._root}/static/{name}?v={self._tags[name]}"

    def answer(self, request: Request) -> Response:
        """The file that the path names. Raises HTTPException."""
        name = request.path_params["name"]
        if name not in self.files:
            raise HTTPException(404, "there is no such file")
        kind = TYPES[name.rpartition(".")[2]]
        headers = {"cache-control": FOR_EVER}
        return either(request, self.files[name], self._packed[name], kind, headers=headers)


def html(request: Request, text: str, status: int = 200) -> Response:
    """A page. Call it in a thread: compressing a long one takes milliseconds."""
    content = text.encode()
    packed = pack(content) if len(content) > WORTH_IT and takes_gzip(request) else None
    return either(request, content, packed, "text/html; charset=utf-8", status=status)


def pack(content: bytes) -> bytes:
    return gzip.compress(content, PAGE_LEVEL, mtime=0)


def either(
    request: Request,
    content: bytes,
    packed: bytes | None,
    kind: str,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """The content as it is, or as gzip where there is that and the browser takes it."""
    told = {"vary": "accept-encoding", **(headers or {})}
    if packed is not None and takes_gzip(request):
        return Response(packed, status, {**told, "content-encoding": "gzip"}, kind)
    return Response(content, status, told, kind)


def takes_gzip(request: Request) -> bool:
    """Whether the request accepts gzip (RFC 9110, section 12.5.3); a quality of 0 refuses it."""
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() == "gzip":
            return quality.strip().removeprefix("q=").strip("0.") != "" if quality else True
    return False
