"""PID, PD1 and NK1 -> Patient (UK Core), and the identifiers that find a record (docs/matching.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from carefolio.hl7 import Message, Repetition, Segment
from carefolio.mapping import actors, codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply
from carefolio.mapping.model import Context, Entry, PatientIdentifier, Rule
from carefolio.mapping.people import contact_of

_NHS_AUTHORITY = {"NHS", "NHSNBR", "NHSNUMBER", "2.16.840.1.113883.2.1.4.1"}
_STATUS = re.compile(r"\{status:(\d\d)\}", re.IGNORECASE)
# HL7 table 0203: numbers that name a person at the sender. Account, visit, insurance and other numbers do not.
_PERSON_NUMBERS = frozenset({"", "MR", "PI", "PT", "MRN", "PAS", "HOSP", "U"})
_NATIONAL = {
    "CHI": "urn:oid:2.16.840.1.113883.2.1.3.2.4.16.53",
    "HCN": "https://fhir.hscni.net/Id/hcn",
}
# Systems of national numbers -> the assigning authority that names them in HL7 v2.
NATIONAL_SYSTEMS = {system: name for name, system in _NATIONAL.items()}


def _ethnic_category(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    code = dt.value(repetition, 1)
    if code is None:
        return None
    coding = {"system": codes.ETHNIC_CATEGORY_CODES, "code": code}
    if shown := dt.value(repetition, 2):
        coding["display"] = shown
    return {"url": codes.ETHNIC_CATEGORY, "valueCodeableConcept": {"coding": [coding]}}


def _marital_status(repetition: Repetition, context: Context) -> dict[str, Any] | None:
    made = dt.concept(repetition, context)
    code = codes.MARITAL.get((dt.value(repetition, 1) or "").upper())
    if made and code:
        system = "http://terminology.hl7.org/CodeSystem/v3-" + ("NullFlavor" if code == "UNK" else "MaritalStatus")
        made["coding"] = [{"system": system, "code": code}]
    return made


PATIENT = (
    Rule(5, "name[]", dt.human_name, slot="own"),
    Rule(9, "name[]", dt.alias, slot="alias"),
    Rule(7, "birthDate", dt.day),
    Rule(8, "gender", dt.translate(codes.ADMINISTRATIVE_GENDER)),
    Rule(11, "address[]", dt.address),
    Rule(13, "telecom[]", dt.telecom, slot="home"),
    Rule(40, "telecom[]", dt.telecom, slot="home"),
    Rule(14, "telecom[]", dt.work_telecom, slot="work"),
    Rule(15, "communication[]", dt.language),
    Rule(16, "maritalStatus", _marital_status),
    Rule(22, "extension[]", _ethnic_category),
)
PRACTICE = (
    Rule(4, "generalPractitioner[]", actors.practitioner_reference),
    Rule(3, "generalPractitioner[]", actors.organization_reference),
)


def map_patient(message: Message, pid: Segment, context: Context) -> Entry:
    """The Patient of a message, in ``context.mapped.patient``, with its identifiers."""
    entry = context.own("Patient", ("patient",), "PID")
    context.mapped.patient = entry
    own = context.of(entry)
    if numbers := identifiers_of(pid, (3, 2, 4, 18, 19, 20), own, context.mapped.identifiers):
        entry.resource["identifier"] = numbers
    context.mapped.account = pid.get(18).strip()
    entry.resource["active"] = True
    apply(PATIENT, pid, own)
    _death(pid, own)
    _birth(pid, entry, own)
    if pd1 := message.first("PD1"):
        apply(PRACTICE, pd1, own)
    for next_of_kin in message.all("NK1"):
        if contact := contact_of(next_of_kin, own):
            entry.resource.setdefault("contact", []).append(contact)
    return entry


def identifiers_of(
    segment: Segment, fields: Sequence[int], context: Context, usable: list[PatientIdentifier]
) -> list[dict[str, Any]]:
    """The Identifiers in these fields of PID or MRG; those that may find a record are added to ``usable``."""
    known: list[dict[str, Any]] = []
    for field in fields:
        for repetition in segment.repetitions(field):
            number = dt.value(repetition, 1)
            if number is None:
                continue
            made = _identifier(number, repetition, segment, context, usable)
            # PID-2 repeats what PID-3 holds at most senders.
            if not any(k.get("system") == made.get("system") and k["value"] == made["value"] for k in known):
                known.append(made)
    return known


def asked_identifiers(repetitions: Sequence[Repetition], context: Context) -> list[PatientIdentifier]:
    """The identifiers by which a query names its patient, as those of PID-3 are read."""
    usable: list[PatientIdentifier] = []
    for repetition in repetitions:
        if number := dt.value(repetition, 1):
            _identifier(number, repetition, None, context, usable)
    return usable


# The fields whose numbers name a person by themselves.
_PERSON_FIELDS = {"PID": (2, 3), "MRG": (1, 4), "QPD": (3,), "QRD": (8,)}


def _identifier(
    number: str, repetition: Repetition, segment: Segment | None, context: Context, usable: list[PatientIdentifier]
) -> dict[str, Any]:
    kind = (dt.value(repetition, 5) or "").upper()
    name = (dt.value(repetition, 4) or "").upper()
    universal = dt.value(repetition, 4, 2) or ""
    status = _STATUS.search(kind)
    kind = _STATUS.sub("", kind).strip()
    place = str(repetition.place)
    nhs_by_place = (repetition.place.segment, repetition.place.field) == ("PID", 19)
    if kind in ("NH", "NHS") or {name, universal} & _NHS_AUTHORITY or (nhs_by_place and nhs_number(number)):
        digits = nhs_number(number)
        if digits is None:
            context.mapped.notes.append(f"{place}: no NHS number (ten digits, Modulus 11), kept as text only")
            failed: dict[str, Any] = {"type": {"text": "NHS number that fails its check"}, "value": number}
            return _as_named(failed, repetition, kind)
        code = status.group(1) if status else _reliability(segment)
        verified = None if code is None else code == "01"
        usable.append(PatientIdentifier(codes.NHS_NUMBER, digits, True, verified, place))
        # A number that was not traced to this person must not find this person: it is shown and has no system.
        made: dict[str, Any] = {"type": {"text": "NHS number that is not verified"}, "value": digits, "use": "temp"}
        if verified is not False:
            made = {"system": codes.NHS_NUMBER, "value": digits, "use": "official"}
        _as_named(made, repetition, kind)
        if code:
            coding = {"system": codes.VERIFICATION_CODES, "code": code}
            made["extension"] = [{"url": codes.VERIFICATION, "valueCodeableConcept": {"coding": [coding]}}]
        return made
    if name in _NATIONAL and (digits := nhs_number(number)):
        # Scotland's and Northern Ireland's numbers have the same check digit; what fails it is a local number.
        usable.append(PatientIdentifier(_NATIONAL[name], digits, True, None, place))
        return {"system": _NATIONAL[name], "value": digits}
    system = dt.authority(repetition, 4, context)
    if kind in _PERSON_NUMBERS and repetition.place.field in _PERSON_FIELDS[repetition.place.segment]:
        # Records are found by the sender's own name of the authority: what is agreed later changes nothing of that.
        own = dt.own_authority(repetition, 4, context)
        usable.append(PatientIdentifier(own, number, False, None, place, shown=system))
    kind = kind or {18: "AN", 19: "SS", 20: "DL"}.get(repetition.place.field, "")
    made = {"system": system, "value": number}
    if kind:
        made["type"] = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": kind}]}
    dt.complete(made, repetition, kind_at=5, authority_at=4)
    return made


def _as_named(made: dict[str, Any], repetition: Repetition, kind: str) -> dict[str, Any]:
    """An NHS number with the type and the authority that the sender gave it; an agreed status is not its type."""
    dt.complete(made, repetition, kind_at=0, authority_at=4)
    if kind:
        coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": kind}
        made["type"] = {"coding": [coding], **made.get("type", {})}
    return made


def nhs_number(text: str) -> str | None:
    """The ten digits of a well-formed NHS number, else None (domain rules D2: Modulus 11)."""
    digits = text.replace(" ", "").replace("-", "")
    if len(digits) != 10 or not digits.isascii() or not digits.isdigit() or len(set(digits)) == 1:
        return None
    total = sum(int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=False))
    expected = (11 - total % 11) % 11
    return digits if expected == int(digits[9]) else None


def _reliability(segment: Segment | None) -> str | None:
    """PID-32 as the NHS profile uses it: NSTS01 to NSTS08, or the two digits alone."""
    if segment is None or segment.name != "PID":
        return None
    code = segment.get(32).strip().upper().removeprefix("NSTS")
    return code if re.fullmatch(r"0[1-8]", code) else None


def _birth(pid: Segment, patient: Entry, context: Context) -> None:
    """One of several (PID-24, -25), and the mother (PID-6, -21) as a related person."""
    order, several = pid.get(25).strip(), pid.get(24).strip().upper()
    if re.fullmatch(r"[1-9]", order):
        patient.resource["multipleBirthInteger"] = int(order)
    elif several in ("Y", "N"):
        patient.resource["multipleBirthBoolean"] = several == "Y"
    names = [name for r in pid.repetitions(6) if (name := dt.human_name(r, context))]
    numbers = [number for r in pid.repetitions(21) if (number := dt.identifier(r, context))]
    if not names and not numbers:
        return
    mother = context.own("RelatedPerson", ("mother",), "PID")
    system = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
    mother.resource |= {
        "patient": mother.refer(patient),
        "relationship": [{"coding": [{"system": system, "code": "MTH", "display": "mother"}]}],
    }
    if names:
        mother.resource["name"] = [name | {"use": "maiden"} for name in names]
    if numbers:
        mother.resource["identifier"] = numbers


def _death(pid: Segment, context: Context) -> None:
    resource = context.owner.resource
    when = next((dt.instant_of_day(r, context) for r in pid.repetitions(29)), None)
    indicator = pid.get(30).strip().upper()
    if when:
        resource["deceasedDateTime"] = when
    elif indicator in ("Y", "N"):
        resource["deceasedBoolean"] = indicator == "Y"
