"""The parts of a record, as people look for them, and which resources belong to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from carefolio.mapping.codes import BASE

# What somebody writes himself (carefolio.record.entries).
ENTRY = f"{BASE}/CodeSystem/entry"
VITAL_SIGNS = "vital-signs"
SYMPTOM, JOURNAL = "symptom", "journal"


@dataclass(frozen=True, slots=True)
class Section:
    """``kinds`` of resources; of Observations those of a ``category``, or (without one) those of no other section."""

    name: str
    title: str
    kinds: tuple[str, ...]
    category: str = ""
    empty: str = ""


SECTIONS: Mapping[str, Section] = {
    each.name: each
    for each in (
        Section("tests", "Test results", ("Observation", "DiagnosticReport"),
                empty="Results of blood tests, scans and other tests appear here when they are sent."),
        Section("appointments", "Appointments", ("Appointment",),
                empty="Appointments appear here when a hospital or practice books them for you."),
        Section("medicines", "Medicines", ("MedicationStatement", "MedicationRequest", "MedicationDispense",
                                           "MedicationAdministration"),
                empty="Medicines that somebody prescribes for you appear here."),
        Section("allergies", "Allergies", ("AllergyIntolerance",),
                empty="Allergies that somebody has recorded appear here."),
        Section("conditions", "Conditions", ("Condition", "FamilyMemberHistory"),
                empty="Diagnoses and health problems appear here when somebody records them."),
        Section("vaccinations", "Vaccinations", ("Immunization",),
                empty="Vaccinations appear here when a practice or hospital records them."),
        Section("documents", "Letters and documents", ("DocumentReference",),
                empty="Letters from hospitals and practices, and files that you add, appear here."),
        Section("stays", "Hospital stays and procedures", ("Encounter", "Procedure"),
                empty="Stays in hospital, visits and operations appear here."),
        Section("measurements", "Measurements", ("Observation",), VITAL_SIGNS,
                empty="Your weight, blood pressure and other measurements appear here. You can add your own."),
        Section("symptoms", "Symptoms", ("Observation",), f"{ENTRY}|{SYMPTOM}",
                empty="Symptoms that you note appear here."),
        Section("journal", "Journal", ("Observation",), f"{ENTRY}|{JOURNAL}",
                empty="What you write for yourself, and for those with whom you share it, appears here."),
        Section("plans", "Care plans", ("CarePlan", "Goal"),
                empty="Plans that you and your care team make appear here."),
    )
}  # fmt: skip
# Everything that has a place in one of them.
KINDS = tuple(dict.fromkeys(kind for section in SECTIONS.values() for kind in section.kinds))


def section_of(resource: Mapping[str, object]) -> str:
    """The section that a resource belongs to; empty for one without."""
    kind = resource["resourceType"]
    if kind == "Observation":
        for name, section in SECTIONS.items():
            if section.category and _has(resource, section.category):
                return name
    return next((name for name, section in SECTIONS.items() if kind in section.kinds and not section.category), "")


def _has(resource: Mapping[str, object], wanted: str) -> bool:
    system, _, code = wanted.rpartition("|")
    categories = resource.get("category")
    return isinstance(categories, list) and any(
        coding.get("code") == code and system in ("", coding.get("system"))
        for category in categories
        for coding in category.get("coding", ())
    )
