"""SPM, and what an OBR says of a specimen -> Specimen."""

from __future__ import annotations

from carefolio.hl7 import Segment
from carefolio.mapping import actors
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule

SPECIMEN = (
    Rule(2, "identifier[]", dt.entity_identifier_pair),
    Rule(6, "container[].additiveCodeableConcept", dt.table_concept("0371")),
    Rule(7, "collection.method", dt.table_concept("0488")),
    Rule(24, "condition[]", dt.table_concept("0493")),
    Rule(27, "container[].type", dt.concept),
    Rule(30, "accessionIdentifier", dt.identifier),
    Rule(31, "identifier[]", dt.identifier),
    Rule(32, "identifier[]", dt.entity_identifier),
    Rule(20, "status", dt.translate({"Y": "available", "N": "unavailable"})),
    Rule(4, "type", dt.table_concept("0487")),
    Rule(8, "collection.bodySite", dt.concept),
    Rule(17, "collection.collectedDateTime", dt.instant_of_day),
    Rule(18, "receivedTime", dt.instant_of_day),
)
REQUEST_SPECIMEN = (
    Rule(15, "type", dt.specimen_source),
    Rule(14, "receivedTime", dt.instant_of_day),
    Rule(7, "collection.collectedDateTime", dt.instant_of_day),
)


def specimen_of_request(request: Segment, filler: str, patient: Entry | None, context: Context) -> Entry | None:
    """OBR-9, -10, -14, -15: what senders before 2.5 say of the specimen."""
    if not any(request.field(field).strip("^&~ ") for field in range(9, 16)):
        return None
    entry = context.own("Specimen", (filler, "OBR"), str(request.place()))
    own, resource = context.of(entry), entry.resource
    claimed = context.claims.get(id(request))
    apply(REQUEST_SPECIMEN, request, own)
    amount = dt.decimal(request.get(9).strip())
    if amount is not None:
        unit = request.get(9, 2).strip()
        quantity = {"value": amount} | ({"unit": unit} if unit else {})
        resource.setdefault("collection", {})["quantity"] = quantity
    if claimed:
        context.claims[id(request)] = claimed
    for repetition in request.repetitions(10):
        if person := actors.practitioner(repetition, own):
            resource.setdefault("collection", {}).setdefault("collector", actors.reference(entry, person))
    if patient:
        resource["subject"] = entry.refer(patient)
    return entry


def map_specimen(segment: Segment, filler: str, patient: Entry | None, context: Context) -> Entry:
    """One specimen: by its number where it has one, else by its place in the order."""
    number = segment.field(2)
    key = ("SPM", number) if number else (filler, segment.get(1).strip() or str(segment.occurrence))
    entry = context.own("Specimen", key, str(segment.place()))
    apply(SPECIMEN, segment, context.of(entry))
    for repetition in segment.repetitions(14):
        put(entry.resource, "note[]", {"text": repetition.whole()})
    amount = dt.decimal(segment.get(12).strip())
    if amount is not None:
        made = {"value": amount} | ({"unit": unit} if (unit := segment.get(12, 2).strip()) else {})
        entry.resource.setdefault("collection", {})["quantity"] = made
    if patient:
        entry.resource["subject"] = entry.refer(patient)
    return entry
