"""Opening an app from here, in a patient's record (SMART App Launch 2.2, EHR launch)."""

from __future__ import annotations

from typing import Any

from carefolio.cloud.database import Pool
from carefolio.identity import grants, invitations, one_time
from carefolio.identity.accounts import Account
from carefolio.identity.sessions import Session

_LAUNCH_SECONDS = 5 * 60


async def apps(pool: Pool, account: Account) -> list[dict[str, Any]]:
    """The apps that can be opened from one's account."""
    rows = await pool.fetch(
        """
        SELECT id, name FROM client
        WHERE launch_uri IS NOT NULL AND ended_at IS NULL AND CASE WHEN $1::uuid IS NULL
            -- A patient is offered apps for patients, of those who contribute to his record.
            THEN scope LIKE '%patient/%'
                AND organisation_id = ANY(coalesce((SELECT organisations FROM resource WHERE id = $2), '{}'))
            ELSE organisation_id = $1 END
        ORDER BY name
        """,
        account.organisation_id,
        account.record_id,
    )
    return [dict(row) for row in rows]


async def give(pool: Pool, session: Session, client_id: str, nhs_number: str) -> tuple[str, str] | None:
    """Where to open an app, and the launch that it brings back; None where there is no such app or patient."""
    account = session.account
    uri = await pool.fetchval("SELECT launch_uri FROM client WHERE id = $1 AND ended_at IS NULL", client_id)
    patient = account.record_id or session.patient_id or await invitations.record_of(pool, nhs_number)
    if not uri or not patient or not await grants.may_open(pool, account, patient):
        return None
    value = await one_time.give(
        pool, "launch", _LAUNCH_SECONDS, account=account.id, patient=str(patient), client_id=client_id
    )
    return str(uri), value
