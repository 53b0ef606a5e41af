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
from carefolio.identity.token_server import token_response

_LONGEST_FORM = 64 * 1024


async def token(request: Request) -> Response:
    """POST /oauth2/token (RFC 6749 section 4.4)."""
    body = await read_body(request, _LONGEST_FORM)
    kind = request.headers.get("content-type", "")
    if not kind.startswith("application/x-www-form-urlencoded"):
        return JSONResponse({"error": "invalid_request", "error_description": "send a form"}, 400)
    pairs = parse_qsl(body.decode("utf-8", "replace").replace("\x00", ""), keep_blank_values=True)
    form = dict(pairs)
    if len(form) != len(pairs):
        return JSONResponse({"error": "invalid_request", "error_description": "a parameter is repeated"}, 400)
    pool = await database.pool()
    await tokens.publish_key(pool)
    status, answer, headers = await token_response(pool, request.headers, form)
    if status == 200:
        log(Event.TOKEN_ISSUED, scope=answer["scope"])
    else:
        log(Event.TOKEN_REFUSED, reason=answer.get("error"))
    return JSONResponse(answer, status, {**headers, "Pragma": "no-cache"})


async def keys(request: Request) -> Response:
    """GET /.well-known/jwks.json."""
    pool = await database.pool()
    await tokens.publish_key(pool)
    return JSONResponse(await tokens.public_keys(pool))


async def configuration(request: Request) -> Response:
    """GET /.well-known/openid-configuration and /.well-known/oauth-authorization-server (RFC 8414)."""
    return JSONResponse(discovery.server_metadata(settings().public_url))


_APP = Door(
    "login",
    [
        Route("/oauth2/token", token, methods=["POST"]),
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
