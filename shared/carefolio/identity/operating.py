"""What an operator does about accounts: unlock, end sessions, demand a new factor, end."""

from __future__ import annotations

from typing import Any

from carefolio.cloud.database import Pool
from carefolio.identity import accounts as known
from carefolio.identity import factors, grants, security_events, sessions, throttle
from carefolio.identity.accounts import Account, email_key
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
    for limit, value in ((throttle.PASSWORD, email_key(account.email or "")), (throttle.PASSWORD, str(account.id)),
                         (throttle.SECOND_FACTOR, str(account.id)), (throttle.MAIL, str(account.id)),
                         (throttle.MAIL, email_key(account.email or ""))):  # fmt: skip
        await throttle.clear(pool, limit, value)
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


async def end(pool: Pool, name: str, actor: str) -> Account:
    """End an account: sessions and apps with it. Raises AccountError."""
    account = await known.by_name(pool, name)
    async with pool.acquire() as connection, connection.transaction():
        await sessions.end(connection, account.id)
        await grants.end_all(connection, account.id)
        await known.end(connection, account)
        await security_events.record(connection, SecurityEvent.ACCOUNT_ENDED, account=account.id, detail=actor)
    return account
