"""What an operator does about accounts: unlock, end sessions, demand a new factor, end."""

from __future__ import annotations

import uuid
from typing import Any

import asyncpg

from carefolio.cloud.database import Pool
from carefolio.identity import accounts as known
from carefolio.identity import factors, invitations, security_events, sessions, sign_in, throttle
from carefolio.identity.accounts import Account, AccountError, email_key
from carefolio.identity.security_events import SecurityEvent


async def show(pool: Pool, name: str) -> dict[str, Any]:
    """What is known of an account. Raises AccountError."""
    account = await known.by_name(pool, name)
    open_sessions = await sessions.of_account(pool, account.id)
    return {
        "id": account.id,
        "kind": account.kind,
        "name": account.name,
        "email": account.email,
        "password": account.password_hash is not None,
        "authenticator": account.has_totp,
        "passkeys": account.passkeys,
        "must_enrol": account.must_enrol,
        "sessions": len(open_sessions),
        "events": [f"{row['at']:%Y-%m-%d %H:%M} {row['kind']} {row['detail'] or ''}".strip()
                   for row in await security_events.latest(pool, account=account.id, limit=10)],
    }  # fmt: skip


async def unlock(pool: Pool, name: str, actor: str) -> None:
    """Forget the attempts that slow down the account's sign-in. Raises AccountError."""
    account = await known.by_name(pool, name)
    for limit, value in ((throttle.EVERYWHERE, email_key(account.email or "")), (throttle.PASSWORD, str(account.id)),
                         (throttle.SECOND_FACTOR, str(account.id)), (throttle.MAIL, str(account.id)),
                         (throttle.MAIL_EVERYWHERE, email_key(account.email or ""))):  # fmt: skip
        await throttle.clear(pool, limit, value)
    rows = await pool.fetch("SELECT DISTINCT address FROM session WHERE account_id = $1 AND address IS NOT NULL"
                            " UNION SELECT address FROM security_event WHERE account_id = $1 AND address IS NOT NULL",
                            account.id)  # fmt: skip
    for row in rows:
        where = sign_in.network(str(row["address"]).partition("/")[0])
        for limit in (throttle.PASSWORD, throttle.MAIL):
            await throttle.clear(pool, limit, f"{email_key(account.email or '')} from {where}")
    await security_events.record(pool, SecurityEvent.UNLOCKED, account=account.id, detail=actor)


async def end_sessions(pool: Pool, name: str, actor: str) -> int:
    """End every session of an account, and what lives as long as they do. Raises AccountError."""
    account = await known.by_name(pool, name)
    ended = await sessions.end(pool, account.id)
    await security_events.record(pool, SecurityEvent.SESSION_ENDED, account=account.id, detail=f"{ended} by {actor}")
    return ended


async def require_factor(pool: Pool, name: str, actor: str) -> None:
    """Take the account's factors away: it must add one at the next sign-in. Raises AccountError."""
    account = await known.by_name(pool, name)
    async with pool.acquire() as connection, connection.transaction():
        await factors.remove_all(connection, account.id)
        await sessions.end(connection, account.id)
        await security_events.record(
            connection, SecurityEvent.FACTOR_REMOVED, account=account.id, detail=f"all, by {actor}"
        )


async def of_organisation(pool: Pool, organisation: uuid.UUID) -> list[dict[str, Any]]:
    """The accounts that an organisation has to do with, and its living invitations."""
    rows = await pool.fetch(
        """
        SELECT id, kind, name, email, CASE WHEN ended_at IS NULL THEN 'open' ELSE 'ended' END AS state FROM account
        WHERE organisation_id = $1 OR record_id IN (
            SELECT id FROM resource WHERE type = 'Patient' AND organisations @> ARRAY[$1])
        ORDER BY kind, name LIMIT 1000
        """,
        organisation,
    )
    waiting = await invitations.waiting(pool, organisation)
    return [dict(row) for row in rows] + [
        {"id": row["id"], "kind": row["kind"], "name": row["name"], "email": row["email"], "state": "invited"}
        for row in waiting
    ]


async def readmit(pool: Pool, number: uuid.UUID, actor: str) -> None:
    """An account that was ended lives again, without password. Raises AccountError."""
    try:
        done = await pool.execute(
            "UPDATE account SET ended_at = NULL, email_key = lower(email) WHERE id = $1 AND ended_at IS NOT NULL",
            number,
        )
    except asyncpg.UniqueViolationError:
        raise AccountError("its record or its e-mail address has another account by now") from None
    if done != "UPDATE 1":
        raise AccountError(f"there is no ended account {number}")
    await security_events.record(pool, SecurityEvent.ACCOUNT_MADE, account=number, detail=f"readmitted by {actor}")


async def end(pool: Pool, name: str, actor: str) -> Account:
    """End an account: sessions and apps with it. Raises AccountError."""
    account = await known.by_name(pool, name)
    async with pool.acquire() as connection, connection.transaction():
        await known.end(connection, account)
        await security_events.record(connection, SecurityEvent.ACCOUNT_ENDED, account=account.id, detail=actor)
    return account
