"""Signing in by NHS login, CIS2 or an organisation's own provider; arriving from the NHS App or a hospital's system."""

from __future__ import annotations

import json
import time
from urllib.parse import parse_qsl, urlencode

import anyio.to_thread
from joserfc import jws, jwt
from joserfc.errors import JoseError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from carefolio.cloud import database
from carefolio.cloud.database import Pool
from carefolio.cloud.http import read_body
from carefolio.cloud.settings import settings
from carefolio.doors import pages
from carefolio.doors.sign_in import sign_in_page
from carefolio.identity import (
    accounts,
    letters,
    linking,
    one_time,
    outside,
    providers,
    relying_party,
    sealed,
    security_events,
    sessions,
    sign_in,
)
from carefolio.identity.accounts import email_key
from carefolio.identity.linking import Linked
from carefolio.identity.providers import NHS_LOGIN, P9, SAML, Provider
from carefolio.identity.relying_party import SignedIn, SignInError
from carefolio.identity.security_events import SecurityEvent

_SAML_COOKIE = "__Host-saml"
_ROLE_SECONDS = 10 * 60
_LONGEST_SAML = 256 * 1024
_APP_TOKEN_SECONDS = 60

# What each failure means to the person: title, what to do. {provider} is filled in.
_PAGES: dict[str, tuple[str, str]] = {
    "ConsentNotGiven": (
        "You chose not to share your NHS login information",
        "Without it we cannot open your record with NHS login. You can go back and change that, or sign in with your"
        " e-mail address and password.",
    ),
    "access_denied": ("You did not sign in", "The sign-in was broken off. You can try again."),
    "no_nhs_number": (
        "We cannot find your record",
        "NHS login did not tell us your NHS number, and without it we cannot find your record. Use an invitation from"
        " your hospital or practice in place of it.",
    ),
    "no_birthdate": ("We cannot find your record", "NHS login did not tell us your date of birth."),
    "too_young": (
        "You must be 16 or older",
        "A record can be opened with NHS login from the age of 16. Ask your practice what it offers before.",
    ),
    "no_record": (
        "There is no record for you yet",
        "No hospital or practice that uses Carefolio has sent us anything about you. Ask yours whether it takes part.",
    ),
    "other_person": (
        "We cannot open your record",
        "What NHS login knows of you is not what your record has. Ask your hospital or practice to check your date of"
        " birth and NHS number.",
    ),
    "not_proven": (
        "Prove who you are first",
        "A health record needs your identity to be proven to NHS login. You can do that now.",
    ),
    "other_domain": ("This account cannot be used here", "Use the account of your organisation."),
    "no_email": (
        "Your organisation did not tell us your e-mail address",
        "Ask those who look after accounts there.",
    ),
    "email_taken": (
        "Your e-mail address has an account here already",
        "Sign in with its password, or ask your organisation.",
    ),
    "ended": ("Your account was closed", "Ask the organisation that you had it with."),
    "no_role": ("You have no role here", "None of your national roles is at an organisation that uses Carefolio."),
    "unreachable": (
        "{provider} cannot be reached",
        "It did not answer. Nothing is wrong with your account: try again in a few minutes.",
    ),
    "state": (
        "This sign-in is too old, or was begun elsewhere",
        "Start again, in this browser and in one window.",
    ),
}
_OTHER = (
    "You could not be signed in",
    "{provider} answered in a way that we do not accept. Try again; if it stays so, tell us.",
)


async def organisation(request: Request) -> Response:
    """GET /login/organisation: to the provider of a work e-mail address."""
    email = request.query_params.get("work_email", "")
    provider = await providers.of_domain(await database.pool(), email)
    back = pages.way_back(request.query_params.get("next", ""))
    if provider is None:
        wrong = "No organisation with that e-mail address signs in here with its own accounts"
        errors = {"work_email": wrong if email.strip() else "Enter your work e-mail address"}
        return await sign_in_page(request, back, status=404 if email.strip() else 400, errors=errors)
    return await _begin(request, provider, back)


async def begin(request: Request) -> Response:
    """GET /login/with/{name}."""
    provider = await _provider(request)
    return await _begin(request, provider, pages.way_back(request.query_params.get("next", "")))


async def from_nhs_app(request: Request) -> Response:
    """GET /nhs-login/login: the NHS App's link to a page here, with its word for who it is."""
    pool = await database.pool()
    provider = await providers.of_kind(pool, NHS_LOGIN)
    if provider is None:
        raise HTTPException(404, "NHS login is not offered here")
    back = pages.way_back(request.query_params.get("phrPath", ""))
    asserted = request.query_params.get("assertedLoginIdentity", "")
    # Only the app's own browser is signed in by its word; a link elsewhere could be anybody's.
    if asserted and not pages.in_app(request) and settings().environment != "local":
        asserted = ""
    if asserted and not await _is_of_nhs_app(pool, provider, asserted):
        return _failed(request, provider, SignInError("sso_login_required", in_app=True))
    return await _begin(request, provider, back, asserted=asserted)


async def _is_of_nhs_app(pool: Pool, provider: Provider, asserted: str) -> bool:
    """Whether the NHS App signed it a moment ago, where its keys are known; NHS login decides in the end."""
    keys_url = provider.settings.get("nhs_app_keys")
    if len(asserted) > 4000:
        return False
    if not keys_url:
        return True
    try:
        kid = jws.extract_compact(asserted.encode()).headers().get("kid")
        token = jwt.decode(asserted, await outside.keys_at(keys_url, kid), algorithms=["RS512", "RS256", "ES256"])
    except (JoseError, ValueError, outside.OutsideError):
        return False
    expires, now = token.claims.get("exp"), time.time()
    return isinstance(expires, int | float) and now - 60 < expires < now + _APP_TOKEN_SECONDS + 60


async def _begin(
    request: Request, provider: Provider, back: str, *, asserted: str = "", stepped: bool = False
) -> Response:
    pool = await database.pool()
    response, visitor = pages.with_visitor(RedirectResponse("/", 303), request)
    if provider.kind == SAML:
        return await _begin_saml(pool, provider, visitor, back, response)
    try:
        in_app = pages.in_app(request)
        url = await relying_party.start(
            pool, provider, visitor, back, in_app=in_app, asserted=asserted, stepped=stepped
        )
    except SignInError as error:
        return _failed(request, provider, error)
    response.headers["Location"] = url
    return response


async def callback(request: Request) -> Response:
    """GET /login/with/{name}/callback."""
    provider, pool = await _provider(request), await database.pool()
    try:
        query = {name: value.replace("\x00", "") for name, value in request.query_params.multi_items()}
        signed = await relying_party.finish(pool, provider, pages.visitor_of(request), query)
    except SignInError as error:
        return await _refused(request, pool, provider, error)
    if provider.kind == NHS_LOGIN and signed.claims.get("vot") not in P9:
        if signed.stepped:
            return await _refused(request, pool, provider, SignInError("not_proven", in_app=signed.in_app))
        return await _begin(request, provider, signed.back, stepped=True)
    return await _link(request, pool, signed)


async def _link(request: Request, pool: Pool, signed: SignedIn, role: int | None = None) -> Response:
    try:
        linked = await linking.link(pool, signed, role)
    except SignInError as error:
        if error.code == "choose_role":
            return await _choose_role(request, pool, signed)
        return await _refused(request, pool, signed.provider, SignInError(error.code, in_app=signed.in_app))
    return await _signed_in(request, pool, signed, linked)


async def _signed_in(request: Request, pool: Pool, signed: SignedIn, linked: Linked) -> Response:
    account, provider, browser = linked.account, signed.provider, pages.browser_of(request)
    given = signed.claims.get("amr")
    methods = [str(method)[:20] for method in given[:10]] if isinstance(given, list) else []
    await pages.leave(request)
    value = await sessions.start(
        pool, account, stage="open", level="strong", methods=[*methods, provider.kind], provider=provider.id,
        in_app=signed.in_app, agent=browser.agent, address=browser.address,
    )  # fmt: skip
    await security_events.record(
        pool, SecurityEvent.SIGN_IN, account=account.id, address=browser.address, detail=f"provider {provider.name}"
    )
    device = sign_in.device_of(account)
    if account.email and not sign_in.is_device_of(account, browser.device):
        async with pool.acquire() as connection, connection.transaction():
            await sign_in.new_device(connection, account, browser)
        letters.kick()
    if linked.other_email:
        token = await one_time.give(
            pool, "nhs email", 3600, account=account.id, new=linked.other_email, back=signed.back
        )
        return pages.signed_in(value, f"/login/email?{urlencode({'token': token})}", device)
    return pages.signed_in(value, signed.back, device)


async def email_page(request: Request) -> Response:
    """GET /login/email: NHS login knows another e-mail address; which shall we use?"""
    session, token = await pages.open_session(request), request.query_params.get("token", "")
    known = await one_time.look(await database.pool(), "nhs email", token)
    if known is None or known.account_id != session.account.id:
        return RedirectResponse("/account", 303)
    return pages.page(
        request, "which_email.html", session=session, old=session.account.email, new=known.facts["new"], link=token
    )


async def email(request: Request) -> Response:
    """POST /login/email: the address that was chosen. NHS login has verified the new one."""
    form, session, pool = await pages.form_of(request), await pages.open_session(request), await database.pool()
    async with pool.acquire() as connection, connection.transaction():
        known = await one_time.use(connection, "nhs email", form.get("token"))
        if known is None or known.account_id != session.account.id:
            return RedirectResponse("/account", 303)
        new, old = known.facts["new"], session.account.email
        if form.get("choice") == "new" and not await accounts.by_email(connection, new):
            await connection.execute(
                "UPDATE account SET email = $2, email_key = $3, email_verified_at = now() WHERE id = $1",
                session.account.id, new, email_key(new),
            )  # fmt: skip
            await security_events.record(connection, SecurityEvent.EMAIL_CHANGED, account=session.account.id)
            if old:
                await letters.write(connection, "email-changed", old, name=session.account.name, new=new)
    letters.kick()
    return RedirectResponse(pages.way_back(known.facts["back"]), 303)


async def _choose_role(request: Request, pool: Pool, signed: SignedIn) -> Response:
    """CIS2: one role for the session. What was proven is kept sealed on the page, for this browser and ten minutes."""
    kept = {"provider": signed.provider.name, "subject": signed.subject, "claims": signed.claims, "back": signed.back,
            "visitor": signed.visitor, "until": time.time() + _ROLE_SECONDS}  # fmt: skip
    roles = await linking.known_roles(pool, signed)
    return pages.page(request, "roles.html", roles=roles, sealed=sealed.seal(json.dumps(kept).encode()).hex())


async def role(request: Request) -> Response:
    """POST /login/role."""
    form, pool = await pages.form_of(request), await database.pool()
    try:
        kept = json.loads(sealed.unseal(bytes.fromhex(form.get("sealed"))))
        chosen = int(form.get("role"))
    except (ValueError, sealed.SealError):
        raise HTTPException(400, "this page is too old: sign in again") from None
    provider = await providers.find(pool, kept["provider"])
    if provider is None or kept["until"] < time.time() or kept["visitor"] != pages.visitor_of(request):
        raise HTTPException(400, "this page is too old: sign in again")
    signed = SignedIn(provider, kept["subject"], kept["claims"], kept["back"], False, kept["visitor"])
    return await _link(request, pool, signed, chosen)


async def _refused(request: Request, pool: Pool, provider: Provider, error: SignInError) -> Response:
    browser = pages.browser_of(request)
    what = error.description if error.code in ("id_token", "saml") else ""
    detail = f"provider {provider.name}: {error.code} {what}".strip()
    await security_events.record(pool, SecurityEvent.PROVIDER_REFUSED, address=browser.address, detail=detail[:200])
    return _failed(request, provider, error)


def _failed(request: Request, provider: Provider, error: SignInError) -> Response:
    """The page that says what happened; inside the NHS App the way is back to it, never to a form of ours."""
    key = error.description if error.description in _PAGES else error.code
    if (error.code, error.description) == ("id_token", "vot"):
        key = "not_proven"
    title, line = _PAGES.get(key, _OTHER)
    link: str | None = "/login"
    text, status = "Sign in another way", 502 if key == "unreachable" else 403
    if key in ("ConsentNotGiven", "not_proven"):
        link, text = f"/login/with/{provider.name}", "Go back to NHS login"
    if error.in_app or error.code.endswith("_required"):
        link = None
        if key not in _PAGES:
            title, line = "Go back to the NHS App", "We could not sign you in with it. Open this page again from there."
    name = provider.title
    return pages.page(
        request, "message.html", status=status, title=title.format(provider=name), lines=[line.format(provider=name)],
        link=link, link_text=text,
    )  # fmt: skip


async def _provider(request: Request) -> Provider:
    provider = await providers.find(await database.pool(), str(request.path_params["name"]))
    if provider is None:
        raise HTTPException(404, "there is no such way to sign in")
    return provider


async def jwks(request: Request) -> Response:
    """GET /login/with/{name}/jwks.json: our public key at the provider, to register it there."""
    return JSONResponse(providers.public_jwks(await _provider(request)))


# SAML 2.0.


async def _begin_saml(pool: Pool, provider: Provider, visitor: str, back: str, response: Response) -> Response:
    from carefolio.identity import saml

    url, request_id = await anyio.to_thread.run_sync(saml.start, provider)
    state = sealed.token()
    await relying_party.keep(pool, provider, visitor, state, {"request": request_id, "back": back, "visitor": visitor})
    response.headers["Location"] = f"{url}&{urlencode({'RelayState': state})}"
    # The answer comes by a POST from another site, with which Lax cookies do not travel.
    response.set_cookie(_SAML_COOKIE, visitor, max_age=600, path="/", secure=True, httponly=True, samesite="none")
    return response


async def assertion_consumer(request: Request) -> Response:
    """POST /login/with/{name}/acs: SAML's answer."""
    from carefolio.identity import saml

    provider, pool = await _provider(request), await database.pool()
    if provider.kind != SAML:
        raise HTTPException(404, "there is no such way to sign in")
    form = dict(parse_qsl((await read_body(request, _LONGEST_SAML)).decode("utf-8", "replace")))
    try:
        visitor = request.cookies.get(_SAML_COOKIE, "")
        kept = await relying_party.take(pool, provider, visitor, form.get("RelayState", ""))
        subject, claims = await anyio.to_thread.run_sync(saml.finish, provider, form, kept["request"])
        await saml.check_first_use(pool, claims["assertion_id"])
    except SignInError as error:
        return await _refused(request, pool, provider, error)
    signed = SignedIn(provider, subject, claims, kept["back"], False, visitor)
    response = await _link(request, pool, signed)
    response.delete_cookie(_SAML_COOKIE, path="/", secure=True, httponly=True, samesite="none")
    return response


async def metadata(request: Request) -> Response:
    """GET /login/with/{name}/metadata: what the organisation's SAML server is told of us."""
    from carefolio.identity import saml

    provider = await _provider(request)
    if provider.kind != SAML:
        raise HTTPException(404, "there is no such way to sign in")
    return Response(await anyio.to_thread.run_sync(saml.metadata, provider), media_type="application/samlmetadata+xml")
