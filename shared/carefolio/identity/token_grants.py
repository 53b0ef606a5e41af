"""Authlib's grants over our store: what each asks, finds and issues.

RFC 6749 (authorization code, refresh, client credentials), RFC 7636, RFC 8628, OpenID Connect Core. They are
synchronous, run in a worker thread and call back into the loop for the database.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio.from_thread
import asyncpg
from authlib.oauth2.rfc6749 import OAuth2Request
from authlib.oauth2.rfc6749.errors import (
    AccessDeniedError,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, ClientCredentialsGrant, RefreshTokenGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import (
    AuthorizationPendingError,
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    ExpiredTokenError,
    SlowDownError,
)
from authlib.oidc.core.grants import OpenIDToken

from carefolio.cloud.settings import settings
from carefolio.identity import devices, grants, tokens
from carefolio.identity.clients import AUTH_METHODS, AUTH_METHODS_OR_NONE, Client
from carefolio.identity.grants import Grant

# RFC 8176's names for what we know of: how else somebody came is not told.
_METHODS = ("pwd", "otp", "hwk", "mca", "mfa", "sc", "pin", "fpt", "face", "swk")


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
        row = anyio.from_thread.run(devices.poll, self.server.pool, device_code)
        return DeviceOf(row, device_code) if row else None

    def validate_device_credential(self, credential: DeviceOf) -> Grant:
        row = credential.row
        if row["expired"]:
            raise ExpiredTokenError
        if row["refused"]:
            raise AccessDeniedError
        if row["grant_id"] is None:
            raise SlowDownError if row["hasty"] else AuthorizationPendingError
        grant = anyio.from_thread.run(devices.use, self.server.pool, credential.device_code)
        if grant is None:
            raise InvalidGrantError
        credential.scopes.append(grant.scope)
        return grant


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
    EXPIRES_IN = devices.SECONDS
    INTERVAL = devices.INTERVAL

    def authenticate_client(self, request: OAuth2Request) -> Client:
        client: Client = super().authenticate_client(request)
        if not client.check_grant_type(DeviceCodeGrant.GRANT_TYPE):
            raise UnauthorizedClientError
        if not client.get_allowed_scope(request.payload.scope):
            raise InvalidScopeError
        return client

    def generate_user_code(self) -> str:
        return devices.new_user_code()

    def get_verification_uri(self) -> str:
        return f"{settings().public_url}/oauth2/device"

    def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
        client = self.server.query_client(client_id)
        anyio.from_thread.run(
            devices.ask,
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
            "amr": [method for method in grant.methods if method in _METHODS],
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
        claims |= {"email": person.email, "email_verified": person.email_verified}
    return claims
