"""How a new message changes a resource that is already there."""

from __future__ import annotations

from typing import Any

from carefolio.mapping.model import Resource

# Resources that grow with each message; every other type is replaced as a whole.
MERGED = frozenset({"Patient", "Encounter", "Practitioner", "Organization", "Location"})


def merge(current: Resource, incoming: Resource, erased: list[str], event: str, *, older: bool) -> Resource:
    """``current`` with what ``incoming`` says; neither argument is changed.

    Empty leaves, ``erased`` (HL7's null) removes; identifiers add up. An ``older`` message than what is there only
    fills what is empty, and of a Patient only identifiers. References must be resolved in both.
    """
    kind = current["resourceType"]
    if kind not in MERGED:
        return current if older else incoming
    merged = dict(current)
    for element, value in incoming.items():
        if element == "identifier":
            merged[element] = _identifiers(current.get(element, []), value)
        elif element == "location" and kind == "Encounter":
            merged[element] = current.get(element, []) if older else _stays(current.get(element, []), value, event)
        elif older:
            if kind != "Patient":
                merged.setdefault(element, value)
        elif element == "status" and value == "unknown":
            merged.setdefault(element, value)
        elif element == "period" and isinstance(current.get(element), dict):
            merged[element] = current[element] | value
        else:
            merged[element] = value
    if older:
        return merged
    for element in erased:
        merged.pop(element, None)
    if kind == "Encounter" and event == "A13" and "period" in merged:
        merged["period"] = {name: at for name, at in merged["period"].items() if name != "end"}
        if not merged["period"]:
            del merged["period"]
    if kind == "Patient":
        _one_death(merged, incoming)
    return merged


def _identifiers(current: list[dict[str, Any]], incoming: list[dict[str, Any]]) -> list[dict[str, Any]]:
    new = {(identifier.get("system"), identifier["value"]): identifier for identifier in incoming}
    kept = [new.pop((known.get("system"), known["value"]), known) for known in current]
    return kept + list(new.values())


def _stays(current: list[dict[str, Any]], incoming: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    """The way through the wards: a transfer ends the stay before; its cancellation takes the last stay back."""
    stay = incoming[0]
    where = stay["location"]["reference"]
    if event == "A12" and len(current) > 1:
        current = current[:-1]
    if current and current[-1]["location"]["reference"] == where:
        last = current[-1] | {"status": stay["status"]}
        last.setdefault("period", stay["period"]) if "period" in stay else None
        return [*current[:-1], last]
    ended = [before | {"status": "completed"} for before in current]
    if ended and (moved := stay.get("period", {}).get("start")):
        ended[-1] = ended[-1] | {"period": ended[-1].get("period", {}) | {"end": moved}}
    return [*ended, stay]


def _one_death(merged: Resource, incoming: Resource) -> None:
    """deceased[x] is one element: a date replaces yes or no, and no replaces a date."""
    if "deceasedDateTime" in incoming or (incoming.get("deceasedBoolean") is True and "deceasedDateTime" in merged):
        merged.pop("deceasedBoolean", None)
    elif "deceasedBoolean" in incoming:
        merged.pop("deceasedDateTime", None)
