"""The simulated platform's page: its orders, newest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

_STATUS: Final = {
    "accepted": "已受理 accepted",
    "dispatched": "已派单 dispatched",
    "arrived": "已到达 arrived",
    "completed": "已完成 completed",
    "cancelled": "已取消 cancelled",
    "complained": "投诉 complained",
    "followed_up": "已回访 followed up",
}

_HEAD: Final = """<!doctype html>
<html lang="zh"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="2"><title>模拟平台工单 · Simulated platform</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
th{background:#f3f5f7}
.p1{border-left:6px solid #b3261e}.p2{border-left:6px solid #a15c00}
small{color:#57606a}
</style></head><body>
"""

_TABLE: Final = (
    "<table><thead><tr><th>工单<br><small>Order</small></th><th>事由<br><small>What</small></th>"
    "<th>人员<br><small>Person</small></th><th>服务码<br><small>Code</small></th>"
    "<th>状态<br><small>Status</small></th><th>经过<br><small>History</small></th></tr></thead><tbody>"
)

Row = tuple[str, str, Mapping[str, Any], Iterable[tuple[str, str]]]


def orders_page(rows: Iterable[Row], total: int) -> str:
    """HTML of orders: id, status, body and history of each. Everything from outside is escaped."""
    lines = [
        _HEAD,
        f"<h1>模拟平台 <small>Simulated platform</small></h1><p>工单 orders: {total}</p>",
        _TABLE,
    ]
    lines += [_row(*row) for row in rows]
    lines.append("</tbody></table></body></html>")
    return "\n".join(lines)


def _row(order_id: str, status: str, body: Mapping[str, Any], history: Iterable[tuple[str, str]]) -> str:
    person = body.get("person") or {}
    who = " ".join(escape(str(person.get(name) or "")) for name in ("name", "phone", "address")) or "未知 unknown"
    told = "<br>".join(f"<small>{escape(at)}</small> {escape(_STATUS.get(each, each))}" for each, at in history)
    priority = escape(str(body["priority"]))
    return (
        f'<tr class="p{priority}"><td>{escape(order_id)}</td>'
        f"<td>{escape(body['title'])}<br><small>{escape(body['category'])} P{priority}</small></td>"
        f"<td>{who}</td><td>{escape(body['service_code'])}</td>"
        f"<td>{escape(_STATUS.get(status, status))}</td><td>{told}</td></tr>"
    )
