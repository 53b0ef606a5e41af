"""The tables of medicines and appointments: column(s) -> element (domain notes B9)."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from carefolio.emis import values
from carefolio.mapping.emis import converters as to
from carefolio.mapping.emis.model import BASE, ColumnError, Context, Line, Resource, compiled, fill, guid, kept

DRUG, ISSUE = "Prescribing_DrugRecord", "Prescribing_IssueRecord"
SLOT, SESSION = "Appointment_Slot", "Appointment_Session"


def _dosage(_: Context, value: str) -> dict[str, str] | None:
    return {"text": plain} if (plain := value.strip()) else None


def _quantity(context: Context, value: str, unit: str) -> dict[str, Any]:
    return {"url": f"{BASE}Quantity", "valueQuantity": to.quantity(context, value, unit)}


def _number(name: str) -> tuple[str, str, Any]:
    def convert(context: Context, value: str) -> dict[str, Any]:
        return {"url": f"{BASE}{name}", "valueInteger": to.whole(context, value)}

    return (name, "extension[]", convert)


def _decimal(name: str) -> tuple[str, str, Any]:
    def convert(_: Context, value: str) -> dict[str, Any]:
        return {"url": f"{BASE}{name}", "valueDecimal": to.decimal(value)}

    return (name, "extension[]", convert)


_DRUGS = compiled(
    DRUG,
    ("CodeId", "medicationCodeableConcept", to.drug),
    ("EnteredDate EnteredTime", "dateAsserted", to.moment),
    ("ClinicianUserInRoleGuid", "informationSource", to.practitioner),
    to.recorder(),
    ("Dosage", "dosage[]", _dosage),
    ("ProblemObservationGuid", "reasonReference[]", to.problem),
    kept("PrescriptionType"),
    ("Quantity QuantityUnit", "extension[]", _quantity),
    _number("NumberOfIssues"),
    _number("NumberOfIssuesAuthorised"),
    kept("ExpiryDate"),
)


def drug(context: Context, line: Line, issues: list[Line]) -> Resource:
    """A DrugRecord with the dates of its issues: MedicationStatement (MedicationRequest.basedOn takes none)."""
    active = to.truth(context, line["IsActive"])
    made: Resource = {
        "resourceType": "MedicationStatement",
        "status": "active" if active else "completed",
        "subject": context.subject,
    }
    fill(made, line.values, _DRUGS, context)
    period = {}
    if start := to.effective(context, line["EffectiveDate"], line["EffectiveDatePrecision"]):
        period["start"] = start
    given = [
        (when, issue)
        for issue in issues
        if (when := to.effective(context, issue["EffectiveDate"], issue["EffectiveDatePrecision"]))
    ]
    # Two of one day are the same to the dates; which is the last is told by the key alone.
    given.sort(key=lambda each: (each[0], each[1].key))
    if not active and (end := _end(line, given)):
        period["end"] = max(end, start or end)
    if period:
        made["effectivePeriod"] = period
    if given:
        made.setdefault("extension", []).extend([
            {"url": f"{BASE}FirstIssueDate", "valueDateTime": given[0][0]},
            {"url": f"{BASE}LastIssueDate", "valueDateTime": given[-1][0]},
        ])  # fmt: skip
    return made


def _end(line: Line, given: list[tuple[str, Line]]) -> str:
    """CancellationDate; without one the end of what was issued last."""
    if cancelled := values.day(line["CancellationDate"]):
        return cancelled.isoformat()
    if not given:
        return ""
    when, last = given[-1]
    days = last["CourseDurationInDays"].strip()
    if len(when) < 10 or not days.isdigit() or len(days) > 5:
        return when[:10]
    return (date.fromisoformat(when[:10]) + timedelta(days=int(days))).isoformat()


def _supply(context: Context, value: str, unit: str, days: str, expiry: str) -> dict[str, Any]:
    made: dict[str, Any] = {"quantity": to.quantity(context, value, unit)}
    return made | _lasting(context, days, expiry)


def _lasting(context: Context, days: str, expiry: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if days.strip():
        made["expectedSupplyDuration"] = to.days(context, days)
    if expiry.strip():
        made["validityPeriod"] = {"end": to.day(context, expiry)}
    return made


def _supply_without_quantity(context: Context, days: str, quantity: str, expiry: str) -> dict[str, Any] | None:
    return None if quantity.strip() else _lasting(context, days, expiry)


def _cost(_: Context, value: str) -> dict[str, Any] | None:
    cost: Decimal = to.decimal(value)
    return {"url": f"{BASE}EstimatedNhsCost", "valueMoney": {"value": cost, "currency": "GBP"}}


def _statement(context: Context, value: str) -> dict[str, str]:
    return context.own("MedicationStatement", guid(value))


ISSUES = compiled(
    ISSUE,
    ("CodeId", "medicationCodeableConcept", to.drug),
    ("ConsultationGuid", "encounter", to.encounter),
    ("DrugRecordGuid", "supportingInformation[]", _statement),
    ("EffectiveDate EffectiveDatePrecision", "authoredOn", to.effective),
    to.recorded(),
    ("ClinicianUserInRoleGuid", "requester", to.practitioner),
    ("EnteredByUserInRoleGuid", "recorder", to.practitioner),
    ("ProblemObservationGuid", "reasonReference[]", to.problem),
    ("Dosage PatientMessage", "dosageInstruction[]",
     lambda _, dose, message: {"text": dose.strip()} | ({"patientInstruction": message.strip()} if message else {})),
    ("Quantity QuantityUnit CourseDurationInDays ExpiryDate", "dispenseRequest", _supply),
    ("CourseDurationInDays Quantity ExpiryDate", "dispenseRequest", _supply_without_quantity),
    ("EstimatedNhsCost", "extension[]", _cost),
    ("PharmacyMessage", "note[]", to.note),
    ("PharmacyText", "note[]", to.note),
    kept("EmisCode"), kept("ScriptPharmacyStamp"), _decimal("Compliance"), _decimal("AverageCompliance"),
    kept("IsPrescribedAsContraceptive"), kept("IsPrivatelyPrescribed"), kept("ReviewDate"),
    kept("issuemethodDescription"),
)  # fmt: skip

_SLOTS = compiled(
    SLOT,
    ("BookedDate BookedTime", "created", to.moment),
    ("PlannedDurationInMinutes", "minutesDuration", lambda _, value: minutes if (minutes := to.whole(_, value)) > 0
     else None),
    ("SlotType", "appointmentType", to.plain_concept),
    ("DnaReasonCodeId", "extension[]",
     lambda context, value: {"url": f"{BASE}DnaReason", "valueCodeableConcept": context.code(value).concept}),
    kept("SlotStatus"), kept("SendInTime"), kept("LeftTime"), _number("PatientWaitInMin"),
    _number("AppointmentDelayInMin"), _number("ActualDurationInMinutes"), kept("IsBookableOnline"),
    kept("BookingMethod"), kept("ModeOfContact"), kept("ExternalPatientGuid"), kept("ExternalPatientOrganisation"),
    kept("NationalSlotCategoryName"), kept("ContextType"), kept("ServiceSetting"),
)  # fmt: skip


def appointment(context: Context, line: Line, session: Line | None, users: list[str]) -> tuple[Resource, Resource]:
    """A booked slot: Slot and Appointment, with the people and the place of its session."""
    start, end = _times(line)
    status = "booked"
    if line.cancelled:
        status = "cancelled"
    elif to.truth(context, line["DidNotAttend"]):
        status = "noshow"
    elif line["LeftTime"].strip():
        status = "fulfilled"
    elif line["SendInTime"].strip():
        status = "arrived"
    slot: Resource = {
        "resourceType": "Slot",
        "schedule": context.shared("Schedule", line["SessionGuid"]),
        "status": "free" if line.cancelled else "busy",
        "start": start,
        "end": end,
    }
    made: Resource = {
        "resourceType": "Appointment",
        "status": status,
        "start": start,
        "end": end,
        "slot": [context.own("Slot", line.key)],
        "participant": [{"actor": context.subject, "status": "accepted"}],
    }
    for user in users:
        made["participant"].append({"actor": context.shared("Practitioner", user), "status": "accepted"})
    if session is not None:
        if place := session["LocationGuid"]:
            made["participant"].append({"actor": context.shared("Location", place), "status": "accepted"})
        if kind := session["SessionTypeDescription"].strip():
            made["serviceType"] = [{"text": kind}]
    return slot, fill(made, line.values, _SLOTS, context)


def _times(line: Line) -> tuple[str, str]:
    """Start and end as instants: a slot without minutes ends when it begins."""
    if not line["AppointmentDate"].strip():
        raise ColumnError("AppointmentDate", "there is none")
    start = to.at("AppointmentDate", line["AppointmentDate"], line["AppointmentStartTime"])
    minutes = line["PlannedDurationInMinutes"].strip()
    length = int(minutes) if minutes.isdigit() and len(minutes) < 5 else 0
    return start, to.later(start, length)
