"""The portal in another language: by a gettext catalogue, where there is one; English is in the templates themselves.

What stands between tags, and the words that an expression there chooses, are looked up; nothing in a template has to be
marked. What comes from a record is never translated. ``scripts/catalogue`` writes the list of all texts.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from importlib import resources
from pathlib import Path

from jinja2.ext import Extension
from starlette.requests import Request

DOMAIN = "portal"
ENGLISH = "en-GB"
_language: ContextVar[str] = ContextVar("language", default=ENGLISH)
_JINJA = r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}"
# A tag may have expressions in its attributes.
_PIECES = re.compile(rf"(<(?:[^<>{{]|{_JINJA}|\{{)*?>|{_JINJA})", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z]{2}")
_CHOICE = re.compile(r"\{\{ *(.*?) *\}\}\Z", re.DOTALL)
# What is chosen, not what the choice is made by.
_CHOSEN = re.compile(r'(?:(?<=\{\{ )|(?<=else ))"([^"]*)"(?= if | *\}\})')
# What the macros of form.html say is translated there.
_LABELS = re.compile(r'field\("[a-z_]+", "([^"]+)"|hint="([^"]+)"')


class Translated(Extension):
    """Puts every text of a template through the catalogue when it is compiled."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return "".join(_wrapped(piece) for piece in _PIECES.split(source))


def _wrapped(piece: str) -> str:
    if piece.startswith(("<", "{%", "{#")):
        return piece
    if piece.startswith("{{"):
        said = _CHOICE.match(piece)
        # Only what chooses among words of the template itself.
        if said and " if " in said[1] and not re.search(r"[~(]", said[1]):
            return _CHOSEN.sub(lambda one: f'_("{one[1]}")' if _WORDS.search(one[1]) else one[0], piece)
        return piece
    text = piece.strip()
    if not _WORDS.search(text) or "&" in text:
        return piece
    before, _, after = piece.partition(text)
    return f"{before}{{{{ _({_quoted(text)}) }}}}{after}"


def _quoted(text: str) -> str:
    escaped = " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def texts(source: str) -> Iterator[str]:
    """The texts of a template that a catalogue may have."""
    for found in re.finditer(r'_\("((?:[^"\\]|\\.)*)"\)', "".join(_wrapped(piece) for piece in _PIECES.split(source))):
        yield found[1].replace('\\"', '"').replace("\\\\", "\\")
    for label, hint in _LABELS.findall(source):
        yield label or hint


def choose(request: Request) -> str:
    """The language of an answer: as the browser wants it, of those that there are."""
    for wanted in request.headers.get("accept-language", "").split(","):
        name = wanted.partition(";")[0].strip().partition("-")[0].lower()
        if name == "en":
            break
        if name in there():
            _language.set(name)
            return name
    _language.set(ENGLISH)
    return ENGLISH


def translate(text: str) -> str:
    """A text of ours in the language of the answer."""
    chosen = _language.get()
    return text if chosen == ENGLISH else _catalogue(chosen).gettext(text)


@lru_cache(maxsize=1)
def there() -> frozenset[str]:
    """The languages that have a catalogue."""
    folder = _folder()
    if not folder.is_dir():
        return frozenset()
    return frozenset(each.name for each in folder.iterdir() if (each / "LC_MESSAGES" / f"{DOMAIN}.mo").is_file())


@lru_cache(maxsize=8)
def _catalogue(name: str) -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, str(_folder()), [name], fallback=True)


def _folder() -> Path:
    return Path(str(resources.files("carefolio.doors.portal").joinpath("languages")))
