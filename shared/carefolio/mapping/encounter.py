"""PV1, PV2 and EVN -> Encounter; DG1 -> Condition; AL1 -> AllergyIntolerance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carefolio.hl7 import Message, Segment
from carefolio.mapping import actors, codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule

_ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"

ENCOUNTER = (
    Rule(4, "priority", dt.table_concept("0007")),
    Rule(10, "serviceType", dt.table_concept("0069")),
    Rule(13, "hospitalization.reAdmission", dt.table_concept("0092")),
    Rule(14, "hospitalization.admitSource", dt.table_concept("0023")),
    Rule(36, "hospitalization.dischargeDisposition", dt.table_concept("0112")),
    Rule(44, "period.start", dt.instant_of_day),
    Rule(45, "period.end", dt.instant_of_day),
    Rule(50, "identifier[]", dt.identifier),
    Rule(54, "identifier[]", dt.identifier),
    Rule(37, "hospitalization.destination", dt.destination),
    Rule(5, "hospitalization.preAdmissionIdentifier", dt.identifier),
    Rule(18, "type[]", dt.table_concept("0018")),
    Rule(15, "hospitalization.specialArrangement[]", dt.table_concept("0009")),
    Rule(38, "hospitalization.dietPreference[]", dt.table_concept("0114")),
)
REASON = (
    Rule(3, "reasonCode[]", dt.concept),
    Rule(12, "reasonCode[]", lambda repetition, _: {"text": shown} if (shown := repetition.whole().strip()) else None),
    Rule(25, "priority", dt.table_concept("0217")),
)
_CLINICIANS = ((7, "ATND"), (8, "REF"), (9, "CON"), (17, "ADM"), (52, "PART"))
# Beds that are not the patient's place now: how each is called in Encounter.location.
_OTHER_PLACES = ((6, "completed"), (11, "reserved"), (42, "planned"), (43, "completed"))


def map_encounter(message: Message, visit: Segment, patient: Entry, context: Context) -> Entry | None:
    """The Encounter, keyed by PV1-19.1; None where the message says nothing of a visit.

    A visit without a number is one by its class, place and admission: it gives a result its context, and nobody can
    update it.
    """
    number = next((r for r in visit.repetitions(19) if dt.value(r, 1)), None)
    if number is None and not any(visit.field(field).strip('^&~" ') for field in (*range(2, 19), 36, 37, 44, 45)):
        return None
    event = context.mapped.event
    key = (number.get(1).strip(),) if number else ("", visit.get(2).strip(), visit.field(3), visit.get(44).strip())
    entry = context.own("Encounter", key, "PV1")
    own = context.of(entry)
    resource = entry.resource
    base = f"{codes.BASE}/Id/{codes.slug(context.source.ods_code)}"
    if number is not None:
        numbered: dict[str, Any] = {"system": f"{base}/visit", "value": key[0]}
        dt.complete(numbered, number, kind_at=5, authority_at=4)
        resource["identifier"] = [numbered]
    if status := codes.ENCOUNTER_STATUS.get(event):
        resource["status"] = status
    letter = visit.get(2).strip().upper()
    code, display = codes.ENCOUNTER_CLASS.get(letter, (letter or "AMB", None if letter else "ambulatory"))
    system = (
        _ACT_CODE if letter in codes.ENCOUNTER_CLASS or not letter else "http://terminology.hl7.org/CodeSystem/v2-0004"
    )
    if letter or event:
        resource["class"] = {"system": system, "code": code} | ({"display": display} if display else {})
    resource["subject"] = entry.refer(patient)
    apply(ENCOUNTER, visit, own)
    _clinicians(visit, _CLINICIANS, own)
    if pv2 := message.first("PV2"):
        apply(REASON, pv2, own)
        _clinicians(pv2, ((13, "REF"),), own)
        for repetition in pv2.repetitions(1):
            if awaited := actors.location(repetition, own):
                put(resource, "location[]", {"location": actors.reference(entry, awaited), "status": "planned"})
        days = dt.decimal(pv2.get(11).strip())
        if days is not None:
            resource["length"] = {"value": days, "unit": "d", "system": "http://unitsofmeasure.org", "code": "d"}
    _period(message, own)
    if place := next((p for r in visit.repetitions(3) if (p := actors.location(r, own))), None):
        stay: dict[str, Any] = {"location": actors.reference(entry, place), "status": "active"}
        since = _event_time(message, own) if event in ("A01", "A02", "A04") else None
        if since:
            stay["period"] = {"start": since}
        if event == "A03":
            stay["status"] = "completed"
        elif event == "A05":
            stay["status"] = "planned"
        resource["location"] = [stay]
    for field, status in _OTHER_PLACES:
        for repetition in visit.repetitions(field):
            if other := actors.location(repetition, own):
                put(resource, "location[]", {"location": actors.reference(entry, other), "status": status})
    if evn := message.first("EVN"):
        _event(evn, entry, own)
    provider = {"system": codes.ODS_CODE, "value": context.source.ods_code}
    resource["serviceProvider"] = {"identifier": provider}
    return entry


def _clinicians(segment: Segment, fields: Sequence[tuple[int, str]], context: Context) -> None:
    for field, code in fields:
        for repetition in segment.repetitions(field):
            if person := actors.practitioner(repetition, context):
                participant = {
                    "type": [{"coding": [{"system": _PARTICIPATION, "code": code}]}],
                    "individual": actors.reference(context.owner, person),
                }
                put(context.owner.resource, "participant[]", participant)


def _event(segment: Segment, encounter: Entry, context: Context) -> None:
    """EVN -> Provenance of the visit: what happened, when it was recorded, and by whom."""
    context.claim(segment, encounter)
    people = [person for r in segment.repetitions(5) if (person := actors.practitioner(r, context))]
    if not people:
        return
    made = context.own("Provenance", ("event", *encounter.key, segment.text[4:]), "EVN")
    recorded = next((t for r in segment.repetitions(2) if (t := dt.instant(r, context))), None)
    system = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
    made.resource |= {
        "target": [made.refer(encounter)],
        "recorded": recorded or context.mapped.time.instant.isoformat(timespec="seconds"),
        "agent": [
            {"type": {"coding": [{"system": system, "code": "enterer"}]}, "who": actors.reference(made, person)}
            for person in people
        ],
    }
    if trigger := segment.get(1).strip():
        coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0003", "code": trigger}
        made.resource["activity"] = {"coding": [coding]}
    if reason := next((c for r in segment.repetitions(4) if (c := dt.table_concept("0062")(r, context))), None):
        made.resource["reason"] = [reason]
    if happened := next((t for r in segment.repetitions(6) if (t := dt.instant_of_day(r, context))), None):
        made.resource["occurredDateTime"] = happened


def _event_time(message: Message, context: Context) -> str | None:
    """EVN-6 (when it happened), else EVN-2 (when it was recorded)."""
    evn = message.first("EVN")
    for field in (6, 2):
        for repetition in evn.repetitions(field) if evn else []:
            if found := dt.instant_of_day(repetition, context):
                return found
    return None


def _period(message: Message, context: Context) -> None:
    event, resource = context.mapped.event, context.owner.resource
    happened = _event_time(message, context)
    if event in ("A01", "A04") and happened:
        put(resource, "period.start", happened)
    elif event == "A03" and happened:
        put(resource, "period.end", happened)
    elif event == "A13" and "period" in resource:
        resource["period"].pop("end", None)
    if not resource.get("period"):
        resource.pop("period", None)


CONDITION = (
    Rule(3, "code", dt.concept),
    Rule(5, "onsetDateTime", dt.instant_of_day),
    Rule(19, "recordedDate", dt.instant_of_day),
    Rule(16, "asserter", actors.practitioner_reference),
)


def map_condition(diagnosis: Segment, patient: Entry, encounter: Entry | None, context: Context) -> Entry | None:
    """A diagnosis, one per code (or its text) in the patient's record."""
    code, shown, system = (diagnosis.get(3, at).strip() for at in (1, 2, 3))
    context.mapped.sets.add("Condition")
    if diagnosis.is_null(3):
        return None
    if not code and not shown:
        shown = diagnosis.get(4).strip()
    if not code and not shown:
        return None
    key = (code or shown, system) if code else ("text", shown)
    entry = context.own("Condition", key, str(diagnosis.place()))
    own = context.of(entry)
    status = "http://terminology.hl7.org/CodeSystem/condition-clinical"
    entry.resource["clinicalStatus"] = {"coding": [{"system": status, "code": "active"}]}
    category = "encounter-diagnosis" if encounter else "problem-list-item"
    categories = "http://terminology.hl7.org/CodeSystem/condition-category"
    entry.resource["category"] = [{"coding": [{"system": categories, "code": category}]}]
    apply(CONDITION, diagnosis, own)
    if shown:
        put(entry.resource, "code.text", shown)
    entry.resource["subject"] = entry.refer(patient)
    if encounter:
        entry.resource["encounter"] = entry.refer(encounter)
    return entry


ALLERGY = (
    Rule(3, "code", dt.concept),
    Rule(6, "onsetDateTime", dt.instant_of_day),
    Rule(4, "criticality", dt.translate(codes.ALLERGY_CRITICALITY)),
)


def map_allergy(allergy: Segment, patient: Entry, context: Context) -> Entry | None:
    """An allergy, one per code (or text) and onset in the patient's record."""
    code, shown, system = (allergy.get(3, at).strip() for at in (1, 2, 3))
    context.mapped.sets.add("AllergyIntolerance")
    if allergy.is_null(3) or not (code or shown):
        return None
    key = (code or shown, system, allergy.get(6).strip())
    entry = context.own("AllergyIntolerance", key, str(allergy.place()))
    resource = entry.resource
    status = "http://terminology.hl7.org/CodeSystem/allergyintolerance-"
    resource["clinicalStatus"] = {"coding": [{"system": f"{status}clinical", "code": "active"}]}
    resource["verificationStatus"] = {"coding": [{"system": f"{status}verification", "code": "confirmed"}]}
    if category := codes.ALLERGY_CATEGORY.get(allergy.get(2).strip().upper()):
        resource["category"] = [category]
    apply(ALLERGY, allergy, context.of(entry))
    resource["patient"] = entry.refer(patient)
    reactions = [reaction for r in allergy.repetitions(5) if (reaction := r.whole().strip())]
    if reactions:
        resource["reaction"] = [{"manifestation": [{"text": reaction}]} for reaction in reactions]
    return entry
