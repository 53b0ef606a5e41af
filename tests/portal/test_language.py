"""A catalogue puts the portal into another language; what comes from a record stays as it is."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment
from starlette.requests import Request

from carefolio.doors.portal import language


def compiled(texts: dict[str, str]) -> bytes:
    """A catalogue as msgfmt writes it (gettext manual, MO files)."""
    pairs = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **texts}.items())
    keys, values = ([text.encode() for text in column] for column in zip(*pairs, strict=True))
    at = 28 + 16 * len(pairs)
    tables, content = b"", b""
    for column in (keys, values):
        for text in column:
            tables += struct.pack("<II", len(text), at + len(content))
            content += text + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0) + tables + content


def asked(languages: str) -> Request:
    return Request({"type": "http", "headers": [(b"accept-language", languages.encode())]})


@pytest.fixture
def welsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cy" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "portal.mo").write_bytes(compiled({"Messages": "Negeseuon", "Yes": "Ydw", "No": "Nac ydw"}))
    monkeypatch.setattr(language, "_folder", lambda: tmp_path)
    language.there.cache_clear()
    language._catalogue.cache_clear()


def test_a_page_is_said_in_the_language_that_the_browser_wants(welsh: None) -> None:
    """Texts and choices of the template; neither attributes nor values; English where nobody wants another."""
    page = (
        '<a class="Yes" href="{{ link }}">Messages</a> <b>{{ "Yes" if on == "Yes" else "No" }}</b> <i>{{ value }}</i>'
    )
    environment = Environment(loader=DictLoader({"page": page}), autoescape=True, extensions=[language.Translated])
    environment.globals["_"] = language.translate
    for languages, said in (
        ("cy,en;q=0.5", '<a class="Yes" href="/x">Negeseuon</a> <b>Nac ydw</b> <i>Messages</i>'),
        ("fr, en", '<a class="Yes" href="/x">Messages</a> <b>No</b> <i>Messages</i>'),
        ("en, cy", '<a class="Yes" href="/x">Messages</a> <b>No</b> <i>Messages</i>'),
    ):
        language.choose(asked(languages))
        assert environment.get_template("page").render(link="/x", on=False, value="Messages") == said


def test_the_list_of_texts_has_what_a_page_says() -> None:
    """Text, and what is chosen; no tag, no expression."""
    found = list(
        language.texts('<p title="x">Who "looked"?</p>{% if a %}Some {{ b }}{% endif %}{{ "One" if c else "" }}')
    )
    assert found == ['Who "looked"?', "Some", "One"]
