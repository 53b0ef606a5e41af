"""Misfiled data is taken out of a record for good: out of every version, and as of every moment.

What happened is kept: the decision with its reason, which messages and items, how many versions; the versions' numbers
and times stay, without content. Backups keep what they have until they are dropped (docs/sharing.md).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from carefolio.cloud.database import Connection, Pool
from carefolio.record import links
from carefolio.record.decisions import DecisionError, keep, retried
from carefolio.record.rebuild import RebuildError, rebuild, write_difference
from carefolio.record.rows import deletion
from carefolio.record.write import Origin, known, write

_MOST = 500
_SHORTEST_REASON = 10


@dataclass(frozen=True, slots=True)
class Purge:
    """What was taken out: by whom, why, which messages and items, of how many versions."""

    id: uuid.UUID
    at: datetime
    actor: str
    patient: uuid.UUID
    reason: str
    messages: tuple[str, ...]
    items: tuple[str, ...]
    versions: int


async def purge(
    pool: Pool,
    actor: str,
    record: uuid.UUID,
    reason: str,
    *,
    messages: Sequence[uuid.UUID] = (),
    items: Sequence[uuid.UUID] = (),
    organisation: uuid.UUID | None = None,
) -> Purge:
    """Take messages, and items by the record's own numbers, out of a record. Raises DecisionError.

    A message's bytes go too, and what it wrote is made again from the other messages; versions since then, which may
    have kept something of it, lose their content. For an ``organisation`` only what it alone contributed.
    """
    reason = " ".join(reason.split())[:1000]
    if len(reason) < _SHORTEST_REASON:
        raise DecisionError("reason: say in a sentence why it is taken out")
    if not 1 <= len(messages) + len(items) <= _MOST:
        raise DecisionError(f"name 1 to {_MOST} messages and items")

    async def work(connection: Connection) -> Purge:
        records = [record, *await links.person_records(connection, record)]
        if not await connection.fetch("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", records):
            raise DecisionError("there is no such record")
        touched = await _take_messages(connection, actor, records, messages, organisation)
        named = await _take_items(connection, actor, records, items, organisation)
        versions = 0
        for number, since in {**touched, **dict.fromkeys(items, 1)}.items():
            versions += await _scrub(connection, number, since, records)
        told: dict[str, Any] = {
            "messages": [str(each) for each in messages], "items": named, "versions": versions, "reason": reason,
            "organisation": str(organisation) if organisation else None,
        }  # fmt: skip
        made = await keep(connection, actor, "purge", patients=[record], **told)
        return Purge(made, datetime.now(UTC), actor, record, reason, tuple(map(str, messages)), tuple(named), versions)

    return await retried(pool, work)


async def of_organisation(pool: Pool, organisation: uuid.UUID) -> list[Purge]:
    """What an organisation has taken out, the newest first."""
    rows = await pool.fetch(
        """
        SELECT id, at, actor, patients, details FROM decision
        WHERE kind = 'purge' AND details::json ->> 'organisation' = $1::uuid::text ORDER BY at DESC LIMIT 200
        """,
        organisation,
    )
    found = []
    for row in rows:
        told = orjson.loads(row["details"])
        found.append(Purge(row["id"], row["at"], row["actor"], row["patients"][0], told["reason"],
                           tuple(told["messages"]), tuple(told["items"]), told["versions"]))  # fmt: skip
    return found


async def _take_messages(
    connection: Connection, actor: str, records: Sequence[uuid.UUID], messages: Sequence[uuid.UUID],
    organisation: uuid.UUID | None,
) -> dict[uuid.UUID, int]:  # fmt: skip
    """Take messages away; returns the resources that they wrote, each with the first version that was theirs."""
    if not messages:
        return {}
    rows = await connection.fetch(
        """
        SELECT id, coalesce(moved_to, patient_id) AS patient_id, other_patients, status, raw FROM message
        WHERE id = ANY($1) AND ($2::uuid IS NULL OR organisation_id = $2) AND status <> 'purged' FOR UPDATE
        """,
        list(messages),
        organisation,
    )
    if len(rows) != len(set(messages)):
        raise DecisionError("messages: not all of them are there, or the organisation's")
    for row in rows:
        if row["patient_id"] not in records:
            raise DecisionError("messages: name those of this record")
        if row["status"] != "applied" or row["other_patients"]:
            raise DecisionError("messages: one that was applied, and is about one patient, can be purged")
    written = await connection.fetch(
        """
        SELECT id, min(version) AS since FROM (
            SELECT id, version FROM resource WHERE message_id = ANY($1)
            UNION ALL SELECT id, version FROM resource_history WHERE message_id = ANY($1)
        ) AS theirs GROUP BY id
        """,
        list(messages),
    )
    await connection.execute(
        """
        UPDATE message SET status = 'purged', raw = '', doubt = NULL, notes = '{}', settled_at = now(),
            life = life || jsonb_build_object('at', now(), 'status', 'purged', 'by', $2::text)
        WHERE id = ANY($1)
        """,
        list(messages),
        actor,
    )
    try:
        await write_difference(connection, await rebuild(connection, rows[0]["patient_id"]), actor)
    except RebuildError as error:
        raise DecisionError(f"the record cannot be made again without them: {error}") from None
    return {row["id"]: row["since"] for row in written}


async def _take_items(
    connection: Connection, actor: str, records: Sequence[uuid.UUID], items: Sequence[uuid.UUID],
    organisation: uuid.UUID | None,
) -> list[str]:  # fmt: skip
    """Delete items that are there; returns them as Type/number."""
    rows: list[Any] = await connection.fetch(
        """
        SELECT id, type, organisations, message_id IS NOT NULL AS sent, true AS live FROM resource
        WHERE id = ANY($1) AND patient_id = ANY($2)
        UNION ALL
        SELECT DISTINCT ON (id) id, type, organisations, false, false FROM resource_history h
        WHERE id = ANY($1) AND patient_id = ANY($2) AND NOT EXISTS (
            SELECT FROM resource r WHERE r.id = h.id AND r.patient_id = ANY($2)
        )
        """,
        list(items),
        list(records),
    )
    if {row["id"] for row in rows} != set(items):
        raise DecisionError("items: not all of them are in this record")
    for row in rows:
        if row["type"] == "Patient":
            raise DecisionError("items: who the patient is stays")
        if row["sent"] and row["live"]:
            raise DecisionError("items: what a message wrote goes with its message")
        if organisation is not None and row["organisations"] != [organisation]:
            raise DecisionError("items: others contributed to one of them")
    live = [row for row in rows if row["live"]]
    current = await known(connection, [row["id"] for row in live], (), aliases=False)
    if live:
        gone = [deletion(row["id"], row["type"], current[row["id"]]) for row in sorted(live, key=lambda row: row["id"])]
        await write(connection, Origin(uuid.uuid4(), actor), gone, datetime.now(UTC), patients=list(records))
    return [f"{row['type']}/{row['id']}" for row in rows]


async def _scrub(connection: Connection, number: uuid.UUID, since: int, records: Sequence[uuid.UUID]) -> int:
    """Empty what a resource was, from a version on, in these records; what it is now stays."""
    done = await connection.execute(
        """
        UPDATE resource_history SET content = NULL, keys = '{}', texts = '{}', ranges = '{}', date_from = NULL,
            date_to = NULL
        WHERE id = $1 AND version >= $2 AND patient_id = ANY($3) AND content IS NOT NULL
        """,
        number,
        since,
        list(records),
    )
    return int(done.rpartition(" ")[2])
