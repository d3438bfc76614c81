"""The platform's order API (contracts, section 5; docs/order-api.openapi.yaml): one order per request, always."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import apsw
import msgspec
from msgspec import Struct

from alerts import completeness, order_requests, rows
from alerts.channel import Dispatch, InFlightError, Receipt, ServerFailedError
from alerts.channels.prompt_http import Answer, BrokenError, Exchange, PromptClient, UnreachableError
from alerts.rows import Alert
from gateway.clock import iso
from gateway.errors import DeliveryDeferredError, DeliveryError, DeliveryRefusedError, DeliveryUnknownError
from gateway.ports import Store

_WAITS: Final = frozenset({401, 403, 407, 408, 425, 429, 503})
"""Not now: overload, or credentials that an administrator has to put right. No order is given up for those."""
_HALF_DONE: Final = frozenset({500, 502, 504})

TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "sos": ("紧急呼叫", "emergency call"),
    "fall": ("跌倒报警", "fall detected"),
    "smoke": ("烟雾报警", "smoke alarm"),
    "gas": ("燃气报警", "gas alarm"),
    "carbon_monoxide": ("一氧化碳报警", "carbon monoxide alarm"),
    "heat": ("高温火警", "heat alarm"),
    "no_answer": ("无应答", "no answer"),
    "service_call": ("服务呼叫", "service call"),
    "water_leak": ("漏水报警", "water leak"),
    "geofence_exit": ("离开安全区域", "left the safe area"),
    "bed_exit": ("离床报警", "left the bed"),
    "device_fault": ("设备故障", "device fault"),
    "tamper": ("设备被拆动", "device tampered with"),
    "low_battery": ("设备电量低", "low battery"),
    "power_lost": ("设备断电", "device without power"),
    "device_silent": ("设备失联", "device is silent"),
    "connection_lost": ("设备断线", "device lost its connection"),
    "consultation": ("咨询", "consultation"),
    "geofence_forbidden": ("进入禁区", "entered a forbidden area"),
    "bed_not_returned": ("离床未归", "not back in bed"),
    "no_activity": ("无活动", "no activity"),
    "check_in_missed": ("未报平安", "check-in missed"),
    "overspeed": ("超速", "overspeed"),
    "device_removed": ("设备取下", "device taken off"),
    "heart_rate_high": ("心率过高", "heart rate high"),
    "heart_rate_low": ("心率过低", "heart rate low"),
    "heart_rate_unusual": ("心率异常", "heart rate unusual"),
    "spo2_low": ("血氧过低", "oxygen saturation low"),
    "blood_pressure_high": ("血压过高", "blood pressure high"),
    "blood_pressure_low": ("血压过低", "blood pressure low"),
    "body_temperature_high": ("体温过高", "temperature high"),
    "body_temperature_low": ("体温过低", "temperature low"),
    "blood_glucose_high": ("血糖过高", "blood glucose high"),
    "blood_glucose_low": ("血糖过低", "blood glucose low"),
    "respiratory_rate_high": ("呼吸过快", "breathes fast"),
    "respiratory_rate_low": ("呼吸过慢", "breathes slowly"),
    "weight_change": ("体重变化", "weight change"),
    "news2_high": ("早期预警评分高", "NEWS2 high"),
    "measurement_missed": ("未测量", "measurement missed"),
    "measurement_implausible": ("测量值可疑", "measurement implausible"),
    "medication_missed": ("未服药", "medication missed"),
}


class OrderDetails(Protocol):
    """Who and what an order is about, looked up when it is sent, on a read-only connection in another thread."""

    def person(self, connection: apsw.Connection, person_id: str) -> Mapping[str, Any] | None:
        """``id``, ``name``, ``phone``, ``address`` and, where one is named, ``preferred_organization``."""
        ...

    def device(self, connection: apsw.Connection, device_id: str) -> Mapping[str, Any] | None:
        """``id`` and ``model``."""
        ...


class OrderApi:
    """A Channel. Without a base URL its orders wait. Connects directly, follows no redirect, reads bounded answers."""

    def __init__(
        self, base_url: str, token_file: str, timeout_s: float, *, store: Store, details: OrderDetails
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._token_file = token_file
        self._store = store
        self._details = details
        self._client = PromptClient(self._base_url, timeout_s)
        self._started: dict[int, Exchange] = {}

    def ready(self) -> bool:
        return bool(self._base_url)

    async def close(self) -> None:
        await self._client.close()

    def prepare(self, connection: apsw.Connection, dispatch: Dispatch) -> Any:
        """The body of a first attempt, which is sent at once; a later one asks before it sends."""
        if dispatch.uncertain:
            return None
        return order_body(connection, dispatch.alert_id, int(dispatch.payload["number"]), self._details)

    def start(self, dispatch: Dispatch) -> None:
        """Write the request on an idle connection, for ``send`` to wait for its answer."""
        if dispatch.prepared is None:
            return
        try:
            headers, content = self._request(dispatch, dispatch.prepared)
            exchange = self._client.start("POST", "/orders", headers, content)
        except (DeliveryError, UnreachableError):
            return  # which ``send`` says
        if exchange is not None:
            self._started[dispatch.id] = exchange

    def _request(self, dispatch: Dispatch, body: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
        """Headers and content. Raises DeliveryRefusedError for what is too incomplete to be sent."""
        held = completeness.check(body["category"], body).held
        if held:
            raise DeliveryRefusedError(f"{completeness.INCOMPLETE}{', '.join(held)}")
        headers = self._headers()
        headers["Idempotency-Key"] = f'"{dispatch.idempotency_key}"'  # a structured-field string, with its quotes
        headers["Content-Type"] = "application/json"
        return headers, msgspec.json.encode(body)

    async def send(self, dispatch: Dispatch) -> Receipt:
        number = int(dispatch.payload["number"])
        started = self._started.pop(dispatch.id, None)
        if started is not None:
            status, answer, retry_after_s = await self._answer(self._client.finish(started))
        else:
            if dispatch.uncertain:
                found = await self._find(dispatch, number)
                if found is not None:
                    return found
            body = dispatch.prepared
            if body is None:
                body = await self._store.read(lambda c: order_body(c, dispatch.alert_id, number, self._details))
            headers, content = self._request(dispatch, body)
            status, answer, retry_after_s = await self._answer(self._client.ask("POST", "/orders", headers, content))
        if status in (200, 201):
            receipt = _receipt(_json(answer))
            if receipt is None:
                raise DeliveryUnknownError("the platform took the order but its answer names none")
            return receipt
        if status == 409:
            raise InFlightError("the platform still works on an earlier attempt", retry_after_s)
        if status == 422 and dispatch.attempt > 1 and not dispatch.uncertain:
            # the key is known with another body: person or address were corrected between two attempts
            found = await self._find(dispatch, number)
            if found is not None:
                return found
        raise _failure(status, retry_after_s)

    async def _find(self, dispatch: Dispatch, number: int) -> Receipt | None:
        """The order that an earlier attempt made, if it did; None too when the platform cannot be asked for it."""
        known = await self._store.read(lambda c: order_requests.known_order_ids(c, dispatch.alert_id, number))
        status, answer, retry_after_s = await self._answer(
            self._client.ask("GET", "/orders", self._headers(), params={"external_ref": dispatch.alert_id})
        )
        if status in (404, 405, 501):
            return None
        if status != 200:
            raise ServerFailedError(f"the platform answered {status} to a question for an order", retry_after_s)
        orders = _json(answer)
        if not isinstance(orders, list):
            raise ServerFailedError("the platform's answer to a question for an order is no array")
        receipts = [receipt for order in orders if (receipt := _receipt(order)) is not None]
        return next((receipt for receipt in receipts if receipt.reference not in known), None)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "carebell"}
        if self._token_file:
            try:  # read each time, so that a new token counts at once
                token = Path(self._token_file).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise DeliveryDeferredError(f"the order API's token file cannot be read: {error}") from error
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def _answer(self, asking: Awaitable[Answer]) -> tuple[int, bytes, float | None]:
        """Status, body and Retry-After (seconds). Says of each failure whether the request can have had its effect."""
        try:
            answer = await asking
        except UnreachableError as error:
            raise DeliveryDeferredError(f"the platform cannot be reached: {error}") from error
        except TimeoutError as error:
            raise ServerFailedError("the platform did not answer in time") from error
        except BrokenError as error:
            raise DeliveryUnknownError(f"the connection to the platform broke: {error}") from error
        return answer.status, answer.body, _retry_after(answer.headers.get("retry-after"))


class Requested(Struct, frozen=True):
    """What an order's request says of it."""

    number: int
    category: str
    priority: int
    service_code: str
    readings: str


_REQUESTED: Final = ("r.category", "r.priority", "r.service_code", "r.readings", "p.due_at_us")
_ORDER: Final = (
    f"SELECT {rows.COLUMNS}, {', '.join(_REQUESTED)} FROM order_request r JOIN alert ON alert.id = r.alert_id"  # noqa: S608 - columns of ours
    " LEFT JOIN order_promise p ON p.alert_id = r.alert_id WHERE r.alert_id = ? AND r.number = ?"
)


def order_body(connection: apsw.Connection, alert_id: str, number: int, details: OrderDetails) -> dict[str, Any]:
    """The order of a request, as the contract writes it. The same for every attempt unless the registry changed.

    Raises DeliveryRefusedError when the request is gone.
    """
    row: Any = connection.execute(_ORDER, (alert_id, number)).fetchone()
    if row is None:
        raise DeliveryRefusedError(f"order request {number} of alert {alert_id} is not there any more")
    alert, due_at_us = rows.alert_of(row[: -len(_REQUESTED)]), row[-1]
    order = Requested(number, *row[-len(_REQUESTED) : -1])
    person = details.person(connection, alert.person_id) if alert.person_id else None
    device = details.device(connection, alert.device_id) if alert.device_id else None
    title, description = _words(alert, order, person_known=person is not None)
    body: dict[str, Any] = {
        "external_ref": alert.id,
        "service_code": order.service_code,
        "category": order.category,
        "intent": completeness.intent_of(alert.kind, order.category),
        "priority": order.priority,
        "kind": alert.kind,
        "title": title,
        "description": description,
        "verified": alert.verified,
        "person": None
        if person is None
        else {name: str(person.get(name) or "") for name in ("id", "name", "phone", "address")},
        "device": None
        if not alert.device_id
        else {"id": alert.device_id, "model": str((device or {}).get("model") or "")},
        "position": None if alert.position is None else _position(alert.position),
        "preferred_organization": (person or {}).get("preferred_organization"),
        "occurred_at": iso(alert.occurred_at_us),
        "raised_at": iso(alert.raised_at_us),
        "due_at": None if due_at_us is None else iso(due_at_us),
        "readings": msgspec.json.decode(order.readings),
    }
    body["completeness"] = completeness.check(order.category, body).view()
    return body


def _words(alert: Alert, order: Requested, *, person_known: bool) -> tuple[str, str]:
    chinese, english = TITLES.get(alert.kind, (alert.kind, alert.kind.replace("_", " ")))
    chinese_notes, english_notes = [], []
    for applies, in_chinese, in_english in (
        (not alert.verified, "未验证来源", "unverified sender"),
        (not person_known, "人员未知", "person unknown"),
        (alert.late, "补传数据", "data sent late"),
        (order.number > 1, f"第{order.number}次派单", f"dispatch {order.number}"),
    ):
        if applies:
            chinese_notes.append(in_chinese)
            english_notes.append(in_english)
    text = alert.evidence.get("text") or alert.evidence.get("note")
    if isinstance(text, str) and text:
        chinese_notes.append(text[:1000])
    level = f"P{order.priority}"
    return (
        f"{chinese} {english}",
        f"{'，'.join([f'{level} {chinese}', *chinese_notes])}。 {', '.join([f'{level} {english}', *english_notes])}.",
    )


def _position(position: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "latitude": position["latitude"],
        "longitude": position["longitude"],
        "accuracy_m": position["accuracy_m"],
        "datum": "wgs84",
        "at": iso(position["observed_at_us"]),
        "source": position["source"],
        "valid": position["valid"],
    }


def _json(answer: bytes) -> Any:
    try:
        return msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _receipt(order: Any) -> Receipt | None:
    if not isinstance(order, dict):
        return None
    order_id, status = order.get("order_id"), order.get("status")
    if not isinstance(order_id, str | int) or isinstance(order_id, bool) or not 0 < len(str(order_id)) <= 200:
        return None
    return Receipt(str(order_id), {"status": status if isinstance(status, str) else ""})


def _retry_after(value: str | None) -> float | None:
    """Delay in seconds (RFC 9110, 10.2.3). A date is not used: it would need both clocks to be right."""
    return float(value) if value is not None and value.isdecimal() and len(value) < 10 else None


def _failure(status: int, retry_after_s: float | None) -> Exception:
    text = f"the platform answered {status}"
    if status in _HALF_DONE:
        return ServerFailedError(text, retry_after_s)
    if status in _WAITS or status > 500:
        return DeliveryDeferredError(text, retry_after_s)
    return DeliveryRefusedError(text)
