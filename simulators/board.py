"""What the audience of the demo sees: a line for each thing that happens, and on a terminal a table that stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Self

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.events import ALERT, ORDER

KIND_ZH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sos": "紧急呼叫",
        "fall": "跌倒",
        "smoke": "烟雾",
        "service_call": "服务呼叫",
        "geofence_exit": "走出围栏",
        "blood_pressure_high": "血压过高",
        "low_battery": "电量低",
        "no_activity": "无活动",
        "device_silent": "设备失联",
    }
)
ACTION_ZH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "raise": "报警 raised",
        "press": "再次触发 again",
        "clear": "解除 cleared",
        "severity_up": "升级 severity up",
        "accept": "受理 accepted by an operator",
        "progress": "处置中 in progress",
        "resolve": "办结 resolved",
        "reopen": "重开 reopened",
        "remind": "催办 reminder",
        "family_accept": "家属接手 taken by the family",
        "family_release": "家属放手 given back by the family",
    }
)
HANDLING_ZH: Final[Mapping[str, str]] = MappingProxyType(
    {"raised": "待受理", "accepted": "已受理", "in_progress": "处置中", "resolved": "已办结", "closed": "已关闭"}
)
STATUS_ZH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "accepted": "已接单",
        "dispatched": "已派人",
        "arrived": "已到场",
        "completed": "已完成",
        "followed_up": "已回访",
        "cancelled": "已取消",
    }
)
ROWS: Final = 16
STYLES: Final[Mapping[str, str]] = MappingProxyType({"P1": "bold red", "P2": "yellow", "P3": "cyan", "P4": "dim"})


class Row(Struct):
    """One alert as its newest event shows it."""

    since: str
    person: str
    alert: dict[str, Any]


class Board:
    """``line`` prints; ``take`` keeps the table and says what an event means. The story's clock is the caller's."""

    def __init__(self, names: Mapping[str, str], story_time: Callable[[], str], *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.rows: dict[str, Row] = {}
        self.status: Callable[[], str] = lambda: ""
        self._names = names
        self._story_time = story_time
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._table, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, who: str, text: str, style: str = "") -> None:
        """One line with the time of the story."""
        self.console.print(Text(f"{self._story_time()}  {who:12} {text}", style=style))

    def take(self, event: Mapping[str, Any]) -> None:
        """An event of the gateway; others than those of alerts and orders are nothing to see."""
        if event["type"] not in (ALERT, ORDER):
            return
        alert = dict(event["data"])
        person = self._names.get(alert.get("person_id") or "", alert.get("person_id") or "?")
        row = self.rows.setdefault(alert["id"], Row(self._story_time(), person, alert))
        row.alert = alert
        told = ACTION_ZH.get(alert["action"])
        if event["type"] == ALERT and told is not None:
            self.line("网关 gateway", f"{person} {_kind(alert)} {alert['severity']} {told}", STYLES[alert["severity"]])

    def _table(self) -> Table:
        table = Table(title=f"{self._story_time()}  {self.status()}", title_justify="left", box=box.SIMPLE_HEAD)
        for heading in (
            "时刻 since",
            "人员 person",
            "报警 alert",
            "级 sev",
            "情况 condition",
            "处置 handling",
            "工单 order",
        ):
            table.add_column(heading, no_wrap=True)
        for row in list(self.rows.values())[-ROWS:]:
            alert = row.alert
            style = STYLES[alert["severity"]] if alert["handling"] not in ("resolved", "closed") else "green"
            times = f" x{alert['occurrences']}" if alert["occurrences"] > 1 else ""
            table.add_row(
                row.since,
                row.person,
                f"{_kind(alert)}{times}",
                alert["severity"],
                alert["condition"],
                f"{HANDLING_ZH.get(alert['handling'], '')} {alert['handling']}",
                _order(alert),
                style=style,
            )
        return table


def _kind(alert: Mapping[str, Any]) -> str:
    kind = str(alert["kind"])
    return f"{KIND_ZH.get(kind, '')} {kind}".strip()


def _order(alert: Mapping[str, Any]) -> str:
    order = alert.get("order")
    if order is None:
        return ""
    status = order.get("status") or "requested"
    return f"{order.get('order_id') or ''} {STATUS_ZH.get(status, '')} {status}".strip()
