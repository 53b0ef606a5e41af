"""Whether a resource is what FHIR R4's StructureDefinitions say: types, cardinalities, regular expressions, bindings.

Compiled once per type into plain tables; the JSON rules are those of R4 2.6.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

from carefolio.fhir.definitions import Element, all_types, elements, primitives, resource_types
from carefolio.fhir.markup import narrative_fault

# How deep a resource may nest: contained resources, extensions, questionnaires.
_DEEPEST = 40
_MOST_ISSUES = 50
_LARGEST = {"integer": (-(2**31), 2**31 - 1), "unsignedInt": (0, 2**31 - 1), "positiveInt": (1, 2**31 - 1)}
_LONGEST_STRING = 1024 * 1024


class Issue(NamedTuple):
    """``expression`` names the element in FHIRPath; ``code`` is of the issue-type value set; no value is repeated."""

    code: str
    expression: str
    text: str


def validate(resource: Any) -> list[Issue]:
    """What is wrong with a resource, the first of it first; empty where nothing is."""
    found: list[Issue] = []
    for issue in _resource(resource, "", 0):
        found.append(issue)
        if len(found) >= _MOST_ISSUES:
            break
    return found


def _resource(resource: Any, path: str, depth: int) -> Iterator[Issue]:
    if not isinstance(resource, dict):
        yield Issue("structure", path or "Resource", "a resource is a JSON object")
        return
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or kind not in resource_types():
        yield Issue("structure", path or "Resource", "resourceType names no resource type of FHIR R4")
        return
    yield from _complex(resource, kind, path or kind, depth)


def _complex(value: dict[str, Any], kind: str, path: str, depth: int) -> Iterator[Issue]:
    """An object against its type's table."""
    if depth > _DEEPEST:
        yield Issue("too-long", path, f"nested more than {_DEEPEST} deep")
        return
    table = _table(kind)
    if not value:
        yield Issue("structure", path, "an object is never empty")
    chosen: dict[str, str] = {}
    for name, content in value.items():
        check = table.checks.get(name)
        if check is None:
            if name == "resourceType" and kind in resource_types():
                continue
            if name == "fhir_comments":
                continue
            if name[:1] == "_" and (plain := table.elements.get(name[1:])) and plain.type in primitives():
                if plain.choice and chosen.setdefault(plain.choice, name[1:]) != name[1:]:
                    yield Issue("structure", f"{path}.{plain.choice}", "only one type of a choice element may be there")
                yield from _shadow(content, plain, f"{path}.{name[1:]}", name[1:] in value, value.get(name[1:]), depth)
                continue
            yield Issue("structure", f"{path}.{name}", f"{kind} has no such element")
            continue
        element = table.elements[name]
        if element.choice:
            if chosen.get(element.choice, name) != name:
                yield Issue("structure", f"{path}.{element.choice}", "only one type of a choice element may be there")
            chosen[element.choice] = name
        if element.most != 1:
            if not isinstance(content, list) or not content:
                yield Issue("structure", f"{path}.{name}", "an array with at least one item is needed")
                continue
            for number, item in enumerate(content):
                here = f"{path}.{name}[{number}]"
                if item is None and element.type in primitives():
                    beside = value.get(f"_{name}")
                    if not isinstance(beside, list) or len(beside) <= number or beside[number] is None:
                        yield Issue("structure", here, "null stands only where an extension stands beside it")
                    continue
                yield from check(item, here, depth)
        elif isinstance(content, list):
            yield Issue("structure", f"{path}.{name}", "not an array")
        else:
            yield from check(content, f"{path}.{name}", depth)
    for name in table.needed:
        if name not in value and f"_{name}" not in value:
            yield Issue("required", f"{path}.{name}", "a required element is missing")
    for stem, names in table.needed_choices.items():
        if stem not in chosen and not any(f"_{name}" in value for name in names):
            yield Issue("required", f"{path}.{stem}", "a required element is missing")
    yield from _rules(value, kind, path)


def _shadow(content: Any, element: Element, path: str, beside: bool, values: Any, depth: int) -> Iterator[Issue]:
    """``_name``: id and extensions of a primitive; a list where the element is one, with nulls for none."""
    items = content if element.most != 1 else [content]
    if not isinstance(items, list):
        yield Issue("structure", path, "the extensions of an array are an array")
        return
    if beside and element.most != 1 and isinstance(values, list) and len(items) != len(values):
        yield Issue("structure", path, "as many extensions as values are needed, null for none")
    if element.most != 1 and (not any(items) or (not beside and None in items)):
        yield Issue("structure", path, "null stands only where the other array has something")
    for item in items:
        if item is None and element.most != 1:
            continue
        if not isinstance(item, dict):
            yield Issue("structure", path, "the extensions of a primitive are an object")
            continue
        at = items.index(item)
        value = values[at] if element.most != 1 and isinstance(values, list) and at < len(values) else values
        if "extension" not in item and (not beside or value is None):
            yield Issue("invariant", path, "ele-1: an element has a value or children")
        yield from _complex(item, "Element", path, depth + 1)


class _Table(NamedTuple):
    elements: dict[str, Element]
    checks: dict[str, Callable[[Any, str, int], Iterator[Issue]]]
    needed: list[str]
    needed_choices: dict[str, list[str]]


@cache
def _table(kind: str) -> _Table:
    known = elements(kind)
    choices: dict[str, list[str]] = {}
    for name, element in known.items():
        if element.choice and element.least:
            choices.setdefault(element.choice, []).append(name)
    return _Table(
        known,
        {name: _check(element) for name, element in known.items()},
        [name for name, element in known.items() if element.least and not element.choice],
        choices,
    )


def _check(element: Element) -> Callable[[Any, str, int], Iterator[Issue]]:
    """How a value of an element is checked."""
    kind, codes = element.type, element.codes
    if kind in primitives():
        return _primitive(kind, codes)
    if kind == "Resource":
        return lambda value, path, depth: _resource(value, path, depth + 1)

    def check(value: Any, path: str, depth: int) -> Iterator[Issue]:
        if not isinstance(value, dict):
            yield Issue("structure", path, f"an object ({kind}) is needed")
            return
        yield from _complex(value, kind, path, depth + 1)
        if codes is not None and not _bound(value, kind, codes):
            yield Issue("code-invalid", path, "none of the codes that FHIR requires here")

    return check


def _bound(value: dict[str, Any], kind: str, codes: frozenset[str]) -> bool:
    if kind == "Coding":
        return "code" not in value or value["code"] in codes
    codings = value.get("coding")
    if not isinstance(codings, list) or not codings:
        return True
    return any(isinstance(coding, dict) and coding.get("code") in codes for coding in codings)


def _primitive(kind: str, codes: frozenset[str] | None) -> Callable[[Any, str, int], Iterator[Issue]]:
    pattern = re.compile(primitives()[kind]) if primitives()[kind] else None
    bounds = _LARGEST.get(kind)

    def number(value: Any, path: str, depth: int) -> Iterator[Issue]:
        if isinstance(value, bool) or not isinstance(value, (int, Decimal) if kind == "decimal" else int):
            yield Issue("value", path, f"a JSON number ({kind}) is needed")
        elif bounds is not None and not bounds[0] <= value <= bounds[1]:
            yield Issue("value", path, f"out of the range of {kind}")

    def truth(value: Any, path: str, depth: int) -> Iterator[Issue]:
        if not isinstance(value, bool):
            yield Issue("value", path, "true or false is needed")

    def text(value: Any, path: str, depth: int) -> Iterator[Issue]:
        if not isinstance(value, str):
            yield Issue("value", path, f"a JSON string ({kind}) is needed")
        elif not value or (kind not in ("base64Binary", "markdown", "xhtml") and not value.strip()):
            yield Issue("value", path, "a value is never empty")
        elif kind == "string" and len(value) > _LONGEST_STRING:
            yield Issue("too-long", path, "longer than 1 MB")
        elif kind == "base64Binary":
            # The definition's expression takes exponential time on long values.
            plain = "".join(value.split())
            if not plain or not _BASE64.match(plain):
                yield Issue("value", path, "not base64")
        elif kind in ("string", "markdown", "xhtml"):
            if _CONTROL.search(value):
                yield Issue("value", path, "control characters other than tab and line ends")
            elif kind == "xhtml" and (fault := narrative_fault(value)):
                yield Issue("invariant", path, fault)
        elif pattern is not None and not pattern.fullmatch(value):
            yield Issue("value", path, f"not a {kind} (R4 datatypes)")
        elif codes is not None and value not in codes:
            yield Issue("code-invalid", path, "none of the codes that FHIR requires here")
        elif kind in ("date", "dateTime", "instant") and not _is_day(value):
            yield Issue("value", path, "no such day")

    return {"boolean": truth, "decimal": number, "integer": number, "unsignedInt": number, "positiveInt": number}.get(
        kind, text
    )


_BASE64 = re.compile(r"(?:[0-9A-Za-z+/]{4})*(?:[0-9A-Za-z+/]{2}==|[0-9A-Za-z+/]{3}=)?\Z")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _is_day(text: str) -> bool:
    if len(text) < 10:
        return True
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return day <= _DAYS[month - 1] and not (month == 2 and day == 29 and not leap)


def _rules(value: dict[str, Any], kind: str, path: str) -> Iterator[Issue]:
    """The invariants without which a resource means nothing; the rest is for $validate with profiles."""
    if kind == "Extension":
        has_value = any(name.startswith(("value", "_value")) for name in value)
        if has_value == ("extension" in value):
            yield Issue("invariant", path, "ext-1: an extension has either extensions or a value")
    elif kind == "Period" and isinstance(value.get("start"), str) and isinstance(value.get("end"), str):
        start, end = value["start"][:10], value["end"][:10]
        width = min(len(start), len(end))
        if start[:width] > end[:width]:
            yield Issue("invariant", path, "per-1: a period ends before it starts")
    elif kind == "Reference" and isinstance(value.get("reference"), str) and _EMPTY_REFERENCE.match(value["reference"]):
        yield Issue("value", f"{path}.reference", "a reference names a type and an id")
    elif kind == "Observation" and "dataAbsentReason" in value and any(n.startswith("value") for n in value):
        yield Issue("invariant", path, "obs-6: no reason for absence where there is a value")
    elif kind == "Patient.contact" and not {"name", "telecom", "address", "organization"} & value.keys():
        yield Issue("invariant", path, "pat-1: a contact has at least a name, telecom, address or organization")
    elif kind == "ContactPoint" and "value" in value and "system" not in value:
        yield Issue("invariant", path, "cpt-2: a system is needed where there is a value")
    elif kind in _QUANTITIES and "code" in value and "system" not in value:
        yield Issue("invariant", path, "qty-3: a code is of a system")
    elif (
        kind == "Range"
        and _is_number(value.get("low"))
        and _is_number(value.get("high"))
        and (value["low"]["value"] > value["high"]["value"])
    ):
        yield Issue("invariant", path, "rng-2: low is above high")
    elif kind == "Attachment" and "data" in value and "contentType" not in value:
        yield Issue("invariant", path, "att-1: the type of what is attached is needed")
    elif kind == "Ratio" and ("numerator" in value) != ("denominator" in value):
        yield Issue("invariant", path, "rat-1: a ratio has a numerator and a denominator")
    elif kind == "Timing.repeat":
        yield from _repeat(value, path)
    elif kind == "Observation.referenceRange" and not {"low", "high", "text"} & value.keys():
        yield Issue("invariant", path, "obs-3: a range has low, high or text")
    # The resources of a Bundle have their own names.
    if kind in resource_types() and path == kind and kind not in ("Bundle", "Parameters"):
        there = value.get("contained")
        if isinstance(there, list):
            yield from _contained(value, path)
        known = {inner.get("id") for inner in there if isinstance(inner, dict)} if isinstance(there, list) else set()
        if set(_fragments(value)) - known - {""}:
            yield Issue("invariant", path, "ref-1: a reference names something that is not contained")


_QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "SimpleQuantity"})


def _repeat(value: dict[str, Any], path: str) -> Iterator[Issue]:
    for name, rule in (("duration", "tim-1"), ("period", "tim-2")):
        if name in value and f"{name}Unit" not in value:
            yield Issue("invariant", path, f"{rule}: a {name} has a unit")
        if isinstance(value.get(name), int | Decimal) and value[name] < 0:
            yield Issue("invariant", path, f"tim-4, tim-5: a {name} is not negative")


def _is_number(quantity: Any) -> bool:
    return isinstance(quantity, dict) and isinstance(quantity.get("value"), int | Decimal)


def _contained(resource: dict[str, Any], path: str) -> Iterator[Issue]:
    """dom-2, dom-4, dom-5, and names by which contained resources can be referred to (R4 2.28.1)."""
    seen: set[Any] = set()
    for number, inner in enumerate(resource["contained"]):
        here = f"{path}.contained[{number}]"
        if not isinstance(inner, dict):
            continue
        meta: dict[str, Any] = inner["meta"] if isinstance(inner.get("meta"), dict) else {}
        if "contained" in inner:
            yield Issue("invariant", here, "dom-2: what is contained contains nothing")
        if {"versionId", "lastUpdated"} & meta.keys():
            yield Issue("invariant", here, "dom-4: what is contained has no version of its own")
        if "security" in meta:
            yield Issue("invariant", here, "dom-5: what is contained has no security label of its own")
        if inner.get("id") is None or inner["id"] in seen:
            yield Issue("invariant", here, "what is contained has an id of its own, to be referred to by")
        seen.add(inner.get("id"))
    referred = set(_fragments(resource))
    for name in seen - referred - {None}:
        number = next(n for n, inner in enumerate(resource["contained"]) if inner.get("id") == name)
        # dom-3 lets what refers to its container pass.
        if not any(fragment == "" for fragment in _fragments(resource["contained"][number])):
            yield Issue("invariant", f"{path}.contained[{number}]", "dom-3: what is contained is referred to")


def _fragments(value: Any) -> Iterator[str]:
    """The names within a resource that it refers to (``#a``)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str):
                if inner.startswith("#") and name in ("reference", *_CANONICAL):
                    yield inner[1:]
            elif isinstance(inner, list) and name in _CANONICAL:
                yield from (item[1:] for item in inner if isinstance(item, str) and item.startswith("#"))
                yield from _fragments(inner)
            else:
                yield from _fragments(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _fragments(inner)


# Elements that are canonical or uri, and may name what is contained.
_CANONICAL = frozenset(
    name
    for kind in all_types()
    for name, element in elements(kind).items()
    if element.type in ("canonical", "uri", "url")
)


_EMPTY_REFERENCE = re.compile(r"[A-Za-z]+/?\Z")
