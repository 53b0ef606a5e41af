"""What people decide about messages and records, each kept in the order in which it took effect (table decision)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.record import links
from carefolio.record.change import Change, relink
from carefolio.record.ids import uuid7
from carefolio.record.write import RETRIED, Origin, write

T = TypeVar("T")
_TRIES = 4


class DecisionError(Exception):
    """What was asked for cannot be; the text is for an administrator."""


async def keep(
    connection: Connection,
    actor: str,
    kind: str,
    *,
    message_id: uuid.UUID | None = None,
    patients: Sequence[uuid.UUID] = (),
    doubt: str | None = None,
    **details: Any,
) -> uuid.UUID:
    """Log a decision, with its audit line; returns its id."""
    number = uuid7()
    await connection.execute(
        """
        WITH noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, message_id)
            SELECT $2, coalesce(
                (SELECT organisation_id FROM account WHERE id = substring($2 FROM '^account/([0-9a-f-]{36})')::uuid),
                (SELECT organisation_id FROM sender WHERE id = substring($2 FROM '^sender/([0-9a-f-]{36})')::uuid),
                (SELECT organisation_id FROM client WHERE id = substring($2 FROM 'client/(\\S+)$'))
            ), $3, patient, $4 FROM unnest(CASE WHEN $5::uuid[] = '{}' THEN '{NULL}' ELSE $5 END) AS t (patient)
        )
        INSERT INTO decision (id, actor, kind, message_id, patients, doubt, details) VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        number,
        actor,
        kind,
        message_id,
        list(patients),
        doubt,
        orjson.dumps(details).decode(),
    )
    return number


async def review(pool: Pool, message_id: uuid.UUID, actor: str, *, approve: bool) -> str:
    """Answer the question for which a message is held; the same question will not be asked again.

    Approved, it goes through ingest once more; rejected, it ends. Returns the reason for which it was held. Raises
    DecisionError.
    """
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            "SELECT status, reason, doubt FROM message WHERE id = $1 FOR UPDATE", message_id
        )
        if row is None or row["status"] != "held":
            raise DecisionError("there is no such message that is held")
        if row["doubt"] is None:
            raise DecisionError(f"a person's word does not help here: {row['reason']}")
        kind = "approve" if approve else "reject"
        await keep(connection, actor, kind, message_id=message_id, doubt=row["doubt"])
        await connection.execute(
            """
            UPDATE message SET status = $2, reason = CASE WHEN $3 THEN NULL ELSE reason END,
                settled_at = CASE WHEN $3 THEN NULL ELSE now() END,
                life = life || jsonb_build_object('at', now(), 'status', $4::text, 'by', $5::text)
            WHERE id = $1
            """,
            message_id,
            "received" if approve else "rejected",
            approve,
            "approved" if approve else "rejected",
            actor,
        )
        if approve:
            await connection.execute(
                "INSERT INTO outbox (topic, ordering_key, data, attributes) VALUES ($1, '', $2, '{}')",
                MESSAGE_STORED,
                orjson.dumps({"message": str(message_id)}),
            )
        return str(row["reason"])


async def join(pool: Pool, survivor: uuid.UUID, other: uuid.UUID, actor: str) -> uuid.UUID:
    """Join two records of one person by hand; returns the link's id. Raises DecisionError."""

    async def work(connection: Connection) -> uuid.UUID:
        there = await connection.fetch(
            "SELECT id, person_id FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", [survivor, other]
        )
        if len(there) != 2:
            raise DecisionError("there are no two such records")
        if len({row["person_id"] for row in there}) == 1:
            raise DecisionError("the records are joined already")
        link = await links.join(connection, survivor, other, "merge", actor, None)
        decision = await keep(connection, actor, "join", patients=[survivor, other], link=str(link))
        await _written(connection, decision, actor, [survivor, other])
        return link

    return await retried(pool, work)


async def undo(pool: Pool, link: uuid.UUID, actor: str) -> list[uuid.UUID]:
    """Take a join back, whoever made it; returns the two records. Raises DecisionError."""

    async def work(connection: Connection) -> list[uuid.UUID]:
        records = await links.undo(connection, link, actor)
        if not records:
            raise DecisionError("there is no such join, or it is undone already")
        decision = await keep(connection, actor, "undo", patients=records, link=str(link))
        await _written(connection, decision, actor, records)
        return records

    return await retried(pool, work)


async def retried(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do a piece of work in a transaction, again where another one came between."""
    for attempt in range(_TRIES):
        try:
            async with pool.acquire() as connection, connection.transaction():
                return await work(connection)
        except RETRIED:
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(0.02 * 2**attempt)
    raise AssertionError("the loop returns or raises")


async def repeat(connection: Connection, decision: dict[str, Any]) -> None:
    """Do again what was decided, while a record is rebuilt."""
    link = uuid.UUID(orjson.loads(decision["details"])["link"])
    records = await links.set_link(connection, link, holds=decision["kind"] == "join")
    await _written(connection, decision["id"], decision["actor"], records)


async def joins(pool: Pool, patient: uuid.UUID | None = None) -> list[dict[str, Any]]:
    """The joins in force and undone, the newest first."""
    rows = await pool.fetch(
        """
        SELECT id, kind, survivor, other, message_id, actor, created_at, undone_at, undone_by FROM record_link
        WHERE $1::uuid IS NULL OR survivor = $1 OR other = $1 ORDER BY created_at DESC LIMIT 1000
        """,
        patient,
    )
    return [dict(row) for row in rows]


async def records_of(pool: Pool, link: uuid.UUID) -> list[uuid.UUID]:
    """The two records of a join; none for no such one."""
    row = await pool.fetchrow("SELECT survivor, other FROM record_link WHERE id = $1", link)
    return list(row) if row else []


async def _written(connection: Connection, decision: uuid.UUID, actor: str, records: Sequence[uuid.UUID]) -> None:
    """Write the new links of the Patients."""
    change, origin, now = Change(), Origin(decision, actor), datetime.now(UTC)
    await relink(connection, origin, records, now, change)
    if change.rows:
        rows = sorted(change.rows.values(), key=lambda row: row.id)
        await write(connection, origin, rows, now, patients=list(records))
