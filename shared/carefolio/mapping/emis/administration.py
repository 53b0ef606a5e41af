"""Organisations, places, people and sessions of a practice (domain notes B9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carefolio.emis import values
from carefolio.mapping import codes as systems
from carefolio.mapping.emis import converters as to
from carefolio.mapping.emis.medicines import SESSION
from carefolio.mapping.emis.model import BASE, Context, Line, Made, Resource, compiled, fill, guid, kept

ORGANISATION, LOCATION, USER = "Admin_Organisation", "Admin_Location", "Admin_UserInRole"
ORGANISATION_LOCATION, SESSION_USER = "Admin_OrganisationLocation", "Appointment_SessionUser"
_CDB = f"{systems.BASE}/Id/emis-cdb"
_JOB = f"{systems.BASE}/CodeSystem/emis-job-category"
_REGISTRATION = f"{systems.BASE}/Id/emis-registration-number"

_ORGANISATION = compiled(
    ORGANISATION,
    ("ODSCode", "identifier[]", lambda _, value: {"system": systems.ODS_CODE, "value": value.strip().upper()}),
    ("CDB", "identifier[]", lambda _, value: {"system": _CDB, "value": value.strip()}),
    ("OrganisationName", "name", to.text),
    ("OrganisationType", "type[]", to.plain_concept),
)


def _days(line: Line, first: str, last: str) -> dict[str, str]:
    """Two columns with days as a Period, empty for none. Raises ValueError."""
    days = (values.day(line[column]) for column in (first, last))
    return to.period(*(found.isoformat() if found else "" for found in days))


def organisation(context: Context, line: Line) -> Made:
    """Organization; it may be its own parent, which says nothing."""
    made: Resource = {"resourceType": "Organization"}
    fill(made, line.values, _ORGANISATION, context)
    if lasted := _days(line, "OpenDate", "CloseDate"):
        made["extension"] = [{"url": f"{BASE}open", "valuePeriod": lasted}]
    made["active"] = not line["CloseDate"].strip()
    for column in ("ParentOrganisationGuid", "CCGOrganisationGuid"):
        above = line[column].strip()
        if above and guid(above) != line.key and "partOf" not in made:
            made["partOf"] = context.shared("Organization", above)
    if "name" not in made and "identifier" not in made:
        made["name"] = "unnamed"
    return Made("Organization", line.key, made, line)


_LOCATION = compiled(
    LOCATION,
    ("LocationName", "name", to.text),
    ("LocationTypeDescription", "type[]", to.plain_concept),
    ("ParentLocationGuid", "partOf", lambda context, value: context.shared("Location", value)),
    ("PhoneNumber", "telecom[]", lambda _, value: {"system": "phone", "value": value.strip(), "use": "work"}),
    ("FaxNumber", "telecom[]", lambda _, value: {"system": "fax", "value": value.strip(), "use": "work"}),
    ("EmailAddress", "telecom[]", lambda _, value: {"system": "email", "value": value.strip(), "use": "work"}),
    kept("MainContactName"),
    kept("OpenDate"),
    kept("CloseDate"),
)


def location(context: Context, line: Line, organisations: Sequence[str]) -> Made:
    """Location; ``organisations`` are those of the link file, the one whose main location it is first."""
    made: Resource = {"resourceType": "Location", "status": "inactive" if line["CloseDate"].strip() else "active"}
    fill(made, line.values, _LOCATION, context)
    lines = [part for name in ("HouseNameFlatNumber", "NumberAndStreet", "Village") if (part := line[name].strip())]
    address: dict[str, Any] = {"line": lines} if lines else {}
    for column, element in (("Town", "city"), ("County", "district"), ("Postcode", "postalCode")):
        if value := line[column].strip():
            address[element] = value
    if address:
        made["address"] = {"use": "work"} | address
    if organisations:
        made["managingOrganization"] = context.shared("Organization", organisations[0])
    if "partOf" in made and line["ParentLocationGuid"].strip() and guid(line["ParentLocationGuid"]) == line.key:
        del made["partOf"]
    return Made("Location", line.key, made, line)


def people(context: Context, line: Line) -> list[Made]:
    """A user in his role: Practitioner and PractitionerRole."""
    who: Resource = {"resourceType": "Practitioner"}
    name: dict[str, Any] = {"use": "official"}
    if family := line["Surname"].strip():
        name["family"] = family
    if given := line["GivenName"].strip():
        name["given"] = [given]
    if title := line["Title"].strip():
        name["prefix"] = [title]
    if len(name) > 1:
        who["name"] = [name]
    if number := line["RegistrationNumber"].strip():
        who["identifier"] = [{"system": _REGISTRATION, "value": number}]
    role: Resource = {
        "resourceType": "PractitionerRole",
        "practitioner": context.shared("Practitioner", line.key),
    }
    if of := line["OrganisationGuid"].strip():
        role["organization"] = context.shared("Organization", of)
    code, words = line["JobCategoryCode"].strip(), line["JobCategoryName"].strip()
    if code or words:
        coded = {"coding": [{"system": _JOB, "code": code} | ({"display": words} if words else {})]} if code else {}
        role["code"] = [coded | ({"text": words} if words else {})]
    if period := _days(line, "ContractStartDate", "ContractEndDate"):
        role["period"] = period
    return [Made("Practitioner", line.key, who, line), Made("PractitionerRole", line.key, role, line)]


_SESSION = compiled(
    SESSION,
    ("SessionTypeDescription", "serviceType[]", to.plain_concept),
    ("SessionCategoryDisplayName", "serviceCategory[]", to.plain_concept),
    ("Description", "comment", to.text),
    kept("Private"),
)


def schedule(context: Context, line: Line, users: Sequence[str]) -> Made:
    """A session: Schedule, of the people that SessionUser names and of its place."""
    made: Resource = {"resourceType": "Schedule", "active": True}
    fill(made, line.values, _SESSION, context)
    actors = [context.shared("Practitioner", user) for user in users]
    if place := line["LocationGuid"].strip():
        actors.append(context.shared("Location", place))
    made["actor"] = actors or [context.shared("Organization", context.practice)]
    start, end = (
        to.at(f"{which}Date", line[f"{which}Date"], line[f"{which}Time"]) if line[f"{which}Date"].strip() else ""
        for which in ("Start", "End")
    )
    if horizon := to.period(start, end):
        made["planningHorizon"] = horizon
    return Made("Schedule", line.key, made, line)
