"""Break the glass: a professional opens a record that is not shared with him, with a reason (domain rules A8).

It lasts until he signs out, at most half a day; it opens nothing where the patient stopped sharing altogether. The
patient is told at once, and the privacy officers of his organisation have it in their report.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import letters, webhooks
from carefolio.record import labels
from carefolio.record.access import Reader
from carefolio.record.decisions import keep, retried
from carefolio.record.sharing import PROFESSIONAL, SharingError, is_on

LONGEST = timedelta(hours=12)
_SHORTEST_REASON = 10


async def break_glass(
    pool: Pool, reader: Reader, record: uuid.UUID, reason: str, session: uuid.UUID | None
) -> datetime:
    """Open a record for a professional while his ``session`` lasts; returns until when at most. Raises SharingError."""
    reason = " ".join(reason.split())[:1000]
    if not reader.is_professional:
        raise SharingError("only a professional breaks the glass", forbidden=True)
    if session is None:
        raise SharingError("sign in to break the glass: an app that goes on without you cannot", forbidden=True)
    if len(reason) < _SHORTEST_REASON:
        raise SharingError("reason: say in a sentence why you must see this record")

    async def work(connection: Connection) -> datetime:
        frozen = await connection.fetchval(
            """
            SELECT bool_or(every.frozen_at IS NOT NULL) FROM record asked JOIN record every USING (person_id)
            WHERE asked.id = $1
            """,
            record,
        )
        if frozen is None or frozen:
            raise SharingError("there is no such record, or it is closed")
        if not await is_on(connection, record):
            raise SharingError("the patient has stopped all sharing: the glass cannot be broken", forbidden=True)
        # Broken once more in the same session it is the same glass.
        broken: datetime | None = await connection.fetchval(
            """
            SELECT ends_at FROM sharing WHERE record_id = $1 AND grantee = $2 AND kind = 'glass'
            AND session_number = $3 AND ended_at IS NULL AND ends_at > now()
            """,
            record,
            reader.account,
            session,
        )
        if broken is not None:
            return broken
        until = datetime.now(UTC) + LONGEST
        await connection.execute(
            """
            INSERT INTO sharing (record_id, grantee, role, kind, labels, confidential, created_by, ends_at, reason,
                                 session_number)
            VALUES ($1, $2, $3, 'glass', $4, true, $5, $6, $7, $8)
            """,
            record, reader.account, PROFESSIONAL, list(labels.LABELS), reader.actor, until, reason, session,
        )  # fmt: skip
        await keep(connection, reader.actor, "break-glass", patients=[record], reason=reason, until=until)
        await _tell(connection, reader, record)
        await webhooks.emit(connection, reader.organisation_id, webhooks.GLASS_BROKEN, "/api/v1/glasses")
        return until

    until = await retried(pool, work)
    letters.kick()
    return until


async def _tell(connection: Connection, reader: Reader, record: uuid.UUID) -> None:
    """A letter to the patient and his carers: who, of which organisation; what was seen is in the access log."""
    who = await connection.fetchrow(
        """
        SELECT account.name, organisation.name AS organisation FROM account
        JOIN organisation ON organisation.id = account.organisation_id WHERE account.id = $1
        """,
        reader.account,
    )
    told = await connection.fetch(
        """
        SELECT DISTINCT account.name, account.email FROM record asked JOIN record every USING (person_id)
        JOIN account ON account.record_id = every.id OR account.id IN (
            SELECT grantee FROM sharing WHERE record_id = every.id AND role = 'carer' AND ended_at IS NULL
            AND ends_at > now() AND labels <> '{}' AND every.sharing_off_at IS NULL
        )
        WHERE asked.id = $1 AND account.ended_at IS NULL AND account.email_verified_at IS NOT NULL
        """,
        record,
    )
    for each in told:
        await letters.write(connection, "glass", each["email"], name=each["name"], who=who["name"],
                            organisation=who["organisation"])  # fmt: skip


async def report(pool: Pool, organisation: uuid.UUID, *, since: datetime) -> list[dict[str, Any]]:
    """For an organisation's privacy officer: who broke the glass to whose record, when, why, and what he read then."""
    rows = await pool.fetch(
        """
        SELECT s.id, s.created_at AS at, least(s.ends_at, session.ended_at) AS until, s.reason, account.name AS who,
               s.record_id AS patient, (
                   SELECT count(*) FROM record asked JOIN record every USING (person_id)
                   JOIN audit ON audit.patient_id = every.id
                   WHERE asked.id = s.record_id AND audit.at >= s.created_at
                   AND audit.at <= least(s.ends_at, session.ended_at, now())
                   AND audit.actor LIKE 'account/' || s.grantee || '%' AND audit.action <> 'break-glass'
               ) AS looks
        FROM sharing s JOIN account ON account.id = s.grantee LEFT JOIN session ON session.number = s.session_number
        WHERE s.kind = 'glass' AND account.organisation_id = $1 AND s.created_at >= $2
        ORDER BY s.created_at DESC LIMIT 1000
        """,
        organisation,
        since,
    )
    return [dict(row) for row in rows]
