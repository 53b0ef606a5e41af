"""Secrets as files: Cloud Run mounts them from Secret Manager, one machine keeps them in a folder of mode 700.

Those that operators add at run time (an agreement's keys) are in no mount: ``store`` and ``fetch`` go to Secret Manager
itself (https://cloud.google.com/secret-manager/docs/reference/rest), on one machine to the same folder.
"""

from __future__ import annotations

import base64
import os
import time
import urllib.error
from pathlib import Path
from typing import Any

from carefolio.cloud import google
from carefolio.cloud.settings import settings

_KEPT_SECONDS = 60
_MANAGER = "https://secretmanager.googleapis.com/v1"
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
    content = _content(path)
    _kept[path] = (time.monotonic() + _KEPT_SECONDS, content)
    return content


def _content(path: Path) -> bytes:
    try:
        # Cloud Run mounts a secret as a folder, since no two can be in one.
        return (path / path.name if path.is_dir() else path).read_bytes()
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
    _kept.pop(path, None)


def store(name: str, content: bytes) -> None:
    """Keep a secret under a name, as its newest version. Blocks; raises OSError."""
    project = settings().project
    if not project:
        write(name, content)
        return
    try:
        google.call(f"{_MANAGER}/projects/{project}/secrets?secretId={name}", {"replication": _replication()})
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
    google.call(
        f"{_MANAGER}/projects/{project}/secrets/{name}:addVersion",
        {"payload": {"data": base64.b64encode(content).decode()}},
    )


def _replication() -> dict[str, Any]:
    """In both regions, each copy locked with the key of its region."""
    replicas = [
        {"location": region, "customerManagedEncryption": {"kmsKeyName": key}}
        for region, key in settings().secret_replicas
    ]
    return {"userManaged": {"replicas": replicas}}


def fetch(name: str) -> bytes:
    """The newest version of a secret that was stored. Blocks; raises MissingSecretError and OSError."""
    project = settings().project
    if not project:
        # An operator who has just put it right tries again at once.
        return _content(settings().secrets_dir / name)
    try:
        answer = google.call(f"{_MANAGER}/projects/{project}/secrets/{name}/versions/latest:access")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise MissingSecretError(f"no secret {name} in {project}") from None
        raise
    return base64.b64decode(answer["payload"]["data"])
