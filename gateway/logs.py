"""Logs: one line per event, JSON for machines or readable for people, and no personal data.

ERROR means that something may be lost or somebody may not be told. Fields are ids, counts, states and times. What is
not on the list of such fields is left out and named in ``left_out``; long digit sequences in free text are masked.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import structlog

ALLOWED: Final = frozenset({
    "event", "level", "timestamp", "logger", "exception", "error", "reason", "text", "left_out",
    # who and what, by id
    "id", "alert_id", "client_id", "contact_id", "device", "device_id", "dispatch", "dispatch_id", "down_id",
    "effect_id", "identity",
    "key_id", "order_id", "person", "person_id", "place_id", "rule", "rule_id", "site", "subject",
    # numbers of the journal, versions, and where it stands
    "first_seq", "last_seq", "seq", "part", "schema", "version", "bookmark", "behind",
    # what kind
    "action", "by", "channel", "codec", "destination", "fault", "faults", "folder", "handling", "kind", "method",
    "name", "numbers", "operation", "phase", "profile", "reader", "role", "route", "section", "severity", "signal",
    "source", "state", "status", "step", "table", "task", "transport",
    # how many, how much, how long
    "attempt", "attempts", "batches", "by_s", "bytes", "count", "dispatches", "dropped", "effects", "events",
    "exit_code", "files", "free_bytes", "limit", "lost", "ms", "next_s", "pause_s", "pid", "publishes", "records",
    "reserve_held", "retry_after_s", "retry_s", "rows", "saved", "seconds", "size", "total", "waited_s", "waiting",
    # the machine
    "address", "file", "host", "listen", "ok", "path", "port", "server_version", "url",
})  # fmt: skip
"""Names of fields that are logged as they are."""

MAX_TRACE_LINES: Final = 60
_CHATTY: Final = ("httpx2", "httpcore2", "hpack", "asyncio")
"""Loggers that tell of every request, with its URL."""

_DIGITS: Final = re.compile(r"\d{11,}")
_SECRET: Final = re.compile(r"carebell_[a-z0-9]{10}_[A-Za-z0-9_-]{43}")
_POINT: Final = re.compile(r"-?\d{1,3}\.\d{4,}")
_FREE_TEXT: Final = ("event", "error", "reason", "text", "exception", "fault")


def configure_logs(style: str = "auto", level: int = logging.INFO) -> None:
    """Send everything, the standard library's loggers too, to standard error.

    ``style`` is ``json``, ``console``, or ``auto``: console on a terminal, else JSON.
    """
    if style == "auto":
        style = "console" if sys.stderr.isatty() else "json"
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if style == "console"
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                tell_exception,
                quiet,
                keep_allowed,
                mask_free_text,
                render,
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def tell_exception(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The types of an exception and its causes, and where it was raised. Its message may hold anything: left out."""
    found = event.pop("exc_info", None)
    error = found[1] if isinstance(found, tuple) else sys.exc_info()[1] if found is True else found
    lines: list[str] = []
    while isinstance(error, BaseException) and len(lines) < MAX_TRACE_LINES:
        frames = traceback.extract_tb(error.__traceback__)[-12:]
        lines.append(type(error).__qualname__)
        lines += [f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
    if lines:
        event["exception"] = "\n".join(lines)
    return event


def quiet(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """An error of the HTTP server is one request's: nothing is lost by it, so it is a warning here."""
    if event.get("logger") == "uvicorn.error" and event.get("level") == "error":
        event["level"] = "warning"
    return event


def keep_allowed(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Leave out every field that is not on the list, and say which."""
    left_out = [name for name in event if name not in ALLOWED]
    for name in left_out:
        del event[name]
    if left_out:
        event["left_out"] = sorted(left_out)
    return event


def mask_free_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Mask what looks like a phone number (``138****0138``), an API key or a coordinate in texts."""
    for name in _FREE_TEXT:
        value = event.get(name)
        if isinstance(value, str):
            event[name] = mask(value)
    return event


def mask(text: str) -> str:
    text = _SECRET.sub("carebell_***", text)
    text = _DIGITS.sub(lambda match: f"{match[0][:3]}****{match[0][-4:]}", text)
    return _POINT.sub("*", text)
