"""The audit chain's quick way to canonical JSON gives the same bytes as the RFC 8785 library, for any value."""

from __future__ import annotations

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import canonical

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=5)
)


@given(VALUES)
def test_same_bytes(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]  # the library's own recursive type


@given(st.text(alphabet=st.characters(max_codepoint=0x2100, exclude_categories=["Cs"])))
def test_same_bytes_of_control_characters_and_controls(text: str) -> None:
    assert canonical({"reason": text}) == rfc8785.dumps({"reason": text})


def test_every_control_character() -> None:
    text = "".join(map(chr, range(0x100))) + "\u2028\u2029\ufeff\U0001f514"
    assert canonical([text]) == rfc8785.dumps([text])
    assert msgspec.json.decode(canonical([text])) == [text]


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan"), float("inf")])
def test_what_the_standard_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical({"value": value})
