"""People, organisations and places that a field names: resources of their own, one for ever.

XCN, CNN and NDL -> Practitioner; XON and CWE -> Organization; PL -> Location.
"""

from __future__ import annotations

from typing import Any

from carefolio.hl7 import Repetition
from carefolio.mapping import codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.model import Context, Entry


def practitioner(repetition: Repetition, context: Context) -> Entry | None:
    """XCN -> a Practitioner, one for ever by its number; without a number, by its name within the sender."""
    number = dt.value(repetition, 1)
    name = human_name_of_xcn(repetition)
    if not number and not name:
        return None
    resource: dict[str, Any] = {}
    if number:
        numbered: dict[str, Any] = {"system": dt.authority(repetition, 9, context), "value": number}
        dt.complete(numbered, repetition, kind_at=13, authority_at=9)
        if "assigner" not in numbered and (facility := dt.value(repetition, 14)):
            numbered["assigner"] = {"display": facility}
        resource["identifier"] = [numbered]
        key: tuple[str, ...] = (numbered["system"], number)
    else:
        assert name is not None
        key = ("name", name.get("family", ""), *name.get("given", []))
    if name:
        resource["name"] = [name]
    degrees = [degree for at in (7, 21) if (degree := dt.value(repetition, at))]
    if degrees:
        resource["qualification"] = [
            {"code": {"coding": [{"system": dt.V2.format("0360"), "code": degree}]}} for degree in degrees
        ]
    return context.entry("Practitioner", key, "organisation", resource, str(repetition.place))


def human_name_of_xcn(repetition: Repetition) -> dict[str, Any] | None:
    made: dict[str, Any] = {}
    if family := dt.value(repetition, 2):
        made["family"] = family
    given = [name for at in (3, 4) if (name := dt.value(repetition, at))]
    if given:
        made["given"] = given
    if prefix := dt.value(repetition, 6):
        made["prefix"] = [prefix]
    if suffix := dt.value(repetition, 5):
        made["suffix"] = [suffix]
    if use := dt.code_of(codes.NAME_USE, repetition, 10):
        made["use"] = use
    return made if "family" in made or given else None


def display_of(entry: Entry) -> str | None:
    name = entry.resource.get("name")
    if entry.type == "PractitionerRole":
        played_by: str | None = entry.resource.get("practitioner", {}).get("display")
        return played_by
    if entry.type == "Location":
        return str(entry.resource.get("description") or name)
    if isinstance(name, str):
        return name
    if not name:
        return None
    parts = [*name[0].get("prefix", []), *name[0].get("given", []), name[0].get("family", "")]
    return " ".join(part for part in parts if part) or None


def practitioner_reference(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    entry = practitioner(repetition, context)
    return reference(context.owner, entry) if entry else None


def reference(owner: Entry, target: Entry) -> dict[str, Any]:
    """A Reference with the target's name as its display, so that a reader who may not open it still understands."""
    shown = display_of(target)
    return owner.refer(target, display=shown) if shown else owner.refer(target)


def location(repetition: Repetition, context: Context) -> Entry | None:
    """PL -> the innermost Location of facility, building, floor, point of care, room and bed.

    Each is one resource for ever and a part of the one around it; its description is the whole way.
    """
    around: Entry | None = None
    way: list[str] = []
    for at, code, display in _LEVELS:
        name = dt.value(repetition, at)
        if name is None:
            continue
        way.append(name)
        resource: dict[str, Any] = {
            "name": name,
            "description": ", ".join(reversed(way)),
            "mode": "instance",
            "physicalType": _physical(code, display),
        }
        if universal := dt.value(repetition, at, 2):
            system = codes.oid(universal)
            held = {"system": "urn:ietf:rfc:3986", "value": system} if system else {"value": universal}
            resource["identifier"] = [held | ({"type": {"text": of}} if (of := dt.value(repetition, at, 3)) else {})]
        entry = context.entry("Location", tuple(way), "organisation", resource, str(repetition.place))
        if around is not None and "partOf" not in entry.resource:
            entry.resource["partOf"] = entry.refer(around)
        around = entry
    described = dt.value(repetition, 9)
    if around is None and described:
        resource = {"name": described, "mode": "instance"}
        around = context.entry("Location", ("described", described), "organisation", resource, str(repetition.place))
    elif around is not None and described:
        around.resource.setdefault("alias", [described])
    return around


_LEVELS = ((4, "si", "Site"), (7, "bu", "Building"), (8, "lvl", "Level"), (1, "wa", "Ward"), (2, "ro", "Room"),
           (3, "bd", "Bed"))  # fmt: skip


def _physical(code: str, display: str) -> dict[str, Any]:
    system = "http://terminology.hl7.org/CodeSystem/location-physical-type"
    return {"coding": [{"system": system, "code": code, "display": display}]}


def organization(repetition: Repetition, context: Context) -> Entry | None:
    """XON -> an Organization, by its number (XON.10, XON.3) or its name within the sender."""
    name, number = dt.value(repetition, 1), dt.value(repetition, 10) or dt.value(repetition, 3)
    if not name and not number:
        return None
    resource: dict[str, Any] = {}
    if number:
        system = dt.authority(repetition, 6, context)
        numbered: dict[str, Any] = {"system": system, "value": number}
        dt.complete(numbered, repetition, kind_at=7, authority_at=6)
        resource["identifier"] = [numbered]
        key: tuple[str, ...] = (system, number)
    else:
        key = ("name", name or "")
    if name:
        resource["name"] = name
    return context.entry("Organization", key, "organisation", resource, str(repetition.place))


def organization_reference(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    entry = organization(repetition, context)
    return reference(context.owner, entry) if entry else None


def practitioner_of_ndl(repetition: Repetition, context: Context) -> Entry | None:
    """NDL.1 (CNN, in sub-components) -> a Practitioner."""
    number, family, given, further = (dt.value(repetition, 1, at) for at in (1, 2, 3, 4))
    if not number and not family:
        return None
    resource: dict[str, Any] = {}
    system = f"{codes.BASE}/Id/{codes.slug(context.source.ods_code)}/local"
    if number:
        resource["identifier"] = [{"system": system, "value": number}]
    name: dict[str, Any] = {"family": family} if family else {}
    if names := [part for part in (given, further) if part]:
        name["given"] = names
    if name:
        resource["name"] = [name]
    key = (system, number) if number else ("name", family or "", given or "")
    return context.entry("Practitioner", key, "organisation", resource, str(repetition.place))


def organization_of_code(repetition: Repetition, context: Context) -> Entry | None:
    """CWE -> an Organization, as for a manufacturer."""
    found = dt.concept(repetition, context)
    if not found:
        return None
    codings: list[dict[str, str]] = found.get("coding", [])
    first_of = next(iter(codings), {})
    name, number = found.get("text") or first_of.get("display"), first_of.get("code")
    resource: dict[str, Any] = {}
    if codings:
        resource["identifier"] = [
            {"value": coding["code"]}
            | ({"system": s} if (s := coding.get("system")) else {})
            | ({"assigner": {"display": d}} if (d := coding.get("display")) and d != name else {})
            for coding in codings
        ]
    if name:
        resource["name"] = name
    return context.entry("Organization", ("code", number or "", name or ""), "organisation", resource,
                         str(repetition.place))  # fmt: skip
