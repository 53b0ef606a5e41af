"""PR1 -> Procedure, FT1 -> ChargeItem, PRB -> Condition, IAM -> AllergyIntolerance, ZRX -> MedicationStatement."""

from __future__ import annotations

from typing import Any

from carefolio.hl7 import Segment, TimeFormatError, read_moment
from carefolio.mapping import actors, codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule

PROCEDURE = (
    Rule(3, "code", dt.concept),
    Rule(5, "performedDateTime", dt.instant_of_day),
    Rule(6, "category", dt.table_concept("0230")),
    Rule(15, "reasonCode[]", dt.concept),
    Rule(19, "identifier[]", dt.entity_identifier),
)
CHARGE = (
    Rule(2, "identifier[]", dt.identifier),
    Rule(4, "occurrenceDateTime", dt.instant_of_day),
    Rule(5, "enteredDate", dt.instant_of_day),
    Rule(7, "code", dt.concept),
    Rule(19, "reason[]", dt.concept),
    Rule(23, "identifier[]", dt.entity_identifier),
)
PROBLEM = (
    Rule(3, "code", dt.concept),
    Rule(4, "identifier[]", dt.entity_identifier),
    Rule(7, "recordedDate", dt.instant_of_day),
    Rule(16, "onsetDateTime", dt.instant_of_day),
    Rule(9, "abatementDateTime", dt.instant_of_day),
    Rule(25, "severity", dt.concept),
)
ADVERSE = (
    Rule(3, "code", dt.concept),
    Rule(4, "criticality", dt.translate(codes.ALLERGY_CRITICALITY)),
    Rule(7, "identifier[]", dt.entity_identifier),
    Rule(11, "onsetDateTime", dt.instant_of_day),
    Rule(13, "recordedDate", dt.instant_of_day),
)
_SURGEONS = ((8, "anesthetist"), (11, "surgeon"), (12, "procedure practitioner"))


def map_procedure(segment: Segment, patient: Entry, encounter: Entry | None, context: Context) -> Entry:
    """A procedure, one per code and time in the patient's record."""
    key = (segment.get(3).strip() or segment.get(3, 2).strip() or segment.get(4).strip(), segment.get(5).strip())
    entry = context.own("Procedure", key, str(segment.place()))
    own, resource = context.of(entry), entry.resource
    resource["status"] = "completed"
    apply(PROCEDURE, segment, own)
    if shown := segment.get(4).strip():
        resource.setdefault("code", {}).setdefault("text", shown)
    resource.setdefault("code", dt.unknown())
    resource["subject"] = entry.refer(patient)
    if encounter:
        resource["encounter"] = entry.refer(encounter)
    for field, role in _SURGEONS:
        for repetition in segment.repetitions(field):
            if person := actors.practitioner(repetition, own):
                put(resource, "performer[]", {"function": {"text": role}, "actor": actors.reference(entry, person)})
    return entry


def map_charge(segment: Segment, patient: Entry, encounter: Entry | None, context: Context) -> Entry:
    """A financial transaction, one per its number or its code and time."""
    key = (segment.get(2).strip(), segment.get(7).strip(), segment.get(4).strip())
    entry = context.own("ChargeItem", key, str(segment.place()))
    own, resource = context.of(entry), entry.resource
    resource["status"] = "not-billable" if segment.get(6).strip().upper() == "CR" else "billable"
    apply(CHARGE, segment, own)
    if "code" not in resource:
        shown = segment.get(8).strip()
        resource["code"] = {"text": shown} if shown else dt.unknown()
    number = dt.decimal(segment.get(10).strip())
    if number is not None:
        resource["quantity"] = {"value": number}
    price = dt.decimal(segment.get(11).strip())
    if price is not None:
        resource["priceOverride"] = {"value": price}
    for field in (20, 21, 24):
        for repetition in segment.repetitions(field):
            if person := actors.practitioner(repetition, own):
                put(resource, "performer[]", {"actor": actors.reference(entry, person)})
    resource["subject"] = entry.refer(patient)
    if encounter:
        resource["context"] = entry.refer(encounter)
    return entry


def map_problem(segment: Segment, patient: Entry, encounter: Entry | None, context: Context) -> Entry:
    """A problem of a problem list, one per its number, else its code."""
    entry = context.own("Condition", ("problem", segment.get(4).strip() or segment.field(3)), str(segment.place()))
    own, resource = context.of(entry), entry.resource
    base = "http://terminology.hl7.org/CodeSystem/condition-"
    ended = segment.get(1).strip().upper() == "DE" or bool(segment.get(9).strip())
    resource["clinicalStatus"] = {"coding": [{"system": f"{base}clinical", "code": "resolved" if ended else "active"}]}
    resource["category"] = [{"coding": [{"system": f"{base}category", "code": "problem-list-item"}]}]
    apply(PROBLEM, segment, own)
    resource.setdefault("code", dt.unknown())
    resource["subject"] = entry.refer(patient)
    if encounter:
        resource["encounter"] = entry.refer(encounter)
    return entry


def map_adverse_reaction(segment: Segment, patient: Entry, context: Context) -> Entry:
    """IAM, the allergy segment with a key of its own (IAM-7)."""
    key = ("IAM", segment.get(7).strip() or segment.field(3), segment.get(11).strip())
    entry = context.own("AllergyIntolerance", key, str(segment.place()))
    own, resource = context.of(entry), entry.resource
    base = "http://terminology.hl7.org/CodeSystem/allergyintolerance-"
    if segment.get(6).strip().upper() == "D":
        resource["verificationStatus"] = {"coding": [{"system": f"{base}verification", "code": "entered-in-error"}]}
    else:
        resource["clinicalStatus"] = {"coding": [{"system": f"{base}clinical", "code": "active"}]}
        resource["verificationStatus"] = {"coding": [{"system": f"{base}verification", "code": "confirmed"}]}
    if category := codes.ALLERGY_CATEGORY.get(segment.get(2).strip().upper()):
        resource["category"] = [category]
    apply(ADVERSE, segment, own)
    resource.setdefault("code", dt.unknown())
    reactions: list[dict[str, Any]] = [{"text": text} for r in segment.repetitions(5) if (text := r.whole().strip())]
    if reactions:
        resource["reaction"] = [{"manifestation": [reaction]} for reaction in reactions]
    for repetition in segment.repetitions(14):
        if reporter := dt.human_name(repetition, own):
            shown = " ".join([*reporter.get("given", []), reporter.get("family", "")]).strip()
            resource.setdefault("recorder", {"display": shown})
    resource["patient"] = entry.refer(patient)
    return entry


def map_medicine(segment: Segment, patient: Entry, context: Context) -> Entry | None:
    """ZRX, the reference product's own segment (domain rules A5): a medicine in use, one per name and start."""
    context.mapped.sets.add("MedicationStatement")
    code, shown = segment.get(2, 1).strip(), segment.get(2, 2).strip()
    if segment.is_null(2) or not (code or shown):
        return None
    start, end = segment.get(1, 4).strip(), segment.get(1, 5).strip()
    entry = context.own("MedicationStatement", (code or shown, segment.get(2, 3).strip(), start), str(segment.place()))
    own, resource = context.of(entry), entry.resource
    resource["status"] = "active"
    apply((Rule(2, "medicationCodeableConcept", dt.concept),), segment, own)
    resource["subject"] = entry.refer(patient)
    period = {}
    for element, text in (("start", start), ("end", end)):
        try:
            period[element] = read_moment(text, context.source.zone).fhir
        except TimeFormatError:
            continue
    if period:
        resource["effectivePeriod"] = period
    if frequency := segment.get(1, 2).strip():
        resource["dosage"] = [{"text": frequency}]
    return entry
