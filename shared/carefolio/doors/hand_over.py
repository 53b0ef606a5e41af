"""A hospital's system hands its user over to one patient's page here."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from carefolio.cloud import database
from carefolio.cloud.database import Pool
from carefolio.cloud.http import read_body
from carefolio.cloud.settings import settings
from carefolio.doors import pages
from carefolio.doors.bearer import authorised
from carefolio.identity import hand_over, one_time, sealed, security_events, sessions
from carefolio.identity.accounts import Account
from carefolio.identity.security_events import SecurityEvent
from carefolio.identity.sessions import Session


async def give(request: Request) -> Response:
    """POST /login/hand-over: a hospital's system asks for a link, good once and for a minute, to one patient's page."""
    token = await authorised(request, "", "")
    if token.account_id is not None or "hand-over" not in token.scope.split() or token.organisation_id is None:
        raise HTTPException(403, "the token lacks the scope hand-over")
    try:
        said = json.loads(await read_body(request, 16 * 1024))
        user, number = str(said["user"]), str(said["nhs_number"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "send JSON with user and nhs_number") from None
    pool = await database.pool()
    value = await hand_over.give(pool, token, user, number, pages.way_back(str(said.get("page", "/account"))))
    if value is None:
        raise HTTPException(404, "this organisation has no record with that NHS number")
    return JSONResponse(
        {"url": f"{settings().public_url}/login/hand-over/{value}", "expires_in": hand_over.SECONDS}, 201
    )


async def use(request: Request) -> Response:
    """GET /login/hand-over/{token}: signed in, in one patient's record. The first time the user proves who he is."""
    pool, value = await database.pool(), str(request.path_params["token"])
    given = await one_time.use(pool, hand_over.PURPOSE, value)
    if given is None:
        raise HTTPException(403, "this link was used, or is too old: open the record again in your system")
    account = await hand_over.paired(pool, given.facts)
    if account is None:
        response, visitor = pages.with_visitor(RedirectResponse("/", 303), request)
        # The pairing belongs to the browser that came with the link: nobody is sent here by another's.
        facts = given.facts | {"visitor": sealed.digest(visitor).hex()}
        waiting = await one_time.give(pool, hand_over.PAIRING, hand_over.PAIRING_SECONDS, **facts)
        where = f"/login/pair?{urlencode({'token': waiting})}"
        known = await pages.session_of(request)
        ready = known is not None and known.is_open and known.is_recent
        response.headers["Location"] = where if ready else f"/login?{urlencode({'next': where, 'again': '1'})}"
        return response
    return await _signed_in(request, pool, account, given.facts)


def _may_pair(request: Request, session: Session, facts: dict[str, Any]) -> bool:
    """In the browser that the link opened, by somebody who has just proven who he is."""
    here = sealed.digest(pages.visitor_of(request)).hex() == facts.get("visitor")
    return here and session.is_recent and session.level == "strong" and hand_over.may_pair(session.account, facts)


async def pair_page(request: Request) -> Response:
    """GET /login/pair: the professional who has signed in says that the hospital system's user is he."""
    session, token = await pages.open_session(request), request.query_params.get("token", "")
    known = await one_time.look(await database.pool(), hand_over.PAIRING, token)
    if known is None or not _may_pair(request, session, known.facts):
        raise HTTPException(403, "your account cannot be connected with that system")
    lines = [f"From now on {known.facts['client']} signs you in here when you open a patient's record there as"
             f" {known.facts['user']}."]  # fmt: skip
    return pages.page(request, "confirm.html", session=session, title="Connect your hospital's system", lines=lines,
                      action="/login/pair", hidden={"token": token}, button="Connect")  # fmt: skip


async def pair(request: Request) -> Response:
    """POST /login/pair."""
    form, session, pool = await pages.form_of(request), await pages.open_session(request), await database.pool()
    known = await one_time.use(pool, hand_over.PAIRING, form.get("token"))
    if known is None or not _may_pair(request, session, known.facts):
        raise HTTPException(403, "your account cannot be connected with that system")
    await hand_over.keep_pair(pool, session.account, known.facts)
    return await _signed_in(request, pool, session.account, known.facts)


async def _signed_in(request: Request, pool: Pool, account: Account, facts: dict[str, Any]) -> Response:
    browser = pages.browser_of(request)
    known = await pages.session_of(request)
    if known is not None and known.is_open and known.account.id != account.id:
        raise HTTPException(403, "somebody else is signed in with this browser: sign out first")
    await pages.leave(request)
    value = await sessions.start(
        pool, account, stage="open", level="strong", methods=["hand-over"], patient=uuid.UUID(facts["patient"]),
        agent=browser.agent, address=browser.address,
    )  # fmt: skip
    await security_events.record(
        pool, SecurityEvent.HAND_OVER, account=account.id, client=facts["client_id"], address=browser.address
    )
    return pages.signed_in(value, facts["page"])
