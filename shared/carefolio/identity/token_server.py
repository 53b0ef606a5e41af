"""The token endpoint, and those that end tokens and tell of them, by Authlib's classes.

RFC 6749 section 4.4, RFC 7523 section 2.2, RFC 7009, RFC 7662.

Authlib's classes are synchronous: they run in a worker thread and call back into the loop for the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio.from_thread
import anyio.to_thread
import asyncpg
from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidScopeError
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import passwords, scopes, tokens

# RFC 7518's asymmetric ones that SMART backend services and NHS partners use; never none, never a shared secret.
_ASSERTION_ALGORITHMS = ["RS384", "ES384", "RS512", "ES256", "RS256", "PS256", "PS384", "PS512"]
_LONGEST_ASSERTION = 300


class TokenRequest(OAuth2Request):  # type: ignore[misc]
    """A token request as Authlib wants it; ``headers`` finds names in any case."""

    def __init__(self, headers: Mapping[str, str], form: dict[str, str]) -> None:
        # TLS ends at the load balancer: what Authlib must know is that the client spoke HTTPS.
        super().__init__("POST", "https://login/oauth2/token", headers=headers)
        self.payload = BasicOAuth2Payload(form)
        self._form = form

    @property
    def form(self) -> dict[str, str]:
        return self._form


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):  # type: ignore[misc]
    """A registered client; it has either a secret or public keys."""

    row: asyncpg.Record

    @property
    def client_id(self) -> str:
        return str(self.row["id"])

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        return scopes.granted(scope or "", self.row["scope"])

    def check_client_secret(self, client_secret: str) -> bool:
        return bool(anyio.from_thread.run(passwords.verify, self.row["secret_hash"], client_secret))

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        wanted = "client_secret_basic" if self.row["secret_hash"] else JWTBearerClientAssertion.CLIENT_AUTH_METHOD
        return method == wanted

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"


class SystemGrant(ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", JWTBearerClientAssertion.CLIENT_AUTH_METHOD)

    def validate_requested_scope(self) -> None:
        """RFC 6749 section 3.3: a scope beyond what the client has is an error, not a silent nothing."""
        asked = self.request.payload.scope or ""
        given = self.client.get_allowed_scope(asked) if self.client else self.request.client.get_allowed_scope(asked)
        if not given or len(given.split()) < len(asked.split()):
            raise InvalidScopeError


class ClientAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    def get_audiences(self) -> list[str]:
        return [f"{settings().public_url}/oauth2/token", settings().public_url]

    def process_assertion_claims(self, assertion: str, resolve_key: Any) -> Any:
        try:
            token = jwt.decode(assertion, resolve_key, algorithms=_ASSERTION_ALGORITHMS)
        except (JoseError, ValueError):
            raise InvalidClientError(description="The assertion cannot be verified.") from None
        self.verify_claims(token.claims)
        return token.claims

    def validate_jti(self, claims: Mapping[str, Any], jti: str) -> bool:
        expires = claims["exp"]
        if (
            not isinstance(jti, str)
            or "\x00" in jti
            or len(jti) > 200
            or expires > time.time() + _LONGEST_ASSERTION + self.leeway
        ):
            return False
        return bool(anyio.from_thread.run(self._first_use, claims["sub"], jti, expires))

    async def _first_use(self, client_id: str, jti: str, expires: float) -> bool:
        await self._pool.execute("DELETE FROM client_assertion WHERE expires_at < now() - interval '5 minutes'")
        done = await self._pool.execute(
            "INSERT INTO client_assertion (client_id, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            client_id,
            jti,
            datetime.fromtimestamp(expires, UTC),
        )
        return bool(done == "INSERT 0 1")

    def resolve_client_public_key(self, client: Client) -> KeySet:
        if not client.row["jwks"]:
            raise InvalidClientError(description="The client does not sign.")
        return KeySet.import_key_set(json.loads(client.row["jwks"]))


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access token as Authlib's endpoints want one."""

    token: tokens.Token
    ended: bool

    def check_client(self, client: Client) -> bool:
        return self.token.client_id == client.client_id

    def is_expired(self) -> bool:
        return self.token.expires < time.time()

    def is_revoked(self) -> bool:
        return self.ended


class _OfIssued:
    """What both endpoints about issued tokens share."""

    server: TokenServer
    CLIENT_AUTH_METHODS = ("client_secret_basic", JWTBearerClientAssertion.CLIENT_AUTH_METHOD)

    def query_token(self, token_string: str, token_type_hint: str | None) -> IssuedToken | None:
        return anyio.from_thread.run(self._find, token_string)

    async def _find(self, text: str) -> IssuedToken | None:
        try:
            token = await tokens.read(self.server.pool, text)
        except tokens.InvalidTokenError:
            return None
        return IssuedToken(token, await tokens.is_ended(self.server.pool, token))


class Revocation(_OfIssued, RevocationEndpoint):  # type: ignore[misc]
    """RFC 7009: a client ends a token of its own."""

    def revoke_token(self, token: IssuedToken, request: OAuth2Request) -> None:
        anyio.from_thread.run(tokens.revoke, self.server.pool, token.token)


class Introspection(_OfIssued, IntrospectionEndpoint):  # type: ignore[misc]
    """RFC 7662: a client asks about a token of its own; of others' it learns nothing."""

    def check_permission(self, token: IssuedToken, client: Client, request: OAuth2Request) -> bool:
        return token.check_client(client)

    def introspect_token(self, token: IssuedToken) -> dict[str, Any]:
        known = token.token
        return {
            "active": True,
            "client_id": known.client_id,
            "sub": known.client_id,
            "scope": known.scope,
            "exp": known.expires,
            "iss": settings().public_url,
            "aud": f"{settings().public_url}/fhir/R4",
            "jti": known.jti,
            "token_type": "Bearer",
        }


class TokenServer(AuthorizationServer):  # type: ignore[misc]
    """The authorization server, for one request."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.register_client_auth_method(JWTBearerClientAssertion.CLIENT_AUTH_METHOD, ClientAssertion(pool))
        self.register_grant(SystemGrant)
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)
        self.register_token_generator("default", self._token)

    def query_client(self, client_id: str) -> Client | None:
        if "\x00" in client_id or len(client_id) > 200:
            return None
        row = anyio.from_thread.run(
            self.pool.fetchrow, "SELECT * FROM client WHERE id = $1 AND ended_at IS NULL", client_id
        )
        return Client(row) if row else None

    def save_token(self, token: Mapping[str, Any], request: OAuth2Request) -> None:
        """Tokens are self-contained."""

    def create_oauth2_request(self, request: TokenRequest) -> TokenRequest:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, Any, dict[str, str]]:
        return status, body, dict(headers)

    def send_signal(self, name: str, *arguments: Any, **named: Any) -> None:
        """Authlib's web integrations tell their framework; there is nobody to tell here."""

    def _token(self, grant_type: str, client: Client, scope: str | None = None, **_: Any) -> dict[str, str | int]:
        given = client.get_allowed_scope(scope or "")
        return {
            "access_token": tokens.issue(client.client_id, client.row["organisation_id"], given),
            "token_type": "Bearer",
            "expires_in": tokens.LIFETIME,
            "scope": given,
        }


async def token_response(
    pool: Pool, headers: Mapping[str, str], form: dict[str, str]
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON body and headers for a request to the token endpoint."""
    return await _answer(TokenServer(pool).create_token_response, TokenRequest(headers, form))


async def endpoint_response(
    pool: Pool, endpoint: str, headers: Mapping[str, str], form: dict[str, str]
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The same for ``revocation`` (RFC 7009) and ``introspection`` (RFC 7662)."""
    server = TokenServer(pool)
    return await _answer(
        lambda request: server.create_endpoint_response(endpoint, request), TokenRequest(headers, form)
    )


async def _answer(
    answer: Callable[[TokenRequest], tuple[int, Any, dict[str, str]]], request: TokenRequest
) -> tuple[int, dict[str, Any], dict[str, str]]:
    try:
        status, body, extra = await anyio.to_thread.run_sync(answer, request)
    except ValueError:
        # Authlib decodes the Basic header as it comes, and lets what is no base64 or UTF-8 pass through.
        status, body, extra = 401, {"error": "invalid_client"}, {}
    if body.get("error") == "invalid_client":
        # RFC 6749 section 5.2 leaves 400 or 401; clients of the best servers look for 401.
        status, extra = 401, {**extra, "WWW-Authenticate": 'Basic realm="carefolio-oauth2"'}
    return status, body, extra
