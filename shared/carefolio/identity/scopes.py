"""SMART App Launch 2.2 scopes: ``patient/Observation.rs``, and version 1's ``patient/Observation.read``.

``system`` is a client's own right, ``patient`` one on the record in context, ``user`` one on whatever the person may
see. With a search query after it (``patient/Observation.rs?category=laboratory``) a scope is about what the query
finds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_SCOPE = re.compile(r"(system|patient|user)/(\*|[A-Z][A-Za-z]+)\.(c?r?u?d?s?|read|write|\*)(?:\?([^\s#]{1,500}))?\Z")
# What is ours and not FHIR's (how a sender was set up, who is invited, which extracts come) is never in a scope for
# all types.
OURS = frozenset({
    "AccessLog", "Audit", "Client", "Code", "Correction", "Extract", "Freeze", "Glass", "Invitation", "Join", "Message",
    "Provider", "Purge", "Sender", "Sharing", "Team", "Trace", "Webhook",
})  # fmt: skip
_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}
OPENID = "openid"
OFFLINE = "offline_access"
ONLINE = "online_access"
LAUNCH = "launch"
LAUNCH_PATIENT = "launch/patient"
HAND_OVER = "hand-over"
# What is no right on resources: about the person, the launch, the time.
PERSONAL = (OPENID, "fhirUser", "profile", "email", OFFLINE, ONLINE, LAUNCH, LAUNCH_PATIENT)


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
        return self.type == kind or (self.type == "*" and kind not in OURS)


@lru_cache(maxsize=2000)
def read_scope(text: str) -> Scope | None:
    """One scope of resources, None where it is none that this server knows."""
    match = _SCOPE.match(text)
    if not match or not match.group(3):
        return None
    rights = _VERSION_1.get(match.group(3), match.group(3))
    query = match.group(4) or ""
    if query and (match.group(2) == "*" or rights != "rs"):
        # What may be written is not told by what is there.
        return None
    return Scope(match.group(1), match.group(2), frozenset(rights), query)


def is_known(text: str) -> bool:
    """Whether a client may be registered for it."""
    return text in PERSONAL or text == HAND_OVER or read_scope(text) is not None


def granted(wanted: str, allowed: str, *, person: bool = False) -> str:
    """Of the wanted scopes (all that are allowed where none is named) those that the client may have.

    A client for itself gets ``system`` scopes; for a person, what is not.
    """
    may_have = [scope for text in allowed.split() if (scope := read_scope(text))]
    plain = allowed.split()

    def may(text: str) -> bool:
        if (scope := read_scope(text)) is not None:
            return (scope.context != "system") == person and any(allowance.covers(scope) for allowance in may_have)
        return text in plain and ((text in PERSONAL) if person else text == HAND_OVER)

    return " ".join(text for text in dict.fromkeys(wanted.split() or plain) if may(text))


def permits(scope: str, kind: str, right: str, context: str | None = None) -> bool:
    """Whether a token's scope (of a context) allows ``right`` (a letter of ``cruds``) on a resource type."""
    return any(
        known.reaches(kind) and right in known.rights and context in (None, known.context) for known in _known(scope)
    )


@lru_cache(maxsize=1000)
def _known(scope: str) -> tuple[Scope, ...]:
    return tuple(found for text in scope.split() if (found := read_scope(text)))


@lru_cache(maxsize=1000)
def contexts(scope: str) -> tuple[str, ...]:
    """The contexts that a token's scopes have: ``system``, or ``patient`` and ``user``."""
    return tuple(sorted({known.context for known in _known(scope)}))


@lru_cache(maxsize=1000)
def readable_types(scope: str, context: str) -> tuple[str, ...] | None:
    """The types that a context's scopes read; None for all."""
    known = [each for each in _known(scope) if each.context == context and each.rights & {"r", "s"}]
    return None if any(each.type == "*" for each in known) else tuple(sorted({each.type for each in known}))


@lru_cache(maxsize=1000)
def restrictions(scope: str, context: str | None = None) -> dict[str, tuple[str, ...]]:
    """The types of which a token (in a context) reads only what one of these queries finds."""
    known = [each for each in _known(scope) if context in (None, each.context)]
    queries: dict[str, list[str]] = {}
    for each in known:
        if each.query:
            queries.setdefault(each.type, []).append(each.query)
    whole = {kind for kind in queries for each in known if not each.query and each.reaches(kind) and "r" in each.rights}
    return {kind: tuple(found) for kind, found in queries.items() if kind not in whole}
