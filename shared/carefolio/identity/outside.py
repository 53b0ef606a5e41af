"""Calls to others' servers: providers, and clients' published keys. Bounded in time, size and address."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx2
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from carefolio.cloud import closing
from carefolio.cloud.settings import settings

# To connect, and in all: a person waits at the other end.
TIMEOUT = httpx2.Timeout(8, connect=3)
_MOST_BYTES = 512 * 1024
_KEYS_KNOWN = 600
# A key that is not known is looked for at once, but not more often than this: anybody can make up its name.
_ASK_AGAIN = 30
_keys: dict[str, tuple[float, KeySet]] = {}
# Who did not answer is left alone for a while: many may ask for the same keys at once.
_failed: dict[str, tuple[float, str]] = {}
_clients: dict[tuple[asyncio.AbstractEventLoop, str], httpx2.AsyncClient] = {}
_MOST_CLIENTS = 200
_LONGEST_URL = 2000
# No control character, no blank: what is sent is what was checked.
_PLAIN = re.compile(r"[\x21-\x7e]+\Z")
_asking: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock] = {}


class OutsideError(Exception):
    """The other side cannot be reached, or answers what cannot be used; ``reason`` is for a log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_url(url: str) -> str:
    """A URL that may be called: HTTPS, and no address of our own network. Raises OutsideError."""
    if not isinstance(url, str) or len(url) > _LONGEST_URL or not _PLAIN.match(url):
        raise OutsideError(f"not a URL of at most {_LONGEST_URL} plain characters")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        # Ports and names that are none are found out here.
        _ = parts.port, host.encode("idna")
    except (ValueError, TypeError, AttributeError):
        raise OutsideError("not a URL") from None
    if settings().environment == "local" and parts.scheme == "http" and host in ("localhost", "127.0.0.1"):
        return url
    # No address in any of its spellings (127.1, 0x7f.1): a public name's last label begins with a letter.
    named = "." in host and host.rpartition(".")[2][:1].isalpha()
    if parts.scheme != "https" or not named or host.endswith((".internal", ".local", ".localhost")):
        raise OutsideError("not an HTTPS address of a public host")
    return url


async def get_json(url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The JSON object at a URL. Raises OutsideError."""
    await check_public(url)
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
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError) as error:
        raise OutsideError(type(error).__name__) from None
    if not isinstance(found, dict):
        raise OutsideError("not an object")
    return found


@dataclass(frozen=True, slots=True)
class Pinned:
    """How to call a URL at the address that was checked, whatever its name leads to in the next moment."""

    target: str
    host: str
    extensions: dict[str, Any]


async def pinned(url: str) -> Pinned:
    """A URL that may be called, by the address that its name leads to now. Raises OutsideError."""
    address = await check_public(url)
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme != "https":
        return Pinned(url, host, {})
    numeric = f"[{address}]" if ":" in address else address
    query = f"?{parts.query}" if parts.query else ""
    target = f"https://{numeric}:{parts.port or 443}{parts.path or '/'}{query}"
    return Pinned(target, host, {"sni_hostname": parts.hostname})


async def send(method: str, url: str, body: bytes, headers: dict[str, str], seconds: float = 8) -> int:
    """Send a body; the status of the answer, whose own body is not read. Raises OutsideError for no answer."""
    try:
        to = await pinned(url)
        client = await _client(to.host)
        named = headers | {"Host": to.host}
        request = client.build_request(method, to.target, content=body, headers=named, extensions=to.extensions)
        async with asyncio.timeout(seconds):
            answer = await client.send(request, stream=True)
            await answer.aclose()
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError) as error:
        raise OutsideError(type(error).__name__) from None
    return answer.status_code


async def _client(host: str) -> httpx2.AsyncClient:
    """The running loop's for a host: its connections are kept, and are nobody else's at the same address."""
    key = asyncio.get_running_loop(), host
    client = _clients.pop(key, None)
    if client is None:
        limits = httpx2.Limits(max_connections=50, max_keepalive_connections=10)
        client = httpx2.AsyncClient(
            timeout=TIMEOUT, follow_redirects=False, trust_env=False, limits=limits, verify=_certificates()
        )
    # The last one asked for is the last one to go.
    _clients[key] = client
    if len(_clients) > _MOST_CLIENTS:
        oldest = next(iter(_clients))
        await _clients.pop(oldest).aclose()
    return client


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


async def close() -> None:
    """Close the running loop's clients."""
    loop = asyncio.get_running_loop()
    for key in [key for key in _clients if key[0] is loop]:
        await _clients.pop(key).aclose()


closing.also(close)


async def check_public(url: str) -> str:
    """An address to which a URL's name leads; none may be of our own network. Raises OutsideError."""
    parts = urlsplit(check_url(url))
    if parts.scheme != "https":
        return parts.hostname or ""
    try:
        async with asyncio.timeout(3):
            found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 443)
    except (OSError, TimeoutError, ValueError) as error:
        raise OutsideError(type(error).__name__) from None
    if not all(ipaddress.ip_address(address[4][0]).is_global for address in found):
        raise OutsideError("the name leads to an address that is not public")
    return str(found[0][4][0])


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
        if url in _failed and _failed[url][0] > time.monotonic():
            if kept:
                return kept[1]
            raise OutsideError(_failed[url][1])
        try:
            found = await get_json(url)
            keys = KeySet.import_key_set({"keys": [key for key in found["keys"] if key.get("kty") in ("RSA", "EC")]})
        except (JoseError, KeyError, TypeError, ValueError, AttributeError, OutsideError) as error:
            reason = error.reason if isinstance(error, OutsideError) else "no JWK set"
            _failed[url] = (time.monotonic() + _ASK_AGAIN, reason)
            if kept:
                # What was known stays good while they are away.
                return kept[1]
            raise OutsideError(reason) from None
        _failed.pop(url, None)
        _keys[url] = (time.monotonic(), keys)
        return keys


def _is_fresh(kept: tuple[float, KeySet], kid: str | None, now: float) -> bool:
    age = now - kept[0]
    known = kid is None or any(key.kid == kid for key in kept[1].keys)
    return age < (_KEYS_KNOWN if known else _ASK_AGAIN)
