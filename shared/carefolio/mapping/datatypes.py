"""Converters from HL7 v2 data types to FHIR elements; None where there is nothing to say.

Sources: HL7 v2-to-FHIR 1.0.0, data type maps; FHIR R4 data types; domain rules for the UK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from carefolio.hl7 import Repetition, TimeFormatError, read_moment
from carefolio.mapping import codes
from carefolio.mapping.model import Context, Converter, Entry

_NUMBER = re.compile(r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d)?\Z", re.ASCII)


def text(repetition: Repetition, _: Context) -> str | None:
    return repetition.whole().strip() or None


def first(repetition: Repetition, _: Context) -> str | None:
    return value(repetition, 1)


def value(repetition: Repetition, component: int, subcomponent: int = 1) -> str | None:
    """A component's text; None for empty and for HL7's null."""
    found = repetition.get(component, subcomponent).strip()
    return None if found in ("", '""') else found


def translate(table: Mapping[str, str]) -> Converter:
    """A code through a table; an unknown code has no place in a required binding and gives None."""

    def convert(repetition: Repetition, _: Context) -> str | None:
        return table.get((value(repetition, 1) or "").upper())

    return convert


def day(repetition: Repetition, context: Context) -> str | None:
    try:
        return read_moment(repetition.get(1), context.source.zone).day
    except TimeFormatError:
        return None


def instant_of_day(repetition: Repetition, context: Context) -> str | None:
    """A FHIR dateTime of the precision that was given; a time to the hour is padded to the minute."""
    try:
        return read_moment(repetition.get(1), context.source.zone).fhir
    except TimeFormatError:
        return None


def instant(repetition: Repetition, context: Context) -> str | None:
    """A FHIR instant, which must be known to the second (or at least to the minute)."""
    try:
        moment = read_moment(repetition.get(1), context.source.zone)
    except TimeFormatError:
        return None
    return moment.fhir if moment.precision >= 12 else None


def decimal(source: str) -> Decimal | None:
    """A number with its digits as sent."""
    # Decimal takes more than HL7's NM is: underscores, other scripts' digits, exponents that print as megabytes.
    return Decimal(source) if _NUMBER.match(source) else None


def coding(repetition: Repetition, context: Context, at: int = 1) -> dict[str, str] | None:
    """CWE.1-3 (or .4-.6 with ``at`` 4) -> Coding."""
    code, display = value(repetition, at), value(repetition, at + 1)
    if code is None:
        return None
    made = {"system": codes.code_system(value(repetition, at + 2) or "", context.source.ods_code), "code": code}
    if display:
        made["display"] = display
    return {name: content for name, content in made.items() if content}


def concept(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """CE and CWE -> CodeableConcept; CWE.9 (or .2, .1) is the text."""
    made: dict[str, Any] = {}
    codings = [found for at in (1, 4, 10) if (found := coding(repetition, context, at))]
    if codings:
        made["coding"] = codings
    shown = value(repetition, 9) or value(repetition, 2) or value(repetition, 5)
    if shown:
        made["text"] = shown
    return made or None


def table_concept(table: str) -> Converter:
    """A code of an HL7 table, where the sender does not name the system."""

    def convert(repetition: Repetition, context: Context) -> dict[str, Any] | None:
        made = concept(repetition, context)
        if made and made.get("coding") and "system" not in made["coding"][0]:
            made["coding"][0] = {"system": f"http://terminology.hl7.org/CodeSystem/v2-{table}", **made["coding"][0]}
        return made

    return convert


def authority(repetition: Repetition, component: int, context: Context) -> str:
    """An assigning authority (HD) as a system: an OID as it is, else a name within the sending organisation."""
    universal = value(repetition, component, 2)
    if universal and (known := codes.oid(universal)):
        return known
    name = value(repetition, component) or universal
    base = f"{codes.BASE}/Id/{codes.slug(context.source.ods_code)}"
    return f"{base}/authority/{quote(name, safe='')}" if name else f"{base}/local"


def entity_identifier(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """EI -> Identifier, in the sending organisation's namespace unless it names its own."""
    number = value(repetition, 1)
    if number is None:
        return None
    universal = value(repetition, 3)
    name = value(repetition, 2)
    base = f"{codes.BASE}/Id/{codes.slug(context.source.ods_code)}"
    local = f"{base}/namespace/{quote(name, safe='')}" if name else f"{base}/local"
    system = (codes.oid(universal) if universal else None) or local
    return {"system": system, "value": number}


def human_name(repetition: Repetition, _: Context) -> dict[str, Any] | None:
    """XPN -> HumanName."""
    made: dict[str, Any] = {}
    if use := codes.NAME_USE.get((value(repetition, 7) or "").upper()):
        made["use"] = use
    if family := value(repetition, 1):
        made["family"] = family
    given = [name for at in (2, 3) if (name := value(repetition, at))]
    if given:
        made["given"] = given
    for element, at in (("prefix", 5), ("suffix", 4), ("suffix", 6)):
        if part := value(repetition, at):
            made.setdefault(element, []).append(part)
    return made if "family" in made or "given" in made else None


def alias(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """PID-9 -> HumanName; an alias is never the name in use."""
    made = human_name(repetition, context)
    if made and made.get("use") not in ("maiden", "nickname", "anonymous"):
        made["use"] = "old"
    return made


def address(repetition: Repetition, _: Context) -> dict[str, Any] | None:
    """XAD -> Address."""
    made: dict[str, Any] = {}
    if use := codes.ADDRESS_USE.get((value(repetition, 7) or "").upper()):
        made["use"] = use
    lines = [line for at in (1, 2, 8) if (line := value(repetition, at))]
    if lines:
        made["line"] = lines
    for element, at in (("city", 3), ("district", 9), ("state", 4), ("postalCode", 5), ("country", 6)):
        if part := value(repetition, at):
            made[element] = part
    return made if set(made) - {"use"} else None


def telecom(repetition: Repetition, _: Context) -> dict[str, Any] | None:
    """XTN -> ContactPoint; an e-mail is NET in .2 or .3 with the address in .4 (domain rules, PID-13)."""
    use = (value(repetition, 2) or "").upper()
    equipment = (value(repetition, 3) or "").upper()
    email = value(repetition, 4)
    number = value(repetition, 1) or value(repetition, 12)
    if not number:
        parts = [part for at in (5, 6, 7) if (part := value(repetition, at))]
        number = (" ".join(parts) + (f" x{value(repetition, 8)}" if value(repetition, 8) else "")) or None
    if email or (number and "@" in number):
        return {"system": "email", "value": email or number}
    if not number:
        return None
    made = {"system": codes.TELECOM_SYSTEM.get(equipment, "phone"), "value": number}
    named = "mobile" if equipment in ("CP", "MOBILE") else codes.TELECOM_USE.get(use)
    if named:
        made["use"] = named
    return made


def work_telecom(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """PID-14, the business numbers."""
    made = telecom(repetition, context)
    if made:
        made["use"] = "work"
    return made


def practitioner(repetition: Repetition, context: Context) -> Entry | None:
    """XCN -> a Practitioner, one for ever by its number; without a number, by its name within the sender."""
    number = value(repetition, 1)
    name = human_name_of_xcn(repetition)
    if not number and not name:
        return None
    resource: dict[str, Any] = {}
    if number:
        system = authority(repetition, 9, context)
        resource["identifier"] = [{"system": system, "value": number}]
        key = (system, number)
    else:
        assert name is not None
        key = ("name", name.get("family", ""), *name.get("given", []))
    if name:
        resource["name"] = [name]
    return context.entry("Practitioner", key, "organisation", resource, str(repetition.place))


def human_name_of_xcn(repetition: Repetition) -> dict[str, Any] | None:
    made: dict[str, Any] = {}
    if family := value(repetition, 2):
        made["family"] = family
    given = [name for at in (3, 4) if (name := value(repetition, at))]
    if given:
        made["given"] = given
    if prefix := value(repetition, 6):
        made["prefix"] = [prefix]
    return made if "family" in made or given else None


def display_of(entry: Entry) -> str | None:
    name = entry.resource.get("name")
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
    """PL -> a Location, one for ever by facility, building, floor, point of care, room and bed."""
    parts = {at: value(repetition, at) for at in (4, 7, 8, 1, 2, 3)}
    name = ", ".join(part for at in (1, 2, 3, 7, 8) if (part := parts[at]))
    if not name and not parts[4] and not value(repetition, 9):
        return None
    shown = name or value(repetition, 9) or parts[4] or ""
    resource: dict[str, Any] = {"name": shown, "mode": "instance"}
    if described := value(repetition, 9):
        resource["description"] = described
    if parts[3]:
        resource["physicalType"] = _physical("bd", "Bed")
    elif parts[2]:
        resource["physicalType"] = _physical("ro", "Room")
    elif parts[1]:
        resource["physicalType"] = _physical("wa", "Ward")
    key = tuple(part or "" for part in parts.values()) + ((shown,) if not name else ())
    return context.entry("Location", key, "organisation", resource, str(repetition.place))


def _physical(code: str, display: str) -> dict[str, Any]:
    system = "http://terminology.hl7.org/CodeSystem/location-physical-type"
    return {"coding": [{"system": system, "code": code, "display": display}]}


def organization(repetition: Repetition, context: Context) -> Entry | None:
    """XON -> an Organization, by its number (XON.10, XON.3) or its name within the sender."""
    name, number = value(repetition, 1), value(repetition, 10) or value(repetition, 3)
    if not name and not number:
        return None
    resource: dict[str, Any] = {}
    if number:
        system = authority(repetition, 6, context)
        resource["identifier"] = [{"system": system, "value": number}]
        key = (system, number)
    else:
        key = ("name", name or "")
    if name:
        resource["name"] = name
    return context.entry("Organization", key, "organisation", resource, str(repetition.place))


def organization_reference(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    entry = organization(repetition, context)
    return reference(context.owner, entry) if entry else None
