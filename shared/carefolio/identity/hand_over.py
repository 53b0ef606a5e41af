"""A hospital's system hands its signed-in user over to one patient's page here.

The user was paired once: he signed in here with his own second factor and said yes. Then a link does it, good once
and for a minute; the session sees that patient alone.
"""

from __future__ import annotations

import uuid
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.identity import accounts, invitations, letters, one_time, security_events
from carefolio.identity.accounts import Account
from carefolio.identity.security_events import SecurityEvent
from carefolio.identity.tokens import Token

PURPOSE, PAIRING = "hand-over", "pairing"
SECONDS = 60
PAIRING_SECONDS = 10 * 60


async def give(pool: Pool, token: Token, user: str, nhs_number: str, page: str) -> str | None:
    """A link's value for the system's ``user``; None where its organisation has no record with that number."""
    record = await invitations.record_of(pool, nhs_number)
    known = record and await pool.fetchval(
        "SELECT EXISTS (SELECT FROM resource WHERE id = $1 AND type = 'Patient' AND organisations @> ARRAY[$2::uuid])",
        record,
        token.organisation_id,
    )
    if not known:
        return None
    name = await pool.fetchval("SELECT name FROM client WHERE id = $1", token.client_id)
    return await one_time.give(
        pool, PURPOSE, SECONDS, client_id=token.client_id, client=name, organisation=str(token.organisation_id),
        user=user[:200], patient=str(record), page=page,
    )  # fmt: skip


async def paired(pool: Pool, facts: dict[str, Any]) -> Account | None:
    """The account that the system's user is here."""
    number = await pool.fetchval(
        "SELECT account_id FROM hand_over_pair WHERE client_id = $1 AND username = $2",
        facts["client_id"],
        facts["user"],
    )
    account = await accounts.by_id(pool, number) if number else None
    return account if account and may_pair(account, facts) else None


def may_pair(account: Account, facts: dict[str, Any]) -> bool:
    """Only a professional of the system's own organisation."""
    return account.organisation_id == uuid.UUID(facts["organisation"])


async def keep_pair(pool: Pool, account: Account, facts: dict[str, Any]) -> None:
    await pool.execute(
        """
        INSERT INTO hand_over_pair (client_id, username, account_id) VALUES ($1, $2, $3)
        ON CONFLICT (client_id, username) DO UPDATE SET account_id = excluded.account_id
        """,
        facts["client_id"],
        facts["user"],
        account.id,
    )
    if account.email:
        what = (
            f"{facts['client']} of your organisation was connected: its user {facts['user']} opens records here as you."
        )
        async with pool.acquire() as connection, connection.transaction():
            await letters.write(connection, "factor-changed", account.email, name=account.name, what=what)
        letters.kick()
    await security_events.record(
        pool, SecurityEvent.PROVIDER_LINKED, account=account.id, client=facts["client_id"], detail="hand-over"
    )
