"""The words of a resource, for _text and _content (R4 3.1.1.4.14), each a key of the one index.

A second index by PostgreSQL's text search costs writes a fifth; words among the keys cost them next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from carefolio.fhir.normalise import normalised

# A text that goes on for longer than so many different words is found by these.
MOST = 5000
_WORD = re.compile(r"[^\W_](?:[\w.'-]*[^\W_])?")
_TAG = re.compile(r"<[^>]*>")
_NUMBERS = re.compile(r"[\d:.,+TZ-]*\Z")
# Addresses and what is asked for by other parameters.
_NO_WORDS = frozenset({
    "resourceType", "id", "meta", "system", "url", "reference", "data", "contentType", "fullUrl", "profile", "div",
    "instantiatesCanonical", "instantiatesUri", "implicitRules", "language", "identifier", "telecom",
})  # fmt: skip


def of_narrative(resource: dict[str, Any]) -> set[str]:
    """The words of the narrative."""
    text = resource.get("text")
    div = text.get("div") if isinstance(text, dict) else None
    return set(_of(_TAG.sub(" ", div))) if isinstance(div, str) else set()


def of_content(resource: dict[str, Any]) -> set[str]:
    """The words of all that a resource says besides, names of elements and addresses aside."""
    found: set[str] = set()
    waiting: list[Any] = [resource]
    while waiting and len(found) < MOST:
        value = waiting.pop()
        if isinstance(value, dict) and "reference" in value:
            # What a reference calls its target is the target's, which not everybody may see who sees this.
            continue
        parts = value if isinstance(value, list) else [v for name, v in value.items() if name not in _NO_WORDS]
        for part in parts:
            if isinstance(part, str):
                found.update(_of(part))
            elif isinstance(part, dict | list):
                waiting.append(part)
    return found


def _of(text: str) -> tuple[str, ...]:
    # Short texts come again and again; long ones would only fill the cache.
    return _words(text) if len(text) < 200 else _words.__wrapped__(text)


@lru_cache(maxsize=20_000)
def _words(text: str) -> tuple[str, ...]:
    """The words of a text, none of a date or a number; of ``29463-7`` or ``o'neill`` the whole and its parts."""
    if _NUMBERS.match(text):
        return ()
    found = []
    for whole in _WORD.findall(" ".join(normalised(part) for part in _pieces(text))):
        found.append(whole[:60])
        if not whole.isalnum():
            found += [part for part in re.split(r"[^\w]+", whole) if len(part) > 1]
    return tuple(found[:MOST])


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + 400] for start in range(0, len(text), 400))


def asked(text: str) -> list[str]:
    """The words of a search; all of them must be there."""
    return [whole[:60] for whole in _WORD.findall(normalised(text))]
