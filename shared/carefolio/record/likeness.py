"""How like two Patients are, and what that is worth: the weights and grades of $match.

After Fellegi and Sunter: what agrees speaks for one person by how seldom strangers agree in it, what differs speaks
against by how seldom one person's two records differ. The weights are natural logarithms of such odds, chosen on
made-up populations (tests/record/test_likeness.py prints what they come to). Nothing is filed by this: it finds
candidates for a person or an app to look at (messages go by carefolio.record.matching, which never guesses).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, TypeVar

from rapidfuzz.distance import JaroWinkler

from carefolio.fhir.normalise import normalised
from carefolio.record.national import nhs_numbers

CERTAIN, PROBABLE, POSSIBLE, NOT = "certain", "probable", "possible", "certainly-not"
Resource = dict[str, Any]
T = TypeVar("T")

# Where a score is as likely one person's as two strangers', among the candidates that are compared at all.
_EVEN = 6.5
_CERTAIN, _PROBABLE, _POSSIBLE = 11.0, 8.2, 4.0
# A given name that tells one twin from the other: Oliver is not Olivia misheard.
_TELLING = 3.0
# A birth date that is the same, or has day and month in each other's place.
_DATED = 2.5
# Compared of each side: more is nobody's.
_MOST = 10
# Names that are one name in other mouths begin alike; below this they are two.
_SAME, _ALIKE, _RESEMBLES = 0.999, 0.88, 0.80


@dataclass(frozen=True, slots=True)
class Likeness:
    """``grade`` is one of the value set match-grade; ``score`` is 0 to 1; ``numbered``: they share an NHS number."""

    grade: str
    score: float
    numbered: bool


@dataclass(frozen=True, slots=True)
class _Person:
    """Of a Patient what is compared."""

    national: frozenset[str]
    identifiers: frozenset[tuple[str, str]]
    families: frozenset[str]
    given: tuple[str, ...]
    born: str
    gender: str
    postcodes: frozenset[str]
    contacts: frozenset[str]


def _person(resource: Resource) -> _Person:
    names, homes, contacts = (resource.get(each, [])[:_MOST] for each in ("name", "address", "telecom"))
    numbers = [(each["system"], str(each["value"])) for each in resource.get("identifier", [])[:_MOST]
               if each.get("system") and each.get("value")]  # fmt: skip
    return _Person(
        frozenset(nhs_numbers(resource)),
        frozenset(numbers),
        frozenset(_plain(name["family"]) for name in names if name.get("family")),
        tuple(dict.fromkeys(_plain(g) for name in names for g in name.get("given", [])[:1] if g)),
        str(resource.get("birthDate", "")),
        str(resource.get("gender", "")),
        frozenset(_plain(a["postalCode"]).replace(" ", "") for a in homes if a.get("postalCode")),
        frozenset(_plain(t["value"]).replace(" ", "") for t in contacts if t.get("value")),
    )  # fmt: skip


def _plain(text: object) -> str:
    return normalised(str(text)).replace("-", " ").replace("'", "")


def compare(one: Resource, other: Resource) -> Likeness:
    """How like two Patients are."""
    a, b = _person(one), _person(other)
    same_national = bool(a.national & b.national)
    same_number = same_national or bool(a.identifiers & b.identifiers)
    other_number = bool(a.national and b.national and not a.national & b.national)
    family, given = _family(a.families, b.families), _given(a.given, b.given)
    born = _born(a.born, b.born)
    score = (
        (9.0 if same_national else 6.5 if same_number else -8.0 if other_number else 0.0)
        + family + given + born + _gender(a.gender, b.gender) + _postcode(a.postcodes, b.postcodes)
        + (3.0 if a.contacts & b.contacts else 0.0)
    )  # fmt: skip
    grade = (
        CERTAIN if score >= _CERTAIN else PROBABLE if score >= _PROBABLE else POSSIBLE if score >= _POSSIBLE else NOT
    )
    # Twins and fathers with sons agree in nearly everything, in the number of a policy or a household too: another
    # name or birth date alone makes another person, or a number that is written to the wrong one.
    if (given < 0 or born < 0) and grade in (CERTAIN, PROBABLE):
        grade = POSSIBLE
    # An initial, a name that is only alike, or none, may be the other twin's.
    if not same_national and grade == CERTAIN and (given < _TELLING or born < _DATED):
        grade = PROBABLE
    if other_number and grade in (CERTAIN, PROBABLE):
        grade = POSSIBLE
    # A number that was mistyped is somebody else's: it takes two more things that agree.
    if same_number and grade == CERTAIN and sum(each > 0 for each in (family, given, born)) < 2:
        grade = POSSIBLE
    return Likeness(grade, round(1 / (1 + math.exp(_EVEN - score)), 4), same_national)


def settled(graded: Mapping[T, Likeness], *, all_seen: bool = True) -> dict[T, Likeness]:
    """Where several are certain, none is whose number does not say so: two people of one name were born on one day.

    Nor where not all who might be were compared (``all_seen``).
    """
    certain = [each for each in graded.values() if each.grade == CERTAIN]
    if len(certain) < 2 and all_seen:
        return dict(graded)
    return {
        key: replace(each, grade=PROBABLE) if each.grade == CERTAIN and not each.numbered else each
        for key, each in graded.items()
    }


def _best(ones: Iterable[str], others: Iterable[str]) -> float:
    return max((JaroWinkler.similarity(one, other) for one in ones for other in others), default=-1.0)


def _family(ones: Iterable[str], others: Iterable[str]) -> float:
    best = _best(ones, others)
    if best < 0:
        return 0.0
    return 4.0 if best >= _SAME else 2.5 if best >= _ALIKE else 0.0 if best >= _RESEMBLES else -3.0


def _given(ones: Iterable[str], others: Iterable[str]) -> float:
    ones, others = list(ones), list(others)
    best = _best(ones, others)
    if best < 0:
        return 0.0
    if best >= _SAME:
        return 3.0
    if any(len(min(one, other, key=len)) == 1 and one[:1] == other[:1] for one in ones for other in others):
        # An initial.
        return 0.5
    return 1.5 if best >= _ALIKE else 0.0 if best >= _RESEMBLES else -4.0


def _born(one: str, other: str) -> float:
    """Birth dates: as precise as the less precise is; day and month in each other's place, or one part mistyped."""
    if not one or not other:
        return 0.0
    parts, others = one.split("-"), other.split("-")
    most = min(len(parts), len(others))
    if most < 3:
        return (1.5 if most == 1 else 3.0) if parts[:most] == others[:most] else -5.0
    if parts == others:
        return 5.0
    if parts[0] == others[0] and parts[1:] == others[:0:-1] and _is_day(one) and _is_day(other):
        return 2.5
    return 0.5 if sum(part == same for part, same in zip(parts, others, strict=True)) == 2 else -5.0


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _gender(one: str, other: str) -> float:
    known = {"male", "female"}
    if one not in known or other not in known:
        return 0.0
    return 0.5 if one == other else -1.5


def _postcode(ones: frozenset[str], others: frozenset[str]) -> float:
    if not ones or not others:
        return 0.0
    if ones & others:
        return 3.0
    # The outward part: a town.
    return 0.8 if {each[:-3] for each in ones} & {each[:-3] for each in others} else -0.5
