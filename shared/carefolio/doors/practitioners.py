"""A professional's own Practitioner resource: what ``fhirUser`` refers to."""

from __future__ import annotations

from carefolio.cloud.database import Pool
from carefolio.identity.accounts import Account
from carefolio.record import resources
from carefolio.record.access import Reader
from carefolio.record.directory import practitioner


async def with_practitioner(pool: Pool, account: Account) -> None:
    """Make it at the first time that an app asks who its user is."""
    if account.practitioner_id or account.organisation_id is None:
        return
    reader = Reader(f"account/{account.id}", account.organisation_id)
    await resources.commit(pool, reader, [practitioner(account.id, account.name)])
    await pool.execute("UPDATE account SET practitioner_id = id WHERE id = $1 AND practitioner_id IS NULL", account.id)
