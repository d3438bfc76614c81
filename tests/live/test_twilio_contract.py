"""The contract of providers, kept by Twilio's for both of its media."""

from __future__ import annotations

from functools import partial

import pytest

from alerts.notice import Medium
from tests.live.twilio_harness import twilio_harness
from tests.provider_contract import CONTRACT, Check, name_of, run_check


@pytest.mark.parametrize("medium", ["sms", "voice"])
@pytest.mark.parametrize("check", CONTRACT, ids=name_of)
def test_contract(check: Check, medium: Medium) -> None:
    run_check(check, partial(twilio_harness, medium))
