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
from carefolio.mapping.languages import bcp47
from carefolio.mapping.model import Context, Converter

_NUMBER = re.compile(r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d)?\Z", re.ASCII)


# CWE: where the version of each coding's system stands.
_VERSION_AT = {1: 7, 4: 8, 10: 13}
V2 = "http://terminology.hl7.org/CodeSystem/v2-{}"


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

    convert.__name__ = "code"
    return convert


def day(repetition: Repetition, context: Context) -> str | None:
    """A FHIR date; the time of a day that was sent more exactly is kept beside it."""
    try:
        moment = read_moment(repetition.get(1), context.source.zone)
    except TimeFormatError:
        return None
    if moment.precision > 8:
        repetition.forget()
    return moment.day


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
    named = value(repetition, at + 2) or ""
    system = codes.code_system(named, context.source.ods_code)
    if system and system.startswith(codes.BASE) and (codes.slug(named) != named or len(named) < 4):
        # This name of the sender's own for a system is not to be read back from the URI that was made of it.
        repetition.forget(at + 2)
    made = {"system": system, "code": code}
    if version := value(repetition, _VERSION_AT[at]):
        made["version"] = version
    if display:
        made["display"] = display
    return {name: content for name, content in made.items() if content}


def concept(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """CE and CWE -> CodeableConcept; CWE.9 (or .2, .1) is the text."""
    made: dict[str, Any] = {}
    codings = [found for at in (1, 4, 10) if (found := coding(repetition, context, at))]
    if context.source.codes:
        codings = [*_meant(codings, context), *codings]
    if codings:
        made["coding"] = codings
    shown = value(repetition, 9) or value(repetition, 2) or value(repetition, 5)
    if shown:
        made["text"] = shown
    return made or None


def _meant(codings: list[dict[str, str]], context: Context) -> list[dict[str, str]]:
    """What the sender's own codes mean, where a person has said so."""
    known = context.source.codes
    return [dict(meant) for own in codings if (meant := known.get((own.get("system", ""), own["code"])))]


def table_concept(table: str) -> Converter:
    """A code of an HL7 table, where the sender does not name the system."""

    def convert(repetition: Repetition, context: Context) -> dict[str, Any] | None:
        made = concept(repetition, context)
        if made and made.get("coding") and "system" not in made["coding"][0]:
            made["coding"][0] = {"system": f"http://terminology.hl7.org/CodeSystem/v2-{table}", **made["coding"][0]}
        return made

    convert.__name__ = f"concept of table {table}"
    return convert


def authority(repetition: Repetition, component: int, context: Context) -> str:
    """An assigning authority (HD) as a system: what was agreed with the sender, else its own."""
    name = value(repetition, component) or value(repetition, component, 2)
    return context.source.authorities.get(name or "") or own_authority(repetition, component, context)


def own_authority(repetition: Repetition, component: int, context: Context) -> str:
    """An assigning authority whatever was agreed: an OID as it is, else a name within the sending organisation."""
    universal = value(repetition, component, 2)
    name = value(repetition, component) or universal
    if universal and (known := codes.oid(universal)):
        return known
    base = f"{codes.BASE}/Id/{codes.slug(context.source.ods_code)}"
    return f"{base}/authority/{quote(name, safe='')}" if name else f"{base}/local"


def specimen_source(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """SPS -> the kind of specimen: its first component, a code with sub-components or a text."""
    code, shown, system = (value(repetition, 1, at) for at in (1, 2, 3))
    if not code and not shown:
        return None
    made: dict[str, Any] = {"text": shown or code}
    if code:
        found = codes.code_system(system or "", context.source.ods_code) or V2.format("0070")
        made["coding"] = [{"system": found, "code": code} | ({"display": shown} if shown else {})]
    return made


def entity_identifier_pair(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """EIP -> the filler's Identifier (its second component), else the placer's."""
    for at in (2, 1):
        if number := value(repetition, at):
            name, universal = value(repetition, at, 2), value(repetition, at, 3)
            made: dict[str, Any] = {"value": number}
            if universal and (system := codes.oid(universal)):
                made["system"] = system
            if name:
                made["assigner"] = {"display": name}
            if at == 2 and (placed := value(repetition, 1)):
                made["type"] = {"text": f"placer's number {placed}"}
            return made
    return None


def destination(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """DLD -> a Reference by display, to where a patient is discharged."""
    shown = value(repetition, 1, 2) or value(repetition, 1)
    return {"display": shown} if shown else None


def unknown() -> dict[str, Any]:
    """The code that FHIR wants where a sender says nothing."""
    return {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}]}


def absent() -> dict[str, Any]:
    """The extension for an element that FHIR wants and the sender did not send."""
    url = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
    return {"url": url, "valueCode": "unknown"}


def language(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """PID-15 -> Patient.communication; FHIR requires BCP 47, and what is none stays in an extension."""
    code, shown = value(repetition, 1), value(repetition, 2)
    tag = bcp47(code or "") or bcp47(shown or "")
    if tag is None:
        return None
    for at in (1, 3) if (code or "").casefold() != tag.casefold() else (3,):
        repetition.forget(at)
    coding = {"system": "urn:ietf:bcp:47", "code": tag}
    return {"language": {"coding": [coding | ({"display": shown} if shown else {})]}}


def identifier(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """CX -> Identifier, with its type, its assigner and its time."""
    number = value(repetition, 1)
    if number is None:
        return None
    made: dict[str, Any] = {"system": authority(repetition, 4, context), "value": number}
    complete(made, repetition, kind_at=5, authority_at=4)
    return made


def complete(made: dict[str, Any], repetition: Repetition, *, kind_at: int, authority_at: int) -> None:
    """Type (where ``kind_at`` is not 0) and assigner of an identifier (CX.4, CX.5; XCN.9, XCN.13; XON.6, XON.7)."""
    if kind_at and (kind := value(repetition, kind_at)):
        made.setdefault("type", {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": kind}]})
    name, universal = value(repetition, authority_at), value(repetition, authority_at, 2)
    if name or universal:
        made["assigner"] = {"display": name or universal}
        if universal:
            made["assigner"]["identifier"] = {"system": "urn:ietf:rfc:3986", "value": codes.oid(universal) or universal}
            if kind := value(repetition, authority_at, 3):
                made["assigner"]["identifier"]["type"] = {"text": kind}


def coded_identifier(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """CWE -> Identifier, where the code names a thing (a plan, a device)."""
    found = concept(repetition, context)
    if not found:
        return None
    coding: dict[str, str] = next(iter(found.get("coding", [])), {})
    made = {"value": coding.get("code") or found.get("text", "")}
    if system := coding.get("system"):
        made["system"] = system
    shown = found.get("text") or coding.get("display")
    return made | ({"type": {"text": shown}} if shown else {})


def entity_identifier(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """EI -> Identifier, in the sending organisation's namespace unless it names its own."""
    number = value(repetition, 1)
    if number is None:
        return None
    universal = value(repetition, 3)
    if value(repetition, 4) not in (None, "ISO"):
        repetition.forget(4)
    name = value(repetition, 2)
    base = f"{codes.BASE}/Id/{codes.slug(context.source.ods_code)}"
    local = f"{base}/namespace/{quote(name, safe='')}" if name else f"{base}/local"
    system = (codes.oid(universal) if universal else None) or local
    if universal and system == local:
        repetition.forget(3)
    return {"system": system, "value": number} | ({"assigner": {"display": name}} if name else {})


def human_name(repetition: Repetition, _: Context) -> dict[str, Any] | None:
    """XPN -> HumanName."""
    made: dict[str, Any] = {}
    if use := code_of(codes.NAME_USE, repetition, 7):
        made["use"] = use
    if family := value(repetition, 1):
        made["family"] = family
    given = [name for at in (2, 3) if (name := value(repetition, at))]
    if given:
        made["given"] = given
    for element, at in (("prefix", 5), ("suffix", 4), ("suffix", 6), ("suffix", 14)):
        if part := value(repetition, at):
            made.setdefault(element, []).append(part)
    _period(made, repetition, 12, 13)
    return made if "family" in made or "given" in made else None


def _period(made: dict[str, Any], repetition: Repetition, start: int, end: int) -> None:
    """A Period from two components, where they are times."""
    for name, at in (("start", start), ("end", end)):
        if text := value(repetition, at):
            try:
                moment = read_moment(text)
            except TimeFormatError:
                repetition.forget(at)
            else:
                made.setdefault("period", {})[name] = moment.fhir


def code_of(table: Mapping[str, str], repetition: Repetition, component: int) -> str | None:
    """A component through a table; what the table does not know stays for the extension."""
    text = value(repetition, component)
    if text is None:
        return None
    found = table.get(text.upper())
    if found is None:
        repetition.forget(component)
    return found


def alias(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    """PID-9 -> HumanName; an alias is never the name in use."""
    made = human_name(repetition, context)
    if made and made.get("use") not in ("maiden", "nickname", "anonymous"):
        made["use"] = "old"
    return made


def address(repetition: Repetition, _: Context) -> dict[str, Any] | None:
    """XAD -> Address."""
    made: dict[str, Any] = {}
    if use := code_of(codes.ADDRESS_USE, repetition, 7):
        made["use"] = use
    lines = [line for at in (1, 2, 8) if (line := value(repetition, at))]
    # SAD: street name and house number are sub-components of the first.
    lines += [part for at in (2, 3) if (part := value(repetition, 1, at)) and part not in lines]
    if lines:
        made["line"] = lines
    for element, at in (("city", 3), ("district", 9), ("state", 4), ("postalCode", 5), ("country", 6)):
        if part := value(repetition, at):
            made[element] = part
    if set(made) <= {"use"}:
        return None
    _period(made, repetition, 13, 14)
    return made


def telecom(repetition: Repetition, _: Context) -> dict[str, Any] | None:
    """XTN -> ContactPoint; an e-mail is NET in .2 or .3 with the address in .4 (domain rules, PID-13)."""
    use = (value(repetition, 2) or "").upper()
    equipment = (value(repetition, 3) or "").upper()
    if equipment not in codes.TELECOM_SYSTEM:
        repetition.forget(3)
    if use not in codes.TELECOM_USE and use != "NET":
        repetition.forget(2)
    if email := value(repetition, 4):
        return {"system": "email", "value": email}
    number = value(repetition, 1) or value(repetition, 12)
    if not number:
        parts = [part for at in (5, 6, 7) if (part := value(repetition, at))]
        number = (" ".join(parts) + (f" x{value(repetition, 8)}" if value(repetition, 8) else "")) or None
    if not number:
        return None
    if "@" in number:
        return {"system": "email", "value": number}
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
