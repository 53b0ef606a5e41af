"""How a new message changes a resource that is already there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from carefolio.mapping import codes
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
    if kind == "Patient" and is_led_by_practice(current):
        incoming = {
            element: value for element, value in incoming.items() if element not in _PRACTICES or element not in current
        }
        erased = []
    if kind == "Patient" and _is_hidden(current):
        incoming = {
            element: value for element, value in incoming.items() if element not in ("address", "telecom", "contact")
        }
    for element, value in incoming.items():
        if element == "identifier":
            merged[element] = add_identifiers(current.get(element, []), value)
        elif element == "extension":
            known = current.get(element, [])
            lasting, passing = (known, value) if older else (value, known)
            urls = {extension["url"] for extension in lasting}
            merged[element] = [*lasting, *(extension for extension in passing if extension["url"] not in urls)]
        elif element in _SLOTS and kind == "Patient":
            if not older:
                merged[element] = _by_slot(element, current.get(element, []), value)
        elif element == "active" and _is_replaced(current):
            # It was merged into another record: only undoing that makes it active again.
            continue
        elif element == "birthDate" and str(current.get(element, "")).startswith(value):
            # A date that says less takes nothing away.
            continue
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
    for erasure in erased:
        _erase(merged, erasure, event)
    if kind == "Encounter" and event == "A13" and "period" in merged:
        merged["period"] = {name: at for name, at in merged["period"].items() if name != "end"}
        if not merged["period"]:
            del merged["period"]
    if kind == "Patient":
        _one_death(merged, incoming)
    return merged


def _is_replaced(patient: Resource) -> bool:
    return any(link["type"] == "replaced-by" for link in patient.get("link", []))


# The parts of a list that different fields own: one field's silence or null takes nothing from the other's.
_SLOTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "name": lambda name: "alias" if name.get("use") in ("old", "maiden", "nickname", "anonymous") else "own",
    "telecom": lambda contact: "work" if contact.get("use") == "work" else "home",
}


def _by_slot(element: str, current: list[dict[str, Any]], incoming: list[dict[str, Any]]) -> list[dict[str, Any]]:
    slot = _SLOTS[element]
    sent = {slot(item) for item in incoming}
    if element == "name" and "own" in sent:
        before = next((name for name in current if slot(name) == "own"), {})
        # A component that is left empty keeps what is there, as a field does (domain rules, PID-5).
        kept = {part: before[part] for part in ("family", "given", "prefix") if part in before}
        at = next(index for index, name in enumerate(incoming) if slot(name) == "own")
        incoming = [*incoming[:at], kept | incoming[at], *incoming[at + 1 :]]
    return sorted(
        [*incoming, *(item for item in current if slot(item) not in sent)],
        key=lambda item: slot(item) in ("alias", "work"),
    )


def _erase(merged: Resource, erasure: str, event: str) -> None:
    """HL7's null. A date of birth guards the record against mix-ups: only a registration may take it away."""
    element, _, wanted = erasure.partition("/")
    if element == "birthDate" and event not in ("A28", "A31"):
        return
    kept = [item for item in merged.get(element, []) if _SLOTS[element](item) != wanted] if wanted else []
    if kept:
        merged[element] = kept
    else:
        merged.pop(element, None)


def is_led_by_practice(patient: Resource) -> bool:
    """Whether a general practice feeds this Patient: then its word stands over hospitals' (docs/matching.md)."""
    return any(
        each.get("system") == codes.EMIS_PATIENT and each.get("use") != "old" for each in patient.get("identifier", [])
    )


def _is_hidden(patient: Resource) -> bool:
    """PDS's S flag, as the practice told it: nobody shows how to reach him."""
    return any(each.get("code") == "V" for each in patient.get("meta", {}).get("security", []))


# What a practice that feeds a Patient says of him, and no hospital's message changes.
_PRACTICES = frozenset({
    "name", "gender", "birthDate", "address", "telecom", "generalPractitioner", "managingOrganization", "maritalStatus",
})  # fmt: skip


def add_identifiers(current: list[dict[str, Any]], incoming: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The identifiers of both: a new official number makes the one before an old one."""
    new = {(identifier.get("system"), identifier["value"]): identifier for identifier in incoming}
    official = {system for system, _ in new if system == codes.NHS_NUMBER}
    kept = []
    for known in current:
        same = new.pop((known.get("system"), known["value"]), None)
        if same is None and known.get("system") in official:
            # The person has another NHS number now; the old one goes on finding the record.
            known = known | {"use": "old"}
        kept.append(same or known)
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
