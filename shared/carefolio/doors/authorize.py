"""The authorization endpoint: who signs in, whose record, and the person's yes.

A request is checked first and kept; the pages carry only its name. RFC 6749 section 4.1, RFC 7636, RFC 9101 (signed
request objects), RFC 9126, RFC 9207, OpenID Connect Core section 3.1, SMART App Launch 2.2.
"""

from __future__ import annotations

import time
import uuid
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from carefolio.cloud import database
from carefolio.cloud.database import Pool
from carefolio.cloud.http import read_body
from carefolio.doors import authorization_requests, pages, wording
from carefolio.doors.practitioners import with_practitioner
from carefolio.identity import clients, devices, grants, one_time, requests, scopes, throttle, token_server
from carefolio.identity.clients import Client
from carefolio.identity.sessions import Session
from carefolio.identity.token_server import AuthorizationError
from carefolio.record import caring, finding
from carefolio.record.access import Reader


async def authorize(request: Request) -> Response:
    """GET and POST /oauth2/authorize."""
    if request.method == "GET" and (reference := request.query_params.get("reference")):
        return await _go_on(request, reference)
    if request.method == "GET":
        if len(request.url.query) > authorization_requests.LONGEST:
            raise HTTPException(414, "the request is too long: push it (RFC 9126)")
        pairs = parse_qsl(request.url.query, keep_blank_values=True)
    else:
        body = (await read_body(request, authorization_requests.LONGEST)).decode("utf-8", "replace")
        pairs = parse_qsl(body, keep_blank_values=True)
        if any(name == "form_token" for name, _ in pairs):
            pages.check_form_token(request, dict(pairs)["form_token"])
            return await _answered(request, dict(pairs))
    pool = await database.pool()
    try:
        parameters = await authorization_requests.received(pool, pairs)
    except AuthorizationError as error:
        return _refused(request, error)
    kept = await requests.keep(pool, parameters["client_id"], parameters)
    return RedirectResponse(f"/oauth2/authorize?reference={kept}", 303)


async def _go_on(request: Request, reference: str) -> Response:
    """The next step of a kept request: sign in, choose a patient, consent, or the answer."""
    pool = await database.pool()
    client, parameters = await _kept(pool, reference)
    prompts, here = parameters.get("prompt", "").split(), f"/oauth2/authorize?{urlencode({'reference': reference})}"
    session = await pages.session_of(request)
    if session is None or not session.is_open or _too_old(session, parameters):
        if "none" in prompts:
            return await _tell(pool, reference, parameters, "login_required", "nobody is signed in")
        if session is not None and not session.is_open:
            return pages.go_second(here) if session.stage == "second" else RedirectResponse("/account", 303)
        again = {"again": "1"} if session else {}
        return RedirectResponse(f"/login?{urlencode({'next': here} | again)}", 303)
    _check_whose(session, client)
    try:
        patient = await _patient(pool, session, client, parameters)
    except AuthorizationError as error:
        return await _tell(pool, reference, parameters, error.error, error.description)
    if patient is None and _needs_patient(parameters["scope"]):
        if "none" in prompts:
            return await _tell(pool, reference, parameters, "interaction_required", "a patient must be chosen")
        return await _picker(request, session, client, reference)
    return await _consent(request, session, client, reference, parameters, patient)


def _too_old(session: Session, parameters: dict[str, str]) -> bool:
    """Whether the person must sign in again, for ``prompt=login`` or ``max_age``."""
    at, asked = session.authenticated_at.timestamp(), int(parameters["asked_at"])
    if "login" in parameters.get("prompt", "").split() and at < asked:
        return True
    return "max_age" in parameters and at < asked - int(parameters["max_age"])


def _needs_patient(scope: str) -> bool:
    names = scope.split()
    return scopes.LAUNCH_PATIENT in names or "patient" in scopes.contexts(scope)


def _in_context(scope: str, patient: uuid.UUID | None) -> uuid.UUID | None:
    """The record that the app is told of: none, where it only wants to know who somebody is."""
    return patient if _needs_patient(scope) or scopes.LAUNCH in scope.split() else None


async def _patient(pool: Pool, session: Session, client: Client, parameters: dict[str, str]) -> uuid.UUID | None:
    """The record that the app is about, as far as it is clear. Raises AuthorizationError."""
    if value := parameters.get("launch"):
        launch = await one_time.look(pool, "launch", value)
        if launch is None or launch.account_id != session.account.id or launch.facts["client_id"] != client.client_id:
            raise AuthorizationError("invalid_request", "the launch is not known, was used, or is somebody else's")
        patient = uuid.UUID(launch.facts["patient"])
        if session.patient_id not in (None, patient):
            raise AuthorizationError("access_denied", "this session is for another patient alone")
        return patient
    if session.patient_id or session.account.is_professional:
        return session.patient_id
    # Who cares for others says whose record it is.
    return None if await caring.records(pool, session.account.id) else session.account.record_id


def _open_to(session: Session, scope: str) -> str:
    """Of the scope what the session can give: one that is locked to a patient gives nothing beyond him."""
    if session.patient_id is None:
        return scope
    return " ".join(text for text in scope.split() if not text.startswith("user/") and text != scopes.OFFLINE)


async def _picker(
    request: Request, session: Session, client: Client, reference: str, who: str | None = None, *, chosen: bool = True
) -> Response:
    """Whose record: for a professional, among those that he sees; else one's own, or of whom one cares for."""
    asked, who = who, (who or "").strip()[:100]
    found: list[dict[str, Any]] = []
    if not session.account.is_professional:
        account, pool = session.account, await database.pool()
        records = [*filter(None, [account.record_id]), *await caring.records(pool, account.id)]
        found = await finding.named(pool, Reader.of_person(account.id, None, account.record_id), records)
    elif who:
        reader = Reader.of_person(session.account.id, session.account.organisation_id, None)
        found = await finding.patients(await database.pool(), reader, who)
    errors = {} if chosen else {"p1": "Choose a patient"}
    if asked is not None and not who and session.account.is_professional:
        errors = {"who": "Enter a family name or an NHS number"}
    return pages.page(
        request, "patient.html", status=400 if errors else 200, session=session, client=client.row, reference=reference,
        who=who, found=found, errors=errors, searching=session.account.is_professional,
    )  # fmt: skip


def _check_whose(session: Session, client: Client) -> None:
    """A professional lets in the apps of his own organisation: its records are not his to give to others."""
    organisation = session.account.organisation_id
    if organisation is not None and client.row["organisation_id"] != organisation:
        raise HTTPException(403, "your organisation has not registered this app")


async def _consent(
    request: Request,
    session: Session,
    client: Client,
    reference: str,
    parameters: dict[str, str],
    patient: uuid.UUID | None,
) -> Response:
    """Ask, or go on where the person has said yes before to all of this."""
    pool, scope = await database.pool(), _open_to(session, parameters["scope"])
    prompts = parameters.get("prompt", "").split()
    before = not client.is_public and await grants.has_allowed(
        pool, session.account.id, client.client_id, scope, _in_context(scope, patient)
    )
    if before and "consent" not in prompts and "device" not in parameters:
        return await _allow(request, session, reference, parameters, scope, patient)
    if "none" in prompts:
        return await _tell(pool, reference, parameters, "consent_required", "the person has not allowed this")
    name = None
    if patient and patient != session.account.record_id:
        reader = Reader.of_person(session.account.id, session.account.organisation_id, session.account.record_id)
        name = await finding.name_of(pool, reader, patient)
    return pages.page(
        request, "consent.html", session=session, client=client.row, reference=reference, patient=patient,
        patient_name=name, items=wording.items(scope), always=wording.always(scope),
        lasting=grants.lasting(" ".join(text for text in scope.split() if text != scopes.OFFLINE)),
        offline=scopes.OFFLINE in scope.split(),
        device=parameters.get("device"), host=urlsplit(parameters.get("redirect_uri", "")).hostname,
    )  # fmt: skip


async def _answered(request: Request, form: dict[str, str]) -> Response:
    """POST of one of our pages: the patient who was chosen, or yes or no."""
    pool, reference, session = await database.pool(), form.get("reference", ""), await pages.open_session(request)
    client, parameters = await _kept(pool, reference)
    _check_whose(session, client)
    if _too_old(session, parameters):
        return RedirectResponse(f"/oauth2/authorize?{urlencode({'reference': reference})}", 303)
    chosen = _uuid(form.get("patient", ""))
    patient = await _patient(pool, session, client, parameters) or chosen
    if patient and patient != chosen:
        raise HTTPException(400, "the record has changed in between: start again in the app")
    if patient and not await grants.may_open(pool, session.account, patient):
        raise HTTPException(403, "you may not open that record")
    if form.get("answer") == "find":
        return await _picker(request, session, client, reference, form.get("who", ""))
    if form.get("answer") == "patient":
        if patient is None:
            return await _picker(request, session, client, reference, form.get("who", ""), chosen=False)
        return await _consent(request, session, client, reference, parameters, patient)
    if form.get("answer") != "allow":
        return await _tell(pool, reference, parameters, "access_denied", "the person said no")
    if patient is None and _needs_patient(parameters["scope"]):
        raise HTTPException(400, "no record was chosen")
    asked = _open_to(session, parameters["scope"]).split()
    kept = {value for name, value in form.items() if name.startswith("scope")}
    given = [text for text in asked if text in kept or (scopes.read_scope(text) is None and text != scopes.OFFLINE)]
    if not (kept - {scopes.OFFLINE}) & set(asked) and any(scopes.read_scope(text) for text in asked):
        return await _tell(pool, reference, parameters, "access_denied", "the person allowed nothing")
    return await _allow(request, session, reference, parameters, " ".join(given), patient)


async def _allow(
    request: Request,
    session: Session,
    reference: str,
    parameters: dict[str, str],
    scope: str,
    patient: uuid.UUID | None,
) -> Response:
    """Make the grant, once, and send the browser back to the app with a code."""
    pool = await database.pool()
    if "fhirUser" in scope.split():
        await with_practitioner(pool, session.account)
    if await requests.find(pool, reference, use=True) is None:
        raise HTTPException(400, "this was answered already: start again in the app")
    if launch := parameters.get("launch"):
        await one_time.use(pool, "launch", launch)
    grant = await grants.allow(
        pool,
        session,
        parameters["client_id"],
        scope,
        patient=_in_context(scope, patient),
        nonce=parameters.get("nonce"),
    )
    if device := parameters.get("device"):
        if not await devices.answer(pool, device, grant):
            await grants.end(pool, grant)
            raise HTTPException(400, "the code is too old: start again on the device")
        return _done(request, session, "Your device is connected", "You can go back to it now.")
    try:
        return RedirectResponse(await token_server.give_code(pool, parameters, grant), 303)
    except AuthorizationError as error:
        return _refused(request, error)


async def _tell(pool: Pool, reference: str, parameters: dict[str, str], error: str, description: str) -> Response:
    """End the request and tell the app."""
    await requests.find(pool, reference, use=True)
    if device := parameters.get("device"):
        await devices.answer(pool, device, None)
        return RedirectResponse("/account?note=device", 303)
    return RedirectResponse(
        AuthorizationError(error, description, parameters["redirect_uri"], parameters.get("state")).location(), 303
    )


def _refused(request: Request, error: AuthorizationError) -> Response:
    """Tell the app where it is known; else the person (RFC 6749 section 4.1.2.1)."""
    if error.redirect_uri:
        return RedirectResponse(error.location(), 303)
    return pages.page(
        request, "message.html", status=400, title="The app asked in a way that cannot be answered",
        lines=[f"{error.error}: {error.description}", "Tell the maker of the app."],
    )  # fmt: skip


async def _kept(pool: Pool, reference: str) -> tuple[Client, dict[str, str]]:
    kept = await requests.find(pool, reference)
    client = await clients.find(pool, kept[0]) if kept else None
    if kept is None or client is None:
        raise HTTPException(400, "this request is too old, or was answered already: start again in the app")
    return client, kept[1]


async def device_page(request: Request) -> Response:
    """GET /oauth2/device: where somebody types what a device shows (RFC 8628 section 3.3)."""
    session = await pages.open_session(request)
    return pages.page(request, "device.html", session=session, user_code=request.query_params.get("user_code", "")[:20])


async def device(request: Request) -> Response:
    """POST /oauth2/device."""
    form, session, pool = await pages.form_of(request), await pages.open_session(request), await database.pool()
    wait = await throttle.admit(pool, throttle.USER_CODE, str(session.account.id))
    found = None if wait else await devices.waiting(pool, form.get("user_code"))
    if found is None or not all(authorization_requests.is_plain(text) for text in found["scope"].split()):
        text = "There were too many attempts. Wait a few minutes" if wait else "That code is not known, or is too old"
        return pages.page(
            request,
            "device.html",
            status=429 if wait else 400,
            session=session,
            user_code="",
            errors={"user_code": text},
        )
    parameters = {"client_id": found["client_id"], "scope": found["scope"], "device": found["user_code"],
                  "asked_at": str(int(time.time()))}  # fmt: skip
    kept = await requests.keep(pool, found["client_id"], parameters)
    return RedirectResponse(f"/oauth2/authorize?{urlencode({'reference': kept})}", 303)


def _done(request: Request, session: Session, title: str, line: str) -> Response:
    return pages.page(request, "message.html", session=session, title=title, lines=[line])


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
