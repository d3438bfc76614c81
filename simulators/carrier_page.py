"""The simulated carrier's page: its newest messages and calls, and what the people heard and did."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from simulators.carrier_state import Call, Conference, Message

PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

_HEAD: Final = """<!doctype html>
<html lang="zh"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="2"><title>模拟运营商 · Simulated carrier</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%;margin-bottom:2rem}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
th{background:#f3f5f7} small{color:#57606a}
</style></head><body><h1>模拟运营商 <small>Simulated carrier</small></h1>
"""


def carrier_page(messages: Iterable[Message], calls: Iterable[Call], conferences: Iterable[Conference]) -> str:
    """HTML, newest first as given. Everything from outside is escaped."""
    parts = [_HEAD]
    parts.append(_table("电话 Calls", ("号码 number", "状态 status", "经过 what happened")))
    parts += [_row(c.created.strftime("%H:%M:%S"), c.to, c.status, c.told) for c in calls]
    parts.append(_END + _table("短信 Messages", ("号码 number", "状态 status", "内容 text")))
    parts += [_row(m.created.strftime("%H:%M:%S"), m.to, m.status, [m.body]) for m in messages]
    parts.append(_END + _table("会议 Conferences", ("名称 name", "状态 status", "经过 what happened")))
    parts += [_row(c.created.strftime("%H:%M:%S"), c.name, c.status, c.told) for c in conferences]
    parts.append(_END + "</body></html>")
    return "\n".join(parts)


_END: Final = "</tbody></table>"


def _table(title: str, columns: Iterable[str]) -> str:
    heads = "".join(f"<th>{escape(each)}</th>" for each in ("时间 time", *columns))
    return f"<h2>{escape(title)}</h2><table><thead><tr>{heads}</tr></thead><tbody>"


def _row(at: str, who: str, status: str, told: Iterable[str]) -> str:
    happened = "<br>".join(escape(each) for each in told)
    return f"<tr><td>{escape(at)}</td><td>{escape(who)}</td><td>{escape(status)}</td><td>{happened}</td></tr>"
