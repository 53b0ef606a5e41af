"""FHIR R4's own structure definitions, compiled (scripts/compile-definitions)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import orjson


class Element(NamedTuple):
    """One element of a type. ``most`` 0 is any number; ``codes`` are those of a required binding, None where they are
    not listed; ``choice`` is the stem of a choice element (``value`` of ``valueQuantity``)."""

    type: str
    least: int
    most: int
    codes: frozenset[str] | None
    choice: str


@cache
def _compiled() -> dict[str, Any]:
    text = resources.files("carefolio.fhir").joinpath("definitions/structures.json").read_bytes()
    loaded: dict[str, Any] = orjson.loads(text)
    return loaded


@cache
def resource_types() -> frozenset[str]:
    """The names of R4's resource types."""
    return frozenset(_compiled()["resources"])


@cache
def primitives() -> dict[str, str]:
    """Each primitive type with its regular expression (R4 datatypes)."""
    found: dict[str, str] = _compiled()["primitives"]
    return found


@cache
def elements(kind: str) -> dict[str, Element]:
    """The elements of a type (``Patient``, ``Patient.contact``, ``Quantity``), in FHIR's order."""
    return {
        name: Element(of, least, most, frozenset(codes) if codes else None, choice)
        for name, (of, least, most, codes, choice) in _compiled()["types"][kind].items()
    }
