"""Which segments make which resources. Every message that has a type is mapped; what has no home is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from carefolio.hl7 import HL7Error, Message, Moment, Place, Repetition, Segment, TimeFormatError, read_moment
from carefolio.hl7.errors import REQUIRED_FIELD_MISSING
from carefolio.mapping.documents import map_document
from carefolio.mapping.encounter import map_allergy, map_condition, map_encounter
from carefolio.mapping.header import map_header
from carefolio.mapping.kept import keep
from carefolio.mapping.model import Context, Entry, Mapped, PatientIdentifier, Source
from carefolio.mapping.orders import DETAILS, groups, map_order
from carefolio.mapping.patient import asked_identifiers, map_patient
from carefolio.mapping.people import map_coverage, map_guarantor, map_next_of_kin, map_role
from carefolio.mapping.prior import map_prior
from carefolio.mapping.procedures import map_adverse_reaction, map_charge, map_medicine, map_problem, map_procedure
from carefolio.mapping.results import map_results, note
from carefolio.mapping.scheduling import map_appointment
from carefolio.mapping.serialise import dumps

# The resource types that mapped messages are made of (MessageHeader and Provenance aside, which say where from).
MAPPED_TYPES = (
    "AllergyIntolerance", "Appointment", "ChargeItem", "Condition", "Coverage", "DiagnosticReport",
    "DocumentReference", "Encounter", "Immunization", "Location", "MedicationAdministration", "MedicationDispense",
    "MedicationRequest", "MedicationStatement", "NutritionOrder", "Observation", "Organization", "Patient",
    "Practitioner", "PractitionerRole", "Procedure", "Provenance", "RelatedPerson", "ServiceRequest",
    "Specimen", "SupplyRequest",
)  # fmt: skip
# Results are reported; everything else with an order segment asks for something or tells that it was done.
_RESULTS = frozenset({"ORU", "OUL", "ORF", "OPU"})
# Questions, their answers and acknowledgements say nothing that is new to a record; master files are of no patient.
_NOT_FOR_THE_RECORD = frozenset({"ACK", "QBP", "QRY", "QCN", "RSP", "ADR", "ORF", "MFN", "MFK", "MCF", "NMD", "BTS"})
# Events that may be about several patients: bed swaps, links, and everything that has an MRG per patient.
_SEVERAL = frozenset({
    "A17", "A18", "A24", "A30", "A34", "A35", "A36", "A37", "A39", "A40", "A41", "A42", "A43", "A44", "A45",
    "A46", "A47", "A48", "A49", "A50", "A51",
})  # fmt: skip


class UnsupportedTypeError(Exception):
    """The message is mapped, but the record has no rule for it yet; it is kept and can be replayed."""


def check_applicable(message: Message) -> None:
    """Raise UnsupportedTypeError for what maps to a Bundle but must not change a record (yet)."""
    if message.code in _NOT_FOR_THE_RECORD:
        raise UnsupportedTypeError("a message of this type does not change a record")
    people = sum(1 for _ in message.all("PID"))
    if people != 1 and not (people > 1 and message.code == "ADT" and message.event in _SEVERAL):
        raise UnsupportedTypeError("no patient in the message" if not people else "more than one patient")


def map_parts(message: Message, source: Source) -> list[Mapped]:
    """The message as one part for each of its patients; one with the header alone where it has none."""
    first = next((at for at, segment in enumerate(message.segments) if segment.name == "PID"), None)
    if first is None or sum(1 for _ in message.all("PID")) == 1:
        return [map_message(message, source)]
    head, parts = message.segments[:first], []
    for segment in message.segments[first:]:
        if segment.name == "PID":
            parts.append([*head])
        parts[-1].append(segment)
    return [map_message(Message(part, message.character_set, ""), source) for part in parts]


def map_message(message: Message, source: Source) -> Mapped:
    """The resources of one message of any type.

    Raises HL7Error where it has no type. What a converter cannot use is in an extension with its v2 position.
    """
    if not message.code:
        raise HL7Error(REQUIRED_FIELD_MISSING, Place("MSH", 1, 9), "message type is missing")
    for segment in message.segments:
        segment.looked_at = set()
    mapped = Mapped(message.event, _time(message, source), message.control_id)
    nobody = Entry("Bundle", (), "shared", {}, "MSH")
    context = Context(source, mapped, nobody)
    header = map_header(message, context)
    patient = encounter = None
    if pid := message.first("PID"):
        patient = map_patient(message, pid, context)
    if patient and (visit := message.first("PV1")):
        encounter = mapped.encounter = map_encounter(message, visit, patient, context)
        mapped.specialty = visit.get(10).strip()
    if patient:
        map_prior(message, patient, encounter, context)
    _clinical(message, patient, encounter, context)
    if encounter:
        # A message that only mentions a visit does not know its status; FHIR wants one.
        encounter.resource.setdefault("status", "unknown")
    _notes(message, patient, context)
    keep(message, context, _main(mapped, patient, encounter) or header)
    _drop_copies(mapped)
    return mapped


def patient_asked_for(message: Message, repetitions: Sequence[Repetition], source: Source) -> list[PatientIdentifier]:
    """The identifiers by which a query names its patient."""
    nobody = Entry("Bundle", (), "shared", {}, "MSH")
    return asked_identifiers(repetitions, Context(source, Mapped(message.event, _time(message, source)), nobody))


def _drop_copies(mapped: Mapped) -> None:
    """A segment that is repeated word for word says nothing twice: its resource is the first one's."""
    while True:
        replaced: dict[int, Entry] = {}
        known: dict[bytes, Entry] = {}
        for entry in mapped.entries:
            for reference, target in entry.references:
                reference["reference"] = str(id(target))
            first = known.setdefault(dumps(entry.resource), entry)
            if first is not entry and entry.scope == "patient":
                replaced[id(entry)] = first
        if not replaced:
            return
        mapped.entries = [entry for entry in mapped.entries if id(entry) not in replaced]
        for entry in mapped.entries:
            entry.references = [(reference, replaced.get(id(to), to)) for reference, to in entry.references]
            for element in ("result", "specimen", "supportingInfo"):
                if isinstance(listed := entry.resource.get(element), list):
                    targets = {id(reference): id(target) for reference, target in entry.references}
                    once = {targets.get(id(reference)): reference for reference in reversed(listed)}
                    entry.resource[element] = list(reversed(once.values()))


def _time(message: Message, source: Source) -> Moment:
    try:
        return read_moment(message.header.get(7), source.zone)
    except TimeFormatError:
        return Moment(datetime(1900, 1, 1, tzinfo=UTC), 0, "1900-01-01")


def _clinical(message: Message, patient: Entry | None, encounter: Entry | None, context: Context) -> None:
    if message.code in _RESULTS:
        map_results(message, patient, encounter, context)
    else:
        if (header := message.first("TXA")) is not None:
            map_document(message, header, patient, encounter, context)
        if any(segment.name == "ORC" or segment.name in DETAILS for segment in message.segments):
            for group in groups(message):
                order = map_order(group, message, patient, encounter, context)
                map_results(message, patient, encounter, context, group=group, order=order)
    if (schedule := message.first("SCH")) is not None:
        map_appointment(message, schedule, patient, context)
    if patient is None:
        return
    loose = [segment for segment in message.all("OBX") if id(segment) not in context.claims]
    if loose:
        map_results(message, patient, encounter, context, group=loose)
    policies = list(message.all("IN2"))
    for number, policy in enumerate(message.all("IN1")):
        map_coverage(policy, policies[number] if number < len(policies) else None, patient, context)
    for segment in message.segments:
        _single(segment, patient, encounter, context)


def _single(segment: Segment, patient: Entry, encounter: Entry | None, context: Context) -> None:
    """Segments that are one resource each."""
    if segment.name == "DG1":
        map_condition(segment, patient, encounter, context)
    elif segment.name == "AL1":
        map_allergy(segment, patient, context)
    elif segment.name == "ZRX":
        map_medicine(segment, patient, context)
    elif segment.name == "IAM":
        map_adverse_reaction(segment, patient, context)
    elif segment.name == "PR1":
        map_procedure(segment, patient, encounter, context)
    elif segment.name == "PRB":
        map_problem(segment, patient, encounter, context)
    elif segment.name == "FT1":
        map_charge(segment, patient, encounter, context)
    elif segment.name == "NK1":
        map_next_of_kin(segment, patient, context)
    elif segment.name == "GT1":
        map_guarantor(segment, patient, context)
    elif segment.name in ("PRT", "ROL"):
        map_role(segment, context)


def _notes(message: Message, patient: Entry | None, context: Context) -> None:
    """NTE belongs to the segment before it."""
    before: Entry | None = patient
    for segment in message.segments:
        if segment.name == "NTE":
            if before is not None and id(segment) not in context.claims:
                note(segment, before, context)
        else:
            before = context.claims.get(id(segment), before)


def _main(mapped: Mapped, patient: Entry | None, encounter: Entry | None) -> Entry | None:
    """Where a segment without a resource of its own belongs: the visit, the main thing of the message, the patient."""
    if encounter:
        return encounter
    own = (e for e in mapped.entries if e.scope == "patient" and e.type not in ("MessageHeader", "Patient"))
    return next(own, patient)
