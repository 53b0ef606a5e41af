"""Admin_Patient and Admin_PatientHistory -> Patient and EpisodeOfCare (domain notes B9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from carefolio.emis import values
from carefolio.mapping import codes as systems
from carefolio.mapping.emis import converters as to
from carefolio.mapping.emis.codes import ETHNICITY, MARITAL
from carefolio.mapping.emis.model import (
    BASE,
    CONFIDENTIALITY,
    ColumnError,
    Context,
    Line,
    Resource,
    UnknownCodeError,
    guid,
)
from carefolio.mapping.merge import add_identifiers
from carefolio.mapping.patient import nhs_number

PATIENT, HISTORY = "Admin_Patient", "Admin_PatientHistory"
PATIENT_GUID = systems.EMIS_PATIENT
PATIENT_NUMBER = f"{systems.BASE}/Id/emis-patient-number"
_GENDER = {"M": "male", "F": "female", "I": "other", "U": "unknown", "UNKNOWN": "unknown"}
_REGISTRATION = f"{systems.BASE}/CodeSystem/emis-registration-type"
_MARITAL_CODES = "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus"
_MARITAL = {
    "single": "S", "married": "M", "divorced": "D", "widow": "W", "separated": "L", "cohabit": "T", "partner": "T",
}  # fmt: skip
_SENSITIVE = {"system": CONFIDENTIALITY, "code": "V", "display": "very restricted"}
_CONFIDENTIAL = {"system": CONFIDENTIALITY, "code": "R", "display": "restricted"}


@dataclass(frozen=True, slots=True)
class GpPatient:
    """A patient as his practice has him. ``nhs_number`` is None where there is none that counts.

    ``patient`` is without references to records of ours, ``episode`` is EpisodeOfCare under ``episode_key``. A
    ``dummy`` is nobody. ``hidden``: PDS's S flag: how to reach him is not shown.
    """

    nhs_number: str | None
    patient: Resource
    episode: Resource
    episode_key: str
    dummy: bool
    hidden: bool


def gp_patient(context: Context, line: Line, history: Iterable[Line], observations: Iterable[Line]) -> GpPatient:
    """A row of Admin_Patient with what PatientHistory and his observations add. Raises ColumnError."""
    kind = line["PatientTypeDescription"].strip()
    if _truth(line, "DummyType") or kind.casefold() == "dummy":
        return GpPatient(None, {}, {}, "", dummy=True, hidden=False)
    number = nhs_number(line["NhsNumber"])
    if number is not None and len(set(number)) <= 2:
        # 0000000000, 9999999999, 1111111111: well-formed, and nobody's.
        number = None
    hidden = _truth(line, "SpineSensitive")
    made: Resource = {"resourceType": "Patient", "active": True}
    made["identifier"] = _identifiers(line, number)
    if name := _name(line):
        made["name"] = [name]
    sex = line["Sex"].strip().upper()
    made["gender"] = _GENDER.get(sex, "unknown")
    for column, element in (("DateOfBirth", "birthDate"), ("DateOfDeath", "deceasedDateTime")):
        if found := _day(line, column):
            made[element] = found
    if not hidden:
        if contacts := _telecoms(line):
            made["telecom"] = contacts
        if address := _address(line, temporary=kind.casefold() == "temporary"):
            made["address"] = [address]
        if carer := line["CarerName"].strip():
            relation = line["CarerRelation"].strip()
            made["contact"] = [{"name": {"text": carer}} | ({"relationship": [{"text": relation}]} if relation else {})]
    made["generalPractitioner"] = _general_practitioners(context, line)
    made["managingOrganization"] = context.shared("Organization", context.practice)
    _from_observations(context, made, observations)
    security = [_CONFIDENTIAL] if _truth(line, "IsConfidential") else []
    if hidden:
        security.append(_SENSITIVE)
    if security:
        made["meta"] = {"security": security}
    if residence := line["ResidentialInstituteCode"].strip():
        made.setdefault("extension", []).append({"url": f"{BASE}ResidentialInstituteCode", "valueString": residence})
    if (comments := line["ContactComments"].strip()) and not hidden:
        made.setdefault("extension", []).append({"url": f"{BASE}ContactComments", "valueString": comments})
    registered = _day(line, "DateOfRegistration") or ""
    return GpPatient(number, made, _episode(context, line, kind, registered, history), registered or "unknown",
                     dummy=False, hidden=hidden)  # fmt: skip


def _identifiers(line: Line, number: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if number is not None:
        found.append({"use": "official", "system": systems.NHS_NUMBER, "value": number})
        if status := line["NHSNumberStatus"].strip():
            found[0]["extension"] = [{"url": f"{BASE}NHSNumberStatus", "valueString": status}]
    found.append({"system": PATIENT_GUID, "value": line.key})
    if local := line["PatientNumber"].strip():
        found.append({"system": f"{PATIENT_NUMBER}/{guid(line['OrganisationGuid'])}", "value": local})
    return found


def _name(line: Line) -> dict[str, Any]:
    given = [part for part in (line["GivenName"].strip(), *line["MiddleNames"].split()) if part]
    name: dict[str, Any] = {"use": "official"}
    if family := line["Surname"].strip():
        name["family"] = family
    if given:
        name["given"] = given
    if title := line["Title"].strip():
        name["prefix"] = [title]
    return name if len(name) > 1 else {}


def _telecoms(line: Line) -> list[dict[str, str]]:
    return [
        {"system": system, "value": value, "use": use}
        for system, use, column in (
            ("phone", "home", "HomePhone"), ("phone", "mobile", "MobilePhone"), ("email", "home", "EmailAddress"),
        )
        if (value := line[column].strip())
    ]  # fmt: skip


def _address(line: Line, *, temporary: bool) -> dict[str, Any]:
    lines = [part for name in ("HouseNameFlatNumber", "NumberAndStreet", "Village") if (part := line[name].strip())]
    made: dict[str, Any] = {"line": lines} if lines else {}
    for column, element in (("Town", "city"), ("County", "district"), ("Postcode", "postalCode")):
        if value := line[column].strip():
            made[element] = value
    return {"use": "temp" if temporary else "home"} | made if made else {}


def _general_practitioners(context: Context, line: Line) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if line["UsualGpUserInRoleGuid"].strip():
        found.append(_shared(context, "Practitioner", line, "UsualGpUserInRoleGuid"))
    elif external := line["ExternalUsualGP"].strip():
        found.append({"display": external})
    if elsewhere := line["ExternalUsualGPOrganisation"].strip():
        try:
            found.append(context.shared("Organization", elsewhere))
        except ValueError:
            # A GUID by EMIS's lists; what is none parks nobody, and is shown as it stands.
            found.append({"display": elsewhere})
    else:
        found.append(context.shared("Organization", context.practice))
    return found


def _from_observations(context: Context, made: Resource, observations: Iterable[Line]) -> None:
    """Ethnicity and marital status are observations: the last one says what is so."""
    latest: dict[str, Line] = {}
    for line in observations:
        try:
            category = context.code(line["CodeId"]).emis_category
        except (ValueError, UnknownCodeError):
            continue
        if category in (ETHNICITY, MARITAL):
            last = latest.get(category)
            if last is None or (line["EffectiveDate"], line.key) > (last["EffectiveDate"], last.key):
                latest[category] = line
    if ETHNICITY in latest:
        concept = context.code(latest[ETHNICITY]["CodeId"]).concept
        made.setdefault("extension", []).append({"url": systems.ETHNIC_CATEGORY, "valueCodeableConcept": concept})
    if MARITAL in latest:
        concept = context.code(latest[MARITAL]["CodeId"]).concept
        words = str(concept.get("text", "")).casefold()
        code = next((code for word, code in _MARITAL.items() if word in words), None)
        codings = [{"system": _MARITAL_CODES, "code": code}] if code else []
        made["maritalStatus"] = concept | {"coding": [*codings, *concept.get("coding", [])]} if codings else concept


def _episode(context: Context, line: Line, kind: str, registered: str, history: Iterable[Line]) -> Resource:
    ended = _day(line, "DateOfDeactivation")
    made: Resource = {
        "resourceType": "EpisodeOfCare",
        "status": "finished" if ended else "active",
        "patient": context.subject,
        "managingOrganization": context.shared("Organization", context.practice),
    }
    if kind:
        made["type"] = [{"coding": [{"system": _REGISTRATION, "code": kind.casefold()}], "text": kind}]
    period = {"start": registered} if registered else {}
    if ended:
        period["end"] = max(ended, registered)
    if period:
        made["period"] = period
    if line["UsualGpUserInRoleGuid"].strip():
        made["careManager"] = _shared(context, "Practitioner", line, "UsualGpUserInRoleGuid")
    said = sorted(
        (row["HistoryDate"], row["HistoryTime"], row.key, row) for row in history if row["HistoryDate"].strip()
    )
    for day, time, _, row in said:
        try:
            when = to.moment(context, day, time)
        except ValueError:
            raise ColumnError("HistoryDate", "no date") from None
        status = row["StatusDescription"].strip()
        made.setdefault("statusHistory", []).append(
            {
                "extension": [{"url": f"{BASE}StatusDescription", "valueString": status}] if status else [],
                "status": "finished" if _is_end(status) else "active",
                "period": {"start": when},
            }
        )
        if not status:
            del made["statusHistory"][-1]["extension"]
    return made


def _is_end(status: str) -> bool:
    return any(
        word in status.casefold() for word in ("deduct", "death", "left", "removed", "deactivat", "internal transfer")
    )


def _shared(context: Context, kind: str, line: Line, column: str) -> dict[str, str]:
    try:
        return context.shared(kind, line[column])
    except ValueError as error:
        raise ColumnError(column, str(error)) from None


def _truth(line: Line, column: str) -> bool:
    try:
        return values.boolean(line[column])
    except ValueError as error:
        raise ColumnError(column, str(error)) from None


def _day(line: Line, column: str) -> str | None:
    try:
        found = values.day(line[column])
    except ValueError:
        raise ColumnError(column, "not a date") from None
    return found.isoformat() if found else None


# What a practice says of a person stands over what hospitals say (docs/matching.md).
_OWNED = ("name", "gender", "birthDate", "address", "telecom", "generalPractitioner", "managingOrganization",
          "maritalStatus")  # fmt: skip


def merged_patient(current: Resource | None, practice: Resource, *, hidden: bool, again: bool) -> Resource:
    """A Patient as the record has him (None for nobody yet), with what his practice says.

    ``again``: the practice has said it before, so that what it leaves out now is out. ``hidden``: how to reach him is
    shown by nobody.
    """
    if current is None:
        return practice
    merged = dict(current)
    for element, value in practice.items():
        if element == "identifier":
            merged[element] = add_identifiers(_not_old(current.get(element, []), value), value)
        elif element == "extension":
            urls = {each["url"] for each in value}
            merged[element] = [*(each for each in current.get(element, []) if each["url"] not in urls), *value]
        elif element == "contact":
            # A carer's name is one text; whom hospitals name has parts.
            merged[element] = [*(each for each in current.get(element, []) if "family" in each.get("name", {})), *value]
        elif element == "meta":
            known = merged.get("meta", {})
            merged["meta"] = known | {"security": _security(known, value["security"])}
        elif element != "active" or not current.get("link"):
            merged[element] = value
    if again:
        for element in _OWNED:
            if element not in practice:
                merged.pop(element, None)
        said = {each["url"] for each in practice.get("extension", [])}
        left = [each for each in merged.get("extension", []) if each["url"] in said or not _is_owned(each["url"])]
        merged["extension"] = left
        if not left:
            del merged["extension"]
    if hidden:
        for element in ("address", "telecom", "contact"):
            merged.pop(element, None)
    if "deceasedDateTime" in merged:
        merged.pop("deceasedBoolean", None)
    return merged


def _is_owned(url: str) -> bool:
    return url == systems.ETHNIC_CATEGORY or url.startswith(BASE)


def _not_old(current: list[dict[str, Any]], practice: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Identifiers that were marked as old when he left, and are his again."""
    back = {(each["system"], each["value"]) for each in practice if each["system"] == PATIENT_GUID}
    return [
        {name: value for name, value in each.items() if name != "use"}
        if (each.get("system"), each.get("value")) in back
        else each
        for each in current
    ]


def _security(meta: dict[str, Any], said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ours = {"R", "V"}
    kept = [each for each in meta.get("security", []) if each.get("code") not in ours]
    return [*kept, *said]


def ended_patient(current: Resource, guid: str) -> Resource:
    """A Patient whose practice sends no more: its number is an old one, and its word stands over nobody's."""
    ended = dict(current)
    ended["identifier"] = [
        each | {"use": "old"} if (each.get("system"), each.get("value")) == (PATIENT_GUID, guid) else each
        for each in current.get("identifier", [])
    ]
    return ended


def ended_episode(episode: Resource, today: str) -> Resource:
    """A registration that is over; one that was over already stays as it is."""
    if episode.get("status") == "finished":
        return episode
    period = episode.get("period", {})
    return episode | {"status": "finished", "period": period | {"end": max(today, period.get("start", ""))}}


def without_emails(patient: Resource) -> Resource:
    """A Patient without e-mail addresses, which are another's here."""
    contacts = [each for each in patient.get("telecom", []) if each["system"] != "email"]
    left = {name: value for name, value in patient.items() if name != "telecom"}
    return left | ({"telecom": contacts} if contacts else {})
