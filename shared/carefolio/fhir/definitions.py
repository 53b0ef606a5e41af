"""FHIR R4's own structure definitions, compiled (scripts/compile-definitions)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import orjson

# Resources that come and go, and are not kept (R4 2.1.6.0.1).
NO_ENDPOINT = frozenset({"Parameters"})


class Element(NamedTuple):
    """One element of a type. ``most`` 0 is any number; ``codes`` are those of a required binding, None where they are
    not listed; ``choice`` is the stem of a choice element (``value`` of ``valueQuantity``)."""

    type: str
    least: int
    most: int
    codes: frozenset[str] | None
    choice: str


class SearchParameter(NamedTuple):
    """A search parameter of one type: ``kind`` is token, string, reference, date, number, quantity, uri, composite, or
    special (Location's near).

    ``targets`` are the types that a reference may point at; ``components`` of a composite are (code, kind, expression).
    """

    code: str
    kind: str
    expression: str
    targets: tuple[str, ...]
    components: tuple[tuple[str, str, str], ...]


@cache
def _file(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads(
        resources.files("carefolio.fhir").joinpath(f"definitions/{name}").read_bytes()
    )
    return loaded


def _compiled() -> dict[str, Any]:
    return _file("structures.json")


@cache
def search_parameters(kind: str) -> dict[str, SearchParameter]:
    """The standard search parameters of a resource type that have an expression, by code."""
    return {
        code: SearchParameter(code, of, expression, tuple(targets), tuple((c, k, e) for c, k, e in components))
        for code, (of, expression, targets, components) in _file("search-parameters.json").get(kind, {}).items()
        if of != "composite" or _is_pair(components)
    }


def _is_pair(components: list[list[str]]) -> bool:
    """Composites of two parts of one item; MolecularSequence has some of three, and of the whole resource."""
    return len(components) == 2 and not any("%" in expression for _, _, expression in components)


@cache
def compartment(kind: str) -> tuple[str, ...]:
    """The search parameters by which a type is in a patient's compartment (R4, CompartmentDefinition patient)."""
    return tuple(_file("compartment.json").get(kind, ()))


@cache
def all_types() -> tuple[str, ...]:
    """Every type that has elements: resources, their parts, data types."""
    return tuple(_compiled()["types"])


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


@cache
def type_of_path(kind: str, expression: str) -> str:
    """The type of the elements that an expression's first path reaches from a type; empty where it is no plain path."""
    of = kind
    for name in expression.partition("|")[0].strip().partition(".where(")[0].split(".")[1:]:
        element = elements(of).get(name) if of in _compiled()["types"] else None
        if element is None:
            return ""
        of = element.type
    return of


@cache
def summary(path: str) -> frozenset[str]:
    """The elements of a resource, or one of its parts, that are in its summary (isSummary); empty for other types."""
    return frozenset(_file("summaries.json").get(path, ()))
