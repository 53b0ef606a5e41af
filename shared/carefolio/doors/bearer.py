"""Access tokens at the door (RFC 6750)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Scope

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.identity import scopes, tokens

_WITHIN = "carefolio.within"


@dataclass(frozen=True, slots=True)
class Within:
    """A request from within: the token that was verified when it came; ``stopped`` says why to go no further, or ''."""

    token: tokens.Token
    stopped: Callable[[], Awaitable[str]]


def put_within(scope: Scope, within: Within) -> None:
    """Have a request be one from within; nothing that is sent gets there."""
    scope[_WITHIN] = within


def within(request: Request) -> Within | None:
    """Whether a request is from within."""
    found: Within | None = request.scope.get(_WITHIN)
    return found


async def authorised(request: Request, kind: str, right: str) -> tokens.Token:
    """The verified token; 401 without one, 403 with too little scope (RFC 6750 section 3).

    With no ``kind`` the caller asks for rights himself, later.
    """
    known = within(request)
    token = known.token if known else await _verified(request)
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
