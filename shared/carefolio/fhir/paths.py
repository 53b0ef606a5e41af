"""FHIRPath as R4's search parameters use it: paths, unions, as, where(resolve() is …), where(element='value'), [n]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from carefolio.fhir.definitions import elements

Values = Callable[[dict[str, Any]], list[Any]]
Step = Callable[[list[Any]], list[Any]]

_AS = re.compile(r"\(?([A-Za-z.]+) as ([A-Za-z]+)\)?((?:\..+)?)\Z")
_STEP = re.compile(r"([A-Za-z]+)(?:\((.*)\))?(?:\[(\d+)\])?\Z")


@cache
def compile_path(expression: str) -> Values:
    """The values that an expression selects; its first name is the type that it starts from.

    Raises ValueError for what is not of the dialect.
    """
    if expression == "Patient.deceased.exists() and Patient.deceased != false":
        # The one expression of R4 that asks a question.
        return lambda patient: [patient.get("deceasedBoolean") is True or "deceasedDateTime" in patient]
    paths = [_path(part.strip()) for part in expression.split("|")]
    if len(paths) == 1:
        return paths[0]
    return lambda resource: [value for path in paths for value in path(resource)]


def _path(path: str) -> Values:
    cast = _AS.match(path)
    if cast:
        path = f"{cast.group(1)}.as({cast.group(2)}){cast.group(3)}"
    steps: list[Step] = []
    names = _split(path)[1:]
    position = 0
    while position < len(names):
        name, argument, index = _step(names[position])
        following = _step(names[position + 1])[:2] if position + 1 < len(names) else ("", None)
        if name == "where":
            steps.append(_where(argument or ""))
        elif following[0] == "as":
            of = following[1] or ""
            steps.append(_child(name + _CASTS.get(of, of[:1].upper() + of[1:])))
            position += 1
        elif argument is None:
            steps.append(_child(name))
        else:
            raise ValueError(path)
        if index is not None:
            steps.append(_item(int(index)))
        position += 1

    def select(resource: dict[str, Any]) -> list[Any]:
        found: list[Any] = [resource]
        for step in steps:
            found = step(found)
            if not found:
                break
        return found

    return select


# R4 spells some types otherwise in its expressions than in its elements.
_CASTS = {"DateTime": "DateTime", "string": "String"}


def _split(path: str) -> list[str]:
    """Split at dots outside parentheses."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(path):
        depth += (letter == "(") - (letter == ")")
        if letter == "." and not depth:
            parts.append(path[start:at])
            start = at + 1
    return [*parts, path[start:]]


def _step(text: str) -> tuple[str, str | None, str | None]:
    match = _STEP.match(text)
    if not match:
        raise ValueError(text)
    return match.group(1), match.group(2), match.group(3)


def _item(index: int) -> Step:
    return lambda found: found[index : index + 1]


@cache
def _stems() -> frozenset[str]:
    """The choice elements (name[x]) of all types, which expressions reach by their stem."""
    from carefolio.fhir.definitions import all_types

    return frozenset(element.choice for kind in all_types() for element in elements(kind).values() if element.choice)


def _child(name: str) -> Step:
    """An element by name, or a choice element by its stem (``effective`` finds ``effectiveDateTime``)."""
    stem = len(name)
    choice = name in _stems()

    def child(found: Iterable[Any]) -> list[Any]:
        out: list[Any] = []
        for item in found:
            if not isinstance(item, dict):
                continue
            value = item.get(name)
            if value is None and choice:
                value = next((v for k, v in item.items() if k.startswith(name) and k[stem : stem + 1].isupper()), None)
            if isinstance(value, list):
                out.extend(inner for inner in value if inner is not None)
            elif value is not None:
                out.append(value)
        return out

    return child


def _where(condition: str) -> Step:
    if target := re.fullmatch(r"resolve\(\) is ([A-Za-z]+)", condition):
        kind = target.group(1)
        inside = re.compile(rf"(?:\A|/){kind}/")
        return lambda found: [
            item
            for item in found
            if isinstance(item, dict) and (item.get("type") == kind or inside.search(str(item.get("reference", ""))))
        ]
    if test := re.fullmatch(r"([a-z]+) ?= ?'([^']*)'", condition):
        name, wanted = test.groups()
        return lambda found: [item for item in found if isinstance(item, dict) and item.get(name) == wanted]
    raise ValueError(condition)
