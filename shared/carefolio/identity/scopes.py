"""SMART App Launch 2.2 scopes: ``system/Observation.rs``, and version 1's ``system/Observation.read``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SCOPE = re.compile(r"(system)/(\*|[A-Z][A-Za-z]+)\.(c?r?u?d?s?|read|write|\*)\Z")
# What is ours and not FHIR's (how a sender was set up) is never in a scope for all types.
_OURS = frozenset({"Sender"})
_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}


@dataclass(frozen=True, slots=True)
class Scope:
    """``type`` may be ``*``; ``rights`` are letters of ``cruds``."""

    context: str
    type: str
    rights: frozenset[str]

    def covers(self, other: Scope) -> bool:
        return self.context == other.context and self.reaches(other.type) and self.rights >= other.rights

    def reaches(self, kind: str) -> bool:
        """Whether the scope is about a type."""
        return self.type == kind or (self.type == "*" and kind not in _OURS)


def read_scope(text: str) -> Scope | None:
    """One scope, None where it is none that this server knows."""
    match = _SCOPE.match(text)
    if not match or not match.group(3):
        return None
    rights = _VERSION_1.get(match.group(3), match.group(3))
    return Scope(match.group(1), match.group(2), frozenset(rights))


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
