"""Dynamic registration of clients (RFC 7591), where an operator has given a token for it."""

from __future__ import annotations

import json
import uuid
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.identity import one_time, registry, security_events
from carefolio.identity.clients import ALGORITHMS, PUBLISHED_METHODS
from carefolio.identity.registry import AppSettings, RegistryError
from carefolio.identity.security_events import SecurityEvent

_PURPOSE = "registration"
_GRANTS = ("authorization_code", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:device_code")
_SIGNING = "private_key_jwt"
_MOST_URIS = 20


class RegistrationError(Exception):
    """``error`` is one of RFC 7591 section 3.2.2."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error, self.description = error, description


async def allow(pool: Pool, organisation: str, scope: str, days: int) -> str:
    """A token by which one client of an organisation may register itself, for at most ``scope``. Raises
    RegistryError.
    """
    number = await registry.organisation_id(pool, organisation)
    registry.check_scopes(scope)
    return await one_time.give(pool, _PURPOSE, days * 86400.0, organisation=str(number), scope=scope)


async def register(pool: Pool, token: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Register a client; returns RFC 7591's answer. Raises RegistrationError; PermissionError without a good token."""
    allowance = await one_time.look(pool, _PURPOSE, token)
    if allowance is None:
        raise PermissionError
    method = metadata.get("token_endpoint_auth_method", "client_secret_basic")
    wanted = metadata.get("grant_types", ["authorization_code"])
    if method not in PUBLISHED_METHODS:
        raise RegistrationError("invalid_client_metadata", "token_endpoint_auth_method is not supported")
    if not isinstance(wanted, list) or not wanted or not set(map(str, wanted)) <= set(_GRANTS):
        raise RegistrationError("invalid_client_metadata", "grant_types has a value that is not supported")
    if metadata.get("response_types", ["code"]) not in ([], ["code"]):
        raise RegistrationError("invalid_client_metadata", "response_types must be ['code']")
    if metadata.get("id_token_signed_response_alg", "RS256") != "RS256":
        raise RegistrationError("invalid_client_metadata", "id_token_signed_response_alg must be RS256")
    if metadata.get("token_endpoint_auth_signing_alg", "RS384") not in ALGORITHMS:
        raise RegistrationError("invalid_client_metadata", "token_endpoint_auth_signing_alg is not supported")
    name = metadata.get("client_name", "")
    redirect_uris = metadata.get("redirect_uris", [])
    if not isinstance(name, str) or not name.strip():
        raise RegistrationError("invalid_client_metadata", "client_name is missing: people are shown it")
    if not isinstance(redirect_uris, list) or len(redirect_uris) > _MOST_URIS:
        raise RegistrationError("invalid_redirect_uri", "redirect_uris must be a list")
    allowed = allowance.facts["scope"]
    scope = metadata.get("scope", allowed)
    if not isinstance(scope, str) or not set(scope.split()) <= set(allowed.split()):
        raise RegistrationError("invalid_client_metadata", "scope goes beyond what was allowed")
    jwks, jwks_uri = metadata.get("jwks"), metadata.get("jwks_uri")
    if method == _SIGNING and (jwks is None) == (jwks_uri is None):
        raise RegistrationError("invalid_client_metadata", "private_key_jwt needs jwks or jwks_uri")
    launch_uri = metadata.get("initiate_login_uri")
    if (
        not isinstance(launch_uri, str | None)
        or not isinstance(jwks_uri, str | None)
        or not isinstance(jwks, dict | None)
    ):
        raise RegistrationError("invalid_client_metadata", "jwks, jwks_uri or initiate_login_uri is of the wrong kind")
    settings = AppSettings(
        public=method == "none",
        redirect_uris=tuple(map(str, redirect_uris)),
        grants=tuple(map(str, wanted)),
        jwks_uri=jwks_uri if method == _SIGNING else None,
        launch_uri=launch_uri,
        created_by="registration",
    )
    try:
        async with pool.acquire() as connection, connection.transaction():
            if await one_time.use(connection, _PURPOSE, token) is None:
                raise PermissionError
            made = await registry.add_client_of(
                connection, name, uuid.UUID(allowance.facts["organisation"]), scope,
                json.dumps(jwks) if method == _SIGNING and jwks is not None else None, settings,
            )  # fmt: skip
            await security_events.record(connection, SecurityEvent.CLIENT_REGISTERED, client=made.client_id)
    except RegistryError as error:
        kind = "invalid_redirect_uri" if "redirect" in str(error) else "invalid_client_metadata"
        raise RegistrationError(kind, str(error)) from None
    answer: dict[str, Any] = {
        "client_id": made.client_id,
        "client_name": name,
        "grant_types": wanted,
        "response_types": ["code"] if "authorization_code" in wanted else [],
        "redirect_uris": redirect_uris,
        "token_endpoint_auth_method": method,
        "scope": made.scope,
        "id_token_signed_response_alg": "RS256",
    }
    answer |= {field: metadata[field] for field in ("jwks", "jwks_uri", "initiate_login_uri") if metadata.get(field)}
    if made.client_secret:
        answer |= {"client_secret": made.client_secret, "client_secret_expires_at": 0}
    return answer
