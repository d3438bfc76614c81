"""The words for codes, Chinese and English, from ``words.csv``; sentences stand in the templates in both."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Final, Literal

Language = Literal["zh", "en"]


def _read() -> dict[str, tuple[str, str]]:
    text = (resources.files("gateway.console") / "words.csv").read_text(encoding="utf-8")
    return {row["code"]: (row["zh"], row["en"]) for row in csv.DictReader(text.splitlines())}


WORDS: Final = _read()
"""By code; a code that means different things in different places has its place before it: ``action.accept``."""


class Translator:
    """One visitor's language."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self._column = 0 if language == "zh" else 1

    def text(self, chinese: str, english: str) -> str:
        """A sentence that stands in both languages where it is used."""
        return (chinese, english)[self._column]

    def word(self, code: object, place: str = "") -> str:
        """The word of a code; a code without one (of a site's own rules, of a newer part) is shown as it is."""
        found = WORDS.get(f"{place}.{code}") or WORDS.get(str(code))
        return str(code) if found is None else found[self._column]
