"""The pages of one's own account: factors, password, address, sessions, apps."""

from __future__ import annotations

import io
import uuid
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from carefolio.cloud import database
from carefolio.cloud.settings import settings
from carefolio.doors import pages, wording
from carefolio.identity import factors, grants, launches, providers, sealed, security_events, sessions, sign_in
from carefolio.identity.accounts import AccountError
from carefolio.identity.factors import FactorError
from carefolio.identity.security_events import SecurityEvent
from carefolio.identity.sessions import Session

_NOTES = {
    "password": "Your password is changed.",
    "email": "We have sent a link to both addresses.",
    "passkey": "Your passkey is added.",
    "authenticator": "Your authenticator app is added.",
    "removed": "It is removed.",
    "ended": "That session is ended.",
    "nobody": "There is no patient with that NHS number whose record you may open.",
    "device": "The device was not connected.",
    "disconnected": "It no longer signs in to your account.",
    "caring": "You now care for somebody. Apps that you allow will ask you whose record to open.",
    "app": "The app can no longer use your record.",
}
_EVENTS = 10


async def show(request: Request) -> Response:
    """GET /account; also for somebody who must add a factor before anything else."""
    session = await _session(request)
    pool = await database.pool()
    return pages.page(
        request,
        "account.html",
        session=session,
        note=_NOTES.get(request.query_params.get("note", ""), ""),
        passkeys=await factors.passkeys(pool, session.account),
        sessions=await sessions.of_account(pool, session.account.id),
        apps=[
            dict(app) | {"lines": wording.lines(app["scope"])}
            for app in await grants.of_account(pool, session.account.id)
        ],
        providers=await providers.of_account(pool, session.account.id),
        launchable=await launches.apps(pool, session.account),
        events=await security_events.latest(pool, account=session.account.id, limit=_EVENTS),
    )


async def _session(request: Request) -> Session:
    """An open session, or one that awaits its first factor."""
    session = await pages.session_of(request)
    if session is not None and session.stage == "enrol":
        return session
    return await pages.open_session(request)


async def _changing(request: Request) -> Session:
    """The same; what changes the way to sign in wants a sign-in of a moment ago."""
    session = await pages.session_of(request)
    if session is not None and session.stage == "enrol":
        return session
    session = await pages.open_session(request)
    if session.patient_id is not None:
        raise HTTPException(403, "you came from your hospital's system: sign in here to change your account")
    if not session.is_recent:
        raise pages.GoSignInError(RedirectResponse("/login?again=1&next=/account", 303))
    return session


async def passkey_options(request: Request) -> Response:
    """POST /account/passkeys/options."""
    await pages.json_of(request)
    try:
        return JSONResponse(await factors.registration_options(await database.pool(), await _changing(request)))
    except FactorError as error:
        return JSONResponse({"error": str(error)}, 400)


async def add_passkey(request: Request) -> Response:
    """POST /account/passkeys: what the browser's authenticator made."""
    said, session, pool = await pages.json_of(request), await _changing(request), await database.pool()
    credential, name = said.get("credential"), said.get("name")
    if not isinstance(credential, dict) or not isinstance(name, str):
        raise HTTPException(400, "that is no passkey")
    try:
        await factors.add_passkey(pool, session, credential, name)
    except FactorError as error:
        return JSONResponse({"error": str(error)}, 400)
    await sign_in.factor_changed(pool, session, "A passkey was added.", SecurityEvent.FACTOR_ADDED)
    return await _stronger(request, session, JSONResponse({"next": "/account?note=passkey"}), "hwk")


async def remove_passkey(request: Request) -> Response:
    """POST /account/passkeys/remove."""
    form, session, pool = await pages.form_of(request), await _changing_open(request), await database.pool()
    _check_last_factor(session)
    if await factors.remove_passkey(pool, session.account, form.get("number")):
        await sign_in.factor_changed(pool, session, "A passkey was removed.", SecurityEvent.FACTOR_REMOVED)
    return RedirectResponse("/account?note=removed", 303)


async def authenticator_page(request: Request) -> Response:
    """GET /account/authenticator: a new key for an authenticator app; it is the account's once its code was entered."""
    session = await _changing(request)
    return _authenticator(request, session, factors.new_totp_secret())


def _authenticator(request: Request, session: Session, secret: str, errors: dict[str, str] | None = None) -> Response:
    import segno

    drawn = io.BytesIO()
    segno.make(factors.totp_uri(secret, session.account), error="m").save(
        drawn, kind="svg", xmldecl=False, svgclass="qr", lineclass=None, omitsize=True, title="QR code of the key"
    )
    shown = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
    return pages.page(
        request, "authenticator.html", status=400 if errors else 200, session=session, errors=errors or {}, shown=shown,
        uri=factors.totp_uri(secret, session.account),
        qr=drawn.getvalue().decode(), sealed=sealed.seal(f"{session.number} {secret}".encode()).hex(),
    )  # fmt: skip


async def add_authenticator(request: Request) -> Response:
    """POST /account/authenticator: the code that the app shows for the key of this page."""
    form, session, pool = await pages.form_of(request), await _changing(request), await database.pool()
    try:
        number, _, secret = sealed.unseal(bytes.fromhex(form.get("sealed"))).decode().partition(" ")
    except (ValueError, sealed.SealError):
        raise HTTPException(400, "this page is too old: go back and try again") from None
    if number != str(session.number):
        raise HTTPException(400, "this page is too old: go back and try again")
    try:
        await factors.add_totp(pool, session.account, secret, form.get("code"))
    except FactorError as error:
        return _authenticator(request, session, secret, {"code": str(error)})
    await sign_in.factor_changed(pool, session, "An authenticator app was added.", SecurityEvent.FACTOR_ADDED)
    return await _stronger(request, session, RedirectResponse("/account?note=authenticator", 303), "otp")


async def _stronger(request: Request, session: Session, response: Response, method: str) -> Response:
    """A factor that was just proven counts for this session too: it is opened, or becomes a strong one."""
    pool = await database.pool()
    await sessions.end_half_open(pool, session.account.id, session)
    methods = [*session.methods, *({method, "mfa"} - set(session.methods))]
    if session.stage == "enrol":
        value = await sign_in.opened(pool, session, "strong", methods, pages.browser_of(request))
        return pages.with_session(response, value, sign_in.device_of(session.account))
    value = await sessions.renew(pool, session, stage="open", level="strong", methods=methods)
    return pages.with_session(response, value)


async def remove_authenticator(request: Request) -> Response:
    """POST /account/authenticator/remove."""
    await pages.form_of(request)
    session, pool = await _changing_open(request), await database.pool()
    _check_last_factor(session)
    await factors.remove_totp(pool, session.account)
    await sign_in.factor_changed(pool, session, "The authenticator app was removed.", SecurityEvent.FACTOR_REMOVED)
    return RedirectResponse("/account?note=removed", 303)


async def _changing_open(request: Request) -> Session:
    session = await _changing(request)
    if not session.is_open:
        raise HTTPException(403, "add a factor first")
    return session


def _check_last_factor(session: Session) -> None:
    account = session.account
    if account.is_professional and account.password_hash and account.passkeys + account.has_totp < 2:
        raise HTTPException(403, "you need at least one passkey or authenticator app: add another first")


async def password_page(request: Request) -> Response:
    """GET /account/password."""
    return pages.page(request, "password.html", session=await pages.open_session(request))


async def password(request: Request) -> Response:
    """POST /account/password."""
    form, session = await pages.form_of(request), await pages.open_session(request)
    try:
        value = await sign_in.change_password(
            await database.pool(), session, form.get("old"), form.get("new"), pages.browser_of(request)
        )
    except AccountError as error:
        place = "old" if "present" in str(error) or "attempts" in str(error) else "new"
        return pages.page(request, "password.html", status=400, session=session, errors={place: str(error)})
    return pages.signed_in(value, "/account?note=password")


async def email_page(request: Request) -> Response:
    """GET /account/email."""
    return pages.page(request, "email.html", session=await _changing_open(request))


async def email(request: Request) -> Response:
    """POST /account/email: letters to both addresses."""
    form, session = await pages.form_of(request), await _changing_open(request)
    try:
        await sign_in.change_email(await database.pool(), session, form.get("email"))
    except AccountError as error:
        return pages.page(request, "email.html", status=400, session=session, errors={"email": str(error)})
    return RedirectResponse("/account?note=email", 303)


async def confirm_email_page(request: Request) -> Response:
    """GET /account/email/confirm: a link of a letter, which a mail scanner may open too."""
    return pages.page(
        request, "confirm.html", title="Confirm the e-mail address", lines=["The change is made when both addresses are"
        " confirmed."], action="/account/email/confirm", hidden={"token": request.query_params.get("token", "")},
        button="Confirm",
    )  # fmt: skip


async def confirm_email(request: Request) -> Response:
    """POST /account/email/confirm."""
    form = await pages.form_of(request)
    try:
        done = await sign_in.confirm_email(await database.pool(), form.get("token"))
    except AccountError as error:
        return pages.page(request, "message.html", status=400, title="That did not work", lines=[f"{error}."],
                          link="/account/email", link_text="Ask for new links")  # fmt: skip
    lines = {"changed": "From now on you sign in with the new address.",
             "one more": "Now open the link that we sent to the other address."}  # fmt: skip
    return pages.page(
        request, "message.html", title="Thank you", lines=[lines[done]], link="/account", link_text="Go on"
    )


async def disconnect(request: Request) -> Response:
    """POST /account/providers/remove: NHS login, or an organisation's, signs in no longer; a password must remain."""
    form, session, pool = await pages.form_of(request), await _changing_open(request), await database.pool()
    if not session.account.password_hash:
        raise HTTPException(403, "it is your only way to sign in")
    if await providers.disconnect(pool, session.account.id, form.get("name")):
        await sign_in.factor_changed(pool, session, "A way to sign in was disconnected.", SecurityEvent.FACTOR_REMOVED)
    return RedirectResponse("/account?note=disconnected", 303)


async def end_session(request: Request) -> Response:
    """POST /account/sessions/end: one, or all but this one."""
    form, session, pool = await pages.form_of(request), await pages.open_session(request), await database.pool()
    number = _number(form.get("number")) if form.get("number") else None
    ended = await sessions.end(pool, session.account.id, number=number, but=session)
    if ended:
        await security_events.record(pool, SecurityEvent.SESSION_ENDED, account=session.account.id, detail=str(ended))
    return RedirectResponse("/account?note=ended", 303)


async def end_app(request: Request) -> Response:
    """POST /account/apps/end: what an app holds opens nothing within a minute."""
    form, session, pool = await pages.form_of(request), await pages.open_session(request), await database.pool()
    if await grants.end_app(pool, session.account.id, form.get("client_id")):
        await security_events.record(pool, SecurityEvent.APP_ENDED, account=session.account.id)
    return RedirectResponse("/account?note=app", 303)


async def open_app(request: Request) -> Response:
    """POST /account/apps/open: SMART's EHR launch, with the record that is open here."""
    form, session, pool = await pages.form_of(request), await pages.open_session(request), await database.pool()
    launch = await launches.give(pool, session, form.get("client_id"), form.get("nhs_number"))
    if launch is None:
        return RedirectResponse("/account?note=nobody#launch", 303)
    uri, value = launch
    mark = "&" if "?" in uri else "?"
    return RedirectResponse(
        f"{uri}{mark}{urlencode({'iss': f'{settings().public_url}/fhir/R4', 'launch': value})}", 303
    )


def _number(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise HTTPException(400, "there is no such number") from None
