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
from carefolio.hl7 import HL7Error
from carefolio.identity.sender_settings import parse_settings
from carefolio.mapping import UnsupportedTypeError
from carefolio.record import effects, jobs, links, matching
from carefolio.record.decisions import DecisionError, keep, retried
from carefolio.record.matching import Owned
from carefolio.record.rebuild import RebuildError, rebuild, write_difference
from carefolio.record.rows import deletion
from carefolio.record.sources import map_stored, source_of
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
        touched = await _take_messages(connection, actor, records, messages, organisation, items)
        named = await _take_items(connection, actor, records, items, organisation)
        await _forget_words(connection, messages, [*touched, *items])
        versions = 0
        for number, since in {**touched, **dict.fromkeys(items, 1)}.items():
            versions += await _scrub(connection, number, since, records)
        await jobs.withdraw(connection, records)
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
    organisation: uuid.UUID | None, items: Sequence[uuid.UUID],
) -> dict[uuid.UUID, int]:  # fmt: skip
    """Take messages away; returns the resources that they wrote, each with the first version that was theirs.

    What others wrote onto it since would go with it: of an app's it has to be named (``items``), and of another
    organisation's only the operator may.
    """
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
    since = {row["id"]: row["since"] for row in written}
    if organisation is not None:
        await _check_others(connection, since, organisation)
    await connection.execute(
        """
        UPDATE message SET status = 'purged', raw = '', doubt = NULL, notes = '{}', settled_at = now(),
            life = life || jsonb_build_object('at', now(), 'status', 'purged', 'by', $2::text)
        WHERE id = ANY($1)
        """,
        list(messages),
        actor,
    )
    await _release_numbers(connection, records, messages)
    try:
        await write_difference(connection, await rebuild(connection, rows[0]["patient_id"]), actor)
    except RebuildError as error:
        raise DecisionError(f"the record cannot be made again without them: {error}") from None
    left = await connection.fetch(
        "SELECT type, id FROM resource WHERE id = ANY($1) AND by_app AND id <> ALL($2)", list(since), list(items)
    )
    if left:
        raise DecisionError(
            f"items: an app has changed {left[0]['type']}/{left[0]['id']} since: name it too, and it goes as a whole"
        )
    return since


async def _check_others(connection: Connection, since: dict[uuid.UUID, int], organisation: uuid.UUID) -> None:
    """Raise DecisionError where another organisation has written onto what is to be emptied."""
    others = await connection.fetch(
        """
        SELECT DISTINCT every.id FROM unnest($1::uuid[], $2::int[]) AS theirs (id, since) JOIN (
            SELECT id, version, message_id FROM resource UNION ALL SELECT id, version, message_id FROM resource_history
        ) AS every ON every.id = theirs.id AND every.version >= theirs.since
        JOIN message ON message.id = every.message_id WHERE message.organisation_id <> $3
        """,
        list(since),
        list(since.values()),
        organisation,
    )
    if others:
        raise DecisionError(
            f"messages: another organisation has written onto {others[0]['id']} since: the operator purges these"
        )


async def _release_numbers(connection: Connection, records: Sequence[uuid.UUID], messages: Sequence[uuid.UUID]) -> None:
    """Numbers and addresses that only purged messages brought lead to nobody; others are the messages' that remain."""
    gone = await connection.fetch(
        "DELETE FROM patient_identifier WHERE message_id = ANY($1) RETURNING owner, system, value, patient_id",
        list(messages),
    )
    wanted = {Owned(row["owner"], row["system"], row["value"]): row["patient_id"] for row in gone}
    rows = await connection.fetch(
        """
        SELECT message.*, organisation.ods_code, organisation.codes_version, sender.settings
        FROM message JOIN organisation ON organisation.id = message.organisation_id
        JOIN sender ON sender.id = message.sender_id
        WHERE coalesce(moved_to, patient_id) = ANY($1) AND status = 'applied' ORDER BY applied_seq LIMIT 20000
        """,
        list(records),
    )
    for row in rows if wanted else ():
        settings = parse_settings(row["settings"])
        source = await source_of(connection, row["organisation_id"], row["ods_code"], row["codes_version"], settings)
        try:
            _, parts = map_stored(row["raw"], settings, source)
        except (HL7Error, UnsupportedTypeError, ValueError):
            continue
        named = {number for part in parts for number in matching.usable(part.identifiers, row["organisation_id"])}
        for number in named & wanted.keys():
            await matching.register(connection, wanted.pop(number), [number], row["id"])


async def _forget_words(connection: Connection, messages: Sequence[uuid.UUID], resources: Sequence[uuid.UUID]) -> None:
    """What was said of it elsewhere: topics of conversations, corrections, codes without a meaning."""
    await connection.execute(
        """
        UPDATE conversation SET topic = '(taken out)'
        WHERE id IN (SELECT conversation_id FROM conversation_message WHERE resource_id = ANY($1))
        """,
        list(resources),
    )
    await connection.execute(
        """
        UPDATE correction SET text = '(taken out)', answer = CASE WHEN answer IS NOT NULL THEN '(taken out)' END
        WHERE resource_id = ANY($1)
        """,
        list(resources),
    )
    await connection.execute(
        "DELETE FROM local_code WHERE message_id = ANY($1) AND target_code IS NULL", list(messages)
    )


async def _take_items(
    connection: Connection, actor: str, records: Sequence[uuid.UUID], items: Sequence[uuid.UUID],
    organisation: uuid.UUID | None,
) -> list[str]:  # fmt: skip
    """Delete items that are there; returns them as Type/number."""
    rows: list[Any] = await connection.fetch(
        """
        SELECT id, type, organisations, true AS live FROM resource
        WHERE id = ANY($1) AND patient_id = ANY($2)
        UNION ALL
        SELECT DISTINCT ON (id) id, type, organisations, false FROM resource_history h
        WHERE id = ANY($1) AND patient_id = ANY($2) AND NOT EXISTS (
            SELECT FROM resource r WHERE r.id = h.id AND r.patient_id = ANY($2)
        )
        """,
        list(items),
        list(records),
    )
    if {row["id"] for row in rows} != set(items):
        raise DecisionError("items: not all of them are in this record")
    # A message that is still this record's would write it again.
    sent = {
        row["id"]
        for row in await connection.fetch(
            """
            SELECT DISTINCT every.id FROM (
                SELECT id, message_id FROM resource WHERE id = ANY($1)
                UNION ALL SELECT id, message_id FROM resource_history WHERE id = ANY($1)
            ) AS every JOIN message ON message.id = every.message_id
            WHERE message.status = 'applied' AND coalesce(message.moved_to, message.patient_id) = ANY($2)
            """,
            list(items),
            list(records),
        )
    }
    for row in rows:
        if row["type"] == "Patient":
            raise DecisionError("items: who the patient is stays")
        if row["id"] in sent:
            raise DecisionError("items: what a message wrote goes with its message: name it too")
        if organisation is not None and row["organisations"] != [organisation]:
            raise DecisionError("items: others contributed to one of them")
    live = [row for row in rows if row["live"]]
    current = await known(connection, [row["id"] for row in live], (), aliases=False)
    if live:
        gone = [deletion(row["id"], row["type"], current[row["id"]]) for row in sorted(live, key=lambda row: row["id"])]
        await write(connection, Origin(uuid.uuid4(), actor), gone, datetime.now(UTC), patients=list(records))
        for row in gone:
            if (effect := effects.of(row.type)) is not None:
                await effect.gone(connection, row.id)
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
