"""Secrets as files: Cloud Run mounts them from Secret Manager, one machine keeps them in a folder of mode 700."""

from __future__ import annotations

import os
from functools import cache

from carefolio.cloud.settings import settings


class MissingSecretError(Exception):
    """A secret that should be mounted is not there."""


@cache
def read(name: str) -> bytes:
    """The secret's bytes.

    Raises MissingSecretError with its path.
    """
    path = settings().secrets_dir / name
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingSecretError(f"no secret at {path}") from None


def write(name: str, content: bytes) -> None:
    """Put a secret where ``read`` finds it; for one machine, where nothing mounts them."""
    folder = settings().secrets_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    read.cache_clear()
