"""Concepts on their way into the database: their names' words, and all that each is a kind of."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from carefolio.fhir.normalise import normalised

_WORD = re.compile(r"[^\W_]+")
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_LONGEST_WORD = 60


class TerminologyError(Exception):
    """What cannot be taken in; the text names the place (a file and its line, an element)."""


@dataclass(slots=True)
class Concept:
    """``parents`` and ``sets`` (reference sets that it is in) are codes of the same system.

    ``names`` are further names: (name, language, use as a code of its system, or empty); ``properties`` by code.
    """

    code: str
    display: str
    active: bool = True
    parents: Sequence[str] = ()
    sets: Sequence[str] = ()
    names: Sequence[tuple[str, str, str]] = ()
    properties: dict[str, list[Any]] = field(default_factory=dict)


def words_of(text: str) -> list[str]:
    """The words of a name, without case and accents."""
    plain = text.casefold() if text.isascii() else normalised(text)
    return [word[:_LONGEST_WORD] for word in _WORD.findall(plain)]


def lines(system: int, concepts: Sequence[Concept], most_above: int = 200_000_000) -> Iterator[bytes]:
    """Rows of the table ``concept`` for COPY; of all together ``most_above`` kinds. Raises TerminologyError."""
    numbers: dict[str, int] = {}
    for concept in concepts:
        if concept.code in numbers:
            raise TerminologyError(f"the code {concept.code[:60]} is there twice")
        numbers[concept.code] = len(numbers) + 1
    parents = [[numbers[code] for code in concept.parents if code in numbers] for concept in concepts]
    above = _above(parents, most_above)
    some: list[str] = []
    # The shortest names first: what a filter finds is read in this order, and the first are the best.
    for place in sorted(range(len(concepts)), key=lambda place: len(concepts[place].display)):
        concept = concepts[place]
        sets = [-numbers[code] for code in concept.sets if code in numbers]
        row = (
            str(system),
            concept.code.translate(_ESCAPED),
            str(place + 1),
            concept.display.translate(_ESCAPED),
            "t" if concept.active else "f",
            f"{{{','.join(map(str, parents[place]))}}}",
            f"{{{','.join(map(str, [*above[place], *sets]))}}}",
            _json(concept.names),
            _json(concept.properties),
            " ".join(dict.fromkeys(_words(concept))),
        )
        some.append("\t".join(row))
        if len(some) == 1000:
            yield ("\n".join(some) + "\n").encode()
            some.clear()
    if some:
        yield ("\n".join(some) + "\n").encode()


def _json(value: Any) -> str:
    return orjson.dumps(value).decode().translate(_ESCAPED) if value else r"\N"


def _words(concept: Concept) -> Iterable[str]:
    for name in {concept.display, *(name for name, _, _ in concept.names)}:
        yield from words_of(name)
    # A code is looked for by itself too.
    yield from words_of(concept.code)


def _above(parents: Sequence[Sequence[int]], most: int) -> list[array[int]]:
    """Of each concept its own number and those of all that it is a kind of. Raises TerminologyError for a circle."""
    made: list[array[int] | None] = [None] * len(parents)
    for first in range(len(parents)):
        todo = [first]
        while todo:
            place = todo[-1]
            if made[place] is not None:
                todo.pop()
                continue
            waiting = [number - 1 for number in parents[place] if made[number - 1] is None]
            if not waiting:
                own = {place + 1}
                for number in parents[place]:
                    own.update(made[number - 1] or ())
                most -= len(own)
                if most < 0:
                    raise TerminologyError("the concepts are kinds of too many others")
                made[place] = array("i", sorted(own))
                todo.pop()
            else:
                todo.extend(waiting)
                if len(todo) > len(parents) * 2 + 1000:
                    raise TerminologyError("what is a kind of what goes in a circle")
    return [each for each in made if each is not None]
