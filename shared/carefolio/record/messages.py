"""The messages that came in, for engineers: what became of each."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from carefolio.cloud.database import Pool

STATUSES = ("received", "applied", "held", "failed", "unsupported", "refused", "rejected", "purged")


async def list_messages(
    pool: Pool,
    *,
    status: str | None = None,
    control_id: str | None = None,
    sender_id: uuid.UUID | None = None,
    organisation_id: uuid.UUID | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """The newest messages first (of one sender or organisation, where one is given), without their contents.

    ``before``: those that came before the one with this seq.
    """
    rows = await pool.fetch(
        """
        SELECT message.id, message.seq, message.received_at, sender.name AS sender,
               organisation.ods_code AS organisation, message.message_type, message.control_id, message.ack_code,
               message.status, message.reason, message.control_id_reused, message.attempts
        FROM message JOIN sender ON sender.id = sender_id JOIN organisation ON organisation.id = message.organisation_id
        WHERE ($1::text IS NULL OR message.status = $1) AND ($2::text IS NULL OR message.control_id = $2)
            AND ($3::uuid IS NULL OR message.sender_id = $3)
            AND ($5::uuid IS NULL OR message.organisation_id = $5) AND ($6::bigint IS NULL OR message.seq < $6)
        ORDER BY message.seq DESC LIMIT $4
        """,
        status,
        control_id,
        sender_id,
        limit,
        organisation_id,
        before,
    )
    return [dict(row) for row in rows]


async def show_message(
    pool: Pool,
    number: uuid.UUID,
    actor: str,
    *,
    sender_id: uuid.UUID | None = None,
    organisation_id: uuid.UUID | None = None,
) -> dict[str, Any] | None:
    """One message: its life from receipt to its end, its bytes as they came, and the resources that it wrote.

    For a sender (``sender_id``) only its own, and without the bytes; for an organisation only its own. The look is
    audited.
    """
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            """
            SELECT message.*, sender.name AS sender, organisation.ods_code AS organisation
            FROM message JOIN sender ON sender.id = sender_id
            JOIN organisation ON organisation.id = message.organisation_id
            WHERE message.id = $1 AND ($2::uuid IS NULL OR sender_id = $2)
              AND ($3::uuid IS NULL OR message.organisation_id = $3)
            """,
            number,
            sender_id,
            organisation_id,
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
    # The acknowledgement left when the message was committed: received and acknowledged are one moment.
    # Whether a person's yes or no helps.
    shown["decidable"] = row["status"] == "held" and row["doubt"] is not None
    first = {"at": row["received_at"].isoformat(), "status": "received", "acknowledged": row["ack_code"]}
    shown["life"] = [first, *orjson.loads(row["life"])]
    shown["ack"] = row["ack"].decode()
    if sender_id is None:
        shown["raw"] = row["raw"].decode("utf-8", "backslashreplace")
    shown["resources"] = [dict(resource) for resource in written]
    return shown


async def is_of(pool: Pool, number: uuid.UUID, organisation: uuid.UUID) -> bool:
    """Whether a message is one of an organisation's."""
    return bool(await pool.fetchval("SELECT organisation_id = $2 FROM message WHERE id = $1", number, organisation))
