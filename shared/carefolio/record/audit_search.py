"""The trail of an organisation: what its people and systems did, for its privacy officers and its own client."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from carefolio.cloud.database import Pool
from carefolio.record.access import Reader


@dataclass(frozen=True, slots=True)
class AuditLine:
    """Who did what, about whom: ``resource`` is what was read, ``written`` the versions that were written."""

    id: int
    at: datetime
    actor: str
    who: str
    action: str
    patient: uuid.UUID | None
    resource: str
    written: tuple[str, ...]
    what: str


async def lines(
    pool: Pool,
    reader: Reader,
    *,
    patient: uuid.UUID | None = None,
    account: uuid.UUID | None = None,
    action: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    count: int = 50,
) -> list[AuditLine]:
    """A page of the lines of the reader's organisation, the newest first; the look itself leaves one."""
    rows = await pool.fetch(
        """
        WITH noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, query) VALUES ($1, $2, 'audit', $3, $5)
        )
        SELECT a.id, a.at, a.actor, a.action, a.patient_id, a.resource_type, a.written, a.query,
               coalesce(account.name, sender.name, client.name, '') AS who
        FROM audit a
        LEFT JOIN account ON account.id = substring(a.actor FROM '^account/([0-9a-f-]{36})')::uuid
        LEFT JOIN sender ON sender.id = substring(a.actor FROM '^sender/([0-9a-f-]{36})')::uuid
        LEFT JOIN client ON client.id = substring(a.actor FROM 'client/(\\S+)$')
        WHERE a.organisation_id = $2 AND ($3::uuid IS NULL OR a.patient_id = $3)
          AND ($4::text IS NULL OR a.actor LIKE 'account/' || $4 || '%') AND ($5 = '' OR a.action = $5)
          AND ($6::timestamptz IS NULL OR a.at >= $6) AND ($7::timestamptz IS NULL OR a.at < $7)
          AND ($8::bigint IS NULL OR a.id < $8)
        ORDER BY a.id DESC LIMIT $9
        """,
        reader.actor,
        reader.organisation_id,
        patient,
        str(account) if account else None,
        action,
        since,
        until,
        before,
        count,
    )
    return [
        AuditLine(row["id"], row["at"], row["actor"], row["who"], row["action"], row["patient_id"],
                  row["resource_type"] or "", tuple(row["written"] or ()), row["query"] or "")
        for row in rows
    ]  # fmt: skip
