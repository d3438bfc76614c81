"""Robots' messages and signatures; the webhook guard; nothing here opens a socket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.channels import webhook_guard
from alerts.channels.robots import Robot, clipped, dingtalk_sign, feishu_sign, message
from alerts.notice import Notice
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError


def notice(text: str, subject: str = "") -> Notice:
    return Notice(
        attempt_id="a-1", alert_id="17-0", medium="chat", to="duty", language="zh", text=text, subject=subject
    )


def test_signatures_against_the_vendors_recipes() -> None:
    """Each vendor's recipe, written down anew from its page, with openssl's digests behind it."""
    string = b"1700000000000\nSECsecret"
    expected = base64.b64encode(hmac.digest(b"SECsecret", string, hashlib.sha256)).decode()
    assert dingtalk_sign("1700000000000", "SECsecret") == expected
    expected = base64.b64encode(hmac.digest(b"1700000000\nsecret", b"", hashlib.sha256)).decode()
    assert feishu_sign("1700000000", "secret") == expected


@given(st.text(max_size=3000), st.integers(10, 3000))
def test_clipping_keeps_whole_characters(text: str, limit: int) -> None:
    shown = clipped(text, limit)
    assert len(shown.encode()) <= limit
    whole = text.encode("utf-8", "replace").decode()
    assert shown == whole or whole.startswith(shown.removesuffix("…"))


@pytest.mark.parametrize("style", ["text", "markdown"])
@pytest.mark.parametrize(("kind", "limit"), [("wecom", 4_096), ("dingtalk", 20_000), ("feishu", 20_000)])
def test_messages_stay_within_bytes(kind: Any, style: Any, limit: int) -> None:
    body = message(Robot(kind=kind, key_file="", style=style), notice("紧急😀" * 5_000, "题" * 500))
    assert 1_000 < len(str(body).encode()) <= limit + 500


def test_message_shapes() -> None:
    assert message(Robot(kind="wecom", key_file=""), notice("文", "题")) == {
        "msgtype": "text",
        "text": {"content": "题\n文"},
    }
    assert message(Robot(kind="feishu", key_file=""), notice("文")) == {"msg_type": "text", "content": {"text": "文"}}
    assert message(Robot(kind="dingtalk", key_file="", style="markdown"), notice("文", "题")) == {
        "msgtype": "markdown",
        "markdown": {"title": "题", "text": "**题**\n\n文"},
    }


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1", "2002:0a00:0001::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not webhook_guard.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "114.114.114.114", "2400:3200::1", "64:ff9b::8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert webhook_guard.is_public(ipaddress.ip_address(address))


def resolve(url: str, *addresses: str, allowed: Sequence[str] = ()) -> webhook_guard.Target:
    asked = []

    async def resolver(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        if not addresses:
            raise OSError("no such name")
        return addresses

    target = asyncio.run(webhook_guard.resolve(url, [ipaddress.ip_network(net) for net in allowed], resolver))
    assert len(asked) <= 1  # an answer that changes cannot be asked for twice
    return target


def test_the_request_goes_to_the_address_that_was_judged() -> None:
    target = resolve("https://hooks.example.org:8443/x?y=1", "8.8.8.8", "8.8.4.4")
    assert target == webhook_guard.Target("https://8.8.8.8:8443/x?y=1", "hooks.example.org:8443", "hooks.example.org")
    assert httpx2.URL(resolve("https://hooks.example.org/", "2400:3200::1").url).host == "2400:3200::1"


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("https://hooks.example.org/", ["10.0.0.1"]),
        ("https://hooks.example.org/", ["8.8.8.8", "127.0.0.1"]),
        ("http://hooks.example.org/", ["8.8.8.8"]),
        ("https://127.0.0.1/", []),
        ("https://[::1]/", []),
        ("https://user:secret@hooks.example.org/", ["8.8.8.8"]),
        ("ftp://hooks.example.org/", ["8.8.8.8"]),
        ("https:///x", ["8.8.8.8"]),
        ("nonsense", ["8.8.8.8"]),
        ("https://2130706433/", ["127.0.0.1"]),
    ],
)
def test_where_a_webhook_may_not_go(url: str, addresses: list[str]) -> None:
    with pytest.raises(DeliveryRefusedError):
        resolve(url, *addresses)


def test_private_networks_only_when_listed() -> None:
    assert resolve("http://backend.lan/x", "10.1.2.3", allowed=["10.1.0.0/16"]).url == "http://10.1.2.3/x"
    with pytest.raises(DeliveryRefusedError):
        resolve("http://backend.lan/x", "10.2.2.3", allowed=["10.1.0.0/16"])
    with pytest.raises(DeliveryRefusedError):
        resolve("http://backend.lan/x", "10.1.2.3", "127.0.0.1", allowed=["10.1.0.0/16"])


def test_a_name_that_cannot_be_looked_up_waits() -> None:
    with pytest.raises(DeliveryDeferredError):
        resolve("https://hooks.example.org/")
