"""The OAuth2 endpoints that machines call."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from carefolio.cloud import database
from carefolio.cloud.http import read_body
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log
from carefolio.doors import authorization_requests
from carefolio.identity import (
    discovery,
    grants,
    registration,
    requests,
    security_events,
    throttle,
    token_grants,
    token_server,
    tokens,
)
from carefolio.identity.clients import Client
from carefolio.identity.registration import RegistrationError
from carefolio.identity.security_events import SecurityEvent
from carefolio.identity.token_server import AuthorizationError

_LONGEST_FORM = 64 * 1024
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
# What a browser's app asks from its own page (SMART App Launch 2.2, section 2.0.7): no cookie takes part in it.
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "3600",
}


class InvalidRequestError(Exception):
    """A request that OAuth2 calls invalid_request."""


def refusal(failure: InvalidRequestError) -> Response:
    return JSONResponse({"error": "invalid_request", "error_description": str(failure)}, 400, _CORS | _NO_STORE)


def _answered(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(body, status, {**(headers or {}), **_CORS, **_NO_STORE})


async def preflight(request: Request) -> Response:
    """OPTIONS of whatever a browser's app calls."""
    return Response(status_code=204, headers=_CORS)


async def token(request: Request) -> Response:
    """POST /oauth2/token (RFC 6749)."""
    form, pool = await form_of(request), await database.pool()
    await tokens.publish_keys(pool)
    status, answer, headers = await token_server.token_response(pool, request.headers, form)
    if status == 200:
        log(Event.TOKEN_ISSUED, scope=answer["scope"])
    else:
        log(Event.TOKEN_REFUSED, reason=answer.get("error"))
        if answer.get("error") == "invalid_client":
            await security_events.record(
                pool,
                SecurityEvent.CLIENT_REFUSED,
                client=form.get("client_id", "")[:200] or None,
                address=_address(request),
            )
    return _answered(status, answer, headers)


async def revoke(request: Request) -> Response:
    """POST /oauth2/revoke (RFC 7009)."""
    answer = await token_server.endpoint_response(
        await database.pool(), "revocation", request.headers, await form_of(request)
    )
    if answer[0] == 200:
        log(Event.TOKEN_REVOKED)
    return _answered(*answer)


async def introspect(request: Request) -> Response:
    """POST /oauth2/introspect (RFC 7662)."""
    pool = await database.pool()
    return _answered(
        *await token_server.endpoint_response(pool, "introspection", request.headers, await form_of(request))
    )


async def device_authorization(request: Request) -> Response:
    """POST /oauth2/device_authorization (RFC 8628)."""
    pool = await database.pool()
    return _answered(
        *await token_server.endpoint_response(pool, "device_authorization", request.headers, await form_of(request))
    )


async def pushed(request: Request) -> Response:
    """POST /oauth2/par (RFC 9126): the parameters of an authorization request, from the client itself."""
    form, pool = await form_of(request), await database.pool()
    client = await token_server.authenticated(pool, request.headers, form)
    if not isinstance(client, Client):
        return _answered(*client)
    secret = ("client_secret", "client_assertion", "client_assertion_type")
    parameters = {name: value for name, value in form.items() if name not in secret} | {"client_id": client.client_id}
    if "request_uri" in parameters:
        raise InvalidRequestError("'request_uri' is not pushed")
    try:
        parameters = await authorization_requests.checked(pool, parameters)
    except AuthorizationError as error:
        return _answered(400, {"error": error.error, "error_description": error.description})
    value = await requests.keep(pool, client.client_id, parameters, authorization_requests.PUSHED_SECONDS)
    return _answered(
        201,
        {"request_uri": f"{authorization_requests.PUSHED}{value}", "expires_in": authorization_requests.PUSHED_SECONDS},
    )


async def register(request: Request) -> Response:
    """POST /oauth2/register (RFC 7591), with a token that an operator gave."""
    pool, body = await database.pool(), await read_body(request, _LONGEST_FORM)
    if await throttle.admit(pool, throttle.REGISTRATION, _address(request)):
        return _answered(429, {"error": "slow_down"}, {"Retry-After": "60"})
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    try:
        metadata = json.loads(body)
        if not isinstance(metadata, dict):
            raise ValueError
    except (ValueError, RecursionError):
        return _answered(400, {"error": "invalid_client_metadata", "error_description": "not a JSON object"})
    try:
        if scheme.lower() != "bearer":
            raise PermissionError
        made = await registration.register(pool, given.strip(), metadata)
    except PermissionError:
        text = "an initial access token is needed: an operator gives one (carefolio client allow)"
        return _answered(401, {"error": "invalid_token", "error_description": text}, {"WWW-Authenticate": "Bearer"})
    except RegistrationError as error:
        return _answered(400, {"error": error.error, "error_description": error.description})
    return _answered(201, made)


async def userinfo(request: Request) -> Response:
    """GET and POST /oauth2/userinfo (OpenID Connect Core section 5.3)."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    pool = await database.pool()
    try:
        if scheme.lower() != "bearer":
            raise tokens.InvalidTokenError("an access token is needed")
        token = await tokens.verify(pool, text.strip())
    except tokens.InvalidTokenError as error:
        challenge = f'Bearer error="invalid_token", error_description="{error.reason}"'
        return _answered(401, {"error": "invalid_token"}, {"WWW-Authenticate": challenge})
    person = await grants.person(pool, token.grant_id) if token.grant_id else None
    if token.grant_id and person is None:
        challenge = 'Bearer error="invalid_token", error_description="the token was revoked"'
        return _answered(401, {"error": "invalid_token"}, {"WWW-Authenticate": challenge})
    if person is None or "openid" not in token.scope.split():
        challenge = 'Bearer error="insufficient_scope", scope="openid"'
        return _answered(403, {"error": "insufficient_scope"}, {"WWW-Authenticate": challenge})
    return _answered(200, token_grants.person_claims(person, token.scope))


async def keys(request: Request) -> Response:
    """GET /.well-known/jwks.json."""
    pool = await database.pool()
    await tokens.publish_keys(pool)
    return JSONResponse(await tokens.public_keys(pool), headers=_CORS | {"Cache-Control": "public, max-age=60"})


async def configuration(request: Request) -> Response:
    """GET /.well-known/openid-configuration and /.well-known/oauth-authorization-server (RFC 8414)."""
    return JSONResponse(discovery.server_metadata(settings().public_url), headers=_CORS)


async def form_of(request: Request) -> dict[str, str]:
    """The form in the body, each name once (RFC 6749 section 3.2). Raises InvalidRequestError."""
    body = await read_body(request, _LONGEST_FORM)
    kind = request.headers.get("content-type", "")
    if not kind.startswith("application/x-www-form-urlencoded"):
        raise InvalidRequestError("send a form")
    pairs = parse_qsl(body.decode("utf-8", "replace").replace("\x00", ""), keep_blank_values=True)
    form = dict(pairs)
    if len(form) != len(pairs):
        raise InvalidRequestError("a parameter is repeated")
    return form


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
