"""What operators' platforms push of NB-IoT terminals: one message of OneNET or of CTWing (AEP), decrypted, as JSON.

OneNET names LwM2M resources ``3347_0_5500``: these are read as LwM2M. Everything else becomes fields for the profile.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.lwm2m import explain_items
from protocols.codecs.lwm2m_values import Item, read_path, typed
from protocols.codecs.terminal import Draft, clean_text
from protocols.codecs.tolerant_json import UNUSED, Faults, as_integer, check_size, clean, is_text, kind, load

_RESOURCE: Final = re.compile(r"/?(\d{1,5})[_/](\d{1,5})[_/](\d{1,5})")
_LAST_MS: Final = 253_402_300_799_000
ONLINE_WORDS: Final = {"1": True, "0": False, "online": True, "offline": False}


def load_message(payload: bytes) -> tuple[dict[str, Any], list[str]]:
    """Raises ParseError."""
    check_size(payload)
    value, faults = load(payload)
    if not isinstance(value, dict):
        raise ParseError(f"{kind(value)}, not an object")
    return value, faults


def text_of(value: Any) -> str:
    """A member that names something: a text, or a number as one; "" for what no store can keep."""
    if isinstance(value, str) and is_text(value):
        return value.strip()[:128] if value.strip().lower() not in ("undefined", "null") else ""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def time_us(value: Any) -> int:
    """Milliseconds since 1970 as microseconds; 0 for anything else."""
    number = as_integer(value)
    return number * 1000 if number is not None and 0 < number <= _LAST_MS else 0


def _digest(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _presence(draft: Draft, online: bool | None) -> None:
    if online is None:
        draft.fault("status", "neither online nor offline")
    else:
        draft.signal("connection_lost", active=not online)


class OneNetCodec:
    """``ports.Codec``. Types: 1 a data point, 2 online and offline, 7 the result of a command that was waiting."""

    name = "onenet"

    def parse(self, frame: Frame) -> Sequence[Report]:
        message, faults = load_message(frame.payload)
        draft = Draft(frame, text_of(message.get("imei")) or text_of(message.get("dev_name")))
        draft.device_key = draft.device_key or text_of(message.get("dev_id"))
        draft.at_us = time_us(message.get("at"))
        draft.faults = faults
        sort = as_integer(message.get("type"))
        stream = text_of(message.get("ds_id"))
        draft.dedup_key = (
            f"onenet:{text_of(message.get('dev_id'))}:{stream}:{sort}:{clean_text(str(message.get('at')))}"[:160]
        )
        draft.dedup_key += f":{_digest(message.get('value'))}"
        if sort == 2:
            _presence(draft, ONLINE_WORDS.get(text_of(message.get("status"))))
            return [draft.report()]
        if sort is None:
            draft.fault("type", "missing, or no number")
            return [draft.report()]
        if sort != 1:
            draft.keep("onenet", sort)
            return [draft.report()]
        return [_data_point(draft, stream, message.get("value"))]


def _data_point(draft: Draft, stream: str, value: Any) -> Report:
    if not stream:
        raise ParseError("a data point without ds_id")
    found = _RESOURCE.fullmatch(stream)
    if found is not None and isinstance(value, bool | int | float | str):
        path = read_path("/".join(found.groups()))
        return explain_items(draft, [Item(path, typed(path, value))], {})
    report = draft.report()
    notes = Faults("", draft.faults)
    kept = clean(value, 1, stream, notes)
    report.faults = notes.texts()
    report.fields = {} if kept is UNUSED else {stream: kept}
    return report


class CtwingCodec:
    """``ports.Codec``. Data and events; of transparent products the base64 of ``APPdata``."""

    name = "ctwing"

    def parse(self, frame: Frame) -> Sequence[Report]:
        message, faults = load_message(frame.payload)
        draft = Draft(frame, text_of(message.get("IMEI")) or text_of(message.get("deviceSn")))
        device_id = text_of(message.get("deviceId"))
        draft.device_key = draft.device_key or device_id
        draft.at_us = time_us(message.get("timestamp"))
        draft.faults = faults
        sort = text_of(message.get("messageType"))
        draft.dedup_key = (
            f"ctwing:{device_id}:{sort}:{clean_text(str(message.get('timestamp')))}:{_digest(message.get('payload'))}"[
                :200
            ]
        )
        if sort == "deviceOnlineOfflineReport":
            _presence(draft, ONLINE_WORDS.get(text_of(message.get("eventType"))))
            return [draft.report()]
        if sort in ("dataReport", "dataReportTupn", "eventReport"):
            notes = Faults("", draft.faults)
            fields = _fields(message, notes)
            report = draft.report()
            report.faults = notes.texts()
            report.fields = fields
            return [report]
        draft.keep("ctwing", sort or "without messageType")
        return [draft.report()]


def _fields(message: Mapping[str, Any], notes: Faults) -> dict[str, Any]:
    """The members that a terminal sent: of the payload, of its service data, of an event's content."""
    data = message.get("payload")
    if not isinstance(data, dict):
        data = message.get("eventContent")
    if not isinstance(data, dict):
        notes.add("payload", f"{kind(data)}, not an object")
        return {}
    inner = data.get("serviceData", data.get("params"))
    if isinstance(inner, dict):
        data = inner
    elif isinstance(data.get("APPdata"), str):
        data = _transparent(data["APPdata"], notes)
    kept = clean(data, 1, "", notes)
    return kept if isinstance(kept, dict) else {}


def _transparent(stated: str, notes: Faults) -> dict[str, Any]:
    """What a transparent product sent: JSON of its own, else its bytes in hexadecimal."""
    try:
        data = base64.b64decode(stated, validate=True)
    except (binascii.Error, ValueError):
        notes.add("APPdata", "not base64")
        return {}
    if data[:1] == b"{":
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
    return {"APPdata": data[:2048].hex()}
