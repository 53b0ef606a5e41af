"""Records that are one person's: links that hold or were undone, and whom they make one (table record_link).

A link moves nothing: both records keep their identifiers, and undoing it restores exactly what was.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.record import matching
from carefolio.record.ids import uuid7


async def person_records(connection: Connection, patient: uuid.UUID) -> list[uuid.UUID]:
    """The further records of the person whose record this is."""
    rows = await connection.fetch(
        """
        SELECT other.id FROM record JOIN record other USING (person_id)
        WHERE record.id = $1 AND other.id <> $1 ORDER BY other.created_at
        """,
        patient,
    )
    return [row["id"] for row in rows]


async def join(
    connection: Connection,
    survivor: uuid.UUID,
    other: uuid.UUID,
    kind: str,
    actor: str,
    message_id: uuid.UUID | None,
) -> uuid.UUID:
    """Link two records: everything of ``other``'s person is from now on of ``survivor``'s person too."""
    number = uuid7()
    await connection.execute("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", [survivor, other])
    await connection.execute(
        "INSERT INTO record_link (id, survivor, other, kind, message_id, actor) VALUES ($1, $2, $3, $4, $5, $6)",
        number,
        survivor,
        other,
        kind,
        message_id,
        actor,
    )
    await regroup(connection, [survivor, other])
    # What was held because its identifiers are of two records is of one person's now.
    rows = await connection.fetch(
        "SELECT owner, system, value FROM patient_identifier WHERE patient_id = ANY($1)", [survivor, other]
    )
    numbers = [matching.Owned(row["owner"], row["system"], row["value"]) for row in rows]
    await matching.release(connection, numbers, MESSAGE_STORED)
    return number


async def undo(
    connection: Connection, link: uuid.UUID, actor: str, message_id: uuid.UUID | None = None
) -> list[uuid.UUID]:
    """Take a link back; returns the two records. The records that it joined are grouped as without it."""
    row = await connection.fetchrow(
        """
        UPDATE record_link SET undone_at = now(), undone_by = $2, undone_message_id = $3
        WHERE id = $1 AND undone_at IS NULL RETURNING survivor, other
        """,
        link,
        actor,
        message_id,
    )
    if row is None:
        return []
    await regroup(connection, [row["survivor"], row["other"]])
    return [row["survivor"], row["other"]]


async def set_link(connection: Connection, link: uuid.UUID, *, holds: bool) -> list[uuid.UUID]:
    """Let a link hold, or not, as it did before; returns its two records."""
    row = await connection.fetchrow(
        """
        UPDATE record_link SET undone_at = CASE WHEN $2 THEN NULL ELSE now() END WHERE id = $1
        RETURNING survivor, other
        """,
        link,
        holds,
    )
    await regroup(connection, [row["survivor"], row["other"]])
    return [row["survivor"], row["other"]]


async def regroup(connection: Connection, records: Sequence[uuid.UUID]) -> None:
    """Give every record that these reach, or reached, the person that its links say."""
    rows = await connection.fetch(
        """
        SELECT id FROM record WHERE person_id IN (SELECT person_id FROM record WHERE id = ANY($1))
        ORDER BY id FOR UPDATE
        """,
        list(records),
    )
    members = [row["id"] for row in rows]
    links = await connection.fetch(
        """
        SELECT survivor, other FROM record_link
        WHERE undone_at IS NULL AND survivor = ANY($1) AND other = ANY($1)
        """,
        members,
    )
    group = {member: {member} for member in members}
    for link in links:
        if group[link["survivor"]] is not group[link["other"]]:
            group[link["survivor"]] |= group[link["other"]]
            for member in group[link["other"]]:
                group[member] = group[link["survivor"]]
    replaced = {link["other"] for link in links}
    for together in {id(found): found for found in group.values()}.values():
        # Who was never joined to another stands for the person.
        person = min(together - replaced or together)
        # What closes one of a person's records closes all of them, and stays closed when they are parted.
        await connection.execute(
            """
            UPDATE record SET person_id = $1, frozen_at = coalesce(record.frozen_at, closed.frozen_at),
                frozen_by = coalesce(record.frozen_by, closed.frozen_by),
                frozen_reason = coalesce(record.frozen_reason, closed.frozen_reason),
                sharing_off_at = coalesce(record.sharing_off_at, closed.off_at)
            FROM (
                SELECT min(frozen_at) AS frozen_at, min(frozen_by) AS frozen_by, min(frozen_reason) AS frozen_reason,
                       min(sharing_off_at) AS off_at FROM record WHERE id = ANY($2)
            ) AS closed
            WHERE id = ANY($2)
            """,
            person,
            list(together),
        )


async def links_of(connection: Connection, records: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[dict[str, Any]]]:
    """The Patient.link of these records, and of all that they are or were linked with."""
    rows = await connection.fetch(
        """
        WITH near (id) AS (
            SELECT unnest($1::uuid[])
            UNION SELECT survivor FROM record_link WHERE other = ANY($1)
            UNION SELECT other FROM record_link WHERE survivor = ANY($1)
        )
        SELECT near.id AS here, CASE WHEN survivor = near.id THEN other ELSE survivor END AS there,
               CASE WHEN kind = 'link' THEN 'seealso' WHEN survivor = near.id THEN 'replaces' ELSE 'replaced-by' END
                   AS type, undone_at IS NULL AS holds
        FROM near JOIN record_link ON near.id IN (survivor, other) ORDER BY created_at
        """,
        list(records),
    )
    found: dict[uuid.UUID, list[dict[str, Any]]] = {row["here"]: [] for row in rows}
    for row in rows:
        if row["holds"]:
            found[row["here"]].append({"other": {"reference": f"Patient/{row['there']}"}, "type": row["type"]})
    return found


def linked(patient: dict[str, Any], links: list[dict[str, Any]]) -> dict[str, Any]:
    """A Patient with these links; one that was replaced is not active."""
    made = {name: value for name, value in patient.items() if name != "link"}
    made["active"] = not any(link["type"] == "replaced-by" for link in links)
    if links:
        made["link"] = links
    return made
