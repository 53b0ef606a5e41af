"""Patient/$process-message: a FHIR message that creates or updates a patient's record, or invites him (R4 2.4)."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_parameters import parts
from carefolio.doors.fhir_requests import document_of, reader_of
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.validation import validate
from carefolio.identity import invitations, registry, scopes
from carefolio.identity.accounts import AccountError
from carefolio.mapping.serialise import dumps
from carefolio.record import patient_messages
from carefolio.record.patient_messages import EVENTS, Outcome

SYSTEM = "https://fhir.carefolio.uk/CodeSystem/patient-message"


async def process_message(request: Request) -> Response:
    """POST Patient/$process-message: a Bundle of type message (or Parameters with ``content``).

    200 when it is applied, 202 when a person has to decide or it is still on its way. Raises FhirError.
    """
    fhir_formats.check_format(request)
    token = await authorised(request, "Patient", "c")
    reader = reader_of(token)
    if reader.account is not None or not scopes.permits(token.scope, "Patient", "u"):
        raise HTTPException(403, "messages are for systems (client credentials, scope system/Patient.cu)")
    bundle = _bundle(await document_of(request))
    header, patient, event = _said(bundle)
    if event == "invite" and not scopes.permits(token.scope, "Invitation", "c"):
        raise HTTPException(403, "an invitation needs the scope system/Invitation.c")
    pool = await database.pool()
    patient_messages.check(patient, await registry.ods_code(pool, reader.organisation_id))
    with span("process message"):
        name = str(header.get("source", {}).get("name", ""))
        sender = await patient_messages.sender_of(pool, reader.organisation_id, name)
        sent = bundle.get("timestamp", "") or patient.get("meta", {}).get("lastUpdated", "")
        if not sent:
            raise error(422, "required", "when it was sent is needed", "Bundle.timestamp")
        outcome = await patient_messages.take(pool, sender, EVENTS[event], patient, sent)
        issues = [_issue(outcome)]
        if event == "invite" and outcome.status == "applied":
            issues.append(await _invited(pool, reader.organisation_id, outcome, reader.actor))
    return _answer(header, outcome, issues)


def _bundle(document: Any) -> dict[str, Any]:
    if isinstance(document, dict) and document.get("resourceType") == "Parameters":
        document = next((value for name, value in parts(document) if name == "content"), None)
    if not isinstance(document, dict) or document.get("resourceType") != "Bundle":
        raise error(400, "invalid", "a Bundle is needed", "Bundle")
    if issues := validate(document):
        raise FhirError(422, issues)
    if document.get("type") != "message":
        raise error(422, "invalid", "a Bundle of type message is needed", "Bundle.type")
    return document


def _said(bundle: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The header, the Patient, and what happened."""
    resources = [entry.get("resource", {}) for entry in bundle.get("entry", [])]
    header = resources[0] if resources else {}
    if header.get("resourceType") != "MessageHeader":
        raise error(422, "required", "the first entry is a MessageHeader", "Bundle.entry[0].resource")
    coding = header.get("eventCoding", {})
    event = coding.get("code") if coding.get("system") == SYSTEM else None
    if event not in EVENTS:
        raise error(422, "not-supported", f"one of {', '.join(EVENTS)} of {SYSTEM}", "MessageHeader.event")
    patients = [each for each in resources if each.get("resourceType") == "Patient"]
    if len(patients) != 1:
        raise error(422, "invalid", "one Patient is needed", "Bundle.entry")
    return header, patients[0], event


_TOLD = {
    "applied": ("information", "informational", "applied"),
    "received": ("information", "informational", "taken in, and on its way: ask what became of it at /hl7/messages"),
    "held": ("warning", "business-rule", "held for a person of the organisation to decide"),
}


def _issue(outcome: Outcome) -> dict[str, Any]:
    severity, code, text = _TOLD.get(outcome.status, ("error", "processing", f"not applied ({outcome.status})"))
    reason = f": {outcome.reason}" if outcome.reason else ""
    return {"severity": severity, "code": code, "diagnostics": f"message {outcome.message} is {text}{reason}"}


async def _invited(pool: Any, organisation: uuid.UUID, outcome: Outcome, actor: str) -> dict[str, Any]:
    """By a letter to the address that the record has now."""
    try:
        await invitations.invite_patient(pool, organisation, record=outcome.patient, known_address=True, actor=actor)
    except AccountError as failure:
        return {"severity": "warning", "code": "business-rule", "diagnostics": f"not invited: {failure}"}
    return {"severity": "information", "code": "informational", "diagnostics": "invited by e-mail"}


def _answer(header: dict[str, Any], outcome: Outcome, issues: list[dict[str, Any]]) -> Response:
    failed = any(each["severity"] == "error" for each in issues)
    number = str(uuid.uuid4())
    told = {"resourceType": "OperationOutcome", "id": str(uuid.uuid4()), "issue": issues}
    response: dict[str, Any] = {
        "identifier": str(header.get("id", outcome.message)),
        "code": "fatal-error" if failed else "ok",
        "details": {"reference": f"urn:uuid:{told['id']}"},
    }
    said: dict[str, Any] = {
        "resourceType": "MessageHeader",
        "id": number,
        "eventCoding": header["eventCoding"],
        "source": {"name": "Carefolio", "endpoint": answers.base()},
        "response": response,
    }
    if outcome.patient is not None and outcome.status == "applied":
        said["focus"] = [{"reference": f"{answers.base()}/Patient/{outcome.patient}"}]
    entries = [{"fullUrl": f"urn:uuid:{each['id']}", "resource": each} for each in (said, told)]
    made = {"resourceType": "Bundle", "type": "message", "entry": entries}
    status = 422 if failed else 200 if outcome.status == "applied" else 202
    return answers.answer(dumps(made), status)
