"""JSON Patch (RFC 6902), JSON Merge Patch (RFC 7396) and FHIRPath Patch (R4 3.1.0.11.1) on a resource.

The argument is not changed.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from carefolio.fhir.definitions import all_types, elements
from carefolio.fhir.errors import FhirError, error

_MOST_OPERATIONS = 1000


def json_patch(resource: dict[str, Any], operations: Any) -> dict[str, Any]:
    """The resource after a JSON Patch. Raises FhirError naming the operation that cannot be done."""
    if not isinstance(operations, list) or len(operations) > _MOST_OPERATIONS:
        raise error(400, "structure", f"a JSON Patch is an array of at most {_MOST_OPERATIONS} operations")
    made: Any = copy.deepcopy(resource)
    for number, operation in enumerate(operations):
        try:
            made = _apply(made, operation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            raise error(422, "invalid", "the operation cannot be done on this resource", f"patch[{number}]") from None
    if not isinstance(made, dict):
        raise error(422, "invalid", "what remains is no resource")
    return made


def merge_patch(resource: dict[str, Any], patch: Any) -> dict[str, Any]:
    """The resource after a JSON Merge Patch: null takes away, objects are merged, all else replaces."""
    if not isinstance(patch, dict):
        raise error(400, "structure", "a JSON Merge Patch is an object")
    merged = dict(resource)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            there = merged.get(name)
            merged[name] = merge_patch(there if isinstance(there, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _apply(document: Any, operation: Any) -> Any:
    kind, path = operation["op"], _pointer(operation["path"])
    if kind == "test":
        # To Python 1 is True; to JSON it is not.
        if _as_json(_get(document, path)) != _as_json(operation["value"]):
            raise ValueError
        return document
    if kind == "remove":
        _remove(document, path)
        return document
    if kind in ("move", "copy"):
        source = _pointer(operation["from"])
        value = copy.deepcopy(_get(document, source))
        if kind == "move":
            if path[: len(source)] == source and path != source:
                raise ValueError
            _remove(document, source)
        return _add(document, path, value)
    if kind == "replace":
        _get(document, path)
        if path:
            _remove(document, path)
        return _add(document, path, operation["value"])
    if kind == "add":
        return _add(document, path, operation["value"])
    raise ValueError


def _as_json(value: Any) -> str:
    return json.dumps(value, default=float, sort_keys=True)


def _pointer(text: str) -> list[str]:
    if text == "":
        return []
    if not text.startswith("/"):
        raise ValueError
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _place(parent: Any, part: str, *, end: bool = False) -> Any:
    if isinstance(parent, list):
        if part == "-" and end:
            return len(parent)
        if not re.fullmatch(r"0|[1-9][0-9]*", part):
            raise ValueError
        index = int(part)
        if index > len(parent) or (index == len(parent) and not end):
            raise IndexError
        return index
    if not isinstance(parent, dict):
        raise TypeError
    return part


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[_place(document, part)]
    return document


def _remove(document: Any, path: list[str]) -> None:
    if not path:
        raise ValueError
    parent = _get(document, path[:-1])
    del parent[_place(parent, path[-1])]


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    place = _place(parent, path[-1], end=True)
    if isinstance(parent, list):
        parent.insert(place, value)
    else:
        parent[place] = value
    return document


def fhirpath_patch(resource: dict[str, Any], parameters: Any) -> dict[str, Any]:
    """The resource after a FHIRPath Patch. Raises FhirError."""
    listed = parameters.get("parameter") if isinstance(parameters, dict) else None
    if not isinstance(listed, list) or len(listed) > _MOST_OPERATIONS:
        raise error(400, "structure", "a FHIRPath Patch is a Parameters resource with operations")
    made = copy.deepcopy(resource)
    for number, operation in enumerate(listed):
        try:
            parts = {part["name"]: _part(part) for part in operation["part"]}
            suffix = next((_suffix(part) for part in operation["part"] if part["name"] == "value"), "")
            _operate(made, parts, suffix)
        except FhirError:
            raise
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            where = f"Parameters.parameter[{number}]"
            raise error(422, "invalid", "the operation cannot be done on this resource", where) from None
    return made


def _suffix(part: dict[str, Any]) -> str:
    """The type in the name of a part's value (``Boolean`` of ``valueBoolean``); empty where it is built of parts."""
    return next((name.removeprefix("value") for name in part if name.startswith("value")), "")


def _part(part: dict[str, Any]) -> Any:
    for name, value in part.items():
        if name.startswith("value"):
            return value
    if "part" in part:
        # A value of a type that Parameters cannot hold is built of its parts.
        built: dict[str, Any] = {}
        for inner in part["part"]:
            value = _part(inner)
            if inner["name"] in built:
                before = built[inner["name"]]
                built[inner["name"]] = [*(before if isinstance(before, list) else [before]), value]
            else:
                built[inner["name"]] = value
        return built
    raise ValueError


def _operate(resource: dict[str, Any], parts: dict[str, Any], suffix: str) -> None:
    kind, path = parts["type"], parts["path"]
    found = _select(resource, path)
    if kind == "delete":
        if len(found) > 1 or any(isinstance(parent[at], list) and len(parent[at]) > 1 for parent, at in found):
            raise ValueError
        for parent, place in found:
            del parent[place]
            _tidy(resource)
        return
    if len(found) != 1:
        raise ValueError
    parent, place = found[0]
    if kind == "replace":
        of = _type(resource["resourceType"], path.rpartition(".")[0])
        element = elements(of).get(place) if isinstance(place, str) else None
        value = _shaped(parts["value"], _type(resource["resourceType"], path))
        if element is not None and element.choice and suffix and place != element.choice + suffix:
            # The value of a choice element has its type in its name.
            del parent[place]
            place = element.choice + suffix
        parent[place] = [value] if element is not None and element.most != 1 else value
    elif kind == "add":
        target = parent[place] if parent is not None else resource
        known = elements(_type(resource["resourceType"], path))
        name = parts["name"] if parts["name"] in known else parts["name"] + suffix
        element = known[name]
        value = _shaped(parts["value"], element.type)
        if element.most != 1:
            target.setdefault(name, []).append(value)
        elif name in target or any(e.choice == element.choice and n in target for n, e in known.items() if e.choice):
            raise ValueError
        else:
            target[name] = value
    elif kind == "insert":
        parent[place].insert(_index(parts["index"], len(parent[place]) + 1), parts["value"])
    elif kind == "move":
        items = parent[place]
        item = items.pop(_index(parts["source"], len(items)))
        items.insert(_index(parts["destination"], len(items) + 1), item)
    else:
        raise ValueError


def _index(value: Any, length: int) -> int:
    number = int(value)
    if not 0 <= number < length:
        raise IndexError
    return number


def _type(kind: str, path: str) -> str:
    """The type of what a path points at; empty for what is no object."""
    here = kind
    for part in path.split(".")[1:]:
        plain = re.sub(r"(\[\d+\]|\(.*\))", "", part)
        if plain == "where":
            continue
        element = elements(here).get(plain) if here in all_types() else None
        if element is None:
            return ""
        here = element.type
    return here if here in all_types() else ""


def _shaped(value: Any, kind: str) -> Any:
    """What was built of parts, with a list where the type has one."""
    if not isinstance(value, dict) or kind not in all_types():
        return value
    known = elements(kind)
    made = {}
    for name, inner in value.items():
        element = known.get(name)
        if element is not None:
            items = [_shaped(each, element.type) for each in (inner if isinstance(inner, list) else [inner])]
            made[name] = items if element.most != 1 else items[0] if len(items) == 1 else items
        else:
            made[name] = inner
    return made


_PART = re.compile(r"([A-Za-z]+)(?:\[(\d+)\])?\Z")
_WHERE = re.compile(r"where\(([A-Za-z]+) ?= ?'([^']*)'\)(?:\[(\d+)\])?\Z")


def _select(resource: dict[str, Any], path: str) -> list[tuple[Any, Any]]:
    """Where a simple FHIRPath points: (container, key) of each place; ``None`` for the resource itself."""
    names = re.findall(r"[A-Za-z]+\([^)]*\)(?:\[\d+\])?|[A-Za-z]+(?:\[\d+\])?", path)
    if not names or names[0] != resource["resourceType"] or ".".join(names) != path:
        raise ValueError
    places: list[tuple[Any, Any]] = [(None, None)]
    for name in names[1:]:
        step: list[tuple[Any, Any]] = []
        if where := _WHERE.match(name):
            element, wanted, index = where.groups()
            for parent, key in places:
                items = parent[key]
                step += [(items, n) for n, item in enumerate(items) if str(item.get(element)) == wanted]
            if index is not None:
                step = step[int(index) : int(index) + 1]
        else:
            match = _PART.match(name)
            if match is None:
                raise ValueError
            element, index = match.groups()
            for parent, key in places:
                target = resource if parent is None else parent[key]
                targets = target if isinstance(target, list) else [target]
                for each in targets:
                    found = (
                        element
                        if element in each
                        else next(
                            (n for n in each if n.startswith(element) and n[len(element) : len(element) + 1].isupper()),
                            None,
                        )
                    )
                    if found is None:
                        continue
                    if index is None:
                        step.append((each, found))
                    elif isinstance(each[found], list) and int(index) < len(each[found]):
                        step.append((each[found], int(index)))
        places = step
    return places


def _tidy(value: Any) -> None:
    """Empty lists and objects do not stay (R4 2.6.2)."""
    if isinstance(value, dict):
        for name in list(value):
            _tidy(value[name])
            if value[name] in ([], {}):
                del value[name]
    elif isinstance(value, list):
        for item in value:
            _tidy(item)
