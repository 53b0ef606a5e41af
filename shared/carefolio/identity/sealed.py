"""What the database may hold but must not tell: sealed with a key that lies outside of it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets as random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carefolio.cloud import secrets

SECRET = "identity-key"  # noqa: S105 - the secret's name
_NONCE = 12


class SealError(Exception):
    """The sealed value was changed, or is of another installation."""


def new_key() -> bytes:
    """The installation's key: 256 bits."""
    return os.urandom(32)


def seal(content: bytes) -> bytes:
    """AES-256-GCM under a key of this purpose; the nonce comes first."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(_key("seal")).encrypt(nonce, content, None)


def unseal(sealed: bytes) -> bytes:
    """What was sealed. Raises SealError."""
    try:
        return AESGCM(_key("seal")).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
    except (InvalidTag, ValueError):
        raise SealError from None


def token() -> str:
    """43 URL-safe characters, 256 bits."""
    return random.token_urlsafe(32)


def digest(value: str) -> bytes:
    """What the database keeps of a random value of 128 bits or more: enough to find it, not to use it."""
    return hashlib.sha256(value.encode()).digest()


def mac(purpose: str, value: str) -> bytes:
    """The same for what could be guessed (a code, an e-mail address): keyed with what the database does not know."""
    return hmac.digest(_key(purpose), value.encode(), "sha256")


def _key(purpose: str) -> bytes:
    return hmac.digest(secrets.read(SECRET), purpose.encode(), "sha256")
