"""CodeSystem, ValueSet, ConceptMap and StructureDefinition resources as they are kept (R4 4.8, 4.9, 4.10, 5.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from carefolio.terminology.concepts import Concept, TerminologyError

KINDS = frozenset({"CodeSystem", "ValueSet", "ConceptMap", "StructureDefinition"})
MOST_CONCEPTS = 5_000_000
LONGEST_CODE = 1000
_PARENTS = frozenset({"parent", "subsumedBy"})
_RETIRED = frozenset({"retired", "deprecated", "inactive"})
# (source system, code, target system, code, display, equivalence)
Mapping = tuple[str, str, str, str, str | None, str]


def concepts_of(resource: dict[str, Any]) -> list[Concept]:
    """The concepts of a CodeSystem; each is a kind of what it stands in, and of what its properties say.

    Raises TerminologyError.
    """
    made: list[Concept] = []
    children: dict[str, list[str]] = defaultdict(list)
    # What stands in another is a kind of it, unless the system says that it is something else (a part, a grouping).
    nested = resource.get("hierarchyMeaning", "is-a") == "is-a"
    todo: list[tuple[dict[str, Any], str | None]] = [(each, None) for each in reversed(resource.get("concept", []))]
    while todo:
        said, parent = todo.pop()
        code = said.get("code")
        if code is None or len(code) > LONGEST_CODE:
            raise TerminologyError(f"a concept needs a code of at most {LONGEST_CODE} characters")
        parents = [parent] if parent is not None and nested else []
        properties: dict[str, list[Any]] = defaultdict(list)
        for each in said.get("property", []):
            value = next((value for key, value in each.items() if key.startswith("value")), None)
            if each["code"] in _PARENTS and isinstance(value, str):
                parents.append(value)
            elif each["code"] == "child" and isinstance(value, str):
                children[value].append(code)
            elif value is not None:
                properties[each["code"]].append(value)
        if "definition" in said:
            properties["definition"].append(said["definition"])
        active = not (properties.get("inactive") == [True] or _RETIRED & {str(x) for x in properties.get("status", [])})
        names = [
            (each["value"], each.get("language", ""), each.get("use", {}).get("code", ""))
            for each in said.get("designation", [])
        ]
        made.append(Concept(code, said.get("display", code), active, parents, (), names, dict(properties)))
        if len(made) > MOST_CONCEPTS:
            raise TerminologyError(f"more than {MOST_CONCEPTS} concepts")
        todo += [(each, code) for each in reversed(said.get("concept", []))]
    for concept in made:
        concept.parents = list(dict.fromkeys([*concept.parents, *children.get(concept.code, [])]))
    return made


def mappings_of(resource: dict[str, Any]) -> Iterator[Mapping]:
    """The elements of a ConceptMap, with what it says of what it does not name."""
    for group in resource.get("group", []):
        source, target = group.get("source", ""), group.get("target", "")
        for element in group.get("element", []):
            for each in element.get("target", []):
                said = each.get("equivalence", "equivalent")
                if "code" in element and ("code" in each or said == "unmatched"):
                    # What is true only together with something else is not told as if it were true by itself.
                    said = "inexact" if each.get("dependsOn") and said != "unmatched" else said
                    yield source, element["code"], target, each.get("code", ""), each.get("display"), said


def without_concepts(resource: dict[str, Any]) -> dict[str, Any]:
    """What is kept of it beside its concepts and mappings."""
    left_out = {"CodeSystem": {"concept"}, "ConceptMap": {"element"}}.get(resource["resourceType"], set())
    made = {name: value for name, value in resource.items() if name not in left_out | {"text"}}
    if "group" in made and resource["resourceType"] == "ConceptMap":
        made["group"] = [
            {name: value for name, value in group.items() if name not in left_out} for group in made["group"]
        ]
    return made


def unmapped(groups: Sequence[dict[str, Any]], source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a map's groups from a system what becomes of codes that it does not name: (target system, unmapped)."""
    for group in groups:
        if group.get("source", "") == source and "unmapped" in group:
            yield group.get("target", ""), group["unmapped"]
