"""Pub/Sub's push envelope, and who may deliver one.

https://cloud.google.com/pubsub/docs/push: the body's shape, and the OIDC token that the service signs. Locally the
dispatcher signs the same claims with its own key.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.exceptions import HTTPException
from starlette.requests import Request

from carefolio.cloud.http import read_body
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log

MAX_ENVELOPE = 15 * 1024 * 1024
_SKEW = 60
_keys: dict[str, tuple[float, KeySet]] = {}
_trusted_until: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Envelope:
    """``attempt`` is 1 where the service does not count (subscriptions without dead letters)."""

    data: bytes
    attributes: dict[str, str]
    message_id: str
    ordering_key: str
    attempt: int
    subscription: str


async def receive(request: Request) -> Envelope:
    """The verified envelope of a push; raises HTTPException 401, 403 or 400."""
    await verify(request)
    try:
        body = json.loads(await read_body(request, MAX_ENVELOPE))
        message = body["message"]
        return Envelope(
            data=base64.b64decode(message.get("data", ""), validate=True),
            attributes=dict(message.get("attributes") or {}),
            message_id=str(message.get("messageId", "")),
            ordering_key=str(message.get("orderingKey", "")),
            attempt=int(body.get("deliveryAttempt", 1)),
            subscription=str(body.get("subscription", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise HTTPException(400, "not a push envelope") from None


async def verify(request: Request) -> None:
    """Whether Google's service account for this (or the local dispatcher) calls; raises HTTPException 401 or 403."""
    wanted = settings()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        log(Event.PUSH_REFUSED, reason="no token")
        raise HTTPException(401, "a signed push is needed", {"WWW-Authenticate": "Bearer"})
    now = time.time()
    if _trusted_until.get(token, 0) > now:
        return
    try:
        decoded = jwt.decode(token, await _key_set(), algorithms=["RS256", "ES256"])
        claims: dict[str, Any] = decoded.claims
    except (JoseError, ValueError):
        log(Event.PUSH_REFUSED, reason="bad token")
        raise HTTPException(401, "the token is not good", {"WWW-Authenticate": "Bearer"}) from None
    expires = claims.get("exp", 0)
    if (
        claims.get("iss") != wanted.push_issuer
        or claims.get("aud") != wanted.push_audience
        or not isinstance(expires, int)
        or expires < now - _SKEW
        or claims.get("iat", 0) > now + _SKEW
    ):
        log(Event.PUSH_REFUSED, reason="wrong issuer, audience or time")
        raise HTTPException(401, "the token is not good", {"WWW-Authenticate": "Bearer"})
    if (
        not wanted.push_account
        or claims.get("email") != wanted.push_account
        or claims.get("email_verified") is not True
    ):
        log(Event.PUSH_REFUSED, reason="wrong account")
        raise HTTPException(403, "this caller may not push here")
    if len(_trusted_until) > 100:
        _trusted_until.clear()
    _trusted_until[token] = min(expires, now + 60)


async def _key_set() -> KeySet:
    """The issuer's public keys, from a file or by HTTPS, kept for ten minutes."""
    place = settings().push_keys
    kept = _keys.get(place)
    if kept and kept[0] > time.monotonic():
        return kept[1]
    text = await asyncio.to_thread(_read, place)
    keys = KeySet.import_key_set(json.loads(text))
    _keys[place] = (time.monotonic() + 600, keys)
    return keys


def _read(place: str) -> bytes:
    if not place.startswith("https://"):
        return Path(place).read_bytes()
    with urllib.request.urlopen(place, timeout=5) as answer:  # noqa: S310 - https only, checked above
        return bytes(answer.read(1_000_000))
