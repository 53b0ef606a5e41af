"""A professional's own Practitioner resource: what ``fhirUser`` refers to."""

from __future__ import annotations

from carefolio.cloud.database import Pool
from carefolio.identity.accounts import Account
from carefolio.record import resources
from carefolio.record.access import Reader
from carefolio.record.resources import Operation


async def with_practitioner(pool: Pool, account: Account) -> None:
    """Make it at the first time that an app asks who its user is."""
    if account.practitioner_id or account.organisation_id is None:
        return
    # The account's own number: made twice it is the same one.
    number = account.id
    given, _, family = account.name.rpartition(" ")
    name = {"text": account.name, "family": family} | ({"given": given.split()} if given.strip() else {})
    practitioner = {"resourceType": "Practitioner", "id": str(number), "active": True, "name": [name]}
    operation = Operation("PUT", "Practitioner", str(number), practitioner)
    reader = Reader(f"account/{account.id}", account.organisation_id)
    await resources.commit(pool, reader, [operation])
    await pool.execute(
        "UPDATE account SET practitioner_id = $2 WHERE id = $1 AND practitioner_id IS NULL", account.id, number
    )
