"""People and payers around the patient: NK1, GT1 -> RelatedPerson, IN1 -> Coverage, PRT, ROL -> PractitionerRole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from carefolio.hl7 import Segment
from carefolio.mapping import actors, codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule

NEXT_OF_KIN = (
    Rule(2, "name[]", dt.human_name),
    Rule(3, "relationship[]", dt.table_concept("0063")),
    Rule(7, "relationship[]", dt.table_concept("0131")),
    Rule(4, "address[]", dt.address),
    Rule(5, "telecom[]", dt.telecom),
    Rule(6, "telecom[]", dt.work_telecom),
    Rule(40, "telecom[]", dt.telecom),
    Rule(41, "telecom[]", dt.telecom),
    Rule(8, "period.start", dt.day),
    Rule(9, "period.end", dt.day),
    Rule(12, "identifier[]", dt.identifier),
    Rule(33, "identifier[]", dt.identifier),
    Rule(37, "identifier[]", dt.identifier),
    Rule(15, "gender", dt.translate(codes.ADMINISTRATIVE_GENDER)),
    Rule(16, "birthDate", dt.day),
    Rule(20, "communication[]", dt.language),
    Rule(30, "name[]", dt.human_name),
    Rule(31, "telecom[]", dt.telecom),
    Rule(32, "address[]", dt.address),
)
GUARANTOR = (
    Rule(2, "identifier[]", dt.identifier),
    Rule(3, "name[]", dt.human_name),
    Rule(4, "name[]", dt.human_name),
    Rule(5, "address[]", dt.address),
    Rule(6, "telecom[]", dt.telecom),
    Rule(7, "telecom[]", dt.work_telecom),
    Rule(8, "birthDate", dt.day),
    Rule(9, "gender", dt.translate(codes.ADMINISTRATIVE_GENDER)),
    Rule(11, "relationship[]", dt.table_concept("0063")),
    Rule(12, "identifier[]", dt.identifier),
    Rule(13, "period.start", dt.day),
    Rule(14, "period.end", dt.day),
    Rule(16, "name[]", dt.human_name),
    Rule(17, "address[]", dt.address),
    Rule(18, "telecom[]", dt.work_telecom),
    Rule(19, "identifier[]", dt.identifier),
    Rule(36, "communication[]", dt.language),
)
COVERAGE = (
    Rule(2, "identifier[]", dt.coded_identifier),
    Rule(12, "period.start", dt.day),
    Rule(13, "period.end", dt.day),
    Rule(15, "type", dt.table_concept("0086")),
    Rule(17, "relationship", dt.table_concept("0063")),
    Rule(36, "identifier[]", dt.identifier),
    Rule(49, "identifier[]", dt.identifier),
)
SUBSCRIBER = (
    Rule(16, "name[]", dt.human_name),
    Rule(18, "birthDate", dt.day),
    Rule(19, "address[]", dt.address),
    Rule(43, "gender", dt.translate(codes.ADMINISTRATIVE_GENDER)),
    Rule(44, "address[]", dt.address),
)
PAYER = (
    Rule(3, "identifier[]", dt.identifier),
    Rule(5, "address[]", dt.address),
    Rule(7, "telecom[]", dt.telecom),
)
INSURED = (
    Rule(1, "identifier[]", dt.identifier),
    Rule(2, "identifier[]", dt.identifier),
    Rule(6, "identifier[]", dt.identifier),
    Rule(8, "identifier[]", dt.identifier),
    Rule(40, "name[]", dt.human_name),
    Rule(52, "name[]", dt.human_name),
    Rule(61, "identifier[]", dt.identifier),
    Rule(63, "telecom[]", dt.telecom),
    Rule(64, "telecom[]", dt.work_telecom),
)


def map_next_of_kin(segment: Segment, patient: Entry, context: Context) -> Entry:
    """A relation, one per name and relationship in the patient's record."""
    key = ("next of kin", segment.field(2) or segment.field(13), segment.field(3))
    return _related(segment, NEXT_OF_KIN, key, patient, context)


def map_guarantor(segment: Segment, patient: Entry, context: Context) -> Entry:
    entry = _related(segment, GUARANTOR, ("guarantor", segment.field(2) or segment.field(3)), patient, context)
    system = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
    put(entry.resource, "relationship[]", {"coding": [{"system": system, "code": "GUARD"}], "text": "guarantor"})
    return entry


def _related(segment: Segment, rules: Sequence[Rule], key: tuple[str, ...], patient: Entry, context: Context) -> Entry:
    entry = context.own("RelatedPerson", key, str(segment.place()))
    apply(rules, segment, context.of(entry))
    entry.resource["patient"] = entry.refer(patient)
    return entry


def map_coverage(segment: Segment, more: Segment | None, patient: Entry, context: Context) -> Entry:
    """An insurance: the plan, its payer, and who holds it."""
    entry = context.own("Coverage", (segment.field(2), segment.field(3), segment.field(36)), str(segment.place()))
    own = context.of(entry)
    apply(COVERAGE, segment, own)
    resource = entry.resource
    resource["status"] = "active"
    resource["beneficiary"] = entry.refer(patient)
    payer = next((o for r in segment.repetitions(4) if (o := actors.organization(r, own))), None)
    if payer:
        apply(PAYER, segment, context.of(payer))
        context.claims[id(segment)] = entry
        resource["payor"] = [actors.reference(entry, payer)]
    else:
        shown = segment.get(3).strip() or "not stated"
        resource["payor"] = [{"display": shown}]
    for field, kind, name_field in ((8, "group", 9), (35, "plan", None)):
        if number := segment.get(field).strip():
            system = "http://terminology.hl7.org/CodeSystem/coverage-class"
            held = {"type": {"coding": [{"system": system, "code": kind}]}, "value": number}
            if name_field and (name := segment.get(name_field).strip()):
                held["name"] = name
            put(resource, "class[]", held)
    if segment.field(16):
        holder = context.own("RelatedPerson", ("insured", segment.field(16)), str(segment.place()))
        apply(SUBSCRIBER, segment, context.of(holder))
        context.claims[id(segment)] = entry
        holder.resource["patient"] = holder.refer(patient)
        resource["subscriber"] = entry.refer(holder)
        if more:
            apply(INSURED, more, context.of(holder))
    if more:
        context.claim(more, entry)
    number = segment.get(22).strip()
    if re.fullmatch(r"[1-9][0-9]{0,2}", number):
        resource["order"] = int(number)
    return entry


def map_role(segment: Segment, context: Context) -> Entry | None:
    """PRT, ROL: somebody in a part that he plays; the person, his organisation and his place are resources too."""
    if segment.name == "PRT":
        person_at, organisation_at, place_at, role_at, contact_at, address_at = 5, 8, 9, 4, 15, 14
    else:
        person_at, organisation_at, place_at, role_at, contact_at, address_at = 4, 14, 13, 3, 12, 11
    person = next((p for r in segment.repetitions(person_at) if (p := actors.practitioner(r, context))), None)
    organisation = next(
        (o for r in segment.repetitions(organisation_at) if (o := actors.organization(r, context))), None
    )
    place = next((p for r in segment.repetitions(place_at) if (p := actors.location(r, context))), None)
    roles = [c for r in segment.repetitions(role_at) if (c := dt.concept(r, context))]
    if not (person or organisation or place):
        return None
    entry = context.own("PractitionerRole", (segment.name, segment.text[4:]), str(segment.place()))
    own, resource = context.of(entry), entry.resource
    context.claim(segment, entry)
    if person:
        resource["practitioner"] = actors.reference(entry, person)
    if organisation:
        resource["organization"] = actors.reference(entry, organisation)
    if place:
        resource["location"] = [actors.reference(entry, place)]
    if roles:
        resource["code"] = roles
    if segment.name == "ROL":
        for repetition in segment.repetitions(9):
            if kind := dt.concept(repetition, own):
                put(resource, "specialty[]", kind)
    for repetition in segment.repetitions(1):
        if number := dt.entity_identifier(repetition, own):
            put(resource, "identifier[]", number)
    for repetition in segment.repetitions(contact_at):
        if contact := dt.telecom(repetition, own):
            put(resource, "telecom[]", contact)
    holder = person or organisation
    for repetition in segment.repetitions(address_at):
        if holder and (where := dt.address(repetition, own)):
            put(holder.resource, "address[]", where)
    start, end = (11, 12) if segment.name == "PRT" else (5, 6)
    for field, name in ((start, "start"), (end, "end")):
        for repetition in segment.repetitions(field):
            if when := dt.instant_of_day(repetition, own):
                resource.setdefault("period", {})[name] = when
    return entry


def contact_of(segment: Segment, context: Context) -> dict[str, Any] | None:
    """NK1 in short, for Patient.contact, where UK apps look for the next of kin."""
    made: dict[str, Any] = {}
    for field, element, convert in ((2, "name", dt.human_name), (4, "address", dt.address)):
        found = next((c for r in segment.repetitions(field) if (c := convert(r, context))), None)
        if found:
            made[element] = found
    phones = [c for field in (5, 6) for r in segment.repetitions(field) if (c := dt.telecom(r, context))]
    if phones:
        made["telecom"] = phones
    for repetition in segment.repetitions(13):
        if organisation := actors.organization(repetition, context):
            made["organization"] = actors.reference(context.owner, organisation)
    relation = next((c for r in segment.repetitions(3) if (c := dt.table_concept("0131")(r, context))), None)
    if made and relation:
        made["relationship"] = [relation]
    return made or None
