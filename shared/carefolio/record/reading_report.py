"""What a privacy officer looks at: much reading, and look-ups of colleagues and of namesakes (domain rules A9)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date, datetime

from carefolio.cloud.database import Pool

MUCH, COLLEAGUE, NAMESAKE = "many patients in a day", "a patient with a colleague's name", "a patient with his own name"
_MOST = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """Who, on which day, what is odd; ``patients`` are how many it was, ``patient`` the one where it was one."""

    day: date
    who: str
    account: uuid.UUID
    what: str
    patients: int
    patient: uuid.UUID | None


async def findings(pool: Pool, organisation: uuid.UUID, *, since: datetime, many: int = 100) -> list[Finding]:
    """Looks of an organisation's professionals that somebody should ask about, the newest first.

    ``many``: from so many patients in a day on.
    """
    rows = await pool.fetch(
        """
        WITH looks AS MATERIALIZED (
            SELECT DISTINCT account.id AS account, account.name, a.patient_id,
                   (a.at AT TIME ZONE 'Europe/London')::date AS day
            FROM audit a JOIN account ON account.id = substring(a.actor FROM '^account/([0-9a-f-]{36})')::uuid
            WHERE a.at >= $2 AND account.organisation_id = $1 AND a.patient_id IS NOT NULL AND a.action <> 'write'
        ), named AS (
            SELECT looks.*, lower(person.content::json #>> '{name,0,family}') AS family,
                   lower(concat_ws(' ', person.content::json #>> '{name,0,given,0}',
                                   person.content::json #>> '{name,0,family}')) AS whole
            FROM looks JOIN resource person ON person.id = looks.patient_id AND person.type = 'Patient'
        ), found AS (
            SELECT day, name, account, $3 AS what, count(*) AS patients, NULL::uuid AS patient FROM looks
            GROUP BY day, name, account HAVING count(*) >= $6
            UNION ALL
            SELECT day, name, account, $4, 1, patient_id FROM named WHERE EXISTS (
                SELECT FROM account colleague WHERE colleague.organisation_id = $1 AND lower(colleague.name) = whole
            )
            UNION ALL
            SELECT day, name, account, $5, 1, patient_id FROM named
            WHERE family = lower(regexp_replace(name, '^.* ', ''))
        )
        SELECT * FROM found ORDER BY day DESC, name, what LIMIT $7
        """,
        organisation, since, MUCH, COLLEAGUE, NAMESAKE, many, _MOST,
        timeout=60,
    )  # fmt: skip
    return [
        Finding(row["day"], row["name"], row["account"], row["what"], row["patients"], row["patient"]) for row in rows
    ]
