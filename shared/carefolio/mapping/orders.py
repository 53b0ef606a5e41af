"""ORC with OBR, RXO, RXE, RXD, RXG, RXA, ODS, RQD -> what was asked for, dispensed or given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from carefolio.hl7 import Message, Segment
from carefolio.mapping import actors
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule

DETAILS = frozenset({"OBR", "RXO", "RXE", "RXD", "RXG", "RXA", "ODS", "RQD"})

_SERVICE = (
    Rule(4, "code", dt.concept),
    Rule(6, "occurrenceDateTime", dt.instant_of_day),
    Rule(13, "reasonCode[]", dt.concept),
    Rule(31, "reasonCode[]", dt.concept),
    Rule(46, "orderDetail[]", dt.concept),
    Rule(47, "orderDetail[]", dt.concept),
    Rule(53, "identifier[]", dt.identifier),
)
_COMMON = (
    Rule(9, "authoredOn", dt.instant_of_day),
    Rule(4, "requisition", dt.entity_identifier),
    Rule(16, "reasonCode[]", dt.concept),
)
_MEDICATION = {
    "RXO": (Rule(1, "medicationCodeableConcept", dt.concept), Rule(10, "_location", actors.location)),
    "RXE": (Rule(2, "medicationCodeableConcept", dt.concept),),
    "RXD": (Rule(2, "medicationCodeableConcept", dt.concept), Rule(3, "whenHandedOver", dt.instant_of_day)),
    "RXG": (Rule(4, "medicationCodeableConcept", dt.concept),),
    "RXA": (Rule(5, "medicationCodeableConcept", dt.concept),),
}
_IMMUNIZATION = (
    Rule(3, "occurrenceDateTime", dt.instant_of_day),
    Rule(5, "vaccineCode", dt.concept),
    Rule(15, "lotNumber", dt.first),
    Rule(16, "expirationDate", dt.day),
    Rule(18, "statusReason", dt.concept),
    Rule(19, "reasonCode[]", dt.concept),
    Rule(22, "recorded", dt.instant_of_day),
)
_TYPES = {"OBR": "ServiceRequest", "RXO": "MedicationRequest", "RXE": "MedicationRequest",
          "RXG": "MedicationRequest", "RXD": "MedicationDispense", "ODS": "NutritionOrder",
          "RQD": "SupplyRequest"}  # fmt: skip
_CODE_AT = {"OBR": 4, "RXE": 2, "RXD": 2, "RXG": 4, "RXA": 5, "RQD": 2}
# Quantity and its unit, and what each is of the resource.
_DOSES = {"RXO": (2, 4), "RXE": (3, 5), "RXG": (5, 7), "RXA": (6, 7), "RXD": (4, 5)}
_STATUS = {"CA": "revoked", "OC": "revoked", "CR": "revoked", "DC": "revoked", "OD": "revoked", "DR": "revoked",
           "HD": "on-hold", "OH": "on-hold", "HR": "on-hold", "CM": "completed", "A": "active", "IP": "active",
           "SC": "active", "DE": "entered-in-error", "ER": "unknown", "RP": "revoked"}  # fmt: skip


def groups(message: Message) -> list[list[Segment]]:
    """The order groups: each begins with its ORC, or with its detail where a sender leaves the ORC out."""
    found: list[list[Segment]] = []
    for segment in message.segments:
        begins = segment.name == "ORC" or (
            segment.name in DETAILS and (not found or any(known.name in DETAILS for known in found[-1]))
        )
        if begins:
            found.append([segment])
        elif found:
            found[-1].append(segment)
    return found


def map_order(
    group: Sequence[Segment], message: Message, patient: Entry | None, encounter: Entry | None, context: Context
) -> Entry:
    """One group as one resource; its ORC, timing, route and notes with it."""
    common = next((segment for segment in group if segment.name == "ORC"), None)
    detail = next((segment for segment in group if segment.name in DETAILS), None)
    kind = _kind(detail, message)
    numbers = _numbers(common, detail)
    service = (
        detail.get({"OBR": 4, "RXE": 2, "RXD": 2, "RXG": 4, "RXA": 5, "RQD": 2}.get(detail.name, 1)) if detail else ""
    )
    when = detail.get(3) if detail is not None and detail.name == "RXA" else ""
    entry = context.own(kind, (*numbers, service, when), str((detail or group[0]).place()))
    own = context.of(entry)
    for segment in group:
        if segment.name in ("ORC", "RXR", "RXC", "TQ1", "TQ2", "IPC", "BLG", "CTI", "CTD") or segment is detail:
            context.claim(segment, entry)
    resource = entry.resource
    _identify(entry, common, detail, own)
    status = _STATUS.get((common.get(5) or common.get(1)).strip().upper()) if common else None
    _BUILD[kind](entry, detail, own, status)
    subject = entry.refer(patient) if patient else {"display": "not stated"}
    resource["patient" if kind in ("Immunization", "NutritionOrder") else "subject"] = subject
    if kind == "SupplyRequest":
        resource["deliverTo"] = resource.pop("subject")
    if encounter and kind not in ("SupplyRequest", "MedicationDispense", "MedicationAdministration"):
        resource["encounter"] = entry.refer(encounter)
    elif encounter and kind in ("MedicationDispense", "MedicationAdministration"):
        resource["context"] = entry.refer(encounter)
    if common:
        _people(common, detail, entry, own, kind)
    elif detail is not None and detail.name == "OBR":
        ordering = next(iter(_clinicians(detail, (16,), own)), None)
        _requester(None, detail, entry, ordering, None, own)
    for segment in group:
        if segment.name == "RXR":
            _route(segment, entry, own, kind)
        elif segment.name == "TQ1":
            _timing(segment, entry, own, kind)
    return entry


def _kind(detail: Segment | None, message: Message) -> str:
    if detail is None:
        return "ServiceRequest"
    if detail.name == "RXA":
        vaccine = message.code in ("VXU", "RSP", "VXR") or detail.get(5, 3).upper() in ("CVX", "HL70292")
        return "Immunization" if vaccine else "MedicationAdministration"
    return _TYPES[detail.name]


def _numbers(common: Segment | None, detail: Segment | None) -> tuple[str, str]:
    """What an order is known by: the placer's number, which the order and its result share, else the filler's."""
    placer, filler = (common.get(2).strip(), common.get(3).strip()) if common else ("", "")
    if detail is not None and detail.name == "OBR":
        placer, filler = placer or detail.get(2).strip(), filler or detail.get(3).strip()
    return (placer, "") if placer else ("", filler)


def _identify(entry: Entry, common: Segment | None, detail: Segment | None, context: Context) -> None:
    system = "http://terminology.hl7.org/CodeSystem/v2-0203"
    for segment in (common, detail if detail is not None and detail.name == "OBR" else None):
        for field, kind in ((2, "PLAC"), (3, "FILL")):
            for repetition in segment.repetitions(field)[:1] if segment else []:
                if identifier := dt.entity_identifier(repetition, context):
                    identifier["type"] = {"coding": [{"system": system, "code": kind}]}
                    put(entry.resource, "identifier[]", identifier)


def _service_request(entry: Entry, detail: Segment | None, context: Context, status: str | None) -> None:
    entry.resource |= {"status": status or "active", "intent": "order"}
    if detail is not None:
        apply(_SERVICE, detail, context)
    priority = {"S": "stat", "A": "asap", "R": "routine", "T": "urgent"}.get(
        (detail.get(5) or detail.get(27, 6)).strip().upper() if detail else ""
    )
    if priority:
        entry.resource["priority"] = priority


def _medication(entry: Entry, detail: Segment, context: Context) -> None:
    apply(_MEDICATION[detail.name][:1], detail, context)
    entry.resource.setdefault("medicationCodeableConcept", dt.unknown())


def _dose(detail: Segment) -> dict[str, Any] | None:
    amount, unit = _DOSES[detail.name]
    number = dt.decimal(detail.get(amount).strip())
    if number is None:
        return None
    made: dict[str, Any] = {"value": number}
    code, shown, system = (detail.get(unit, at).strip() for at in (1, 2, 3))
    if code or shown:
        made["unit"] = shown or code
    if code and system.upper() in ("UCUM", "ISO+"):
        made |= {"system": "http://unitsofmeasure.org", "code": code}
    return made


def _medication_request(entry: Entry, detail: Segment | None, context: Context, status: str | None) -> None:
    assert detail is not None
    entry.resource |= {"status": {"revoked": "cancelled"}.get(status or "", status or "active"), "intent": "order"}
    _medication(entry, detail, context)
    dosage: dict[str, Any] = {}
    if dose := _dose(detail):
        dosage["doseAndRate"] = [{"doseQuantity": dose}]
    text_field = {"RXO": 7, "RXE": 7, "RXG": 13}.get(detail.name)
    texts = [found for r in detail.repetitions(text_field or 7) if (found := dt.concept(r, context))]
    if texts:
        dosage["additionalInstruction"] = texts
    if dosage:
        entry.resource["dosageInstruction"] = [dosage]
    dispense: dict[str, Any] = {}
    amount, unit, refills = {"RXO": (11, 12, 13), "RXE": (10, 11, 12)}.get(detail.name, (0, 0, 0))
    if amount and (number := dt.decimal(detail.get(amount).strip())) is not None:
        dispense["quantity"] = {"value": number}
        if shown := detail.get(unit, 2).strip() or detail.get(unit).strip():
            dispense["quantity"]["unit"] = shown
    if refills and detail.get(refills).strip().isdecimal():
        dispense["numberOfRepeatsAllowed"] = int(detail.get(refills))
    if dispense:
        entry.resource["dispenseRequest"] = dispense


def _medication_dispense(entry: Entry, detail: Segment | None, context: Context, status: str | None) -> None:
    assert detail is not None
    entry.resource["status"] = "cancelled" if status == "revoked" else "completed"
    _medication(entry, detail, context)
    apply(_MEDICATION["RXD"][1:], detail, context)
    if dose := _dose(detail):
        entry.resource["quantity"] = dose
    if number := detail.get(7).strip():
        put(entry.resource, "identifier[]", {"type": {"text": "prescription"}, "value": number})


def _medication_administration(entry: Entry, detail: Segment | None, context: Context, status: str | None) -> None:
    assert detail is not None
    entry.resource["status"] = "not-done" if detail.get(20).strip().upper() in ("RE", "NA") else "completed"
    _medication(entry, detail, context)
    apply((Rule(3, "effectivePeriod.start", dt.instant_of_day), Rule(4, "effectivePeriod.end", dt.instant_of_day)),
          detail, context)  # fmt: skip
    entry.resource.setdefault("effectivePeriod", {"extension": [dt.absent()]})
    if dose := _dose(detail):
        entry.resource["dosage"] = {"dose": dose}
    for person in _clinicians(detail, (10,), context):
        put(entry.resource, "performer[]", {"actor": actors.reference(entry, person)})


def _immunization(entry: Entry, detail: Segment | None, context: Context, status: str | None) -> None:
    assert detail is not None
    completion, action = detail.get(20).strip().upper(), detail.get(21).strip().upper()
    state = "entered-in-error" if action == "D" else "not-done" if completion in ("RE", "NA") else "completed"
    entry.resource["status"] = state
    apply(_IMMUNIZATION, detail, context)
    entry.resource.setdefault("vaccineCode", dt.unknown())
    if "occurrenceDateTime" not in entry.resource:
        entry.resource["occurrenceString"] = "not stated"
    if dose := _dose(detail):
        entry.resource["doseQuantity"] = dose
    source = next((c for r in detail.repetitions(9) if (c := dt.concept(r, context))), None)
    if source:
        entry.resource["reportOrigin"] = source
        entry.resource["primarySource"] = source.get("coding", [{}])[0].get("code") == "00"
    for person in _clinicians(detail, (10,), context):
        function = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0443", "code": "AP"}]}
        put(entry.resource, "performer[]", {"function": function, "actor": actors.reference(entry, person)})
    for repetition in detail.repetitions(17):
        if maker := actors.organization_of_code(repetition, context):
            entry.resource.setdefault("manufacturer", actors.reference(entry, maker))
    for field in (27, 11):
        for repetition in detail.repetitions(field):
            if place := actors.location(repetition, context):
                entry.resource.setdefault("location", actors.reference(entry, place))


def _nutrition_order(entry: Entry, detail: Segment | None, context: Context, status: str | None) -> None:
    assert detail is not None
    entry.resource |= {"status": status or "active", "intent": "order", "dateTime": context.mapped.time.fhir}
    for repetition in detail.repetitions(3):
        if diet := dt.concept(repetition, context):
            put(entry.resource, "oralDiet.type[]", diet)
    for repetition in detail.repetitions(4):
        put(entry.resource, "oralDiet.instruction", repetition.whole())


def _supply_request(entry: Entry, detail: Segment | None, context: Context, status: str | None) -> None:
    assert detail is not None
    entry.resource["status"] = {"revoked": "cancelled", "on-hold": "suspended"}.get(status or "", "active")
    items = [c for field in (2, 3, 4) for r in detail.repetitions(field) if (c := dt.concept(r, context))]
    entry.resource["itemCodeableConcept"] = items[0] if items else dt.unknown()
    number = dt.decimal(detail.get(5).strip())
    entry.resource["quantity"] = {"value": 1 if number is None else number}
    if unit := detail.get(6, 2).strip() or detail.get(6).strip():
        entry.resource["quantity"]["unit"] = unit


_BUILD: dict[str, Callable[[Entry, Segment | None, Context, str | None], None]] = {
    "ServiceRequest": _service_request,
    "MedicationRequest": _medication_request,
    "MedicationDispense": _medication_dispense,
    "MedicationAdministration": _medication_administration,
    "Immunization": _immunization,
    "NutritionOrder": _nutrition_order,
    "SupplyRequest": _supply_request,
}


def _clinicians(segment: Segment, fields: Sequence[int], context: Context) -> list[Entry]:
    return [
        person for field in fields for r in segment.repetitions(field) if (person := actors.practitioner(r, context))
    ]


def _people(common: Segment, detail: Segment | None, entry: Entry, context: Context, kind: str) -> None:
    """Who ordered, entered and verified: the first one is the requester, all are in a Provenance."""
    ordering = _clinicians(common, (12,), context)
    if detail is not None and detail.name == "OBR":
        ordering = [*ordering, *(p for p in _clinicians(detail, (16,), context) if p not in ordering)]
    organisation = next((o for r in common.repetitions(21) if (o := actors.organization(r, context))), None)
    if organisation:
        for field, element, convert in ((22, "address[]", dt.address), (23, "telecom[]", dt.telecom)):
            for repetition in common.repetitions(field):
                if (made := convert(repetition, context)) is not None:
                    put(organisation.resource, element, made)
    if kind in ("ServiceRequest", "MedicationRequest", "SupplyRequest"):
        _requester(common, detail, entry, ordering[0] if ordering else None, organisation, context)
    if kind == "NutritionOrder" and ordering:
        entry.resource["orderer"] = actors.reference(entry, ordering[0])
    if kind == "ServiceRequest":
        apply(_COMMON, common, context)
    elif kind == "MedicationRequest":
        apply(_COMMON[:1], common, context)
    roles = (("author", ordering), ("enterer", _clinicians(common, (10,), context)),
             ("verifier", _clinicians(common, (11,), context)),
             ("performer", _clinicians(common, (19,), context)))  # fmt: skip
    agents: list[tuple[str, Entry]] = [(role, person) for role, people in roles for person in people]
    if organisation:
        agents.append(("custodian", organisation))
    if any(role != "author" for role, _ in agents) or len(ordering) > 1:
        # Where there is only somebody who ordered, the requester says it all.
        _provenance(common, entry, agents, context)


def _requester(
    common: Segment | None,
    detail: Segment | None,
    entry: Entry,
    person: Entry | None,
    organisation: Entry | None,
    context: Context,
) -> None:
    """Who asks. Where to reach him about this order is his role's, not his own: it differs from order to order."""
    phones = [c for r in common.repetitions(14) if (c := dt.telecom(r, context))] if common else []
    if detail is not None and detail.name == "OBR":
        phones += [c for r in detail.repetitions(17) if (c := dt.telecom(r, context)) and c not in phones]
    if person and (phones or organisation):
        role = context.own("PractitionerRole", ("ordering", entry.type, *entry.key), entry.place)
        role.resource["practitioner"] = actors.reference(role, person)
        if organisation:
            role.resource["organization"] = actors.reference(role, organisation)
        if phones:
            role.resource["telecom"] = phones
        entry.resource["requester"] = actors.reference(entry, role)
    elif asking := person or organisation:
        entry.resource["requester"] = actors.reference(entry, asking)


def _provenance(common: Segment, entry: Entry, agents: Sequence[tuple[str, Entry]], context: Context) -> None:
    made = context.own("Provenance", ("order", entry.type, *entry.key), entry.place)
    recorded = next((t for r in common.repetitions(9) if (t := dt.instant(r, context))), None)
    system = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
    made.resource |= {
        "target": [made.refer(entry)],
        "recorded": recorded or context.mapped.time.instant.isoformat(timespec="seconds"),
        "agent": [
            {"type": {"coding": [{"system": system, "code": role}]}, "who": actors.reference(made, who)}
            for role, who in agents
        ],
    }
    action = common.get(1).strip().upper()
    if action:
        system = "http://terminology.hl7.org/CodeSystem/v2-0119"
        made.resource["activity"] = {"coding": [{"system": system, "code": action}]}


def _route(segment: Segment, entry: Entry, context: Context, kind: str) -> None:
    route = next((c for r in segment.repetitions(1) if (c := dt.concept(r, context))), None)
    site = next((c for r in segment.repetitions(2) if (c := dt.concept(r, context))), None)
    if kind == "Immunization":
        target = entry.resource
    elif kind == "MedicationAdministration":
        target = entry.resource.setdefault("dosage", {})
    elif kind in ("MedicationRequest", "MedicationDispense"):
        target = entry.resource.setdefault("dosageInstruction", [{}])[0]
    else:
        return
    if route:
        target.setdefault("route", route)
    if site:
        target.setdefault("site", site)


def _timing(segment: Segment, entry: Entry, context: Context, kind: str) -> None:
    start = next((t for r in segment.repetitions(7) if (t := dt.instant_of_day(r, context))), None)
    end = next((t for r in segment.repetitions(8) if (t := dt.instant_of_day(r, context))), None)
    period = {name: at for name, at in (("start", start), ("end", end)) if at}
    codes_of = [found for r in segment.repetitions(3) if (found := dt.concept(r, context))]
    if kind == "ServiceRequest":
        if period:
            entry.resource.pop("occurrenceDateTime", None)
            entry.resource["occurrencePeriod"] = period
        priority = {"S": "stat", "A": "asap", "R": "routine", "T": "urgent"}.get(segment.get(9).strip().upper())
        if priority:
            entry.resource.setdefault("priority", priority)
        for found in codes_of:
            put(entry.resource, "orderDetail[]", found)
        amount = dt.decimal(segment.get(2).strip())
        if amount is not None:
            unit = segment.get(2, 2).strip()
            entry.resource["quantityQuantity"] = {"value": amount} | ({"unit": unit} if unit else {})
        for field in (10, 11):
            for repetition in segment.repetitions(field):
                put(entry.resource, "note[]", {"text": repetition.whole()})
    elif kind in ("MedicationRequest", "MedicationDispense"):
        dosage = entry.resource.setdefault("dosageInstruction", [{}])[0]
        timing = dosage.setdefault("timing", {})
        if period:
            timing["repeat"] = {"boundsPeriod": period}
        if codes_of:
            timing["code"] = codes_of[0]
        for repetition in segment.repetitions(10):
            put(dosage, "additionalInstruction[]", {"text": repetition.whole()})
        for repetition in segment.repetitions(11):
            dosage.setdefault("text", repetition.whole())
        if not timing:
            del dosage["timing"]
        if not dosage:
            del entry.resource["dosageInstruction"]
    elif codes_of or period:
        for repetition in (*segment.repetitions(3), *segment.repetitions(7), *segment.repetitions(8)):
            repetition.forget()
