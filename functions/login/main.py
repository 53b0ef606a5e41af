"""Signing in, and the OAuth2 server."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud.health import health_routes
from carefolio.cloud.http import json_error
from carefolio.doors import account, administration, authorize, hand_over, oauth, pages, sign_in, sign_in_with

# What machines call, from a browser's app too.
_MACHINES = {
    "/oauth2/token": (oauth.token, ["POST"]),
    "/oauth2/revoke": (oauth.revoke, ["POST"]),
    "/oauth2/introspect": (oauth.introspect, ["POST"]),
    "/oauth2/par": (oauth.pushed, ["POST"]),
    "/oauth2/register": (oauth.register, ["POST"]),
    "/oauth2/device_authorization": (oauth.device_authorization, ["POST"]),
    "/oauth2/userinfo": (oauth.userinfo, ["GET", "POST"]),
    "/.well-known/jwks.json": (oauth.keys, ["GET"]),
    "/.well-known/openid-configuration": (oauth.configuration, ["GET"]),
    "/.well-known/oauth-authorization-server": (oauth.configuration, ["GET"]),
    "/login/hand-over": (hand_over.give, ["POST"]),
}

_MACHINES_BELOW = ("/.well-known", "/oauth2/health", "/login/providers", "/login/invitations")


class _LoginDoor(pages.PageDoor):
    def _failure(self, failure: Exception) -> Response:
        if isinstance(failure, oauth.InvalidRequestError):
            return oauth.refusal(failure)
        return super()._failure(failure)


_ROUTES = [
    *(Route(path, endpoint, methods=methods) for path, (endpoint, methods) in _MACHINES.items()),
    *(Route(path, oauth.preflight, methods=["OPTIONS"]) for path in _MACHINES),
    Route("/oauth2/authorize", authorize.authorize, methods=["GET", "POST"]),
    Route("/oauth2/device", authorize.device_page, methods=["GET"]),
    Route("/oauth2/device", authorize.device, methods=["POST"]),
    Route("/login", sign_in.show, methods=["GET"]),
    Route("/login", sign_in.password, methods=["POST"]),
    Route("/login/second", sign_in.second, methods=["GET"]),
    Route("/login/second", sign_in.second_code, methods=["POST"]),
    Route("/login/second/code", sign_in.another_code, methods=["POST"]),
    Route("/login/second/passkey/options", sign_in.passkey_options, methods=["POST"]),
    Route("/login/second/passkey", sign_in.passkey, methods=["POST"]),
    Route("/login/out", sign_in.out, methods=["POST"]),
    Route("/login/forgotten", sign_in.forgotten_page, methods=["GET"]),
    Route("/login/forgotten", sign_in.forgotten, methods=["POST"]),
    Route("/login/reset", sign_in.reset_page, methods=["GET"]),
    Route("/login/reset", sign_in.reset, methods=["POST"]),
    Route("/login/register", sign_in.register_page, methods=["GET"]),
    Route("/login/register", sign_in.register, methods=["POST"]),
    Route("/login/organisation", sign_in_with.organisation, methods=["GET"]),
    Route("/login/with/{name}", sign_in_with.begin, methods=["GET"]),
    Route("/login/with/{name}/callback", sign_in_with.callback, methods=["GET"]),
    Route("/login/with/{name}/acs", sign_in_with.assertion_consumer, methods=["POST"]),
    Route("/login/with/{name}/metadata", sign_in_with.metadata, methods=["GET"]),
    Route("/login/with/{name}/jwks.json", sign_in_with.jwks, methods=["GET"]),
    Route("/login/providers", administration.list_providers, methods=["GET"]),
    Route("/login/providers/{name}", administration.add_provider, methods=["PUT"]),
    Route("/login/providers/{name}", administration.end_provider, methods=["DELETE"]),
    Route("/login/invitations", administration.invite, methods=["POST"]),
    Route("/login/role", sign_in_with.role, methods=["POST"]),
    Route("/login/email", sign_in_with.email_page, methods=["GET"]),
    Route("/login/email", sign_in_with.email, methods=["POST"]),
    Route("/login/pair", hand_over.pair_page, methods=["GET"]),
    Route("/login/pair", hand_over.pair, methods=["POST"]),
    Route("/login/hand-over/{token}", hand_over.use, methods=["GET"]),
    Route("/login/static/{name}", pages.static, methods=["GET"]),
    Route("/nhs-login/login", sign_in_with.from_nhs_app, methods=["GET"]),
    Route("/account", account.show, methods=["GET"]),
    Route("/account/passkeys/options", account.passkey_options, methods=["POST"]),
    Route("/account/passkeys", account.add_passkey, methods=["POST"]),
    Route("/account/passkeys/remove", account.remove_passkey, methods=["POST"]),
    Route("/account/authenticator", account.authenticator_page, methods=["GET"]),
    Route("/account/authenticator", account.add_authenticator, methods=["POST"]),
    Route("/account/authenticator/remove", account.remove_authenticator, methods=["POST"]),
    Route("/account/password", account.password_page, methods=["GET"]),
    Route("/account/password", account.password, methods=["POST"]),
    Route("/account/email", account.email_page, methods=["GET"]),
    Route("/account/email", account.email, methods=["POST"]),
    Route("/account/email/confirm", account.confirm_email_page, methods=["GET"]),
    Route("/account/email/confirm", account.confirm_email, methods=["POST"]),
    Route("/account/sessions/end", account.end_session, methods=["POST"]),
    Route("/account/providers/remove", account.disconnect, methods=["POST"]),
    Route("/account/apps/end", account.end_app, methods=["POST"]),
    Route("/account/apps/open", account.open_app, methods=["POST"]),
    *health_routes("/oauth2"),
]
_PAGES = _LoginDoor("login", _ROUTES, pages.page_error)
_ENDPOINTS = _LoginDoor("login", _ROUTES, json_error)


@functions_framework.aio.http
async def login(request: Request) -> ASGIApp:
    """The function's entry point: a machine is told of an error in JSON, a person on a page."""
    path = request.url.path
    machine = path in _MACHINES or path.startswith(_MACHINES_BELOW)
    return _ENDPOINTS if machine else _PAGES
