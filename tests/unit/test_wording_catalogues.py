"""Catalogues of words: read as Babel and gettext read them, and refused with a reason."""

from __future__ import annotations

import gettext
import io
import re
import subprocess
from pathlib import Path
from shutil import which

import pytest
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po as babel_read_po
from hypothesis import given
from hypothesis import strategies as st

from alerts import catalog
from gateway.errors import ConfigError

OWN = Path(__file__).resolve().parents[2] / "alerts" / "templates"


def by_babel(text: str) -> gettext.GNUTranslations:
    buffer = io.BytesIO()
    write_mo(buffer, babel_read_po(io.BytesIO(text.encode())))
    buffer.seek(0)
    return gettext.GNUTranslations(buffer)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_babel_reads_our_catalogues_as_we_do(language: str) -> None:
    text = (OWN / f"{language}.po").read_text(encoding="utf-8")
    ours, theirs = catalog.translations(catalog.read_po(text, "x")), by_babel(text)
    messages = catalog.read_po(text, "x")
    assert len(messages) > 80
    for context, message in messages:
        if context:
            assert ours.pgettext(context, message) == theirs.pgettext(context, message) != ""
        else:
            assert ours.gettext(message) == theirs.gettext(message)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_gettexts_own_tool_accepts_our_catalogues(language: str) -> None:
    if which("msgfmt") is None:
        pytest.skip("install gettext (apt-get install gettext) to have msgfmt check the catalogues")
    done = subprocess.run(
        ["msgfmt", "--check-format", "--check-header", "-o", "-", OWN / f"{language}.po"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x04"), min_size=1, max_size=20)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + '"'


@given(st.dictionaries(st.tuples(st.one_of(st.just(""), TEXT), TEXT), TEXT, max_size=8))
def test_what_is_written_is_read_and_looked_up(messages: dict[tuple[str, str], str]) -> None:
    plain = {
        key: value
        for key, value in messages.items()
        if not re.search(r"[\v\f\x1c-\x1e\x85\u2028\u2029]", "".join((*key, value)))
    }
    text = "".join(
        (f"msgctxt {quoted(context)}\n" if context else "") + f'msgid ""\n{quoted(message)}\nmsgstr {quoted(said)}\n\n'
        for (context, message), said in plain.items()
    )
    read = catalog.read_po(text, "x")
    assert read == plain
    words = catalog.translations(read)
    for (context, message), said in plain.items():
        assert (words.pgettext(context, message) if context else words.gettext(message)) == said


@given(st.text(st.sampled_from(list('msgidtrcx "\\n%()#,~\n')), max_size=60))
def test_any_text_is_a_catalogue_or_a_config_error(text: str) -> None:
    try:
        catalog.translations(catalog.read_po(text, "x.po"))
    except ConfigError as error:
        where = str(error)
    else:
        where = "x.po"
    assert "x.po" in where


def test_comments_fuzzy_and_obsolete_entries() -> None:
    text = (
        '# note\n#: sms.j2:3\nmsgid "a"\nmsgstr "1"\n\n#, fuzzy\nmsgid "b"\nmsgstr "2"\n\n#~ msgid "c"\n#~ msgstr "3"\n'
        'msgid "d"\nmsgstr ""\nmsgid "e"\nmsgstr "5" \n"6"\n'
    )
    assert catalog.read_po(text, "x") == {("", "a"): "1", ("", "e"): "56"}
    for bad in (
        'msgid "a"\nmsgid "b"\nmsgstr ""',
        'msgid "a"\nmsgid_plural "b"\nmsgstr[0] "c"',
        'msgid "\\q"\nmsgstr "1"',
    ):
        with pytest.raises(ConfigError):
            catalog.read_po(bad, "x")
    with pytest.raises(ConfigError, match="twice"):
        catalog.read_po('msgid "a"\nmsgstr "1"\n\nmsgid "a"\nmsgstr "2"\n', "x")
