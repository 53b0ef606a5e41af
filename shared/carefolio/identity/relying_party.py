"""Signing in by somebody else's OpenID provider: authorization code, everything that comes back checked.

OpenID Connect Core sections 3.1.2 and 3.1.3; RFC 9207; NHS login's Interface Specification - Federation v2.1; CIS2.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jws, jwt
from joserfc.errors import JoseError

from carefolio.cloud.database import Pool
from carefolio.cloud.telemetry import Event, log
from carefolio.identity import outside, sealed
from carefolio.identity.outside import OutsideError
from carefolio.identity.providers import CIS2, NHS_LOGIN, P9, Provider

_SECONDS = 10 * 60
_SKEW = 60
_METADATA_KNOWN = 3600
_metadata: dict[str, tuple[float, dict[str, Any]]] = {}


class SignInError(Exception):
    """Why the provider did not sign the person in. ``code`` is the provider's, or one of ours; never shown with
    data.
    """

    def __init__(self, code: str, description: str = "", *, in_app: bool = False) -> None:
        super().__init__(f"{code} {description}")
        self.code, self.description, self.in_app = code, description, in_app


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a provider says of a person, checked; ``back`` is where he wanted to go."""

    provider: Provider
    subject: str
    claims: dict[str, Any]
    back: str
    in_app: bool
    visitor: str
    stepped: bool = False


async def start(
    pool: Pool,
    provider: Provider,
    visitor: str,
    back: str,
    *,
    in_app: bool = False,
    asserted: str = "",
    stepped: bool = False,
) -> str:
    """Where to send the browser. ``asserted`` is the NHS App's word for who it is (prompt=none). Raises SignInError."""
    metadata = await metadata_of(provider)
    state, nonce, verifier = sealed.token(), sealed.token(), sealed.token()
    chosen = provider.settings
    extra: dict[str, str] = {"nonce": nonce} | {
        str(name): str(value) for name, value in chosen.get("extra", {}).items()
    }
    if provider.kind == NHS_LOGIN:
        vtr = P9 if stepped else chosen["vtr"]
        extra |= {"vtr": json.dumps(vtr)}
        if asserted:
            extra |= {"prompt": "none", "asserted_login_identity": asserted}
    if provider.kind == CIS2:
        extra["acr_values"] = " ".join(chosen["acr_values"])
    async with _client(provider) as client:
        url, _ = client.create_authorization_url(
            metadata["authorization_endpoint"],
            state=state,
            # NHS login documents no PKCE; everybody else has it.
            code_verifier=None if provider.kind == NHS_LOGIN else verifier,
            **extra,
        )
    kept = {"nonce": nonce, "verifier": verifier, "back": back, "in_app": in_app, "stepped": stepped}
    await keep(pool, provider, visitor, state, kept)
    return str(url)


async def keep(pool: Pool, provider: Provider, visitor: str, state: str, kept: dict[str, Any]) -> None:
    """Keep a sign-in that is on its way, for this browser alone."""
    await pool.execute(
        """
        INSERT INTO provider_sign_in (state, provider_id, visitor, sealed, expires_at)
        VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
        """,
        sealed.digest(state),
        provider.id,
        sealed.digest(visitor),
        sealed.seal(json.dumps(kept).encode()),
        float(_SECONDS),
    )


async def take(pool: Pool, provider: Provider, visitor: str, state: str) -> dict[str, Any]:
    """The sign-in that this browser began at this provider, once. Raises SignInError."""
    row = await pool.fetchval(
        "DELETE FROM provider_sign_in WHERE state = $1 AND provider_id = $2 AND visitor = $3 AND expires_at > now()"
        " RETURNING sealed",
        sealed.digest(state),
        provider.id,
        sealed.digest(visitor),
    )
    if row is None:
        raise SignInError("state")
    kept: dict[str, Any] = json.loads(sealed.unseal(bytes(row)))
    return kept


async def finish(pool: Pool, provider: Provider, visitor: str, query: dict[str, str]) -> SignedIn:
    """Who came back from the provider. Raises SignInError."""
    kept = await take(pool, provider, visitor, query.get("state", ""))
    try:
        claims = await _claims(provider, query, kept)
    except SignInError as error:
        log(Event.PROVIDER_FAILED, provider=provider.name, error=error.code)
        raise SignInError(error.code, error.description, in_app=kept["in_app"]) from None
    return SignedIn(provider, claims["sub"], claims, kept["back"], kept["in_app"], visitor, kept["stepped"])


async def _claims(provider: Provider, query: dict[str, str], kept: dict[str, Any]) -> dict[str, Any]:
    metadata = await metadata_of(provider)
    # Another provider's answer at this provider's door (RFC 9207, RFC 9700 section 4.4).
    wanted = metadata.get("authorization_response_iss_parameter_supported") is True
    if query.get("iss", metadata["issuer"] if not wanted else "") != metadata["issuer"]:
        raise SignInError("iss")
    if "error" in query:
        raise SignInError(query["error"][:100], query.get("error_description", "")[:200])
    if not query.get("code"):
        raise SignInError("no_code")
    token = await _exchange(provider, metadata, query["code"], kept)
    claims = await _id_token(provider, metadata, str(token.get("id_token", "")), kept)
    if provider.kind in (NHS_LOGIN, CIS2) or not claims.get("email"):
        claims = await _with_userinfo(metadata, str(token.get("access_token", "")), claims)
    return claims


async def _exchange(provider: Provider, metadata: dict[str, Any], code: str, kept: dict[str, Any]) -> dict[str, Any]:
    endpoint = outside.check_url(str(metadata["token_endpoint"]))
    options = {} if provider.kind == NHS_LOGIN else {"code_verifier": kept["verifier"]}
    try:
        async with asyncio.timeout(12), _client(provider, endpoint) as client:
            token: dict[str, Any] = await client.fetch_token(
                endpoint, code=code, grant_type="authorization_code", **options
            )
            return dict(token)
    except OAuthError as error:
        raise SignInError("token", str(error.error)[:100]) from None
    except (httpx2.HTTPError, TimeoutError) as error:
        raise SignInError("unreachable", type(error).__name__) from None
    except ValueError:
        raise SignInError("token", "not JSON") from None


def _client(provider: Provider, token_endpoint: str = "") -> AsyncOAuth2Client:
    """Authlib's client for a provider: it signs with our key, or shows our secret."""
    key, algorithm = provider.private_key, "RS512" if provider.kind == NHS_LOGIN else "RS256"
    client = AsyncOAuth2Client(
        client_id=provider.client_id,
        client_secret=key or provider.secret,
        scope=provider.settings["scope"],
        redirect_uri=provider.callback,
        token_endpoint_auth_method="private_key_jwt" if key else "client_secret_basic",
        code_challenge_method="S256",
        timeout=outside.TIMEOUT,
        follow_redirects=False,
        trust_env=False,
    )
    if key:
        headers = {"kid": str(key.kid)} if key.kid else None
        client.register_client_auth_method(PrivateKeyJWT(token_endpoint, alg=algorithm, headers=headers))
    return client


async def _id_token(provider: Provider, metadata: dict[str, Any], text: str, kept: dict[str, Any]) -> dict[str, Any]:
    """The checked claims of an ID token (OpenID Connect Core section 3.1.3.7). Raises SignInError with what was
    wrong.
    """
    try:
        header = jws.extract_compact(text.encode()).headers()
        keys = await outside.keys_at(outside.check_url(str(metadata["jwks_uri"])), header.get("kid"))
        token = jwt.decode(text, keys, algorithms=provider.settings["algorithms"])
    except (JoseError, ValueError):
        raise SignInError("id_token", "signature") from None
    except OutsideError as error:
        raise SignInError("unreachable", error.reason) from None
    claims, now = token.claims, time.time()
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    checks = {
        "iss": claims.get("iss") == metadata["issuer"],
        "aud": provider.client_id in audiences,
        "azp": claims.get("azp", provider.client_id if len(audiences) == 1 else None) == provider.client_id,
        "exp": _number(claims.get("exp")) > now - _SKEW,
        "iat": 0 < _number(claims.get("iat")) < now + _SKEW,
        "nbf": _number(claims.get("nbf", 1)) < now + _SKEW,
        "nonce": claims.get("nonce") == kept["nonce"],
        "sub": isinstance(claims.get("sub"), str) and 0 < len(claims["sub"]) <= 255,
    }
    if provider.kind == NHS_LOGIN:
        asked = P9 if kept["stepped"] else provider.settings["vtr"]
        checks["vot"] = claims.get("vot") in asked
        checks["vtm"] = str(claims.get("vtm", metadata["issuer"])).startswith(metadata["issuer"])
    if provider.kind == CIS2:
        allowed = provider.settings["acr_values"]
        checks["acr"] = any(str(claims.get("acr", "")).upper().startswith(value) for value in allowed)
    for name, good in checks.items():
        if not good:
            raise SignInError("id_token", name)
    return dict(claims)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


async def _with_userinfo(metadata: dict[str, Any], access_token: str, claims: dict[str, Any]) -> dict[str, Any]:
    """The claims with what the userinfo endpoint adds; it must speak of the same person."""
    endpoint = metadata.get("userinfo_endpoint")
    if not endpoint:
        return claims
    try:
        told = await outside.get_json(str(endpoint), {"Authorization": f"Bearer {access_token}"})
    except OutsideError as error:
        raise SignInError("unreachable", error.reason) from None
    if told.get("sub") != claims["sub"]:
        raise SignInError("userinfo", "sub")
    # What was signed stays; the rest is added.
    return told | claims


async def metadata_of(provider: Provider) -> dict[str, Any]:
    """The provider's discovery document (OpenID Connect Discovery section 4), kept for an hour. Raises SignInError."""
    kept = _metadata.get(provider.issuer)
    if kept and kept[0] + _METADATA_KNOWN > time.monotonic():
        return kept[1]
    try:
        found = await outside.get_json(f"{provider.issuer}/.well-known/openid-configuration")
    except OutsideError as error:
        if kept:
            return kept[1]
        raise SignInError("unreachable", error.reason) from None
    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    if str(found.get("issuer", "")).rstrip("/") != provider.issuer or not all(
        isinstance(found.get(n), str) for n in names
    ):
        raise SignInError("metadata")
    _metadata[provider.issuer] = (time.monotonic(), found)
    return found
