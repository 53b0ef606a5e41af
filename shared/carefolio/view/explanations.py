"""What common tests are, in a few plain words, found by their code's words (explanations.txt).

Not advice: what a result means for somebody is for who treats him.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

# Another sample, another substance, another question: no text is better than a wrong one.
_OTHER = re.compile(
    r"urin|faec|fec(al|es)|stool|csf|cerebrospinal|fluid|saliva|swab|valproate|electrophoresis|carboxy|met-?haemo"
    r"|ratio|antibod|antigen|culture|pcr|dna|rna|gene|clearance|binding|supplement|therapy|transfusion|titre"
)


@lru_cache(maxsize=1)
def _explained() -> tuple[tuple[tuple[str, ...], str], ...]:
    """The words that a test's name has, and what it is. The first that fits counts: what is narrower stands first."""
    lines = resources.files("carefolio.view").joinpath("explanations.txt").read_text().splitlines()
    parted = (line.partition(" | ") for line in lines)
    return tuple((tuple(words.split("; ")), text) for words, _, text in parted)


def explain(resource: Mapping[str, Any]) -> str:
    """What a test is; empty for one of which nothing is said here."""
    code = resource.get("code")
    if not isinstance(code, dict) or resource.get("resourceType") not in ("Observation", "DiagnosticReport"):
        return ""
    names = [str(code.get("text", "")), *(str(each.get("display", "")) for each in code.get("coding", ()))]
    said = " ".join(names).casefold()
    if _OTHER.search(said):
        return ""
    return next((text for words, text in _explained() if any(_names(word, said) for word in words)), "")


def _names(word: str, said: str) -> bool:
    """Whether a name has a word, by itself: calprotectin is no ALP."""
    return re.search(rf"(?<![a-z0-9]){re.escape(word.strip())}s?(?![a-z0-9])", said) is not None
