"""Access tokens at the door (RFC 6750)."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.identity import scopes, tokens

# Where a request from within carries its token, verified when it came; nothing that is sent gets there.
WITHIN = "carefolio.token"


async def authorised(request: Request, kind: str, right: str) -> tokens.Token:
    """The verified token; 401 without one, 403 with too little scope (RFC 6750 section 3).

    With no ``kind`` the caller asks for rights himself, later.
    """
    if (token := request.scope.get(WITHIN)) is None:
        token = await _verified(request)
    if kind:
        check_scope(token, kind, right)
    return token


async def _verified(request: Request) -> tokens.Token:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise HTTPException(401, "an access token is needed", {"WWW-Authenticate": 'Bearer realm="carefolio"'})
    try:
        with span("verify token"):
            return await tokens.verify(await database.pool(), text.strip())
    except tokens.InvalidTokenError as error:
        challenge = f'Bearer realm="carefolio", error="invalid_token", error_description="{error.reason}"'
        raise HTTPException(401, error.reason, {"WWW-Authenticate": challenge}) from None


def check_scope(token: tokens.Token, kind: str, right: str) -> None:
    """Raise 403 where a token does not reach so far (RFC 6750 section 3.1)."""
    if not scopes.permits(token.scope, kind, right):
        needed = f"{'system' if token.account_id is None else 'patient' if token.patient_id else 'user'}/{kind}.{right}"
        challenge = f'Bearer realm="carefolio", error="insufficient_scope", scope="{needed}"'
        raise HTTPException(403, f"the token lacks the scope {needed}", {"WWW-Authenticate": challenge})
