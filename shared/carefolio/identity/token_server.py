"""The OAuth2 endpoints that machines call, by Authlib's classes, and the authorization endpoint's checks.

RFC 6749, RFC 7009, RFC 7662, RFC 8628, RFC 9207. What Authlib does runs in a worker thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio.from_thread
import anyio.to_thread
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Error, OAuth2Request
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from joserfc import jws
from joserfc.errors import JoseError

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import clients, grants, outside, tokens
from carefolio.identity.clients import AUTH_METHODS, AUTH_METHODS_OR_NONE, Client, ClientAssertion
from carefolio.identity.grants import Grant
from carefolio.identity.token_grants import (
    S256,
    CodeGrant,
    DeviceEndpoint,
    DeviceGrant,
    FormRequest,
    IdToken,
    RefreshGrant,
    SystemGrant,
)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access or refresh token as Authlib's endpoints want one."""

    client_id: str
    subject: str
    scope: str
    expires: float
    living: bool
    access: tokens.Token | None = None
    grant: Any = None

    def check_client(self, client: Client) -> bool:
        return self.client_id == client.client_id

    def is_expired(self) -> bool:
        return self.expires < time.time()

    def is_revoked(self) -> bool:
        return not self.living


class _OfIssued:
    """What both endpoints about issued tokens share."""

    server: TokenServer
    CLIENT_AUTH_METHODS: tuple[str, ...] = AUTH_METHODS_OR_NONE

    def query_token(self, token_string: str, token_type_hint: str | None) -> IssuedToken | None:
        return anyio.from_thread.run(self._find, token_string)

    async def _find(self, text: str) -> IssuedToken | None:
        pool = self.server.pool
        if "." not in text:
            row = await grants.of_refresh(pool, text)
            if row is None:
                return None
            return IssuedToken(row["client_id"], str(row["account_id"]), row["scope"], row["expires_at"].timestamp(),
                               row["living"], grant=row["grant_id"])  # fmt: skip
        try:
            token = await tokens.read(pool, text)
        except tokens.InvalidTokenError:
            return None
        living = not await tokens.is_ended(pool, token)
        return IssuedToken(token.client_id, token.subject, token.scope, token.expires, living, access=token)


class Revocation(_OfIssued, RevocationEndpoint):  # type: ignore[misc]
    """RFC 7009: a client ends a token of its own; a refresh token takes its whole family along."""

    def revoke_token(self, token: IssuedToken, request: OAuth2Request) -> None:
        if token.access:
            anyio.from_thread.run(tokens.revoke, self.server.pool, token.access)
        else:
            anyio.from_thread.run(grants.end, self.server.pool, token.grant)


class Introspection(_OfIssued, IntrospectionEndpoint):  # type: ignore[misc]
    """RFC 7662: a client asks about a token of its own; of others' it learns nothing."""

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def check_permission(self, token: IssuedToken, client: Client, request: OAuth2Request) -> bool:
        return token.check_client(client)

    def introspect_token(self, token: IssuedToken) -> dict[str, Any]:
        told: dict[str, Any] = {
            "active": True,
            "client_id": token.client_id,
            "sub": token.subject,
            "scope": token.scope,
            "exp": int(token.expires),
            "iss": settings().public_url,
        }
        if token.access is None:
            return told
        told |= {"aud": tokens.audience(), "jti": token.access.jti, "token_type": "Bearer"}
        return told | ({"patient": str(token.access.patient_id)} if token.access.patient_id else {})


class TokenServer(AuthorizationServer):  # type: ignore[misc]
    """The authorization server, for one request."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.register_client_auth_method(clients.ASSERTION, ClientAssertion(pool))
        self.register_grant(SystemGrant)
        self.register_grant(CodeGrant, [S256(required=True), IdToken()])
        self.register_grant(RefreshGrant, [IdToken()])
        self.register_grant(DeviceGrant, [IdToken()])
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)
        self.register_endpoint(DeviceEndpoint)
        self.register_token_generator("default", self._token)

    def query_client(self, client_id: str) -> Client | None:
        return anyio.from_thread.run(clients.find, self.pool, client_id)

    def save_token(self, token: Mapping[str, Any], request: OAuth2Request) -> None:
        """Access tokens are self-contained; refresh tokens are kept as they are made."""

    def create_oauth2_request(self, request: FormRequest) -> FormRequest:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, Any, dict[str, str]]:
        return status, body, dict(headers)

    def send_signal(self, name: str, *arguments: Any, **named: Any) -> None:
        """Authlib's web integrations tell their framework; there is nobody to tell here."""

    def _token(
        self, grant_type: str, client: Client, user: Grant | None = None, scope: str | None = None,
        include_refresh_token: bool = False, **_: Any,
    ) -> dict[str, Any]:  # fmt: skip
        made: dict[str, Any] = {"token_type": "Bearer", "expires_in": tokens.LIFETIME}
        if user is None:
            given = client.get_system_scope(scope or "")
            organisation = client.row["organisation_id"]
            return made | {
                "access_token": tokens.issue(client.client_id, given, organisation=organisation),
                "scope": given,
            }
        given = scope or user.scope
        made |= {
            "scope": given,
            "access_token": tokens.issue(
                client.client_id,
                given,
                organisation=user.organisation_id,
                account=user.account_id,
                record=user.record_id,
                patient=user.patient_id,
                grant=user.id,
                authenticated_at=int(user.authenticated_at.timestamp()),
            ),
        }
        if user.patient_id:
            # SMART App Launch 2.2, launch context.
            made |= {"patient": str(user.patient_id), "need_patient_banner": user.record_id is None}
        if include_refresh_token and grants.may_refresh(user.scope):
            made["refresh_token"] = anyio.from_thread.run(grants.give_refresh, self.pool, user.id)
        return made


Answer = tuple[int, dict[str, Any], dict[str, str]]


async def token_response(pool: Pool, headers: Mapping[str, str], form: dict[str, str]) -> Answer:
    """Status, JSON body and headers for a request to the token endpoint.

    A public client need not name itself with a refresh token, which is bound to it (RFC 6749 section 6).
    """
    names_itself = "client_id" in form or "client_assertion" in form or "authorization" in headers
    if form.get("grant_type") == "refresh_token" and not names_itself:
        known = await grants.of_refresh(pool, form.get("refresh_token", ""))
        client = await clients.find(pool, known["client_id"]) if known else None
        if client and client.is_public:
            form = form | {"client_id": client.client_id}
    await _know_keys(pool, form)
    return await _answer(TokenServer(pool).create_token_response, FormRequest(headers, form))


async def endpoint_response(pool: Pool, endpoint: str, headers: Mapping[str, str], form: dict[str, str]) -> Answer:
    """The same for ``revocation`` (RFC 7009), ``introspection`` (RFC 7662) and ``device_authorization`` (RFC 8628)."""
    server = TokenServer(pool)
    await _know_keys(pool, form)
    return await _answer(lambda request: server.create_endpoint_response(endpoint, request), FormRequest(headers, form))


async def authenticated(pool: Pool, headers: Mapping[str, str], form: dict[str, str]) -> Client | Answer:
    """The client of a pushed request (RFC 9126 section 2), or what to answer it."""
    server, found = TokenServer(pool), []
    await _know_keys(pool, form)

    def authenticate(request: FormRequest) -> Any:
        try:
            found.append(server.authenticate_client(request, AUTH_METHODS_OR_NONE))
        except OAuth2Error as error:
            return server.handle_error_response(request, error)
        return 200, {}, {}

    answer = await _answer(authenticate, FormRequest(headers, form))
    return found[0] if found else answer


async def _know_keys(pool: Pool, form: dict[str, str]) -> None:
    """Read the keys of a client that signs before a worker thread waits for them; what fails is remembered."""
    assertion = form.get("client_assertion", "")
    if not assertion:
        return
    try:
        claims = jws.extract_compact(assertion.encode()).payload
        client = await clients.find(pool, str(json.loads(claims)["sub"]))
        if client is not None:
            await clients.keys_of(client, assertion)
    except (JoseError, ValueError, KeyError, TypeError, RecursionError, outside.OutsideError):
        # Authlib tells the client.
        return


async def _answer(answer: Callable[[FormRequest], Any], request: FormRequest) -> Answer:
    try:
        status, body, extra = await anyio.to_thread.run_sync(answer, request)
    except (ValueError, RecursionError):
        # Authlib decodes the Basic header as it comes, and lets what is no base64 or UTF-8 pass through.
        status, body, extra = 401, {"error": "invalid_client"}, {}
    if isinstance(body, dict) and "authenticate with methods" in str(body.get("error_description")):
        # Authlib names the methods as they are called inside.
        body["error_description"] = "The client is not known, or did not prove who it is."
    if isinstance(body, dict) and body.get("error") == "invalid_client":
        # RFC 6749 section 5.2 leaves 400 or 401; clients of the best servers look for 401.
        status, extra = 401, {**extra, "WWW-Authenticate": 'Basic realm="carefolio-oauth2"'}
    return status, body, extra


class AuthorizationError(Exception):
    """A request that cannot be answered with a code. ``redirect_uri`` is None where the app must not be told."""

    def __init__(self, error: str, description: str, redirect_uri: str | None = None, state: str | None = None) -> None:
        super().__init__(description)
        self.error, self.description, self.redirect_uri, self.state = error, description, redirect_uri, state

    def location(self) -> str:
        """Where the app is told (RFC 6749 section 4.1.2.1, RFC 9207)."""
        assert self.redirect_uri is not None
        told = {
            "error": self.error,
            "error_description": self.description,
            "state": self.state,
            "iss": settings().public_url,
        }
        return str(add_params_to_uri(self.redirect_uri, [(name, value) for name, value in told.items() if value]))


async def check_authorization(pool: Pool, parameters: dict[str, str]) -> tuple[Client, str]:
    """The client of an authorization request, and the scope that it may ask for. Raises AuthorizationError."""

    def check() -> tuple[Client, str]:
        request = FormRequest({}, parameters, "GET")
        grant = TokenServer(pool).get_consent_grant(request)
        return grant.request.client, grant.request.client.get_allowed_scope(request.payload.scope)

    checked: tuple[Client, str] = await _authorize(check)
    return checked


async def give_code(pool: Pool, parameters: dict[str, str], grant_id: Any) -> str:
    """Where to send the browser with a code for a grant. Raises AuthorizationError."""

    def give() -> str:
        server, request = TokenServer(pool), FormRequest({}, parameters, "GET")
        grant = server.get_consent_grant(request, grant_id)
        _, _, headers = server.create_authorization_response(request, grant_user=grant_id, grant=grant)
        return str(add_params_to_uri(headers["Location"], [("iss", settings().public_url)]))

    return str(await _authorize(give))


async def _authorize(work: Callable[[], Any]) -> Any:
    try:
        return await anyio.to_thread.run_sync(work)
    except OAuth2Error as error:
        description = error.description or str(error.error)
        raise AuthorizationError(str(error.error), description, error.redirect_uri, error.state) from None
    except ValueError:
        # Authlib writes no error about letters that may not stand in one (RFC 6749 section 4.1.2.1).
        raise AuthorizationError("invalid_request", "a parameter has letters that it may not have") from None
