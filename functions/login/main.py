"""The OAuth2 server: tokens for clients, and what clients need to know about it."""

from __future__ import annotations

from urllib.parse import parse_qsl

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud import database
from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door, json_error, read_body
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log
from carefolio.identity import discovery, tokens
from carefolio.identity.token_server import endpoint_response, token_response

_LONGEST_FORM = 64 * 1024


async def token(request: Request) -> Response:
    """POST /oauth2/token (RFC 6749 section 4.4)."""
    form = await _form(request)
    pool = await database.pool()
    await tokens.publish_key(pool)
    status, answer, headers = await token_response(pool, request.headers, form)
    if status == 200:
        log(Event.TOKEN_ISSUED, scope=answer["scope"])
    else:
        log(Event.TOKEN_REFUSED, reason=answer.get("error"))
    return JSONResponse(answer, status, {**headers, "Pragma": "no-cache"})


async def revoke(request: Request) -> Response:
    """POST /oauth2/revoke (RFC 7009)."""
    status, answer, headers = await endpoint_response(
        await database.pool(), "revocation", request.headers, await _form(request)
    )
    if status == 200:
        log(Event.TOKEN_REVOKED)
    return JSONResponse(answer, status, headers)


async def introspect(request: Request) -> Response:
    """POST /oauth2/introspect (RFC 7662)."""
    status, answer, headers = await endpoint_response(
        await database.pool(), "introspection", request.headers, await _form(request)
    )
    return JSONResponse(answer, status, headers)


async def _form(request: Request) -> dict[str, str]:
    """The form in the body, each name once (RFC 6749 section 3.2)."""
    body = await read_body(request, _LONGEST_FORM)
    kind = request.headers.get("content-type", "")
    if not kind.startswith("application/x-www-form-urlencoded"):
        raise _RefusedError("send a form")
    pairs = parse_qsl(body.decode("utf-8", "replace").replace("\x00", ""), keep_blank_values=True)
    form = dict(pairs)
    if len(form) != len(pairs):
        raise _RefusedError("a parameter is repeated")
    return form


class _RefusedError(Exception):
    """A request that OAuth2 calls invalid_request."""


class _LoginDoor(Door):
    def _failure(self, failure: Exception) -> Response:
        if isinstance(failure, _RefusedError):
            return JSONResponse({"error": "invalid_request", "error_description": str(failure)}, 400)
        return super()._failure(failure)


async def keys(request: Request) -> Response:
    """GET /.well-known/jwks.json."""
    pool = await database.pool()
    await tokens.publish_key(pool)
    return JSONResponse(await tokens.public_keys(pool))


async def configuration(request: Request) -> Response:
    """GET /.well-known/openid-configuration and /.well-known/oauth-authorization-server (RFC 8414)."""
    return JSONResponse(discovery.server_metadata(settings().public_url))


_APP = _LoginDoor(
    "login",
    [
        Route("/oauth2/token", token, methods=["POST"]),
        Route("/oauth2/revoke", revoke, methods=["POST"]),
        Route("/oauth2/introspect", introspect, methods=["POST"]),
        Route("/.well-known/jwks.json", keys, methods=["GET"]),
        Route("/.well-known/openid-configuration", configuration, methods=["GET"]),
        Route("/.well-known/oauth-authorization-server", configuration, methods=["GET"]),
        *health_routes("/oauth2"),
    ],
    json_error,
)


@functions_framework.aio.http
async def login(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
