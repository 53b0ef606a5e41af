"""Tokens a second, the verification of one, and a person's way from the sign-in page to his account."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import urllib.parse
import uuid
from collections.abc import Callable

from joserfc import jwt
from joserfc.jwk import ECKey

from carefolio.local import load


def measure(
    row: Callable[[str, str, str], None], port: int, client: str, key: ECKey, environment: dict[str, str], runs: int
) -> None:
    """Ask for tokens with the client's key, and sign fifty people in."""
    rates = [issued(port, client, key) for _ in range(runs)]
    got = f"{statistics.median(rates):.0f} tokens/s"
    row("POST /oauth2/token, private_key_jwt (ES256), 16 connections", got, "150/s")
    os.environ.update(environment)
    verified, ways = asyncio.run(by_library(port))
    row("verification of a token that was never seen", f"{verified * 1000:.2f} ms", "0.3 ms")
    ways.sort()
    slow = f"{ways[int(len(ways) * 0.95)] * 1000:.0f} ms"
    row("sign-in to first page, password (argon2id) and app's code, p95", slow, "400 ms")
    row("   median", f"{statistics.median(ways) * 1000:.0f} ms", "")


def issued(port: int, client_id: str, key: ECKey) -> float:
    """Tokens a second: each assertion is good once."""
    now, requests = int(time.time()), []
    for _ in range(3000):
        claims = {"iss": client_id, "sub": client_id, "aud": f"http://localhost:{port}/oauth2/token", "exp": now + 240,
                  "jti": uuid.uuid4().hex}  # fmt: skip
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key),
        }
        body = urllib.parse.urlencode(form).encode()
        head = (
            "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    seconds = 4.0
    return len(asyncio.run(load.ask(port, requests, seconds))) / seconds


async def by_library(port: int) -> tuple[float, list[float]]:
    """Seconds to verify a token, and the seconds of fifty sign-ins, one after the other."""
    import pyotp

    from carefolio.cloud import closing, database
    from carefolio.identity import accounts, factors, registry, tokens
    from carefolio.local.installation import installation as here

    here().enter()
    pool = await database.pool()
    owner = await registry.organisation_id(pool, "RLOAD")
    made = [tokens.issue("load", "system/*.rs", organisation=owner) for _ in range(300)]
    await tokens.verify(pool, made[0])
    started = time.perf_counter()
    for text in made[1:]:
        await tokens.verify(pool, text)
    verified = (time.perf_counter() - started) / (len(made) - 1)
    ways = []
    for at in range(50):
        email, secret = f"person{at}@example.org", pyotp.random_base32()
        async with pool.acquire() as connection, connection.transaction():
            account = await accounts.add(connection, kind="professional", name="Ada Load", email=email,
                                         password="teapot lantern gravel", organisation=owner)  # fmt: skip
        await factors.add_totp(pool, account, secret, pyotp.TOTP(secret).now())
        await pool.execute("UPDATE account SET totp_step = 0 WHERE id = $1", account.id)
        ways.append(await signed_in(port, email, pyotp.TOTP(secret).now()))
    await closing.close_all()
    return verified, ways


async def signed_in(port: int, email: str, code: str) -> float:
    """Seconds from asking for the sign-in page to having the first page behind it."""
    import aiohttp
    from yarl import URL

    base = f"http://localhost:{port}"
    jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=URL(base))
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        started = time.perf_counter()
        async with http.get(f"{base}/login") as answer:
            fields = {"form_token": token_in(await answer.text()), "email": email, "password": "teapot lantern gravel"}
        async with http.post(f"{base}/login", data=fields) as answer:
            fields = {"form_token": token_in(await answer.text()), "kind": "totp", "code": code}
        async with http.post(f"{base}/login/second", data=fields) as answer:
            assert "Sign out" in await answer.text()
        return time.perf_counter() - started


def token_in(page: str) -> str:
    return page.split('name="form_token" value="')[1].split('"')[0]
