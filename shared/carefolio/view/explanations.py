"""What common tests are, in a few plain words, found by their code's words (explanations.txt).

Not advice: what a result means for somebody is for who treats him.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any


@lru_cache(maxsize=1)
def _explained() -> tuple[tuple[tuple[str, ...], str], ...]:
    """The words that a test's name has, and what it is. The first that fits counts: what is narrower stands first."""
    lines = resources.files("carefolio.view").joinpath("explanations.txt").read_text().splitlines()
    parted = (line.partition(" | ") for line in lines)
    return tuple((tuple(words.split("; ")), text) for words, _, text in parted)


def explain(resource: Mapping[str, Any]) -> str:
    """What a test is; empty for one of which nothing is said here."""
    code = resource.get("code")
    if not isinstance(code, dict):
        return ""
    names = [str(code.get("text", "")), *(str(each.get("display", "")) for each in code.get("coding", ()))]
    said = f" {' '.join(names).casefold()} "
    return next((text for words, text in _explained() if any(word in said for word in words)), "")
