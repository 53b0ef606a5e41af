"""Which segments make which resources, per message family."""

from __future__ import annotations

from carefolio.hl7 import HL7Error, Message, Place, read_moment
from carefolio.hl7.errors import SEGMENT_SEQUENCE
from carefolio.mapping.encounter import map_allergy, map_condition, map_encounter
from carefolio.mapping.model import Context, Entry, Mapped, Source
from carefolio.mapping.patient import map_patient
from carefolio.mapping.results import map_results

SUPPORTED = frozenset(
    f"ADT^{event}"
    for event in ("A01", "A02", "A03", "A04", "A05", "A08", "A11", "A12", "A13", "A28", "A31")
) | {"ORU^R01"}  # fmt: skip


# The resource types that mapped messages are made of.
MAPPED_TYPES = (
    "AllergyIntolerance", "Condition", "DiagnosticReport", "Encounter", "Location", "Observation", "Organization",
    "Patient", "Practitioner", "Specimen",
)  # fmt: skip


class UnsupportedTypeError(Exception):
    """No map exists for the message type yet; the message is kept and can be replayed."""


def map_message(message: Message, source: Source) -> Mapped:
    """The resources of one message.

    Raises UnsupportedTypeError for a type without a map, and HL7Error where the message lacks what the map needs.
    """
    if message.type not in SUPPORTED:
        raise UnsupportedTypeError(message.type)
    mapped = Mapped(message.event, read_moment(message.header.get(7), source.zone))
    nobody = Entry("Bundle", (), "shared", {}, "MSH")
    context = Context(source, mapped, nobody)
    pid = message.first("PID")
    if pid is None:
        raise HL7Error(SEGMENT_SEQUENCE, Place("PID"), "no patient in the message")
    if any(segment.occurrence > 1 for segment in message.all("PID")):
        raise HL7Error(SEGMENT_SEQUENCE, Place("PID", 2), "one message is about one patient")
    patient = map_patient(message, pid, context)
    visit = message.first("PV1")
    encounter = map_encounter(message, visit, patient, context) if visit else None
    if message.code == "ORU":
        if encounter is not None:
            _complete(encounter)
        map_results(message, patient, encounter, context)
        return mapped
    for diagnosis in message.all("DG1"):
        map_condition(diagnosis, patient, encounter, context)
    for allergy in message.all("AL1"):
        map_allergy(allergy, patient, context)
    if encounter is not None:
        _complete(encounter)
    return mapped


def _complete(encounter: Entry) -> None:
    """A message that only mentions a visit does not know its status; FHIR wants one."""
    encounter.resource.setdefault("status", "unknown")
