"""The privacy label of what comes in: from the specialty that sends it (domain rules A8).

The NHS Data Dictionary's main specialty and treatment function codes, as PV1-10 carries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SYSTEM = "https://fhir.carefolio.uk/CodeSystem/privacy-label"
GENERAL = "general"
MENTAL = "mental-health"
SEXUAL = "sexual-health"
SOCIAL = "social-care"
LABELS = (GENERAL, MENTAL, SEXUAL, SOCIAL)

_OF_SPECIALTY = {
    # Genito-urinary medicine; HIV; contraception and sexual health.
    "360": SEXUAL, "326": SEXUAL, "380": SEXUAL,
    # Learning disability, adult mental illness, child and adolescent, forensic, psychotherapy, old age psychiatry,
    # clinical psychology, and the mental health services of the treatment function codes.
    "700": MENTAL, "710": MENTAL, "711": MENTAL, "712": MENTAL, "713": MENTAL, "715": MENTAL, "720": MENTAL,
    "721": MENTAL, "722": MENTAL, "723": MENTAL, "724": MENTAL, "725": MENTAL, "726": MENTAL, "727": MENTAL,
    "728": MENTAL, "656": MENTAL, "660": MENTAL,
    # Social work.
    "669": SOCIAL, "SOCIAL": SOCIAL, "SOCIALCARE": SOCIAL,
}  # fmt: skip
# Medicines and allergies start general, whoever sends them: everybody who treats must know them.
ALWAYS_GENERAL = frozenset({
    "AllergyIntolerance", "MedicationAdministration", "MedicationDispense", "MedicationRequest",
    "MedicationStatement", "Patient",
})  # fmt: skip


def label_in(resource: Mapping[str, Any]) -> str:
    """The label that a new resource brings in its meta.security; general where it brings none of ours."""
    for coding in (resource.get("meta") or {}).get("security", []):
        if coding.get("system") == SYSTEM and coding.get("code") in LABELS:
            return str(coding["code"])
    return GENERAL


_CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
RESTRICTED = {"system": _CONFIDENTIALITY, "code": "R", "display": "restricted"}


def is_confidential(resource: Mapping[str, Any]) -> bool:
    """Whether who wrote it restricts it (v3-Confidentiality R): an entry, never the person himself."""
    return resource["resourceType"] != "Patient" and any(
        coding.get("system") == _CONFIDENTIALITY and coding.get("code") == "R"
        for coding in resource["meta"].get("security", [])
    )


def label_of(kind: str, specialty: str) -> str:
    """The label that a resource of type ``kind`` gets from its specialty; general where that says nothing."""
    if kind in ALWAYS_GENERAL:
        return GENERAL
    return _OF_SPECIALTY.get(specialty.upper().replace(" ", ""), GENERAL)
