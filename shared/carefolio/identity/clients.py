"""Clients at the OAuth2 endpoints: who they are, and what they are registered for."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import anyio.from_thread
import asyncpg
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.errors import InvalidClientError
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import outside, scopes, sealed

ASSERTION = JWTBearerClientAssertion.CLIENT_AUTH_METHOD
AUTH_METHODS = ("client_secret_basic", "client_secret_post", ASSERTION)
# What RFC 7591 calls them.
PUBLISHED_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt", "none")
AUTH_METHODS_OR_NONE = (*AUTH_METHODS, "none")
# RFC 7518's asymmetric ones that SMART backend services and NHS partners use; never none, never a shared secret.
ALGORITHMS = ["RS384", "ES384", "RS512", "ES256", "RS256", "PS256", "PS384", "PS512"]
_LONGEST_ASSERTION = 300
_LOOPBACK = ("127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):  # type: ignore[misc]
    """A registered client: with a secret, with keys of its own, or public."""

    row: asyncpg.Record

    @property
    def client_id(self) -> str:
        return str(self.row["id"])

    @property
    def is_public(self) -> bool:
        return bool(self.row["public"])

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str | None:
        """None: an app always says where its answer goes."""
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return scopes.granted(scope or "", self.row["scope"], person=True)

    def get_system_scope(self, scope: str) -> str:
        return scopes.granted(scope or "", self.row["scope"])

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Whether it is registered, letter by letter; of a native app's loopback address the port is free (RFC
        8252 7.3).
        """
        return any(
            redirect_uri == known or (_is_loopback(known) and _without_port(redirect_uri) == _without_port(known))
            for known in self.row["redirect_uris"]
        )

    def check_client_secret(self, client_secret: str) -> bool:
        # Its 256 random bits need no slow hash, which would let anybody make the server work.
        stored = self.row["secret_hash"] or ""
        return hmac.compare_digest(stored, sealed.digest(client_secret[:1000]).hex())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        if self.is_public:
            return method == "none"
        wanted = AUTH_METHODS[:2] if self.row["secret_hash"] else (ASSERTION,)
        return method in wanted

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.check_grant_type("authorization_code")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.row["grants"]


def _is_loopback(uri: str) -> bool:
    return uri.startswith(tuple(f"http://{host}{end}" for host in _LOOPBACK for end in (":", "/")))


def _without_port(uri: str) -> tuple[str, ...]:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return (uri,)
    if "@" in parts.netloc:
        return (uri,)
    return (parts.scheme, parts.hostname or "", parts.path, parts.query, parts.fragment)


async def find(pool: Pool, client_id: str) -> Client | None:
    """A living client."""
    if "\x00" in client_id or len(client_id) > 200:
        return None
    row = await pool.fetchrow(
        "SELECT client.*, organisation.name AS organisation FROM client"
        " JOIN organisation ON organisation.id = client.organisation_id"
        " WHERE client.id = $1 AND client.ended_at IS NULL",
        client_id,
    )
    return Client(row) if row else None


async def keys_of(client: Client, token: str) -> KeySet:
    """The client's public keys, for a JWT that it signed. Raises OutsideError, ValueError."""
    if client.row["jwks_uri"]:
        try:
            kid = jws.extract_compact(token.encode()).headers().get("kid")
        except JoseError:
            raise ValueError from None
        return await outside.keys_at(client.row["jwks_uri"], kid)
    if not client.row["jwks"]:
        raise ValueError
    return KeySet.import_key_set(json.loads(client.row["jwks"]))


class ClientAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
    """private_key_jwt (RFC 7523 section 2.2): each assertion is good once and for five minutes at most."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    def __call__(self, query_client: Any, request: Any) -> Any:
        self._assertion = request.form.get("client_assertion") or ""
        return super().__call__(query_client, request)

    def get_audiences(self) -> list[str]:
        base = settings().public_url
        return [
            base,
            *(f"{base}/oauth2/{name}" for name in ("token", "par", "introspect", "revoke", "device_authorization")),
        ]

    def process_assertion_claims(self, assertion: str, resolve_key: Any) -> Any:
        try:
            token = jwt.decode(assertion, resolve_key, algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            raise InvalidClientError(description="The assertion cannot be verified.") from None
        self.verify_claims(token.claims)
        if token.claims.get("nbf", 0) > time.time() + self.leeway:
            raise InvalidClientError(description="The assertion is not valid yet.")
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
        done = await self._pool.execute(
            "INSERT INTO client_assertion (client_id, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            client_id,
            jti,
            datetime.fromtimestamp(expires, UTC),
        )
        return bool(done == "INSERT 0 1")

    def resolve_client_public_key(self, client: Client) -> KeySet:
        try:
            return anyio.from_thread.run(keys_of, client, self._assertion)
        except (ValueError, JoseError):
            raise InvalidClientError(description="The client does not sign.") from None
        except outside.OutsideError:
            raise InvalidClientError(description="The client's keys cannot be read at its jwks_uri.") from None
