"""Devices without a browser: a code on the device, a yes elsewhere (RFC 8628)."""

from __future__ import annotations

import secrets
import uuid

import asyncpg

from carefolio.cloud.database import Pool
from carefolio.identity import invitations, sealed
from carefolio.identity.grants import LIVING, SELECT, Grant, grant_of

SECONDS = 15 * 60
INTERVAL = 5
# No vowels, so that no words appear (RFC 8628 section 6.1).
_USER_CODE = "BCDFGHJKLMNPQRSTVWXZ"


async def ask(pool: Pool, client_id: str, scope: str, device_code: str, user_code: str) -> None:
    await pool.execute(
        """
        INSERT INTO device_code (digest, user_code, client_id, scope, expires_at)
        VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
        """,
        sealed.digest(device_code),
        invitations.plain(user_code),
        client_id,
        scope,
        float(SECONDS),
    )


def new_user_code() -> str:
    letters = "".join(secrets.choice(_USER_CODE) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


async def waiting(pool: Pool, user_code: str) -> asyncpg.Record | None:
    """The waiting device of a code that somebody read from it."""
    return await pool.fetchrow(
        "SELECT * FROM device_code WHERE user_code = $1 AND expires_at > now() AND grant_id IS NULL AND NOT refused",
        invitations.plain(user_code),
    )


async def answer(pool: Pool, user_code: str, grant: uuid.UUID | None) -> bool:
    """The person says yes (``grant``) or no to a waiting device; once."""
    done = await pool.execute(
        "UPDATE device_code SET grant_id = $2::uuid, refused = $2::uuid IS NULL"
        " WHERE user_code = $1 AND expires_at > now() AND grant_id IS NULL AND NOT refused",
        invitations.plain(user_code),
        grant,
    )
    return bool(done == "UPDATE 1")


async def poll(pool: Pool, device_code: str) -> asyncpg.Record | None:
    """What is known of a device, and whether it asks too often (``hasty``)."""
    return await pool.fetchrow(
        """
        WITH asked AS (SELECT digest, polled_at FROM device_code WHERE digest = $1 FOR UPDATE)
        UPDATE device_code SET polled_at = now() FROM asked WHERE device_code.digest = asked.digest
        RETURNING device_code.*, device_code.expires_at <= now() AS expired,
                  coalesce(asked.polled_at > now() - make_interval(secs => $2), false) AS hasty
        """,
        sealed.digest(device_code),
        INTERVAL - 1.0,
    )


async def use(pool: Pool, device_code: str) -> Grant | None:
    """The grant of a device that was allowed; once."""
    row = await pool.fetchrow(
        f"""
        WITH used AS (
            UPDATE device_code SET used_at = now() WHERE digest = $1 AND used_at IS NULL AND expires_at > now()
            RETURNING grant_id
        )
        SELECT living.* FROM used JOIN LATERAL (
            {SELECT} WHERE app_grant.id = used.grant_id AND {LIVING}
        ) AS living ON true
        """,  # noqa: S608 - ours
        sealed.digest(device_code),
    )
    return grant_of(row) if row else None
