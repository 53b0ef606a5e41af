"""FHIR -> HL7 v2 segments, for the answers to queries: PID, SCH, ORC, RXA. Delimiters are HL7's usual ones."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from carefolio.mapping import codes
from carefolio.mapping.model import Source
from carefolio.mapping.patient import NATIONAL_SYSTEMS

_SPECIAL = str.maketrans(
    {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "&": "\\T\\", "\r": "\\X0D\\", "\n": "\\X0A\\"}
)
_GENDER = {"male": "M", "female": "F", "other": "O", "unknown": "U"}
_CODE_SYSTEMS = {"http://hl7.org/fhir/sid/cvx": "CVX", "http://snomed.info/sct": "SCT", "http://loinc.org": "LN",
                 "https://dmd.nhs.uk": "DM+D"}  # fmt: skip


def segment(name: str, fields: dict[int, str]) -> str:
    """A segment from its fields, which are encoded already."""
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields, default=0) + 1))])


def escaped(value: str) -> str:
    """A value as it stands between delimiters."""
    return value.translate(_SPECIAL)


def components(*values: str) -> str:
    """Escaped values as the components of one field."""
    return "^".join(escaped(value) for value in values).rstrip("^")


def stamp(text: str) -> str:
    """A FHIR date, dateTime or instant as an HL7 time; its offset stays, fractions of a second go."""
    digits = re.sub(r"\.\d+", "", text).replace("Z", "+0000")
    day, _, clock = digits.partition("T")
    return day.replace("-", "") + re.sub(r":", "", clock)


def patient_identifiers(patient: dict[str, Any], source: Source) -> list[str]:
    """PID-3: the national numbers, and those of the asking organisation; nobody else's are passed on."""
    own = f"{codes.BASE}/Id/{codes.slug(source.ods_code)}/authority/"
    agreed = {system: name for name, system in source.authorities.items()}
    made = []
    for number in patient.get("identifier", []):
        system, value = number.get("system", ""), number["value"]
        if number.get("use") == "old":
            continue
        kind = next((c.get("code", "") for c in number.get("type", {}).get("coding", [])), "")
        if system == codes.NHS_NUMBER:
            made.append(components(value, "", "", "NHS", "NH"))
        elif system in NATIONAL_SYSTEMS:
            made.append(components(value, "", "", NATIONAL_SYSTEMS[system]))
        elif system in agreed:
            made.append(components(value, "", "", agreed[system], kind))
        elif system.startswith(own):
            made.append(components(value, "", "", unquote(system[len(own) :]), kind))
    return made


def pid(patient: dict[str, Any], source: Source, *, identifiers_only: bool = False) -> str:
    """PID of a Patient; with ``identifiers_only`` its name is all else that it says (RSP^K23)."""
    fields = {1: "1", 3: "~".join(patient_identifiers(patient, source))}
    names = [
        components(name.get("family", ""), *_given(name), "", " ".join(name.get("prefix", [])))
        for name in patient.get("name", [])
        if name.get("use") not in ("old", "maiden", "nickname", "anonymous")
    ]
    fields[5] = "~".join(names)
    if identifiers_only:
        return segment("PID", fields)
    fields[7] = stamp(patient.get("birthDate", ""))
    fields[8] = _GENDER.get(patient.get("gender", ""), "")
    fields[11] = "~".join(
        components(
            *[*address.get("line", []), "", ""][:2],
            address.get("city", ""),
            address.get("state", ""),
            address.get("postalCode", ""),
            address.get("country", ""),
        )
        for address in patient.get("address", [])
    )
    for field, use in ((13, "PRN"), (14, "WPN")):
        fields[field] = "~".join(
            _telecom(contact, use)
            for contact in patient.get("telecom", [])
            if (contact.get("use") == "work") == (field == 14)
        )
    if "deceasedDateTime" in patient:
        fields[29], fields[30] = stamp(patient["deceasedDateTime"]), "Y"
    elif "deceasedBoolean" in patient:
        fields[30] = "Y" if patient["deceasedBoolean"] else "N"
    return segment("PID", fields)


def _given(name: dict[str, Any]) -> tuple[str, str]:
    given = name.get("given", [])
    return given[0] if given else "", " ".join(given[1:])


def _telecom(contact: dict[str, Any], use: str) -> str:
    if contact.get("system") == "email":
        return components("", "NET", "", contact.get("value", ""))
    mobile = contact.get("use") == "mobile"
    return components(contact.get("value", ""), "PRS" if mobile else use, "CP" if mobile else "PH")


def coded(concept: dict[str, Any]) -> str:
    """CE of a CodeableConcept: its first coding, else its text."""
    for coding in concept.get("coding", []):
        system = coding.get("system", "")
        named = _CODE_SYSTEMS.get(system, unquote(system.rpartition("/")[2]) if system else "")
        return components(coding.get("code", ""), coding.get("display", "") or concept.get("text", ""), named)
    return components("", concept.get("text", ""))


def sch(appointment: dict[str, Any]) -> str:
    """SCH of an Appointment: its number, subject, window and status."""
    number = next((i["value"] for i in appointment.get("identifier", [])), appointment.get("id", ""))
    window = components("", "", "", stamp(appointment.get("start", "")), stamp(appointment.get("end", "")))
    return segment(
        "SCH",
        {
            1: components(number),
            7: components("", appointment.get("description", "")),
            11: window,
            25: components(appointment.get("status", "").upper()),
        },
    )


def immunization(given: dict[str, Any]) -> list[str]:
    """ORC and RXA of an Immunization."""
    number = next((i["value"] for i in given.get("identifier", [])), given.get("id", ""))
    dose = given.get("doseQuantity", {})
    status = {"completed": "CP", "not-done": "NA", "entered-in-error": "NA"}.get(given.get("status", ""), "")
    action = "D" if given.get("status") == "entered-in-error" else "A"
    when = stamp(given.get("occurrenceDateTime", ""))
    return [
        segment("ORC", {1: "RE", 3: components(number)}),
        segment(
            "RXA",
            {
                1: "0",
                2: "1",
                3: when,
                5: coded(given.get("vaccineCode", {})),
                6: str(dose.get("value", "999")),
                7: components(dose.get("unit", "")),
                15: components(given.get("lotNumber", "")),
                16: stamp(given.get("expirationDate", "")),
                20: status,
                21: action,
            },
        ),
    ]
