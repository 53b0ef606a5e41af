"""Professionals: their patients, the glass, invitations; and the door at which everybody begins."""

from __future__ import annotations

import uuid

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from carefolio.doors.pages import Form
from carefolio.doors.portal.frame import OWN, PER_PAGE, Refusal, Visit, first_error, plain_form, plain_page
from carefolio.identity import invitations, throttle
from carefolio.record import caring, caseload, finding, glass, items
from carefolio.record.sharing import SharingError


async def begin(visit: Visit) -> Response:
    """GET /: to where somebody's work is; who cares for others is asked for whom."""
    account = visit.session.account
    if visit.session.patient_id is not None and account.is_professional:
        return RedirectResponse(f"/patients/{visit.session.patient_id}", 303)
    if account.is_professional:
        return RedirectResponse("/patients", 303)
    cared = await caring.records(visit.pool, account.id)
    if account.record_id is not None and not cared:
        return RedirectResponse(OWN, 303)
    found = await finding.named(visit.pool, visit.reader, cared)
    return visit.page("caring.html", found=found, own=account.record_id is not None)


async def patients(visit: Visit) -> Response:
    """GET /patients: those whom a professional sees, by name; or whoever ``who`` means, by NHS number or birth date."""
    who = visit.query("who").strip()
    if who and any(each.isdigit() for each in who):
        found = await finding.patients(visit.pool, visit.reader, who)
        return visit.page("patients.html", who=who, listed=[], found=found, next="")
    after = None
    name, _, number = visit.query("after").rpartition("_")
    if name:
        try:
            after = (name, uuid.UUID(number))
        except ValueError:
            after = None
    listed = await caseload.patients(visit.pool, visit.reader, name=who, count=PER_PAGE + 1, after=after)
    page = listed[:PER_PAGE]
    following = f"{page[-1].sort}_{page[-1].id}" if len(listed) > PER_PAGE else ""
    return visit.page("patients.html", who=who, listed=page, found=[], next=following)


async def break_glass(visit: Visit, form: Form) -> Response:
    """POST /patients/[patient]/glass: with a reason, while the session lasts."""
    patient = visit.number("patient")
    try:
        await glass.break_glass(visit.pool, visit.reader, patient, form.get("reason"), visit.session.number)
    except SharingError as error:
        visit.patient, visit.base = patient, f"/patients/{patient}"
        return visit.page("closed.html", status=400, errors=first_error(error, ("reason",)))
    return RedirectResponse(f"/patients/{patient}", 303)


async def emergency_page(visit: Visit) -> Response:
    """GET /emergency: to open the record of somebody who is here and shares nothing with us."""
    return visit.page("emergency.html", form={})


async def emergency(visit: Visit, form: Form) -> Response:
    """POST /emergency: by NHS number and date of birth together, with a reason; a wrong pair is as no record."""
    refused = await throttle.admit(visit.pool, throttle.EMERGENCY, str(visit.session.account.id))
    errors = {}
    found = None
    if refused:
        errors = {"nhs_number": "There were too many attempts. Wait a few minutes"}
    else:
        found = await finding.by_number_and_birth(visit.pool, form.get("nhs_number"), form.get("born"))
    if found is None and not errors:
        errors = {"nhs_number": "There is no record with this NHS number and date of birth"}
    if found is not None:
        try:
            await glass.break_glass(visit.pool, visit.reader, found, form.get("reason"), visit.session.number)
            await throttle.clear(visit.pool, throttle.EMERGENCY, str(visit.session.account.id))
            return RedirectResponse(f"/patients/{found}", 303)
        except SharingError as error:
            errors = first_error(error, ("reason",))
    return visit.page("emergency.html", status=400, form=form.fields, errors=errors)


async def invite_page(visit: Visit) -> Response:
    """GET /invite: a patient of the organisation, to open his record."""
    return _invite(visit, Form({}))


def _invite(visit: Visit, form: Form, errors: dict[str, str] | None = None, made: object = None) -> Response:
    return visit.page("invite.html", status=400 if errors else 200, form=form.fields, errors=errors or {}, made=made)


async def invite(visit: Visit, form: Form) -> Response:
    """POST /invite. The code is shown once, for a letter."""
    owner = visit.session.account.organisation_id
    assert owner is not None
    trusted = "administrator" in visit.roles
    try:
        record = await invitations.record_of(visit.pool, form.get("nhs_number"))
        if not trusted and (record is None or await items.one(visit.pool, visit.reader, record, record) is None):
            raise SharingError("you see no record with that NHS number")
        made = await invitations.invite_patient(
            visit.pool, owner, nhs_number=form.get("nhs_number"), actor=visit.reader.actor,
            email=(form.get("email").strip() or None) if trusted else None, known_address=not trusted,
        )  # fmt: skip
    except Refusal as error:
        said = first_error(error, ("nhs_number",)).get("", str(error))
        return _invite(visit, form, {"email" if "e-mail" in said else "nhs_number": said})
    return _invite(visit, Form({}), made=made)


ROUTES: list[Route] = [
    *plain_page("/", begin),
    *plain_page("/patients", patients, "professional"),
    *plain_form("/patients/{patient}/glass", break_glass, "professional"),
    *plain_page("/emergency", emergency_page, "professional"),
    *plain_form("/emergency", emergency, "professional"),
    *plain_page("/invite", invite_page, "professional"),
    *plain_form("/invite", invite, "professional"),
]
