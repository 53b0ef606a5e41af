"""The pages by which somebody signs in, registers, or chooses a new password."""

from __future__ import annotations

from datetime import date
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from carefolio.cloud import database
from carefolio.doors import pages
from carefolio.doors.pages import Form
from carefolio.identity import accounts, factors, invitations, providers, security_events, sessions, sign_in, throttle
from carefolio.identity.accounts import AccountError
from carefolio.identity.invitations import Invitation
from carefolio.identity.security_events import SecurityEvent
from carefolio.identity.sessions import Session
from carefolio.identity.sign_in import RefusedError
from carefolio.record import caring
from carefolio.record.sharing import SharingError

_NOTES = {
    "out": "You have signed out.",
    "registered": "Thank you. Sign in now with your e-mail address and password. If that does not work, look into your"
    " e-mail.",
    "reset": "Your password is changed. Sign in with the new one.",
    "sent": "If the address has an account, we have sent a link to it. It can be used for 30 minutes.",
}


async def show(request: Request) -> Response:
    """GET /login."""
    session = await pages.session_of(request)
    back = pages.way_back(request.query_params.get("next", ""))
    if session and session.is_open and not request.query_params.get("again"):
        return RedirectResponse(back, 303)
    return await sign_in_page(request, back, note=_NOTES.get(request.query_params.get("note", ""), ""))


async def sign_in_page(request: Request, back: str, *, status: int = 200, email: str = "", note: str = "",
                        errors: dict[str, str] | None = None) -> Response:  # fmt: skip
    """The page of all the ways in."""
    known = await providers.offered(await database.pool())
    return pages.page(
        request, "sign_in.html", status=status, next=back, email=email, note=note, errors=errors or {},
        providers=known, organisations=[each for each in known if each.kind != "nhs-login"],
    )  # fmt: skip


async def password(request: Request) -> Response:
    """POST /login: e-mail address and password."""
    form = await pages.form_of(request)
    back, browser = pages.way_back(form.get("next")), pages.browser_of(request)
    missing = {"email": "Enter your e-mail address", "password": "Enter your password"}
    if errors := {name: text for name, text in missing.items() if not form.get(name).strip()}:
        return await sign_in_page(request, back, status=400, email=form.get("email"), errors=errors)
    try:
        value = await sign_in.with_password(await database.pool(), form.get("email"), form.get("password"), browser)
    except RefusedError as refused:
        errors = {"email": _wait(refused.wait) if refused.wait else "The e-mail address or the password is not right"}
        return await sign_in_page(
            request, back, status=429 if refused.wait else 400, email=form.get("email"), errors=errors
        )
    await pages.leave(request)
    session = await sessions.find(await database.pool(), value)
    assert session is not None
    wait = 0 if session.account.has_strong_factor else await _send_code(session)
    more = {"wait": str(wait)} if wait else {}
    return pages.signed_in(value, f"/login/second?{urlencode({'next': back} | more)}")


async def second(request: Request) -> Response:
    """GET /login/second: the page that asks for the second factor."""
    session = await _half_session(request)
    back = pages.way_back(request.query_params.get("next", ""))
    wait = request.query_params.get("wait", "")
    errors = (
        {"code": f"{_wait(int(wait))}. The last code that we sent can be used"}
        if wait.isascii() and wait.isdigit() and len(wait) < 6
        else {}
    )
    return pages.page(request, "second.html", session=session, account=session.account, next=back, errors=errors)


async def second_code(request: Request) -> Response:
    """POST /login/second: a code, of an app or by e-mail."""
    form, session = await pages.form_of(request), await _half_session(request)
    back = pages.way_back(form.get("next"))
    try:
        value = await sign_in.second_factor(
            await database.pool(), session, form.get("kind"), form.get("code"), pages.browser_of(request)
        )
    except RefusedError as refused:
        text = _wait(refused.wait) if refused.wait else "That code is not right, or is too old"
        return pages.page(
            request, "second.html", status=429 if refused.wait else 400, session=session, account=session.account,
            next=back, errors={"code": text},
        )  # fmt: skip
    opened = await sessions.find(await database.pool(), value)
    if opened is not None and opened.stage == "enrol":
        return pages.signed_in(value, "/account")
    return pages.signed_in(value, back, sign_in.device_of(session.account))


async def another_code(request: Request) -> Response:
    """POST /login/second/code: send another code by e-mail."""
    form, session = await pages.form_of(request), await _half_session(request)
    if session.account.has_strong_factor:
        raise HTTPException(403, "a code by e-mail is not enough for this account")
    wait = await _send_code(session)
    more = {"wait": str(wait)} if wait else {}
    return RedirectResponse(f"/login/second?{urlencode({'next': pages.way_back(form.get('next'))} | more)}", 303)


async def _send_code(session: Session) -> int:
    """Send a code; returns the seconds to wait where too many were sent."""
    pool = await database.pool()
    wait = await throttle.admit(pool, throttle.MAIL, str(session.account.id))
    if not wait:
        await factors.send_code(pool, session)
    return wait


async def passkey_options(request: Request) -> Response:
    """POST /login/second/passkey/options."""
    await pages.json_of(request)
    return JSONResponse(await factors.assertion_options(await database.pool(), await _half_session(request)))


async def passkey(request: Request) -> Response:
    """POST /login/second/passkey: what the browser's authenticator signed."""
    said, session = await pages.json_of(request), await _half_session(request)
    credential = said.get("credential")
    if not isinstance(credential, dict):
        raise HTTPException(400, "that is no passkey")
    try:
        value = await sign_in.second_factor(
            await database.pool(), session, "passkey", credential, pages.browser_of(request)
        )
    except RefusedError as refused:
        text = _wait(refused.wait) if refused.wait else "The passkey was not accepted"
        return JSONResponse({"error": text}, 429 if refused.wait else 400)
    back = pages.way_back(str(said.get("next", "")))
    return pages.with_session(JSONResponse({"next": back}), value, sign_in.device_of(session.account))


async def _half_session(request: Request) -> Session:
    """The session that awaits its second factor. Raises GoSignInError."""
    session = await pages.session_of(request)
    if session is None or session.stage != "second":
        raise pages.GoSignInError(RedirectResponse("/account" if session else "/login", 303))
    return session


async def out(request: Request) -> Response:
    """POST /login/out."""
    await pages.form_of(request)
    if session := await pages.session_of(request):
        pool = await database.pool()
        await sessions.end(pool, session.account.id, number=session.number)
        await security_events.record(pool, SecurityEvent.SIGN_OUT, account=session.account.id)
    return pages.signed_out(RedirectResponse("/login?note=out", 303))


async def forgotten_page(request: Request) -> Response:
    """GET /login/forgotten."""
    return pages.page(request, "forgotten.html")


async def forgotten(request: Request) -> Response:
    """POST /login/forgotten: the same answer for every address."""
    form = await pages.form_of(request)
    try:
        accounts.checked_email(form.get("email"))
    except AccountError as error:
        return pages.page(request, "forgotten.html", status=400, errors={"email": str(error)})
    try:
        await sign_in.forgotten(await database.pool(), form.get("email"), pages.browser_of(request))
    except RefusedError as refused:
        return pages.page(request, "forgotten.html", status=429, errors={"email": _wait(refused.wait)})
    return RedirectResponse("/login?note=sent", 303)


async def reset_page(request: Request) -> Response:
    """GET /login/reset: the link of the letter."""
    return pages.page(request, "reset.html", link=request.query_params.get("token", ""))


async def reset(request: Request) -> Response:
    """POST /login/reset."""
    form = await pages.form_of(request)
    try:
        await sign_in.reset(await database.pool(), form.get("token"), form.get("password"))
    except AccountError as error:
        return pages.page(request, "reset.html", status=400, link=form.get("token"), errors={"password": str(error)})
    return pages.signed_out(RedirectResponse("/login?note=reset", 303))


async def register_page(request: Request) -> Response:
    """GET /login/register: with the code of a letter, or to type it."""
    return _register(request, Form({"code": request.query_params.get("code", "")}), "code")


def _register(request: Request, form: Form, stage: str, errors: dict[str, str] | None = None, **more: str) -> Response:
    fields: dict[str, Any] = {name: form.get(name) for name in ("code", "day", "month", "year", "name", "email")} | more
    return pages.page(
        request, "register.html", status=400 if errors else 200, stage=stage,
        errors=errors or {}, **fields,
    )  # fmt: skip


async def register(request: Request) -> Response:
    """POST /login/register: the code and the date of birth, then the account."""
    form, browser, pool = await pages.form_of(request), pages.browser_of(request), await database.pool()
    if not form.get("code").strip():
        return _register(request, form, "code", {"code": "Enter the code of your invitation"})
    wait = await throttle.admit(pool, throttle.INVITATION, browser.address)
    if wait:
        return _register(request, form, "code", {"code": _wait(wait)})
    invitation = await invitations.proven(pool, form.get("code"), _date(form))
    if invitation is None:
        await security_events.record(pool, SecurityEvent.INVITATION_REFUSED, address=browser.address)
        text = "The code and the date of birth do not belong together, or the invitation is over"
        return _register(request, form, "code", {"code": text})
    await throttle.clear(pool, throttle.INVITATION, browser.address)
    session = await pages.session_of(request)
    if invitation.caring and session is not None and session.is_open:
        return await _care(request, form, invitation, session)
    if form.get("stage") != "account":
        return _register(request, form, "account", name=invitation.name, email=invitation.email or "")
    name = form.get("name").strip()
    if not name or len(name) > 100 or not name.isprintable():
        return _register(request, form, "account", {"name": "Enter your name"})
    try:
        begin = caring.begin if invitation.caring else None
        await invitations.accept(pool, invitation, name, form.get("email"), form.get("password"), begin)
    except AccountError as error:
        place = "email" if "e-mail" in str(error) else "password"
        return _register(request, form, "account", {place: str(error)})
    return RedirectResponse("/login?note=registered", 303)


async def _care(request: Request, form: Form, invitation: Invitation, session: Session) -> Response:
    """Somebody who is signed in accepts to care for a patient, when he has seen for which account."""
    if form.get("stage") != "caring":
        return _register(request, form, "caring", account=session.account.name, email=session.account.email or "")
    try:
        await caring.accept(await database.pool(), invitation, session.account)
    except (AccountError, SharingError) as error:
        return _register(request, form, "code", {"code": f"{str(error)[:1].upper()}{str(error)[1:]}"})
    return RedirectResponse("/account?note=caring", 303)


def _date(form: Form) -> date | None:
    try:
        return date(int(form.get("year")), int(form.get("month")), int(form.get("day")))
    except ValueError:
        return None


def _wait(seconds: int) -> str:
    minutes = -(-seconds // 60)
    return f"There were too many attempts. Try again in {minutes} minute{'s' if minutes > 1 else ''}"
