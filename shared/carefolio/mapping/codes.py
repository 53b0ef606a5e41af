"""Code systems and code translations (HL7 tables to FHIR R4), as data."""

from __future__ import annotations

import re

BASE = "https://fhir.carefolio.uk"
EMIS_PATIENT = f"{BASE}/Id/emis-patient-guid"
NHS_NUMBER = "https://fhir.nhs.uk/Id/nhs-number"
ODS_CODE = "https://fhir.nhs.uk/Id/ods-organization-code"
VERIFICATION = "https://fhir.hl7.org.uk/StructureDefinition/Extension-UKCore-NHSNumberVerificationStatus"
VERIFICATION_CODES = "https://fhir.hl7.org.uk/CodeSystem/UKCore-NHSNumberVerificationStatusEngland"
ETHNIC_CATEGORY = "https://fhir.hl7.org.uk/StructureDefinition/Extension-UKCore-EthnicCategory"
ETHNIC_CATEGORY_CODES = "https://fhir.hl7.org.uk/CodeSystem/UKCore-EthnicCategory"

# CWE.3 as senders write it (HL7 table 0396, and habits) -> FHIR's system.
_SYSTEMS = {
    "LN": "http://loinc.org",
    "LOINC": "http://loinc.org",
    "SCT": "http://snomed.info/sct",
    "SNM": "http://snomed.info/sct",
    "SNOMED": "http://snomed.info/sct",
    "SNOMED-CT": "http://snomed.info/sct",
    "SNOMED CT": "http://snomed.info/sct",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "ICD10": "http://hl7.org/fhir/sid/icd-10",
    "ICD-10": "http://hl7.org/fhir/sid/icd-10",
    "I9": "http://hl7.org/fhir/sid/icd-9-cm",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "DM+D": "https://dmd.nhs.uk",
    "DMD": "https://dmd.nhs.uk",
    "READ": "http://read.info/readv2",
    "READ2": "http://read.info/readv2",
    "RCV2": "http://read.info/readv2",
    "UCUM": "http://unitsofmeasure.org",
    "CVX": "http://hl7.org/fhir/sid/cvx",
    "OPCS4": "https://fhir.hl7.org.uk/CodeSystem/OPCS-4",
}
_TABLE = re.compile(r"(?:HL7)?0*(\d{3,4})\Z")
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*))+\Z")
_SLUG = re.compile(r"[^A-Za-z0-9._-]+")


def slug(text: str) -> str:
    """A text as one segment of a URI."""
    return _SLUG.sub("-", text.strip()).strip("-") or "unnamed"


def oid(text: str) -> str | None:
    """``urn:oid:…`` where the text is an OID."""
    return f"urn:oid:{text}" if _OID.match(text) else None


def code_system(name: str, ods_code: str) -> str | None:
    """The URI of a coding system named in CWE.3; an unknown name is the sending organisation's own."""
    if not name:
        return None
    known = _SYSTEMS.get(name.upper())
    if known:
        return known
    if table := _TABLE.match(name.upper()):
        return f"http://terminology.hl7.org/CodeSystem/v2-{table.group(1).zfill(4)}"
    return oid(name) or f"{BASE}/CodeSystem/{slug(ods_code)}/{slug(name)}"


ADMINISTRATIVE_GENDER = {
    "M": "male", "F": "female", "O": "other", "A": "other", "I": "other", "U": "unknown", "N": "unknown",
    "1": "male", "2": "female", "9": "other", "0": "unknown",
}  # fmt: skip
NAME_USE = {
    "A": "usual", "B": "official", "C": "usual", "D": "usual", "I": "official", "L": "official", "M": "maiden",
    "N": "nickname", "S": "anonymous", "T": "temp", "U": "usual",
}  # fmt: skip
ADDRESS_USE = {
    "B": "work", "BA": "old", "C": "temp", "H": "home", "O": "work", "P": "home", "BI": "billing", "V": "temp",
    "HOME": "home",
}  # fmt: skip
TELECOM_USE = {"PRN": "home", "ORN": "home", "WPN": "work", "VHN": "temp", "PRS": "mobile", "EMR": "home"}
TELECOM_SYSTEM = {
    "PH": "phone", "CP": "phone", "SAT": "phone", "FX": "fax", "BP": "pager", "INTERNET": "email", "X.400": "email",
    "MD": "other", "MOBILE": "phone", "TEL": "phone", "EMAIL": "email", "NET": "email",
}  # fmt: skip
MARITAL = {
    "A": "L", "B": "UNK", "C": "C", "D": "D", "E": "L", "G": "T", "I": "I", "M": "M", "N": "A", "O": "UNK",
    "P": "T", "R": "T", "S": "S", "T": "U", "U": "UNK", "W": "W",
}  # fmt: skip
ENCOUNTER_CLASS = {
    "E": ("EMER", "emergency"),
    "I": ("IMP", "inpatient encounter"),
    "O": ("AMB", "ambulatory"),
    "P": ("PRENC", "pre-admission"),
    "R": ("AMB", "ambulatory"),
    "B": ("IMP", "inpatient encounter"),
    "D": ("SS", "short stay"),
    "DAYCASE": ("SS", "short stay"),
    "V": ("VR", "virtual"),
}
ENCOUNTER_STATUS = {
    "A01": "in-progress", "A02": "in-progress", "A03": "finished", "A04": "in-progress", "A05": "planned",
    "A11": "cancelled", "A12": "in-progress", "A13": "in-progress",
}  # fmt: skip
OBSERVATION_STATUS = {
    "F": "final", "C": "corrected", "P": "preliminary", "R": "preliminary", "S": "preliminary", "I": "registered",
    "O": "registered", "X": "cancelled", "D": "entered-in-error", "W": "entered-in-error", "A": "amended",
    "U": "final", "N": "unknown", "B": "amended", "V": "final",
}  # fmt: skip
REPORT_STATUS = {
    "F": "final", "C": "corrected", "P": "preliminary", "R": "preliminary", "A": "partial", "I": "registered",
    "O": "registered", "S": "registered", "X": "cancelled", "M": "amended", "Y": "unknown", "Z": "unknown",
}  # fmt: skip
ALLERGY_CATEGORY = {"DA": "medication", "FA": "food", "EA": "environment", "AA": "environment", "PA": "environment",
                    "LA": "environment", "MA": "medication"}  # fmt: skip
ALLERGY_CRITICALITY = {"SV": "high", "MO": "low", "MI": "low", "U": "unable-to-assess"}

INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_V3_INTERPRETATION = {"L", "H", "LL", "HH", "N", "A", "AA", "S", "R", "I", "POS", "NEG", "U", "D", "B", "W", "IE",
                      "ND", "IND", "DET", "HU", "LU", "<", ">", "EX", "HX", "LX", "HM", "SDD", "SYN-R", "SYN-S", "NR",
                      "RR", "WR", "MS", "VS", "NS", "E", "NCL", "CAR", "OBX", "QCF", "TOX"}  # fmt: skip


# Of HL7 table 0074 what a laboratory does, and what makes pictures: by which apps look for results.
_LABORATORY = frozenset({"BG", "BLB", "CG", "CH", "CP", "CTH", "HM", "IMM", "LAB", "MB", "MCB", "MYC", "PAR", "SP",
                         "SR", "TX", "URN", "VR"})  # fmt: skip
_IMAGING = frozenset({"CT", "CUS", "IMG", "NMR", "NMS", "OUS", "RAD", "RUS", "RX", "VUS", "XRC"})
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"


def observation_category(section: str) -> str:
    """The category of results of a diagnostic service section (OBR-24, table 0074); empty where it tells none."""
    code = section.upper()
    return "laboratory" if code in _LABORATORY else "imaging" if code in _IMAGING else ""


def interpretation_system(code: str) -> str:
    """OBX-8's codes are v3's where v3 knows them, else HL7 table 0078's own."""
    return INTERPRETATION if code in _V3_INTERPRETATION else "http://terminology.hl7.org/CodeSystem/v2-0078"
