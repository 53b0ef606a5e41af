"""Secrets as files: Cloud Run mounts them from Secret Manager, one machine keeps them in a folder of mode 700."""

from __future__ import annotations

import os
import time
from pathlib import Path

from carefolio.cloud.settings import settings

_KEPT_SECONDS = 60
_kept: dict[Path, tuple[float, bytes]] = {}


class MissingSecretError(Exception):
    """A secret that should be mounted is not there."""


def read(name: str) -> bytes:
    """The secret's bytes, of a minute ago at most: a mounted secret changes with its versions.

    Raises MissingSecretError with its path.
    """
    path = settings().secrets_dir / name
    kept = _kept.get(path)
    if kept is not None and kept[0] > time.monotonic():
        return kept[1]
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingSecretError(f"no secret at {path}") from None
    _kept[path] = (time.monotonic() + _KEPT_SECONDS, content)
    return content


def write(name: str, content: bytes) -> None:
    """Put a secret where ``read`` finds it; for one machine, where nothing mounts them."""
    folder = settings().secrets_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    _kept.pop(path, None)
