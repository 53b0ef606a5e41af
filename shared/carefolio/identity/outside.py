"""Calls to others' servers: providers, and clients' published keys. Bounded in time, size and address."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from carefolio.cloud.settings import settings

# To connect, and in all: a person waits at the other end.
TIMEOUT = httpx2.Timeout(8, connect=3)
_MOST_BYTES = 512 * 1024
_KEYS_KNOWN = 600
# A key that is not known is looked for at once, but not more often than this: anybody can make up its name.
_ASK_AGAIN = 30
_keys: dict[str, tuple[float, KeySet]] = {}
_asking: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock] = {}


class OutsideError(Exception):
    """The other side cannot be reached, or answers what cannot be used; ``reason`` is for a log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_url(url: str) -> str:
    """A URL that may be called: HTTPS, and no address of our own network. Raises OutsideError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if settings().environment == "local" and parts.scheme == "http" and host in ("localhost", "127.0.0.1"):
        return url
    try:
        ipaddress.ip_address(host)
        literal = True
    except ValueError:
        literal = False
    if parts.scheme != "https" or literal or "." not in host or host.endswith((".internal", ".local", ".localhost")):
        raise OutsideError("not an HTTPS address of a public host")
    return url


async def get_json(url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The JSON object at a URL. Raises OutsideError."""
    try:
        async with (
            asyncio.timeout(10),
            httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", check_url(url), headers={"Accept": "application/json"} | (headers or {})) as answer,
        ):
            if answer.status_code != 200:
                raise OutsideError(f"status {answer.status_code}")
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise OutsideError("the answer is too large")
        found = json.loads(body)
    except (httpx2.HTTPError, TimeoutError, ValueError) as error:
        raise OutsideError(type(error).__name__) from None
    if not isinstance(found, dict):
        raise OutsideError("not an object")
    return found


async def keys_at(url: str, kid: str | None) -> KeySet:
    """The JWKS at a URL, kept for ten minutes, and asked for again where it lacks ``kid``. Raises OutsideError."""
    now = time.monotonic()
    kept = _keys.get(url)
    if kept and _is_fresh(kept, kid, now):
        return kept[1]
    async with _asking.setdefault((asyncio.get_running_loop(), url), asyncio.Lock()):
        kept = _keys.get(url)
        if kept and _is_fresh(kept, kid, time.monotonic()):
            return kept[1]
        try:
            found = await get_json(url)
            keys = KeySet.import_key_set({"keys": [key for key in found["keys"] if key.get("kty") in ("RSA", "EC")]})
        except (JoseError, KeyError, TypeError, ValueError, AttributeError, OutsideError) as error:
            if kept:
                # What was known stays good while they are away.
                return kept[1]
            raise error if isinstance(error, OutsideError) else OutsideError("no JWK set") from None
        _keys[url] = (time.monotonic(), keys)
        return keys


def _is_fresh(kept: tuple[float, KeySet], kid: str | None, now: float) -> bool:
    age = now - kept[0]
    known = kid is None or any(key.kid == kid for key in kept[1].keys)
    return age < (_KEYS_KNOWN if known else _ASK_AGAIN)
