"""Google's interfaces of which we make three calls or fewer: JSON over HTTPS, in this process's name."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST of a body. Blocks; raises urllib.error.HTTPError and OSError."""
    request = urllib.request.Request(  # noqa: S310 - the callers' addresses are Google's
        url,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Authorization": f"Bearer {token()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - as above
        found: dict[str, Any] = json.loads(answer.read(1_000_000))
    return found


def token() -> str:
    """An access token of this process's account."""
    import google.auth
    from google.auth.transport.requests import Request

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(Request())  # type: ignore[no-untyped-call]
    return str(credentials.token)
