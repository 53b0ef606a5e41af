"""What an organisation's own client administers: its people's provider, and invitations.

Scopes ``system/Provider.…`` and ``system/Invitation.c``: ours, not FHIR's, and in no scope for all types.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from carefolio.cloud import database
from carefolio.cloud.http import read_body
from carefolio.doors.bearer import authorised
from carefolio.identity import invitations, providers, registry
from carefolio.identity.accounts import AccountError
from carefolio.identity.providers import OIDC, SAML, Provider
from carefolio.identity.registry import RegistryError

_LONGEST = 64 * 1024


async def list_providers(request: Request) -> Response:
    """GET /login/providers: the organisation's."""
    organisation = await _administrator(request, "Provider", "s")
    known = await providers.offered(await database.pool())
    return JSONResponse({"providers": [_shown(each) for each in known if each.organisation_id == organisation]})


async def add_provider(request: Request) -> Response:
    """PUT /login/providers/[name]: kind (oidc or saml), issuer, client_id, secret or key, domains, settings."""
    organisation = await _administrator(request, "Provider", "c")
    said, pool, name = await _object(request), await database.pool(), str(request.path_params["name"])
    kind, issuer = _text(said, "kind"), _text(said, "issuer")
    if kind not in (OIDC, SAML):
        raise HTTPException(422, f"kind is {OIDC} or {SAML}: the others are the operator's to set up")
    domains, settings, key = (
        said.get("domains", []),
        said.get("settings", {}),
        _text(said, "key") or _text(said, "secret"),
    )
    if not isinstance(settings, dict) or not isinstance(domains, list) or not all(isinstance(d, str) for d in domains):
        raise HTTPException(422, "settings is an object, domains a list of names")
    try:
        await providers.add(
            pool, name, kind, issuer=issuer, client_id=_text(said, "client_id"), key=key.encode() or None,
            title=_text(said, "title"), organisation=await registry.ods_code(pool, organisation),
            domains=tuple(domains), chosen=settings,
        )  # fmt: skip
    except RegistryError as error:
        raise HTTPException(422, str(error)) from None
    made = await providers.find(pool, name)
    assert made is not None
    return JSONResponse(_shown(made), 201)


async def end_provider(request: Request) -> Response:
    """DELETE /login/providers/[name]."""
    organisation = await _administrator(request, "Provider", "d")
    pool, name = await database.pool(), str(request.path_params["name"])
    known = await providers.find(pool, name)
    if known is None or known.organisation_id != organisation:
        raise HTTPException(404, "the organisation has no such provider")
    await providers.end(pool, name)
    return Response(status_code=204)


async def invite(request: Request) -> Response:
    """POST /login/invitations: a patient by nhs_number, or a professional by name and email. The code is told once."""
    organisation = await _administrator(request, "Invitation", "c")
    said, pool = await _object(request), await database.pool()
    try:
        if said.get("nhs_number"):
            number, email = _text(said, "nhs_number"), _text(said, "email") or None
            made = await invitations.invite_patient(pool, organisation, nhs_number=number, email=email)
        else:
            name, email = _text(said, "name").strip(), _text(said, "email")
            if not name or len(name) > 100 or not name.isprintable():
                raise HTTPException(422, "nhs_number, or name and email, are needed")
            made = await invitations.invite_professional(pool, organisation, name, email)
    except AccountError as error:
        raise HTTPException(422, str(error)) from None
    return JSONResponse({"code": made.code, "name": made.name, "expires": made.expires}, 201)


async def _administrator(request: Request, kind: str, right: str) -> uuid.UUID:
    """The organisation whose client asks; a person's app does not administer."""
    token = await authorised(request, kind, right)
    if token.account_id is not None or token.organisation_id is None:
        raise HTTPException(403, "this is for a client of the organisation itself")
    return token.organisation_id


async def _object(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await read_body(request, _LONGEST))
    except ValueError:
        raise HTTPException(400, "the body is no JSON") from None
    if not isinstance(said, dict):
        raise HTTPException(400, "the body is no object")
    return said


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name, "")
    if not isinstance(value, str) or "\x00" in value:
        raise HTTPException(422, f"{name} is a text")
    return value


def _shown(provider: Provider) -> dict[str, Any]:
    shown = {name: getattr(provider, name) for name in ("name", "kind", "title", "issuer", "client_id", "callback")}
    return shown | {"domains": list(provider.domains)}
