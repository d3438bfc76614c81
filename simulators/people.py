"""The people whom a simulated carrier calls: who picks up, who presses which key, who is not there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

Line = Literal["free", "busy", "off"]


class Behaviour(Struct, frozen=True, kw_only=True):
    """How one person takes one call or message. Times are seconds of the simulated world.

    ``answers_after_s`` counts from the first ring, None lets it ring. ``keys``: one for each time a key is asked for,
    "" presses none; ``key_after_s`` counts from the question. ``hangs_up_after_s`` counts from answering, None stays to
    the end. ``machine``: a voicemail picks up. ``messages``: what becomes of a text message.
    """

    line: Line = "free"
    answers_after_s: float | None = 4.0
    keys: tuple[str, ...] = ()
    key_after_s: float = 3.0
    hangs_up_after_s: float | None = None
    machine: bool = False
    messages: Literal["delivered", "undelivered", "never"] = "delivered"


def presses(*keys: str, answers_after_s: float = 4.0, key_after_s: float = 3.0) -> Behaviour:
    """Picks up and presses, say, 1; with several keys one at each question (a wrong one first, then the right one)."""
    return Behaviour(answers_after_s=answers_after_s, keys=keys, key_after_s=key_after_s)


IGNORES: Final = Behaviour(answers_after_s=None)
BUSY: Final = Behaviour(line="busy")
SWITCHED_OFF: Final = Behaviour(line="off", messages="never")
VOICEMAIL: Final = Behaviour(answers_after_s=12.0, machine=True)
LISTENS: Final = Behaviour()
"""Picks up, hears everything, presses nothing."""
HANGS_UP: Final = Behaviour(hangs_up_after_s=2.0)

NAMED: Final[Mapping[str, Behaviour]] = {
    "takes it": presses("1"),
    "cannot": presses("2"),
    "wrong number": presses("9"),
    "wrong key": presses("5", "1"),
    "ignores": IGNORES,
    "busy": BUSY,
    "switched off": SWITCHED_OFF,
    "voicemail": VOICEMAIL,
    "listens": LISTENS,
    "hangs up": HANGS_UP,
}

USUAL: Final[Mapping[str, int]] = {
    "takes it": 40, "ignores": 20, "cannot": 8, "busy": 8, "listens": 6, "voicemail": 6, "hangs up": 4,
    "switched off": 4, "wrong key": 3, "wrong number": 1,
}  # fmt: skip
"""How often in a hundred."""


class People:
    """Numbers and how they behave, call after call: a script for those that have one, dice or a default for the others.

    With ``seed`` the n-th call to a number ends the same way in every run. ``invalid`` numbers are refused by the
    carrier; ``landlines`` take calls and no messages.
    """

    def __init__(self, default: Behaviour = IGNORES, *, seed: int | None = None) -> None:
        self.invalid: set[str] = set()
        self.landlines: set[str] = set()
        self._default = default
        self._seed = seed
        self._scripts: dict[str, tuple[Behaviour, ...]] = {}
        self._turns: Counter[tuple[str, str]] = Counter()

    def set(self, number: str, *script: Behaviour) -> None:
        """From now on: the first behaviour for the first call, and so on; the last one for all that follow.

        Calls and messages have each their own turn. Raises ValueError without a behaviour.
        """
        if not script:
            raise ValueError("a script has at least one behaviour")
        self._scripts[number] = script
        for medium in ("call", "message"):
            self._turns.pop((number, medium), None)

    def behaviour(self, number: str, medium: Literal["call", "message"] = "call") -> Behaviour:
        """For the next call or message to a number; it counts as used."""
        turn = self._turns[number, medium]
        self._turns[number, medium] += 1
        script = self._scripts.get(number)
        if script is not None:
            return script[min(turn, len(script) - 1)]
        if self._seed is None:
            return self._default
        dice = random.Random(f"{self._seed}:{number}:{medium}:{turn}")
        return NAMED[dice.choices(list(USUAL), weights=list(USUAL.values()))[0]]


def from_document(members: Mapping[str, object]) -> tuple[Behaviour, ...]:
    """A script from JSON: ``{"script": ["busy", {"answers_after_s": 2, "keys": ["1"]}]}``. Raises ValueError."""
    script = members.get("script")
    if not isinstance(script, Sequence) or isinstance(script, str) or not 0 < len(script) <= 100:
        raise ValueError("script is no list of one to a hundred behaviours")
    behaviours = []
    for each in script:
        if isinstance(each, str):
            if each not in NAMED:
                raise ValueError(f"no behaviour is called {each!r}; known are {', '.join(NAMED)}")
            behaviours.append(NAMED[each])
        else:
            behaviours.append(msgspec.convert(each, Behaviour))  # its ValidationError is a ValueError
    return tuple(behaviours)
