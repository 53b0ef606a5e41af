"""Authorization requests that wait for their person, or were pushed (RFC 9126)."""

from __future__ import annotations

import json

from carefolio.cloud.database import Pool
from carefolio.identity import sealed

_REQUEST_SECONDS = 10 * 60


async def keep(pool: Pool, client_id: str, parameters: dict[str, str], seconds: float = _REQUEST_SECONDS) -> str:
    """Keep a request; returns what names it."""
    value = sealed.token()
    await pool.execute(
        """
        INSERT INTO authorization_request (digest, client_id, parameters, expires_at)
        VALUES ($1, $2, $3, now() + make_interval(secs => $4))
        """,
        sealed.digest(value),
        client_id,
        json.dumps(parameters),
        float(seconds),
    )
    return value


async def find(pool: Pool, value: str, *, use: bool = False) -> tuple[str, dict[str, str]] | None:
    """Client and parameters of a kept request; ``use`` takes it away."""
    if use:
        row = await pool.fetchrow(
            "DELETE FROM authorization_request WHERE digest = $1 AND expires_at > now()"
            " RETURNING client_id, parameters",
            sealed.digest(value),
        )
    else:
        row = await pool.fetchrow(
            "SELECT client_id, parameters FROM authorization_request WHERE digest = $1 AND expires_at > now()",
            sealed.digest(value),
        )
    return (row["client_id"], json.loads(row["parameters"])) if row else None
