"""Short messages as octets: known vectors, and an independent decoder (smspdudecoder) as the judge."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smspdudecoder.fields import SMSDeliver, SMSSubmit  # type: ignore[import-untyped]  # it has no types

from alerts.channels import modem_pdu
from alerts.channels.modem_alphabet import pack, septets, text_of, unpack
from alerts.channels.modem_pdu import Deliver, Part, PduError, StatusReport

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sms_pdu.json").read_text(encoding="utf-8"))
NUMBER = "+8613800138000"
GSM = "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCXYZÄÖÑÜ§¿abcxyzäöñüà^{}\\[~]|€\n\r"


def read(pdu: str) -> dict[str, Any]:
    """What the independent decoder makes of an SMS-SUBMIT."""
    decoded: dict[str, Any] = SMSSubmit.decode(StringIO(pdu))
    return decoded


@pytest.mark.parametrize("vector", VECTORS["submit"], ids=lambda vector: str(vector["name"]))
def test_submit_vectors(vector: dict[str, Any]) -> None:
    (submit,) = modem_pdu.encode(vector["number"], vector["text"], reference=7, report=vector["report"])
    assert (submit.pdu, submit.length) == (vector["pdu"], vector["length"])


@pytest.mark.parametrize("vector", VECTORS["deliver"], ids=lambda vector: str(vector["name"]))
def test_deliver_vectors(vector: dict[str, Any]) -> None:
    message = modem_pdu.decode(vector["pdu"])
    assert isinstance(message, Deliver)
    assert message.sender == vector["sender"]
    assert message.text == vector["text"]
    assert message.sent_us == vector["sent_us"]
    assert message.part == (None if vector["part"] is None else Part(*vector["part"]))


def test_status_report_vector() -> None:
    vector = VECTORS["status_report"]
    assert modem_pdu.decode(vector["pdu"]) == StatusReport(
        reference=vector["reference"], recipient=vector["recipient"], status=vector["status"]
    )


def same(ours: str, judged: str) -> bool:
    """The judge counts characters where the standard counts septets: with one of the extension it may see an @ more."""
    extended = any(character in "^{}\\[~]|€\f" for character in ours)
    return ours == judged or (extended and ours == judged.removesuffix("@"))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400) | st.text(
    GSM, min_size=1, max_size=800
)


@given(texts, st.integers(0, 255), st.booleans())
def test_any_text_is_read_back(text: str, reference: int, report: bool) -> None:
    parts = modem_pdu.encode(NUMBER, text, reference=reference, report=report)
    assert 1 <= len(parts) <= modem_pdu.MAX_PARTS
    pieces: list[str] = []
    whole = len(parts) < modem_pdu.MAX_PARTS
    for index, part in enumerate(parts, start=1):
        assert part.length == len(part.pdu) // 2 - 1 <= 164 + 12
        decoded = read(part.pdu)
        assert decoded["recipient"]["number"] == NUMBER.removeprefix("+")
        assert decoded["header"]["srr"] is report
        user_data = decoded["user_data"]
        if len(parts) > 1:
            (element,) = user_data["header"]["elements"]
            assert element["data"] == {"reference": reference, "parts_count": len(parts), "part_number": index}
        rest = text[len("".join(pieces)) :]
        judged = user_data["data"]
        if not rest.startswith(judged) and judged.endswith("@") and same(judged[:-1], judged):
            judged = judged[:-1]
        pieces.append(judged)
    read_back = "".join(pieces)
    assert read_back == text or (not whole and text.startswith(read_back.rstrip("….")[:-3]))


@given(texts)
def test_what_we_send_we_can_read(text: str) -> None:
    """As SMS-DELIVER: the same user data, coding scheme and header behind another head."""
    for part in modem_pdu.encode(NUMBER, text, reference=9, report=False):
        tpdu = bytes.fromhex(part.pdu)[1:]
        address, scheme, user_data = tpdu[2:11], tpdu[12:13], tpdu[14:]
        deliver = bytes((0, tpdu[0] & 0x40)) + address + b"\0" + scheme + bytes.fromhex("62112210203023") + user_data
        message = modem_pdu.decode(deliver.hex())
        assert isinstance(message, Deliver)
        judged = SMSDeliver.decode(StringIO(deliver.hex()))
        assert same(message.text, judged["user_data"]["data"])
        assert message.sender == NUMBER


def test_long_messages_are_cut_between_characters() -> None:
    for filler in range(60, 70):
        text = "急" * filler + "😀👩‍👩‍👧é" * 20
        for part in modem_pdu.encode(NUMBER, text, reference=1, report=False):
            data = read(part.pdu)["user_data"]["data"]
            assert len(data.encode("utf-16-be")) <= 134
            assert not data.startswith(("\u200d", "\u0301"))
            data.encode("utf-8")  # no half of a surrogate pair


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1), ("急" * 70, 1), ("急" * 71, 2), ("急" * 134, 2), ("急" * 135, 3), ("a" * 160, 1), ("a" * 161, 2),
        ("a" * 306, 2), ("a" * 307, 3), ("€" * 80, 1), ("€" * 81, 2), ("急" * 10_000, 8), ("a" * 10_000, 8),
        ("\ud800", 1),
    ],
)  # fmt: skip
def test_segments(text: str, count: int) -> None:
    assert modem_pdu.segments(text) == count


@pytest.mark.parametrize(("text", "end"), [("急" * 1000, "急…"), ("a" * 2000, "a...")])
def test_a_text_that_is_too_long_says_so(text: str, end: str) -> None:
    last = modem_pdu.encode(NUMBER, text, reference=1, report=False)[-1]
    assert read(last.pdu)["user_data"]["data"].endswith(end)


@pytest.mark.parametrize("number", ["", "+", "12", "+86 138", "１３８００", "138a", "+" + "1" * 21])
def test_numbers_that_are_none(number: str) -> None:
    with pytest.raises(ValueError, match="number"):
        modem_pdu.encode(number, "x", reference=1, report=False)


@given(st.binary(max_size=200).map(bytes.hex) | st.text(max_size=50))
def test_any_octets_are_a_message_or_an_error(pdu: str) -> None:
    try:
        message = modem_pdu.decode(pdu)
    except PduError:
        return
    assert isinstance(message, Deliver | StatusReport)


@given(st.text(GSM, max_size=200), st.integers(0, 6))
def test_septets(text: str, fill_bits: int) -> None:
    codes = septets(text)
    assert codes is not None
    assert unpack(pack(codes, fill_bits), len(codes), fill_bits) == codes
    assert text_of(codes) == text


def test_what_is_not_in_the_alphabet() -> None:
    assert septets("急") is None
    assert septets("`") is None
    assert septets("\x1b") is None
