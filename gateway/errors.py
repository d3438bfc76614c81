"""The error taxonomy. Each class names the one place that handles it."""

from __future__ import annotations


class CarebellError(Exception):
    """Base of everything that carebell raises on purpose."""


class ConfigError(CarebellError):
    """Configuration, profile, rule or policy files are wrong. Handler: the command line prints it and exits with 78."""


class UsageError(CarebellError):
    """A command or a request asks for something that cannot be. Handler: the CLI (exit 2) or the API (4xx problem)."""


class NotFoundError(UsageError):
    """The named thing does not exist. Handler: the CLI (exit 1) or the API (404)."""


class ConflictError(UsageError):
    """The named thing is not in the state that the caller believed. Handler: the CLI (exit 1) or the API (409)."""


class FrameError(CarebellError):
    """A frame cannot be used. Handler: ingest journals the frame with this text as its fault."""


class FramingError(FrameError):
    """A byte stream does not contain frames, or one that is too long. Handler: the transport ends that connection."""


class ParseError(FrameError):
    """A frame is not what its codec says it is. The only exception that a codec raises."""


class ProfileError(FrameError):
    """A report does not fit its device's profile."""


class TransportError(CarebellError):
    """A listener, link or broker connection ended. Handler: the supervisor starts the transport again."""


class StorageError(CarebellError):
    """Nothing was made durable. Handler: the caller withholds the acknowledgement (Verdict.RETRY)."""


class StorageFullError(StorageError):
    """The disk is full; what is urgent may still fit into the reserve. Handler: ingest."""


class StorageBrokenError(StorageError):
    """The disk or the file failed; nothing on this handle can be trusted. Handler: main stops and exits with 75."""


class NewerSchemaError(ConfigError):
    """The journal was written by a newer carebell. Handler: main prints it and exits with 78; the file is untouched."""


class DeliveryError(CarebellError):
    """A dispatch did not reach its destination. Handler: the outbox."""


class DeliveryDeferredError(DeliveryError):
    """Try again, not before ``retry_after_s`` when the destination named a time. Handler: the outbox."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class DeliveryUnknownError(DeliveryError):
    """The request went out and no answer came; it may have had its effect. Handler: the outbox reconciles first."""


class DeliveryRefusedError(DeliveryError):
    """The destination will never take this dispatch. Handler: the outbox makes it a dead letter and raises a fault."""
