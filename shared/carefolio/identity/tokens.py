"""Access tokens: signed JWTs (RFC 9068) of ten minutes, verified without asking anybody.

The private keys are a secret of the login function; the public halves lie in the database, where every function
finds them. A new key is published ten minutes before it signs, and an old one as long as what it signed may live.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, KeySetSerialization, RSAKey

from carefolio.cloud import secrets
from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings

LIFETIME = 600
SECRET = "token-signing-keys"  # noqa: S105 - the secret's name
_SKEW = 60
_MOST_KEPT = 2000
# How long a function may not know that a token was ended; a minute is promised.
_ENDED_KNOWN = 30
_PUBLISHED_AHEAD = 600
_KEPT_AFTER = 3600
_KEYS_KNOWN = 60
_ASK_AGAIN = 5


class InvalidTokenError(Exception):
    """A token that opens nothing; ``reason`` may be told to its bearer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Token:
    """A verified access token: of a client for itself, or (with ``account_id``) for a person.

    ``organisation_id`` is the client's, or the professional's; ``record_id`` is the patient's own record, and
    ``patient_id`` the one that the app was given (SMART's launch context).
    """

    client_id: str
    scope: str
    expires: int
    jti: str
    organisation_id: uuid.UUID | None = None
    account_id: uuid.UUID | None = None
    record_id: uuid.UUID | None = None
    patient_id: uuid.UUID | None = None
    grant_id: uuid.UUID | None = None

    @property
    def subject(self) -> str:
        return str(self.account_id or self.client_id)


_keys: tuple[float, KeySet] | None = None
_private: tuple[bytes, list[dict[str, Any]]] | None = None
_imported: dict[str, ECKey | RSAKey] = {}
_published: tuple[bytes, float] | None = None
_verified: dict[str, Token] = {}
_ended: tuple[float, frozenset[str]] = (float("-inf"), frozenset())


def new_signing_key() -> bytes:
    """A private ES256 key as a JWK."""
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True, auto_kid=True)
    return json.dumps(key.as_dict(private=True)).encode()


def new_signing_keys() -> bytes:
    """The secret of a new installation: a key for access tokens (ES256) and one for ID tokens (RS256)."""
    return _written(_new_pair(0))


def rotated(secret: bytes, now: float) -> bytes:
    """The secret with a new pair, which signs ten minutes from now; of the older ones the present pair stays."""
    keys = json.loads(secret)["keys"]
    present = [_newest(keys, algorithm, now) for algorithm in ("ES256", "RS256")]
    waiting = [key for key in keys if key["from"] > now]
    return _written([*present, *waiting, *_new_pair(int(now) + _PUBLISHED_AHEAD)])


def _new_pair(start: int) -> list[dict[str, Any]]:
    rsa = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, private=True, auto_kid=True)
    return [json.loads(new_signing_key()) | {"from": start}, dict(rsa.as_dict(private=True)) | {"from": start}]


def _written(keys: list[dict[str, Any]]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def _newest(keys: list[dict[str, Any]], algorithm: str, now: float) -> dict[str, Any]:
    return max((key for key in keys if key["alg"] == algorithm and key["from"] <= now), key=lambda key: key["from"])


def _private_keys() -> list[dict[str, Any]]:
    global _private
    secret = secrets.read(SECRET)
    if _private is None or _private[0] != secret:
        _private = (secret, json.loads(secret)["keys"])
    return _private[1]


def signing_key(algorithm: str) -> ECKey | RSAKey:
    """The private key that signs now with ``ES256`` (access tokens) or ``RS256`` (ID tokens)."""
    chosen = _newest(_private_keys(), algorithm, time.time())
    kid = chosen["kid"]
    if kid not in _imported:
        plain = {name: value for name, value in chosen.items() if name != "from"}
        _imported[kid] = ECKey.import_key(plain) if algorithm == "ES256" else RSAKey.import_key(plain)
    return _imported[kid]


async def publish_keys(pool: Pool) -> None:
    """Make the public halves of our keys known to every function, those that will sign soon too."""
    global _published
    secret = secrets.read(SECRET)
    if _published is not None and _published[0] == secret and _published[1] > time.monotonic():
        return
    public = {
        key["kid"]: json.dumps(
            {name: key[name] for name in ("kty", "crv", "x", "y", "n", "e", "kid", "use", "alg") if name in key}
        )
        for key in _private_keys()
    }
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO signing_key (kid, jwk) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
            list(public),
            list(public.values()),
        )
        await connection.execute(
            "UPDATE signing_key SET retired_at = CASE WHEN kid = ANY($1) THEN NULL ELSE now() END"
            " WHERE (retired_at IS NULL) <> (kid = ANY($1))",
            list(public),
        )
    _published = (secret, time.monotonic() + _KEYS_KNOWN)


async def public_keys(pool: Pool) -> KeySetSerialization:
    """The JWKS (RFC 7517) of every key that may have signed a living token, or will sign soon."""
    rows = await pool.fetch(
        """
        SELECT jwk FROM signing_key WHERE retired_at IS NULL OR retired_at > now() - make_interval(secs => $1)
        ORDER BY created_at DESC LIMIT 20
        """,
        float(_KEPT_AFTER),
    )
    return {"keys": [json.loads(row["jwk"]) for row in rows]}


def issue(
    client_id: str,
    scope: str,
    *,
    organisation: uuid.UUID | None = None,
    account: uuid.UUID | None = None,
    record: uuid.UUID | None = None,
    patient: uuid.UUID | None = None,
    grant: uuid.UUID | None = None,
    authenticated_at: int | None = None,
) -> str:
    """A token for a client, or for what a person allowed it."""
    now = int(time.time())
    key = signing_key("ES256")
    known = {"organisation": organisation, "account": account, "record": record, "patient": patient, "grant": grant}
    claims: dict[str, Any] = {
        "iss": settings().public_url,
        "sub": str(account or client_id),
        "client_id": client_id,
        "aud": audience(),
        "iat": now,
        "exp": now + LIFETIME,
        "jti": uuid.uuid4().hex,
        "scope": scope,
    }
    claims |= {name: str(value) for name, value in known.items() if value is not None}
    if authenticated_at is not None:
        claims["auth_time"] = authenticated_at
    return jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": key.kid}, claims, key)


def audience() -> str:
    """Where our tokens are good: the FHIR endpoint."""
    return f"{settings().public_url}/fhir/R4"


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
    if {known.jti, known.client_id, str(known.grant_id)} & await _ended_lately(pool):
        raise InvalidTokenError("the token was revoked")
    return known


async def is_ended(pool: Pool, token: Token) -> bool:
    """Whether a token, what it came of, or its client was ended; asked of the database."""
    found = await pool.fetchval(
        "SELECT EXISTS (SELECT FROM revoked_token WHERE jti = $1)"
        " OR EXISTS (SELECT FROM client WHERE id = $2 AND ended_at IS NOT NULL)"
        " OR EXISTS (SELECT FROM app_grant WHERE id = $3 AND ended_at IS NOT NULL)",
        token.jti,
        token.client_id,
        token.grant_id,
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
    """The ids of tokens, grants and clients that were ended while tokens of theirs could be alive."""
    global _ended
    if _ended[0] + _ENDED_KNOWN < time.monotonic():
        rows = await pool.fetch(
            "SELECT jti AS ended FROM revoked_token"
            " UNION ALL SELECT id FROM client WHERE ended_at > now() - make_interval(secs => $1)"
            " UNION ALL SELECT id::text FROM app_grant WHERE ended_at > now() - make_interval(secs => $1)",
            float(LIFETIME + 5 * _SKEW),
        )
        _ended = (time.monotonic(), frozenset(row["ended"] for row in rows))
    return _ended[1]


async def read(pool: Pool, text: str) -> Token:
    """A token by its signature alone, expired or ended too. Raises InvalidTokenError."""
    return await _decode(pool, text, int(time.time()))


async def _decode(pool: Pool, text: str, now: int) -> Token:
    try:
        decoded = jwt.decode(text, await _key_set(pool, text), algorithms=["ES256"])
    except (JoseError, ValueError):
        raise InvalidTokenError("the token cannot be verified") from None
    claims, wanted = decoded.claims, settings()
    if decoded.header.get("typ") != "at+jwt" or claims.get("iss") != wanted.public_url:
        raise InvalidTokenError("the token is not of this issuer")
    if claims.get("aud") != audience():
        raise InvalidTokenError("the token is for another audience")
    if claims.get("iat", now) > now + _SKEW:
        raise InvalidTokenError("the token is not valid yet")
    try:
        numbers = {
            f"{name}_id": uuid.UUID(claims[name])
            for name in ("organisation", "account", "record", "patient", "grant")
            if name in claims
        }
        return Token(str(claims["client_id"]), str(claims["scope"]), int(claims["exp"]), str(claims["jti"]), **numbers)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InvalidTokenError("the token lacks what it needs") from None


async def _key_set(pool: Pool, text: str) -> KeySet:
    """The public keys, read again after a minute, and at once (not more often than each 5 s) for a key not known."""
    global _keys
    now = time.monotonic()
    if _keys is None or _keys[0] + _KEYS_KNOWN < now or (_keys[0] + _ASK_AGAIN < now and not _knows(_keys[1], text)):
        known = await public_keys(pool)
        if not known["keys"]:
            raise InvalidTokenError("no token was ever issued here")
        _keys = (now, KeySet.import_key_set(known))
    return _keys[1]


def _knows(keys: KeySet, text: str) -> bool:
    from joserfc.jws import extract_compact

    try:
        kid = extract_compact(text.encode()).headers().get("kid")
    except (JoseError, ValueError):
        return True
    return any(key.kid == kid for key in keys.keys)
