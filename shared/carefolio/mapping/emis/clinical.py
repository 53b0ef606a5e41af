"""The tables of what is in a patient's care record: column(s) -> element (domain notes B9)."""

from __future__ import annotations

from typing import Any

from carefolio.mapping.emis import converters as to
from carefolio.mapping.emis.model import BASE, Context, Plan, Resource, compiled, guid, kept, kept_code

OBSERVATION, PROBLEM, REFERRAL = "CareRecord_Observation", "CareRecord_Problem", "CareRecord_ObservationReferral"
CONSULTATION, DIARY = "CareRecord_Consultation", "CareRecord_Diary"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_SERVICE = "http://snomed.info/sct"
_ROLE = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
_ABNORMAL = {
    "LO": ("L", "Low"), "L": ("L", "Low"), "LOW": ("L", "Low"), "HI": ("H", "High"), "H": ("H", "High"),
    "HIGH": ("H", "High"), "A": ("A", "Abnormal"),
}  # fmt: skip
_INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"


def interpretation(_: Context, abnormal: str, reason: str) -> dict[str, Any] | None:
    """Abnormal and AbnormalReason: low or high where that is said, abnormal where only that is."""
    if not to.truth(_, abnormal):
        return None
    code, display = _ABNORMAL.get(reason.strip().upper(), ("A", "Abnormal"))
    made: dict[str, Any] = {"coding": [{"system": _INTERPRETATION, "code": code, "display": display}]}
    return made | ({"text": reason.strip()} if reason.strip() and reason.strip().upper() not in _ABNORMAL else {})


# What an Observation row says of itself, whatever it becomes: where it has no element of its own it is kept.
_SAID = (
    kept("ObservationType"), kept("Qualifiers"), kept("Episode"), kept("DocumentGuid"), kept("AbnormalReason"),
)  # fmt: skip
_VALUE = (kept("Value"), kept("NumericUnit"))

OBSERVATIONS: dict[str, Plan] = {
    "Observation": compiled(
        OBSERVATION,
        ("CodeId", "code", to.code),
        ("ConsultationGuid", "encounter", to.encounter),
        ("EffectiveDate EffectiveDatePrecision", "effectiveDateTime", to.effective),
        ("EnteredDate EnteredTime", "issued", to.instant),
        ("ClinicianUserInRoleGuid", "performer[]", to.practitioner),
        to.recorder(),
        ("ProblemGuid", "extension[]", to.problem_extension),
        ("Value NumericUnit NumericOperator", "valueQuantity", to.quantity),
        ("NumericRangeLow NumericUnit NumericRangeHigh", "referenceRange[]", to.low),
        ("NumericRangeHigh NumericUnit NumericRangeLow", "referenceRange[]", to.high),
        ("Abnormal AbnormalReason", "interpretation[]", interpretation),
        ("AssociatedText", "note[]", to.note),
        kept("ObservationType"), kept("Qualifiers"), kept("Episode"), kept("DocumentGuid"),
    ),
    "DiagnosticReport": compiled(
        OBSERVATION,
        ("CodeId", "code", to.code),
        ("ConsultationGuid", "encounter", to.encounter),
        ("EffectiveDate EffectiveDatePrecision", "effectiveDateTime", to.effective),
        ("EnteredDate EnteredTime", "issued", to.instant),
        ("ClinicianUserInRoleGuid", "performer[]", to.practitioner),
        to.recorder(),
        ("ProblemGuid", "extension[]", to.problem_extension),
        ("AssociatedText", "conclusion", to.text),
        *_SAID,
    ),
    "Condition": compiled(
        OBSERVATION,
        ("CodeId", "code", to.code),
        ("ConsultationGuid", "encounter", to.encounter),
        ("EffectiveDate EffectiveDatePrecision", "onsetDateTime", to.effective),
        ("EnteredDate EnteredTime", "recordedDate", to.moment),
        ("EnteredByUserInRoleGuid", "recorder", to.practitioner),
        ("ClinicianUserInRoleGuid", "asserter", to.practitioner),
        ("ProblemGuid", "extension[]", to.problem_extension),
        ("AssociatedText", "note[]", to.note),
        *_SAID, *_VALUE,
    ),
    "Procedure": compiled(
        OBSERVATION,
        ("CodeId", "code", to.code),
        ("ConsultationGuid", "encounter", to.encounter),
        ("EffectiveDate EffectiveDatePrecision", "performedDateTime", to.effective),
        to.recorded(),
        ("EnteredByUserInRoleGuid", "recorder", to.practitioner),
        ("ClinicianUserInRoleGuid", "performer[]", to.performer),
        ("ProblemGuid", "reasonReference[]", to.problem),
        ("AssociatedText", "note[]", to.note),
        *_SAID, *_VALUE,
    ),
    "AllergyIntolerance": compiled(
        OBSERVATION,
        ("CodeId", "code", to.code),
        ("ConsultationGuid", "encounter", to.encounter),
        ("EffectiveDate EffectiveDatePrecision", "onsetDateTime", to.effective),
        ("EnteredDate EnteredTime", "recordedDate", to.moment),
        ("EnteredByUserInRoleGuid", "recorder", to.practitioner),
        ("ClinicianUserInRoleGuid", "asserter", to.practitioner),
        ("ProblemGuid", "extension[]", to.problem_extension),
        ("AssociatedText", "note[]", to.note),
        *_SAID, *_VALUE,
    ),
    "FamilyMemberHistory": compiled(
        OBSERVATION,
        ("EffectiveDate EffectiveDatePrecision", "date", to.effective),
        to.recorded(),
        to.recorder(),
        ("ProblemGuid", "reasonReference[]", to.problem),
        ("AssociatedText", "note[]", to.note),
        *_SAID, *_VALUE,
    ),
    "Immunization": compiled(
        OBSERVATION,
        ("CodeId", "vaccineCode", to.code),
        ("ConsultationGuid", "encounter", to.encounter),
        ("EffectiveDate EffectiveDatePrecision", "occurrenceDateTime", to.effective),
        ("EnteredDate EnteredTime", "recorded", to.moment),
        to.recorder(),
        ("ClinicianUserInRoleGuid", "performer[]", to.performer),
        ("ProblemGuid", "reasonReference[]", to.problem),
        ("AssociatedText", "note[]", to.note),
        *_SAID, *_VALUE,
    ),
    "ServiceRequest": compiled(
        OBSERVATION,
        ("CodeId", "code", to.code),
        ("ConsultationGuid", "encounter", to.encounter),
        ("EffectiveDate EffectiveDatePrecision", "occurrenceDateTime", to.effective),
        ("EnteredDate EnteredTime", "authoredOn", to.moment),
        ("ClinicianUserInRoleGuid", "requester", to.practitioner),
        to.recorder(),
        ("ProblemGuid", "reasonReference[]", to.problem),
        ("AssociatedText", "note[]", to.note),
        *_SAID, *_VALUE,
    ),
    "Specimen": compiled(
        OBSERVATION,
        ("CodeId", "type", to.code),
        ("EffectiveDate EffectiveDatePrecision", "collection",
         lambda context, *day: {"collectedDateTime": when} if (when := to.effective(context, *day)) else None),
        to.recorded(),
        to.recorder(),
        ("ProblemGuid", "extension[]", to.problem_extension),
        ("AssociatedText", "note[]", to.note),
        *_SAID, *_VALUE,
    ),
}  # fmt: skip

# What must be there besides, whatever the row says.
FIXED: dict[str, Resource] = {
    "Observation": {"status": "final"},
    "DiagnosticReport": {"status": "final"},
    "Condition": {},
    "Procedure": {"status": "completed"},
    "AllergyIntolerance": {
        "clinicalStatus": {
            "coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}
            ]
        }
    },
    "FamilyMemberHistory": {
        "status": "completed",
        "relationship": {"coding": [{"system": _ROLE, "code": "FAMMEMB", "display": "family member"}]},
    },
    "Immunization": {"status": "completed"},
    "ServiceRequest": {"status": "unknown", "intent": "order"},
    "Specimen": {},
}
SUBJECT = {"AllergyIntolerance": "patient", "FamilyMemberHistory": "patient", "Immunization": "patient"}
CATEGORIES: dict[str, Resource] = {
    code: {"coding": [{"system": _CATEGORY, "code": code}]}
    for code in ("laboratory", "imaging", "vital-signs", "exam", "social-history")
}
SERVICES: dict[str, Resource] = {
    "referral": {"coding": [{"system": _SERVICE, "code": "3457005", "display": "Patient referral"}]},
    "investigation": {"coding": [{"system": _SERVICE, "code": "386053000", "display": "Evaluation procedure"}]},
}


def _last_review_by(context: Context, value: str) -> dict[str, Any]:
    return {"url": f"{BASE}LastReviewUserInRoleGuid", "valueReference": context.shared("Practitioner", value)}


def _last_review(context: Context, value: str, precision: str) -> dict[str, Any] | None:
    when = to.effective(context, value, precision)
    return {"url": f"{BASE}LastReviewDate", "valueDateTime": when} if when else None


def _parent_problem(context: Context, value: str, relationship: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"url": "parent", "valueReference": to.problem(context, value)}]
    if relationship.strip():
        parts.append({"url": "relationship", "valueString": relationship.strip()})
    return {"url": f"{BASE}ParentProblem", "extension": parts}


def _expected_duration(context: Context, value: str) -> dict[str, Any]:
    return {"url": f"{BASE}ExpectedDuration", "valueDuration": to.days(context, value)}


def _significance(_: Context, value: str) -> dict[str, Any]:
    return {"url": f"{BASE}Significance", "valueCode": "major" if value.casefold().startswith("signif") else "minor"}


PROBLEMS = compiled(
    PROBLEM,
    ("EndDate EndDatePrecision", "abatementDateTime", to.effective),
    ("SignificanceDescription", "extension[]", _significance),
    ("LastReviewDate LastReviewDatePrecision", "extension[]", _last_review),
    ("LastReviewUserInRoleGuid", "extension[]", _last_review_by),
    ("ParentProblemObservationGuid ParentProblemRelationship", "extension[]", _parent_problem),
    ("ExpectedDuration", "extension[]", _expected_duration),
    ("Comment", "note[]", to.note),
)

_URGENCY = {"routine": "routine", "urgent": "urgent", "2 week wait": "urgent", "soon": "asap", "dated": "routine"}


def _priority(_: Context, value: str) -> str | None:
    return _URGENCY.get(value.strip().casefold())


def _ubrn(_: Context, value: str) -> dict[str, str] | None:
    plain = value.strip()
    return {"system": "https://fhir.nhs.uk/Id/UBRN", "value": plain} if plain else None


REFERRALS = compiled(
    REFERRAL,
    ("ReferralUBRN", "identifier[]", _ubrn),
    ("ReferralUrgency", "priority", _priority),
    kept("ReferralUrgency"),
    ("ReferralServiceType", "orderDetail[]", to.plain_concept),
    kept("ReferralMode"),
    ("ReferralTargetOrganisationGuid", "performer[]", to.organisation),
    ("ReferralTargetDepartment", "performerType", to.plain_concept),
    kept("ReferralTargetClinician"),
    ("ReferralReasonCodeId", "reasonCode[]", to.code),
    ("ReferralSourceOrganisationGuid", "extension[]",
     lambda context, value: {"url": f"{BASE}ReferralSource", "valueReference": context.shared("Organization", value)}),
    kept("ReferralReceivedDate"), kept("ReferralReceivedTime"), kept("ReferralEndDate"), kept_code("ReferralSourceId"),
    kept_code("ReferringCareProfessionalStaffGroupCodeId"), kept_code("ReferralEpisodeRTTMeasurementTypeId"),
    kept("ReferralEpisodeClosureDate"), kept("ReferralEpisodeDischargeLetterIssuedDate"),
    kept_code("ReferralClosureReasonCodeId"), kept("TransportRequired"),
)  # fmt: skip


def _participant(context: Context, value: str) -> dict[str, Any]:
    return {"individual": context.shared("Practitioner", value)}


def _period(context: Context, value: str, precision: str) -> dict[str, str] | None:
    when = to.effective(context, value, precision)
    return {"start": when} if when else None


def _appointment(context: Context, value: str) -> dict[str, str]:
    return context.own("Appointment", guid(value))


CONSULTATIONS = compiled(
    CONSULTATION,
    ("ConsultationSourceCodeId ConsultationSourceTerm", "type[]", to.termed_code),
    ("ConsultationType", "serviceType", to.plain_concept),
    ("EffectiveDate EffectiveDatePrecision", "period", _period),
    ("ClinicianUserInRoleGuid", "participant[]", _participant),
    to.recorded(),
    to.recorder(),
    ("AppointmentSlotGuid", "appointment[]", _appointment),
)
DIARIES = compiled(
    DIARY,
    ("CodeId OriginalTerm", "code", to.termed_code),
    ("ConsultationGuid", "encounter", to.encounter),
    ("EffectiveDate EffectiveDatePrecision", "occurrenceDateTime", to.effective),
    ("EnteredDate EnteredTime", "authoredOn", to.moment),
    ("ClinicianUserInRoleGuid", "requester", to.practitioner),
    to.recorder(),
    ("LocationTypeDescription", "locationCode[]", to.plain_concept),
    ("AssociatedText", "note[]", to.note),
    kept("DurationTerm"),
)
