"""Secrets and passwords as argon2id hashes (OWASP's parameters: 19 MiB, 2 passes, 1 lane)."""

from __future__ import annotations

import asyncio
import secrets
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_JUDGED = 32
_hashing: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def new_secret() -> str:
    """43 URL-safe characters, 256 bits."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    return _HASHER.hash(secret)


async def hashed(secret: str) -> str:
    """``hash_secret`` beside the event loop."""
    async with _room():
        return await asyncio.to_thread(hash_secret, secret)


async def verify(stored: str | None, secret: str) -> bool:
    """Whether the secret is the stored one; for an unknown party (None) it takes as long and is false."""
    async with _room():
        matches = await asyncio.to_thread(_verify, stored or _nobody(), secret)
    return matches and stored is not None


async def score(password: str, personal: list[str]) -> int:
    """How hard it is to guess, 0 to 4, by zxcvbn, of its first letters: twice as many take far more than twice."""
    from zxcvbn import zxcvbn

    async with _room():
        found = await asyncio.to_thread(zxcvbn, password[:_JUDGED], user_inputs=personal)
    return int(found["score"])


def _room() -> asyncio.Semaphore:
    """Hashing takes 20 ms and 19 MiB: a flood of wrong passwords must not take the machine."""
    return _hashing.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(2))


def _verify(stored: str, secret: str) -> bool:
    try:
        return _HASHER.verify(stored, secret)
    except (VerificationError, InvalidHashError):
        return False


@lru_cache(maxsize=1)
def _nobody() -> str:
    return hash_secret(new_secret())
