"""Clinical and drug codes as FHIR has them, and which kind of resource a code leads to (domain notes B9)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carefolio.mapping import codes as systems

SNOMED = "http://snomed.info/sct"
READ = "http://read.info/readv2"
DMD = "https://dmd.nhs.uk"
EMIS = f"{systems.BASE}/CodeSystem/emis"
DESCRIPTION = "https://fhir.hl7.org.uk/StructureDefinition/Extension-UKCore-CodingSCTDescId"
_NATIONAL = f"{systems.BASE}/StructureDefinition/emis-NationalCode"
_READ2 = re.compile(r"[A-Za-z0-9][A-Za-z0-9.]{4}(?:-[0-9A-Za-z]{1,2})?\Z")
_LOCAL_READ = re.compile(r"EMIS|ESCT|KC60|SHHAPT|PCSDT|EGTON|HNGNQ|ALLERGY", re.IGNORECASE)
# SNOMED's long ids end in a namespace of seven digits, a partition of two that begins with 1, and a check digit.
_EMIS_NAMESPACES = frozenset({"1000006", "1000033"})

OBSERVATION, REPORT, CONDITION, PROCEDURE = "Observation", "DiagnosticReport", "Condition", "Procedure"
_BY_CHAPTER = "Condition or Procedure"
_LABORATORY = "laboratory"
# Category -> (type, Observation.category). What is not named here is an Observation.
_CATEGORIES: dict[str, tuple[str, str]] = {
    "allergy and adverse drug reactions": ("AllergyIntolerance", "medication"),
    "allergy and adverse reactions": ("AllergyIntolerance", ""),
    "biochemistry": (REPORT, _LABORATORY),
    "cytology/histology": (REPORT, _LABORATORY),
    "haematology": (REPORT, _LABORATORY),
    "immunology": (REPORT, _LABORATORY),
    "microbiology": (REPORT, _LABORATORY),
    "radiology": (REPORT, "imaging"),
    "health management, screening and monitoring": (REPORT, ""),
    "biological values": (OBSERVATION, "vital-signs"),
    "symptoms, findings": (OBSERVATION, "exam"),
    "symptoms and findings": (OBSERVATION, "exam"),
    "personal health and social": (OBSERVATION, "social-history"),
    "person health and social": (OBSERVATION, "social-history"),
    "conditions, operations and procedures": (_BY_CHAPTER, ""),
    "dental disorder": (CONDITION, ""),
    "dental procedure": (PROCEDURE, ""),
    "family history": ("FamilyMemberHistory", ""),
    "immunisations": ("Immunization", ""),
    "investigation requests": ("ServiceRequest", "investigation"),
    "pathology specimen": ("Specimen", ""),
    "referral": ("ServiceRequest", "referral"),
}
ETHNICITY, MARITAL = "ethnicity", "marital status"
# Every type that a row of Observation can become, besides the Condition of its problem.
ROUTES = tuple(sorted({OBSERVATION, CONDITION, PROCEDURE, REPORT, *(kind for kind, _ in _CATEGORIES.values())}
                      - {_BY_CHAPTER}))  # fmt: skip
_SYSTOLIC = frozenset({"72313002", "271649006", "2469."})
_DIASTOLIC = frozenset({"1091811000000102", "271650006", "246A."})


@dataclass(frozen=True, slots=True)
class Code:
    """A clinical code. ``concept`` is shared by all who use it: never changed. ``label``: of its sensitive refset.

    ``pressure`` is systolic, diastolic or empty. ``needs_value``: with a value an Observation, without a report.
    """

    concept: dict[str, Any]
    type: str
    category: str
    emis_category: str
    label: str
    pressure: str
    needs_value: bool


@dataclass(frozen=True, slots=True)
class Drug:
    """A medicine's code. ``concept`` is shared by all who use it: never changed."""

    concept: dict[str, Any]


def code_of(
    row: Mapping[str, str], ancestors: Sequence[str] = (), label: str = "", local: Callable[[str], bool] | None = None
) -> Code:
    """A row of Coding_ClinicalCode. ``ancestors`` are the Read codes above an EMIS code, the nearest first."""
    read = row["ReadTermId"].strip()
    snomed = row["SnomedCTConceptId"].strip()
    term = row["Term"].strip()
    category = row["EmisCodeCategoryDescription"].strip()
    codings: list[dict[str, Any]] = []
    if snomed and not (local or is_local)(snomed):
        codings.append(_coding(SNOMED, snomed, term))
        if description := row["SnomedCTDescriptionId"].strip():
            said = [{"url": "descriptionId", "valueId": description}]
            codings[0]["extension"] = [{"url": DESCRIPTION, "extension": said}]
    elif snomed:
        codings.append(_coding(EMIS, snomed, term))
    if is_read2(read):
        codings.append({"system": READ, "code": read})
    elif read:
        codings.append({"system": EMIS, "code": read})
    concept: dict[str, Any] = {"coding": codings} if codings else {}
    if term:
        concept["text"] = term
    if not concept:
        concept = {"text": f"EMIS code {row['CodeId'].strip()}"}
    if national := row["NationalCode"].strip():
        concept["extension"] = [
            {
                "url": _NATIONAL,
                "valueCoding": {
                    "system": f"{EMIS}-national-{systems.slug(row['NationalCodeCategory'] or 'code')}",
                    "code": national,
                    "display": row["NationalDescription"].strip() or national,
                },
            }
        ]
    kind, shown = _CATEGORIES.get(category.casefold(), (OBSERVATION, ""))
    needs_value = kind == REPORT
    if kind == _BY_CHAPTER:
        kind = _by_chapter([read] if is_read2(read) else [each for each in ancestors if is_read2(each)])
    names = {snomed, read[:5]}
    pressure = "systolic" if names & _SYSTOLIC else "diastolic" if names & _DIASTOLIC else ""
    return Code(concept, kind, shown, category.casefold(), label, pressure, needs_value)


def _coding(system: str, code: str, display: str) -> dict[str, Any]:
    return {"system": system, "code": code} | ({"display": display} if display else {})


def _by_chapter(reads: Sequence[str]) -> str:
    """Read v2: chapters 6, 7 and 8 are procedures, A to Z disorders, the rest findings; the nearest code decides."""
    for read in reads:
        if read[0] in "678":
            return PROCEDURE
        if read[0].isupper():
            return CONDITION
    return OBSERVATION


def is_read2(read: str) -> bool:
    """Whether a ReadTermId is Read version 2: five places, dots at the end, a number for a synonym."""
    return bool(_READ2.match(read)) and not _LOCAL_READ.match(read)


def is_local(concept: str) -> bool:
    """Whether a concept id is in one of EMIS's own namespaces, and in no release of SNOMED's."""
    return len(concept) > 10 and concept[-3] == "1" and concept[-10:-3] in _EMIS_NAMESPACES


def drug_of(row: Mapping[str, str]) -> Drug:
    """A row of Coding_DrugCode; without dm+d it is a text."""
    term, product = row["Term"].strip(), row["DmdProductCodeId"].strip()
    concept: dict[str, Any] = {}
    if product and not is_local(product):
        concept["coding"] = [_coding(DMD, product, term)]
    concept["text"] = term or f"EMIS drug {row['CodeId'].strip()}"
    return Drug(concept)
