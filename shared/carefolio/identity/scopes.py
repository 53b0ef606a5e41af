"""SMART App Launch 2.2 scopes: ``system/Observation.rs``, and version 1's ``system/Observation.read``.

With a search query after it (``system/Observation.rs?category=laboratory``) a scope is about what the query finds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_SCOPE = re.compile(r"(system)/(\*|[A-Z][A-Za-z]+)\.(c?r?u?d?s?|read|write|\*)(?:\?([^\s#]{1,500}))?\Z")
# What is ours and not FHIR's (how a sender was set up) is never in a scope for all types.
_OURS = frozenset({"Sender"})
_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}


@dataclass(frozen=True, slots=True)
class Scope:
    """``type`` may be ``*``; ``rights`` are letters of ``cruds``; ``query`` is empty for all of the type."""

    context: str
    type: str
    rights: frozenset[str]
    query: str = ""

    def covers(self, other: Scope) -> bool:
        same = self.context == other.context and self.reaches(other.type) and self.rights >= other.rights
        return same and self.query in ("", other.query)

    def reaches(self, kind: str) -> bool:
        """Whether the scope is about a type."""
        return self.type == kind or (self.type == "*" and kind not in _OURS)


def read_scope(text: str) -> Scope | None:
    """One scope, None where it is none that this server knows."""
    match = _SCOPE.match(text)
    if not match or not match.group(3):
        return None
    rights = _VERSION_1.get(match.group(3), match.group(3))
    query = match.group(4) or ""
    if query and (match.group(2) == "*" or rights != "rs"):
        # What may be written is not told by what is there.
        return None
    return Scope(match.group(1), match.group(2), frozenset(rights), query)


def granted(wanted: str, allowed: str) -> str:
    """Of the wanted scopes (all that are allowed where none is named) those that the client may have."""
    may_have = [scope for text in allowed.split() if (scope := read_scope(text))]
    asked = wanted.split() or allowed.split()
    return " ".join(
        text for text in asked if (scope := read_scope(text)) and any(allowance.covers(scope) for allowance in may_have)
    )


def permits(scope: str, kind: str, right: str) -> bool:
    """Whether a token's scope allows ``right`` (a letter of ``cruds``) on a resource type."""
    return any(known.reaches(kind) and right in known.rights for text in scope.split() if (known := read_scope(text)))


@lru_cache(maxsize=1000)
def restrictions(scope: str) -> dict[str, tuple[str, ...]]:
    """The types of which a token reads only what one of these queries finds."""
    known = [found for text in scope.split() if (found := read_scope(text))]
    queries: dict[str, list[str]] = {}
    for each in known:
        if each.query:
            queries.setdefault(each.type, []).append(each.query)
    whole = {kind for kind in queries for each in known if not each.query and each.reaches(kind) and "r" in each.rights}
    return {kind: tuple(found) for kind, found in queries.items() if kind not in whole}
