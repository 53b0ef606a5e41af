"""The OAuth2 endpoints that machines call, by Authlib's classes.

RFC 6749 (authorization code, refresh, client credentials), RFC 7636, RFC 8628, RFC 7009, RFC 7662, RFC 7591, OpenID
Connect Core. Authlib's classes are synchronous: they run in a worker thread and call back into the loop for the
database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio.from_thread
import anyio.to_thread
import asyncpg
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, ClientCredentialsGrant, RefreshTokenGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant
from authlib.oidc.core.grants import OpenIDToken

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import clients, grants, tokens
from carefolio.identity.clients import AUTH_METHODS, AUTH_METHODS_OR_NONE, Client, ClientAssertion
from carefolio.identity.grants import Grant


class FormRequest(OAuth2Request):  # type: ignore[misc]
    """A request as Authlib wants it; ``headers`` finds names in any case."""

    def __init__(self, headers: Mapping[str, str], form: dict[str, str], method: str = "POST") -> None:
        # TLS ends at the load balancer: what Authlib must know is that the client spoke HTTPS.
        super().__init__(method, "https://login/oauth2/token", headers=headers)
        self.payload = BasicOAuth2Payload(form)
        self._form = form

    @property
    def form(self) -> dict[str, str]:
        return self._form

    @property
    def args(self) -> dict[str, str]:
        return self._form


class SystemGrant(ClientCredentialsGrant):  # type: ignore[misc]
    """A client for itself (SMART Backend Services)."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def validate_requested_scope(self) -> None:
        """RFC 6749 section 3.3: a scope beyond what the client has is an error, not a silent nothing."""
        client = self.client or self.request.client
        asked = self.request.payload.scope or ""
        given = client.get_system_scope(asked)
        if not given or len(given.split()) < len(set(asked.split())):
            raise InvalidScopeError


class CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]
    """An app for a person."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS_OR_NONE

    def validate_requested_scope(self) -> None:
        """Something of what was asked for must be open to the app; the person sees what."""
        if not self.request.client.get_allowed_scope(self.request.payload.scope):
            raise InvalidScopeError

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        anyio.from_thread.run(
            grants.give_code,
            self.server.pool,
            request.user,
            code,
            request.payload.redirect_uri,
            request.payload.data.get("code_challenge"),
        )

    def query_authorization_code(self, code: str, client: Client) -> CodeOf | None:
        grant = anyio.from_thread.run(grants.use_code, self.server.pool, code, client.client_id)
        return CodeOf(grant) if grant else None

    def delete_authorization_code(self, authorization_code: CodeOf) -> None:
        """It was used as it was found."""

    def authenticate_user(self, authorization_code: CodeOf) -> Grant:
        return authorization_code.grant


@dataclass(frozen=True, slots=True)
class CodeOf:
    """An authorization code as Authlib wants one; also a refresh token."""

    grant: Grant

    @property
    def code_challenge(self) -> str | None:
        return self.grant.challenge

    @property
    def code_challenge_method(self) -> str | None:
        return "S256" if self.grant.challenge else None

    def get_redirect_uri(self) -> str | None:
        return self.grant.redirect_uri

    def get_scope(self) -> str:
        return self.grant.scope

    def check_client(self, client: Client) -> bool:
        return self.grant.client_id == client.client_id


class S256(CodeChallenge):  # type: ignore[misc]
    """Proof Key for Code Exchange: S256 alone, and a public client has no choice (RFC 9700 section 2.1.1)."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: CodeGrant, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if data.get("code_challenge") and data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("'code_challenge_method' must be 'S256'")
        if not data.get("code_challenge") and grant.request.client.is_public:
            raise InvalidRequestError("Missing 'code_challenge': a public client uses PKCE with S256")
        super().validate_code_challenge(grant, redirect_uri)


class RefreshGrant(RefreshTokenGrant):  # type: ignore[misc]
    """Every refresh token is good once."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS_OR_NONE
    INCLUDE_NEW_REFRESH_TOKEN = True

    def _validate_request_token(self, client: Client) -> CodeOf:
        value = self.request.form.get("refresh_token")
        if value is None:
            raise InvalidRequestError("Missing 'refresh_token' in request.")
        known = anyio.from_thread.run(grants.of_refresh, self.server.pool, value)
        if known and known["living"] and set((self.request.payload.scope or "").split()) - set(known["scope"].split()):
            raise InvalidScopeError
        grant = anyio.from_thread.run(grants.use_refresh, self.server.pool, value, client.client_id)
        if grant is None:
            raise InvalidGrantError("The refresh token was used, has expired, or was ended.")
        return CodeOf(grant)

    def authenticate_user(self, refresh_token: CodeOf) -> Grant:
        return refresh_token.grant

    def revoke_old_credential(self, refresh_token: CodeOf) -> None:
        """It was used as it was found."""


class DeviceGrant(DeviceCodeGrant):  # type: ignore[misc]
    """A device without a browser."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS_OR_NONE

    def query_device_credential(self, device_code: str) -> DeviceOf | None:
        row = anyio.from_thread.run(grants.poll_device, self.server.pool, device_code)
        return DeviceOf(row, device_code) if row else None

    def query_user_grant(self, user_code: str) -> None:
        raise NotImplementedError

    def validate_device_credential(self, credential: DeviceOf) -> Grant:
        from authlib.oauth2.rfc6749.errors import AccessDeniedError
        from authlib.oauth2.rfc8628 import AuthorizationPendingError, ExpiredTokenError, SlowDownError

        row = credential.row
        if row["expired"]:
            raise ExpiredTokenError
        if row["refused"]:
            raise AccessDeniedError
        if row["grant_id"] is None:
            raise SlowDownError if row["hasty"] else AuthorizationPendingError
        grant = anyio.from_thread.run(grants.use_device, self.server.pool, credential.device_code)
        if grant is None:
            raise InvalidGrantError
        credential.scopes.append(grant.scope)
        return grant

    def should_slow_down(self, credential: DeviceOf) -> bool:
        return bool(credential.row["hasty"])


class DeviceOf:
    """A device that waits, as Authlib wants it."""

    def __init__(self, row: asyncpg.Record, device_code: str) -> None:
        self.row, self.device_code = row, device_code
        self.scopes = [row["scope"]]

    def get_client_id(self) -> str:
        return str(self.row["client_id"])

    def get_scope(self) -> str:
        return str(self.scopes[-1])


class DeviceEndpoint(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = AUTH_METHODS_OR_NONE
    EXPIRES_IN = grants.DEVICE_SECONDS
    INTERVAL = grants.DEVICE_INTERVAL

    def authenticate_client(self, request: OAuth2Request) -> Client:
        client: Client = super().authenticate_client(request)
        if not client.check_grant_type(DeviceCodeGrant.GRANT_TYPE):
            from authlib.oauth2.rfc6749.errors import UnauthorizedClientError

            raise UnauthorizedClientError
        if not client.get_allowed_scope(request.payload.scope):
            raise InvalidScopeError
        return client

    def generate_user_code(self) -> str:
        return grants.new_user_code()

    def get_verification_uri(self) -> str:
        return f"{settings().public_url}/oauth2/device"

    def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
        client = self.server.query_client(client_id)
        anyio.from_thread.run(
            grants.ask_device,
            self.server.pool,
            client_id,
            client.get_allowed_scope(scope),
            data["device_code"],
            data["user_code"],
        )


class IdToken(OpenIDToken):  # type: ignore[misc]
    """OpenID Connect Core section 2, signed with RS256, which every library takes."""

    def resolve_client_private_key(self, client: Client) -> Any:
        return tokens.signing_key("RS256")

    def get_encode_header(self, client: Client) -> dict[str, str]:
        return {"alg": "RS256", "kid": str(tokens.signing_key("RS256").kid), "typ": "JWT"}

    def get_client_algorithm(self, client: Client) -> str:
        return "RS256"

    def get_compatible_claims(self, request: OAuth2Request) -> dict[str, Any]:
        grant: Grant = request.user
        now = int(time.time())
        claims = {
            "iss": settings().public_url,
            "aud": grant.client_id,
            "iat": now,
            "exp": now + tokens.LIFETIME,
            "auth_time": int(grant.authenticated_at.timestamp()),
            "amr": list(grant.methods),
            "acr": grant.level,
        }
        return claims | ({"nonce": grant.nonce} if grant.nonce else {})

    def get_authorization_code_claims(self, authorization_code: CodeOf) -> dict[str, Any]:
        return {}

    def generate_user_info(self, user: Grant, scope: str) -> dict[str, Any]:
        return person_claims(user, scope)


def person_claims(person: Grant, scope: str) -> dict[str, Any]:
    """Who it is (OpenID Connect Core section 5.1; SMART App Launch: fhirUser), as far as the scope goes."""
    names = scope.split()
    claims: dict[str, Any] = {"sub": str(person.account_id)}
    if "fhirUser" in names and person.fhir_user:
        claims["fhirUser"] = f"{tokens.audience()}/{person.fhir_user}"
    if "profile" in names:
        claims["name"] = person.name
        if person.fhir_user:
            claims["profile"] = f"{tokens.audience()}/{person.fhir_user}"
    if "email" in names and person.email:
        claims |= {"email": person.email, "email_verified": True}
    return claims


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
    return await _answer(TokenServer(pool).create_token_response, FormRequest(headers, form))


async def endpoint_response(pool: Pool, endpoint: str, headers: Mapping[str, str], form: dict[str, str]) -> Answer:
    """The same for ``revocation`` (RFC 7009), ``introspection`` (RFC 7662) and ``device_authorization`` (RFC 8628)."""
    server = TokenServer(pool)
    return await _answer(lambda request: server.create_endpoint_response(endpoint, request), FormRequest(headers, form))


async def authenticated(pool: Pool, headers: Mapping[str, str], form: dict[str, str]) -> Client | Answer:
    """The client of a pushed request (RFC 9126 section 2), or what to answer it."""
    server, found = TokenServer(pool), []

    def authenticate(request: FormRequest) -> Any:
        try:
            found.append(server.authenticate_client(request, AUTH_METHODS_OR_NONE))
        except OAuth2Error as error:
            return server.handle_error_response(request, error)
        return 200, {}, {}

    answer = await _answer(authenticate, FormRequest(headers, form))
    return found[0] if found else answer


async def _answer(answer: Callable[[FormRequest], Any], request: FormRequest) -> Answer:
    try:
        status, body, extra = await anyio.to_thread.run_sync(answer, request)
    except ValueError:
        # Authlib decodes the Basic header as it comes, and lets what is no base64 or UTF-8 pass through.
        status, body, extra = 401, {"error": "invalid_client"}, {}
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
