"""The words of messages and calls, from templates: those that come with carebell, and the site's own before them.

What a site got wrong never keeps an alert from being told: its template is left aside, and carebell's own is used.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import structlog
from jinja2 import BaseLoader, DictLoader, StrictUndefined, TemplateError, select_autoescape
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alerts import catalog
from alerts.catalog import Key
from alerts.compose import Words
from alerts.facts import Language, Role, facts_of
from alerts.notice import Medium
from alerts.rows import Alert
from gateway.errors import ConfigError

LANGUAGES: Final[tuple[Language, ...]] = ("zh", "en")
TEXTS: Final = ("sms", "voice", "email", "email.html", "chat", "push", "subject")
"""One template each, ``<name>.j2``, or ``<name>.<language>.j2`` for one language alone."""

MAX_FILE_BYTES: Final = 65_536
MAX_FILES: Final = 50
MAX_CHARACTERS: Final = 20_000
_TEMPLATE: Final = re.compile(rf"(?:{'|'.join(map(re.escape, TEXTS))})(?:\.(?:zh|en))?\.j2|_[a-z0-9_]+\.j2")
_CATALOG: Final = re.compile(r"(zh|en)\.po")
_ONE_LINE: Final = frozenset({"sms", "push", "subject"})
BROKEN: Final[tuple[type[Exception], ...]] = (
    TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError,
)  # fmt: skip
"""What a template of a site may raise while it is rendered. OverflowError and its like are ArithmeticError."""

_log = structlog.get_logger(__name__)


class TooLongError(TemplateError):
    """A template that does not end. Handler: Wording, which takes the next one."""


class Wording:
    """A Composer. Reads its files once; rendering needs no file and no network, and is bounded."""

    def __init__(self, folder: Path | None = None, *, replies: bool = False) -> None:
        """``folder``: the site's ``templates.d``; one that is not there is empty. ``replies``: what is written back
        reaches the gateway, so messages say how to answer. Raises ConfigError.
        """
        self._replies = replies
        self._failed: set[str] = set()
        self.unused: list[str] = []
        self.files: list[str] = []
        self.messages: dict[Language, dict[Key, str]] = {language: {} for language in LANGUAGES}
        self.own_messages: dict[Language, dict[Key, str]] = {language: {} for language in LANGUAGES}
        ours = _own_files()
        theirs = {} if folder is None else self._site_files(folder)
        self.sources = {"": _templates(ours), "site": _templates(theirs)}
        for name, text in (*ours.items(), *theirs.items()):
            if match := _CATALOG.fullmatch(name):
                language: Language = "zh" if match[1] == "zh" else "en"
                read = catalog.read_po(text, name)
                self._check(name, read)
                self.messages[language] |= read
                if name in theirs and theirs[name] is text:
                    self.own_messages[language] = read
        self._words = {language: catalog.translations(self.messages[language]) for language in LANGUAGES}
        self._environments = {
            (origin, language): _environment(self._loader(origin), self._words[language])
            for origin in self.sources
            for language in LANGUAGES
        }
        self._compile()

    def __call__(
        self,
        alert: Alert,
        person: Mapping[str, Any] | None,
        *,
        language: Language,
        recipient: str,
        link: str,
        timezone: str,
        medium: Medium = "sms",
        role: Role = "family",
        device: Mapping[str, Any] | None = None,
    ) -> Words:
        """Composer."""
        facts = facts_of(
            alert, person, device, words=self._words[language], language=language, role=role, recipient=recipient,
            link=link, timezone=timezone, replies=self._replies,
        )  # fmt: skip
        text = self.render(medium if medium in TEXTS and medium != "voice" else "sms", language, facts)
        params = {"name": facts["name"], "what": facts["what"], "place": facts["address"], "time": facts["time"]}
        return Words(
            subject=self.render("subject", language, facts),
            text=text,
            speech=self.render("voice", language, facts),
            params=params | {"link": link, "kind": facts["kind_name"], "severity": facts["severity_name"]},
            html=self.render("email.html", language, facts) if medium == "email" else "",
        )

    def words(self, language: Language) -> gettext.NullTranslations:
        return self._words[language]

    def render(self, text: str, language: Language, facts: Mapping[str, Any]) -> str:
        """One text, by the first template that works: the site's for this language, the site's, carebell's."""
        for origin, name in self.candidates(text, language):
            try:
                return self.render_one(origin, name, text, language, facts)
            except BROKEN as error:
                if not origin:
                    raise
                if name not in self._failed:  # once, not for every message
                    self._failed.add(name)
                    _log.error("template_failed", template=name, error=type(error).__name__)
        raise AssertionError("carebell has a template for every text")

    def candidates(self, text: str, language: Language) -> list[tuple[str, str]]:
        """Where the template comes from ("site" or "") and its name, in the order in which they are tried."""
        names = (f"{text}.{language}.j2", f"{text}.j2")
        known = {"site": {**self.sources[""], **self.sources["site"]} if self.sources["site"] else {}}
        known[""] = self.sources[""]  # without the parts that a site has replaced
        return [(origin, name) for origin, there in known.items() for name in names if name in there]

    def render_one(self, origin: str, name: str, text: str, language: Language, facts: Mapping[str, Any]) -> str:
        """Raises what a template may raise, TooLongError among it."""
        template = self._environments[origin, language].get_template(name)
        pieces, length = [], 0
        for piece in template.generate(facts):
            length += len(piece)
            if length > MAX_CHARACTERS:
                raise TooLongError(f"longer than {MAX_CHARACTERS} characters")
            pieces.append(piece)
        lines = ["".join(c for c in line if c.isprintable()).strip() for line in "".join(pieces).splitlines()]
        said = [line for line in lines if line]
        if text in _ONE_LINE:
            return ("" if language == "zh" else " ").join(said)
        return "\n".join(said)

    def used(self, origin: str) -> dict[str, list[tuple[int, Key]]]:
        """The messages that each template asks the catalogue for, with their lines."""
        environment = self._environments[origin, "en"]
        found: dict[str, list[tuple[int, Key]]] = {}
        for name, source in self.sources[origin].items():
            found[name] = []
            for line, function, message in environment.extract_translations(source):  # type: ignore[attr-defined]
                parts = [message] if isinstance(message, str) else list(message)
                key = (str(parts[0]), str(parts[1])) if function == "pgettext" else ("", str(parts[0]))
                found[name].append((line, key))
        return found

    def _site_files(self, folder: Path) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
            if len(paths) > MAX_FILES:
                raise ConfigError(f"{folder}: more than {MAX_FILES} files")
            for path in paths:
                if not (_TEMPLATE.fullmatch(path.name) or _CATALOG.fullmatch(path.name)):
                    self.unused.append(path.name)
                    continue
                data = path.read_bytes()
                if len(data) > MAX_FILE_BYTES:
                    raise ConfigError(f"{path}: longer than {MAX_FILE_BYTES} bytes")
                found[path.name] = data.decode("utf-8")
                self.files.append(path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{folder}: {error}") from error
        return found

    def _check(self, name: str, messages: Mapping[Key, str]) -> None:
        for (_, message), translation in messages.items():
            if why := catalog.misfit(message, translation):
                raise ConfigError(f"{name}: {message!r}: {why}")

    def _loader(self, origin: str) -> BaseLoader:
        """Parts (``_x.j2``) are there as ``_x.html.j2`` too: whether text is escaped goes by a template's own name."""
        known = {**self.sources[""], **self.sources[origin]}
        parts = {f"{name[:-3]}.html.j2": text for name, text in known.items() if name.startswith("_")}
        return DictLoader({**known, **parts})

    def _compile(self) -> None:
        """Every template once, so that none is compiled while somebody waits. Raises ConfigError."""
        for (origin, _), environment in self._environments.items():
            for name in self.sources[origin]:
                try:
                    environment.get_template(name)
                except TemplateError as error:
                    line = getattr(error, "lineno", None)
                    raise ConfigError(f"{name}{'' if line is None else f':{line}'}: {error}") from error


@lru_cache(maxsize=1)
def own_wording() -> Wording:
    """Carebell's own words."""
    return Wording()


def _own_files() -> dict[str, str]:
    folder = resources.files("alerts") / "templates"
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda each: each.name)
        if entry.name.endswith((".j2", ".po"))
    }


def _templates(files: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in files.items() if name.endswith(".j2")}


def _environment(loader: BaseLoader, words: gettext.NullTranslations) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=loader,
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html.j2", "html.zh.j2", "html.en.j2"), default=False, default_for_string=False),
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        cache_size=MAX_FILES * 2,
        auto_reload=False,
    )
    environment.install_gettext_translations(words, newstyle=True)  # type: ignore[attr-defined]
    return environment
