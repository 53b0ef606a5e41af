"""What an app asks of a person: checked before anybody sees it.

RFC 6749 section 4.1.1, RFC 7636, RFC 9101 (signed request objects), RFC 9126, OpenID Connect Core section 3.1.2.1,
SMART App Launch 2.2.
"""

from __future__ import annotations

import re
import time
from urllib.parse import parse_qsl

from joserfc import jwt
from joserfc.errors import JoseError

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.identity import clients, requests, scopes, token_server, tokens
from carefolio.identity.outside import OutsideError
from carefolio.identity.token_server import AuthorizationError
from carefolio.record.access import check_scope
from carefolio.record.arguments import SearchError

PUSHED = "urn:ietf:params:oauth:request_uri:"
PUSHED_SECONDS = 90
LONGEST = 16 * 1024
# What is kept of a request; the rest is not for us.
_PARAMETERS = frozenset(
    [
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
        "prompt",
        "max_age",
        "launch",
        "aud",
        "resource",
        "response_mode",
        "login_hint",
    ]
)


async def received(pool: Pool, pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The checked parameters of a request that a browser brings. Raises AuthorizationError."""
    parameters = {name: value.replace("\x00", "") for name, value in pairs}
    repeated = len({name for name, _ in pairs}) != len(pairs)
    if repeated:
        raise AuthorizationError("invalid_request", "a parameter is repeated")
    pushed = parameters.get("request_uri", "")
    if pushed:
        kept = await requests.find(pool, pushed.removeprefix(PUSHED), use=True) if pushed.startswith(PUSHED) else None
        if kept is None or kept[0] != parameters.get("client_id"):
            raise AuthorizationError("invalid_request_uri", "the pushed request is not known, was used, or is too old")
        return kept[1]
    return await checked(pool, parameters)


async def checked(pool: Pool, parameters: dict[str, str]) -> dict[str, str]:
    """The parameters of a request that is good, with the scope that the app may have. Raises AuthorizationError."""
    if "request" in parameters:
        parameters = await _of_request_object(pool, parameters)
    kept = {name: value for name, value in parameters.items() if name in _PARAMETERS}
    client, scope = await token_server.check_authorization(pool, kept)
    redirect_uri, state = kept["redirect_uri"], kept.get("state")

    def refuse(error: str, description: str) -> AuthorizationError:
        return AuthorizationError(error, description, redirect_uri, state)

    for name in ("aud", "resource"):
        if kept.get(name, tokens.audience()).rstrip("/") != tokens.audience():
            raise refuse("invalid_request" if name == "aud" else "invalid_target", f"'{name}' is not this FHIR server")
    if kept.get("response_mode", "query") != "query":
        raise refuse("invalid_request", "'response_mode' must be query")
    prompts = kept.get("prompt", "").split()
    if not set(prompts) <= {"none", "login", "consent"} or ("none" in prompts and len(prompts) > 1):
        raise refuse("invalid_request", "'prompt' has a value that is not supported")
    age = kept.get("max_age", "0")
    if not (age.isascii() and age.isdigit() and len(age) < 10):
        raise refuse("invalid_request", "'max_age' is a number of seconds")
    if scopes.LAUNCH in scope.split() and not kept.get("launch"):
        raise refuse("invalid_request", "the scope 'launch' goes with the parameter 'launch'")
    for text in scope.split():
        if not is_plain(text):
            raise refuse("invalid_scope", f"the query of {text[:100]} is not one that a person can be asked about")
    if any(len(value) > 2000 for name, value in kept.items() if name != "scope"):
        raise refuse("invalid_request", "a parameter is too long")
    return kept | {"scope": scope, "client_id": client.client_id, "asked_at": str(int(time.time()))}


def is_plain(text: str) -> bool:
    """Whether the query of a scope, if it has one, finds what its words say: names without modifiers."""
    scope = scopes.read_scope(text)
    if scope is None or not scope.query:
        return True
    try:
        check_scope(text)
    except SearchError:
        return False
    return all(re.fullmatch(r"[a-z][a-z-]*", name) for name, _ in parse_qsl(scope.query, keep_blank_values=True))


async def _of_request_object(pool: Pool, parameters: dict[str, str]) -> dict[str, str]:
    """The parameters in a request object that the client signed (RFC 9101). Raises AuthorizationError."""
    client = await clients.find(pool, parameters.get("client_id", ""))
    if client is None:
        raise AuthorizationError("invalid_client", "The client does not exist on this server.")
    refused = AuthorizationError(
        "invalid_request_object", "the request object is not one that this client signed for us"
    )
    try:
        token = jwt.decode(
            parameters["request"], await clients.keys_of(client, parameters["request"]), algorithms=clients.ALGORITHMS
        )
    except (JoseError, ValueError, OutsideError):
        raise refused from None
    claims, now = token.claims, time.time()
    audience = claims.get("aud")
    if (
        claims.get("iss") != client.client_id
        or claims.get("client_id", client.client_id) != client.client_id
        or settings().public_url not in (audience if isinstance(audience, list) else [audience])
        or not isinstance(claims.get("exp"), int | float)
        or claims["exp"] < now - 60
        or not isinstance(claims.get("nbf", 0), int | float)
        or claims.get("nbf", 0) > now + 60
        or "request" in claims
        or "request_uri" in claims
    ):
        raise refused
    # Its "aud" says for whom it was signed, not which FHIR server the app wants.
    wanted = _PARAMETERS - {"aud"}
    inside = {name: str(value) for name, value in claims.items() if name in wanted and isinstance(value, str | int)}
    return inside | {"client_id": client.client_id}
