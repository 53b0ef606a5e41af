"""Access tokens: signed JWTs (RFC 9068) of ten minutes, verified without asking anybody.

The private key is a secret of the login function; the public halves lie in the database, where every function
finds them.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, KeySetSerialization

from carefolio.cloud import secrets
from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings

LIFETIME = 600
SECRET = "token-signing-key"  # noqa: S105 - the secret's name
_SKEW = 60
_MOST_KEPT = 2000
# How long a function may not know that a token was ended; a minute is promised.
_ENDED_KNOWN = 30


class InvalidTokenError(Exception):
    """A token that opens nothing; ``reason`` may be told to its bearer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Token:
    """A verified access token of a client of an organisation."""

    client_id: str
    organisation_id: uuid.UUID
    scope: str
    expires: int
    jti: str


_keys: tuple[float, KeySet] | None = None
_verified: dict[str, Token] = {}
_ended: tuple[float, frozenset[str]] = (float("-inf"), frozenset())


def new_signing_key() -> bytes:
    """A private ES256 key as a JWK, for the secret store."""
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True, auto_kid=True)
    return json.dumps(key.as_dict(private=True)).encode()


def _signing_key() -> ECKey:
    return ECKey.import_key(json.loads(secrets.read(SECRET)))


async def publish_key(pool: Pool) -> None:
    """Make the public half of the current key known to every function."""
    key = _signing_key()
    await pool.execute(
        "INSERT INTO signing_key (kid, jwk) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        key.kid,
        json.dumps(key.as_dict(private=False) | {"use": "sig", "alg": "ES256"}),
    )


async def public_keys(pool: Pool) -> KeySetSerialization:
    """The JWKS (RFC 7517) of every key that may have signed a living token."""
    rows = await pool.fetch("SELECT jwk FROM signing_key ORDER BY created_at DESC LIMIT 10")
    return {"keys": [json.loads(row["jwk"]) for row in rows]}


def issue(client_id: str, organisation_id: uuid.UUID, scope: str) -> str:
    """A token for a client."""
    now = int(time.time())
    key = _signing_key()
    claims = {
        "iss": settings().public_url,
        "sub": client_id,
        "client_id": client_id,
        "aud": f"{settings().public_url}/fhir/R4",
        "iat": now,
        "exp": now + LIFETIME,
        "jti": uuid.uuid4().hex,
        "scope": scope,
        "organisation": str(organisation_id),
    }
    return jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": key.kid}, claims, key)


async def verify(pool: Pool, text: str) -> Token:
    """The token, if it is ours and alive. Raises InvalidTokenError.

    It is known from its signature; what was ended before its time is asked for every half minute, not every request.
    """
    now = int(time.time())
    known = _verified.get(text)
    if known is None:
        known = await _decode(pool, text, now)
        if len(_verified) >= _MOST_KEPT:
            _verified.clear()
        _verified[text] = known
    if known.expires < now - _SKEW:
        raise InvalidTokenError("the token has expired")
    if {known.jti, known.client_id} & await _ended_lately(pool):
        raise InvalidTokenError("the token was revoked")
    return known


async def is_ended(pool: Pool, token: Token) -> bool:
    """Whether a token, or its client, was ended; asked of the database."""
    found = await pool.fetchval(
        "SELECT EXISTS (SELECT FROM revoked_token WHERE jti = $1)"
        " OR EXISTS (SELECT FROM client WHERE id = $2 AND ended_at IS NOT NULL)",
        token.jti,
        token.client_id,
    )
    return bool(found)


async def revoke(pool: Pool, token: Token) -> None:
    """End a token now (RFC 7009); every function knows within a minute."""
    await pool.execute("DELETE FROM revoked_token WHERE expires_at < now() - interval '5 minutes'")
    await pool.execute(
        "INSERT INTO revoked_token (jti, expires_at) VALUES ($1, to_timestamp($2::bigint)) ON CONFLICT DO NOTHING",
        token.jti,
        token.expires,
    )


async def _ended_lately(pool: Pool) -> frozenset[str]:
    """The ids of tokens, and of clients, that were ended while tokens of theirs could be alive."""
    global _ended
    if _ended[0] + _ENDED_KNOWN < time.monotonic():
        rows = await pool.fetch(
            "SELECT jti AS ended FROM revoked_token UNION ALL"
            " SELECT id FROM client WHERE ended_at > now() - make_interval(secs => $1)",
            float(LIFETIME + 5 * _SKEW),
        )
        _ended = (time.monotonic(), frozenset(row["ended"] for row in rows))
    return _ended[1]


async def read(pool: Pool, text: str) -> Token:
    """A token by its signature alone, expired or ended too. Raises InvalidTokenError."""
    return await _decode(pool, text, int(time.time()))


async def _decode(pool: Pool, text: str, now: int) -> Token:
    try:
        decoded = jwt.decode(text, await _key_set(pool), algorithms=["ES256"])
    except (JoseError, ValueError):
        raise InvalidTokenError("the token cannot be verified") from None
    claims, wanted = decoded.claims, settings()
    if decoded.header.get("typ") != "at+jwt" or claims.get("iss") != wanted.public_url:
        raise InvalidTokenError("the token is not of this issuer")
    if claims.get("aud") != f"{wanted.public_url}/fhir/R4":
        raise InvalidTokenError("the token is for another audience")
    if claims.get("iat", now) > now + _SKEW:
        raise InvalidTokenError("the token is not valid yet")
    try:
        return Token(
            str(claims["client_id"]),
            uuid.UUID(claims["organisation"]),
            str(claims["scope"]),
            int(claims["exp"]),
            str(claims["jti"]),
        )
    except (KeyError, ValueError, TypeError):
        raise InvalidTokenError("the token lacks what it needs") from None


async def _key_set(pool: Pool) -> KeySet:
    """The public keys, read again after a minute."""
    global _keys
    if _keys is None or _keys[0] < time.monotonic():
        known = await public_keys(pool)
        if not known["keys"]:
            raise InvalidTokenError("no token was ever issued here")
        _keys = (time.monotonic() + 60, KeySet.import_key_set(known))
    return _keys[1]
