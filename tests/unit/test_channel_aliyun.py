"""Aliyun's signature against published vectors; numbers, answers and receipts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.channel import ServerFailedError
from alerts.channels.aliyun import callee
from alerts.channels.aliyun_reports import failure, parse_reports
from alerts.channels.aliyun_signature import signed_headers
from alerts.channels.quota import LimitReachedError, Quota, Window
from alerts.notice import IncomingMessage, Told
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, UsageError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aliyun_signatures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: str(vector["action"]))
def test_signature(vector: dict[str, Any]) -> None:
    headers = signed_headers(
        key_id=vector["key_id"],
        key_secret=vector["key_secret"],
        host=vector["host"],
        action=vector["action"],
        version=vector["version"],
        parameters=vector["query"],
        date=vector["date"],
        nonce=vector["nonce"],
    )
    assert headers["Authorization"].endswith(f"Signature={vector['signature']}")
    assert f"Credential={vector['key_id']}," in headers["Authorization"]


@pytest.mark.parametrize(
    ("number", "medium", "written"),
    [
        ("+8613800138000", "sms", "13800138000"),
        ("+8613800138000", "voice", "13800138000"),
        ("+862287654321", "voice", "02287654321"),
        ("+85251234567", "sms", "85251234567"),
    ],
)
def test_numbers(number: str, medium: Any, written: str) -> None:
    assert callee(number, medium) == written


@pytest.mark.parametrize(
    ("number", "medium"),
    [("+862287654321", "sms"), ("+85251234567", "voice"), ("13800138000", "sms"), ("+86", "sms"), ("a@b", "sms")],
)
def test_numbers_refused(number: str, medium: Any) -> None:
    with pytest.raises(DeliveryRefusedError) as caught:
        callee(number, medium)
    assert number not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message", "status", "error", "retry_after_s"),
    [
        ("isv.BUSINESS_LIMIT_CONTROL", "触发分钟级流控Permits:1", 200, LimitReachedError, 60),
        ("isv.BUSINESS_LIMIT_CONTROL", "触发小时级流控Permits:5", 200, LimitReachedError, 3_600),
        ("isv.BUSINESS_LIMIT_CONTROL", "触发天级流控Permits:10", 200, LimitReachedError, 86_400),
        ("isv.DAY_LIMIT_CONTROL", "", 200, LimitReachedError, 60),
        ("Throttling.User", "", 400, DeliveryDeferredError, 1),
        ("isv.MOBILE_NUMBER_ILLEGAL", "", 200, DeliveryRefusedError, None),
        ("isv.SMS_TEMPLATE_ILLEGAL", "", 200, DeliveryRefusedError, None),
        ("isv.SMS_SIGNATURE_ILLEGAL", "", 200, DeliveryRefusedError, None),
        ("isv.TEMPLATE_MISSING_PARAMETERS", "", 200, DeliveryRefusedError, None),
        ("isv.AMOUNT_NOT_ENOUGH", "", 200, DeliveryDeferredError, None),
        ("InvalidAccessKeyId.NotFound", "", 404, DeliveryDeferredError, None),
        ("SignatureDoesNotMatch", "", 400, DeliveryDeferredError, None),
        ("isp.SYSTEM_ERROR", "", 200, ServerFailedError, None),
        ("", "", 502, ServerFailedError, None),
        ("", "", 503, DeliveryDeferredError, 1),
        ("", "", 200, ServerFailedError, None),
    ],
)
def test_answers(code: str, message: str, status: int, error: type[Exception], retry_after_s: float | None) -> None:
    found = failure(code, message, status)
    assert type(found) is error
    assert getattr(found, "retry_after_s", None) == retry_after_s


def test_messages_of_the_provider_are_not_repeated() -> None:
    assert "138" not in str(failure("isv.MOBILE_NUMBER_ILLEGAL", "13800138000 号码不合法", 200))
    assert "138" not in str(failure("13800138000 号码", "", 200))


@pytest.mark.parametrize("body", [b"", b"{", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, b"[]" + b" " * 2_000_000])
def test_batches_that_are_none(body: bytes) -> None:
    with pytest.raises(UsageError):
        parse_reports(body, 1)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
members = st.dictionaries(
    st.sampled_from(
        [
            "out_id",
            "call_id",
            "biz_id",
            "status_code",
            "dtmf",
            "duration",
            "success",
            "err_code",
            "phone_number",
            "content",
            "sequence_id",
        ]
    ),
    json_values | st.sampled_from(["a-1", "300000", "1", "200000", True]),
)


@given(st.lists(members | json_values, max_size=5))
def test_any_batch_gives_receipts_or_counts(batch: list[Any]) -> None:
    told, unusable = parse_reports(json.dumps(batch).encode(), 5)
    assert len(told) + unusable == len(batch)
    for report in told:
        if isinstance(report, IncomingMessage):
            assert report.sender
            continue
        assert report.attempt_id
        assert set(report.digits) <= set("0123456789*#")


def test_messages_that_come_in() -> None:
    """As the description of SmsUp has it; ``sequence_id`` is a number in one edition and text in another."""
    member = {
        "phone_number": "13800000001", "send_time": "2017-09-01 00:00:00", "content": "好的", "sign_name": "签名",
        "dest_code": "1234", "sequence_id": 1234567890,
    }  # fmt: skip
    batch = [member, member | {"sequence_id": "1234567890"}, member | {"sequence_id": 7}, {"content": "x"}]
    told, unusable = parse_reports(json.dumps(batch).encode(), 5)
    assert unusable == 1
    messages = [each for each in told if isinstance(each, IncomingMessage)]
    assert [(each.sender, each.text, each.to) for each in messages] == [("13800000001", "好的", "1234")] * 3
    assert messages[0].key == messages[1].key != messages[2].key


def test_the_key_of_a_call_under_way() -> None:
    body = b'[{"status_code":"300000","dtmf":"1","out_id":"a-1","call_id":"7^8","status_time":"2023-03-06 16:21:12"}]'
    (told,), unusable = parse_reports(body, 9)
    assert unusable == 0
    assert isinstance(told, Told)
    assert (told.attempt_id, told.provider_id, told.state, told.digits, told.at_us) == (
        "a-1",
        "7^8",
        "answered",
        "1",
        9,
    )


@given(st.lists(st.integers(0, 50_000), max_size=60).map(sorted))
def test_a_quota_never_lets_more_through(times: list[int]) -> None:
    windows = (Window(60, 1), Window(3_600, 5), Window(86_400, 20))
    quota, taken = Quota(windows, "calls"), []
    for at in times:
        wait_s = quota.wait_s("n", at)
        if wait_s == 0:
            quota.take("n", at)
            taken.append(at)
        else:
            with pytest.raises(DeliveryDeferredError) as caught:
                quota.take("n", at)
            assert caught.value.retry_after_s == wait_s
            assert quota.wait_s("n", at + wait_s) == 0
    for window in windows:
        for index, at in enumerate(taken):
            assert sum(other > at - window.seconds for other in taken[: index + 1]) <= window.count
