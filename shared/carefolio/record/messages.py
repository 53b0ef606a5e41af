"""The messages that came in, for engineers: what became of each, and once more from the start."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from carefolio.cloud.database import Pool
from carefolio.cloud.topics import MESSAGE_STORED

STATUSES = ("received", "applied", "held", "failed", "unsupported", "refused")
# What can be tried again: a person has changed what stood in the way, or the code knows more.
REPLAYABLE = ("held", "failed", "unsupported", "received")


async def list_messages(
    pool: Pool, *, status: str | None = None, control_id: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The newest messages first, without anything of their contents."""
    rows = await pool.fetch(
        """
        SELECT message.id, message.received_at, sender.name AS sender, organisation.ods_code AS organisation,
               message.message_type, message.control_id, message.ack_code, message.status, message.reason,
               message.control_id_reused, message.attempts
        FROM message JOIN sender ON sender.id = sender_id JOIN organisation ON organisation.id = message.organisation_id
        WHERE ($1::text IS NULL OR message.status = $1) AND ($2::text IS NULL OR message.control_id = $2)
        ORDER BY message.seq DESC LIMIT $3
        """,
        status,
        control_id,
        limit,
    )
    return [dict(row) for row in rows]


async def show_message(pool: Pool, number: uuid.UUID, actor: str) -> dict[str, Any] | None:
    """One message with its bytes as they came, and the resources that it wrote; the look is audited."""
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            """
            SELECT message.*, sender.name AS sender, organisation.ods_code AS organisation
            FROM message JOIN sender ON sender.id = sender_id
            JOIN organisation ON organisation.id = message.organisation_id WHERE message.id = $1
            """,
            number,
        )
        if row is None:
            return None
        written = await connection.fetch(
            """
            SELECT type, id, version, place FROM resource WHERE message_id = $1
            UNION ALL SELECT type, id, version, place FROM resource_history WHERE message_id = $1
            ORDER BY type, place
            """,
            number,
        )
        await connection.execute(
            "INSERT INTO audit (actor, organisation_id, action, patient_id, message_id) VALUES ($1, $2, $3, $4, $5)",
            actor,
            row["organisation_id"],
            "read-message",
            row["patient_id"],
            number,
        )
    kept = ("id", "received_at", "sender", "organisation", "message_type", "control_id", "control_id_reused",
            "ack_code", "status", "reason", "notes", "attempts", "patient_id", "settled_at")  # fmt: skip
    shown = {name: row[name] for name in kept}
    shown["remote_address"] = str(row["remote_address"]) if row["remote_address"] else None
    shown["ack"] = row["ack"].decode()
    shown["raw"] = row["raw"].decode("utf-8", "backslashreplace")
    shown["resources"] = [dict(resource) for resource in written]
    return shown


async def replay(pool: Pool, numbers: Sequence[uuid.UUID], actor: str) -> list[uuid.UUID]:
    """Queue messages again that are not applied; returns those that are under way now."""
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(
            """
            UPDATE message SET status = 'received', reason = NULL, settled_at = NULL, attempts = 0
            WHERE id = ANY($1) AND status = ANY($2) RETURNING id, seq, organisation_id
            """,
            list(numbers),
            list(REPLAYABLE),
        )
        for row in sorted(rows, key=lambda row: row["seq"]):
            await connection.execute("DELETE FROM message_waits WHERE message_id = $1", row["id"])
            await connection.execute(
                "INSERT INTO outbox (topic, ordering_key, data, attributes) VALUES ($1, '', $2, '{}')",
                MESSAGE_STORED,
                orjson.dumps({"message": str(row["id"])}),
            )
            await connection.execute(
                "INSERT INTO audit (actor, organisation_id, action, message_id) VALUES ($1, $2, 'replay-message', $3)",
                actor,
                row["organisation_id"],
                row["id"],
            )
    return [row["id"] for row in rows]
