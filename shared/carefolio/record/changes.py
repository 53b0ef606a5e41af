"""What was written is compared with the subscriptions: each version that one of them asks for becomes its next event.

One process at a time, in the order in which versions were written, so that events are in order for a patient; all of a
step in one transaction, so that each is counted once. By the keys of the search index those subscriptions are found
that a version could concern; then each of these is asked with its own reader's rights, as a search would be.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence

import asyncpg

from carefolio.cloud import outbox
from carefolio.cloud.database import UNAVAILABLE, Connection, Pool
from carefolio.cloud.telemetry import Event, log, where
from carefolio.cloud.topics import SUBSCRIPTION_DUE
from carefolio.record import parameters
from carefolio.record.access import VERSIONS, Reader, readable
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.delivering import set_status
from carefolio.record.subscribing import ERROR, condition_of, id_key, record_key
from carefolio.record.topics import BY_CRITERIA, TOPICS

# Writes of a step, and about how many versions.
_WRITES, _VERSIONS = 500, 2000
_AT_ONCE = 4
# How long at once, before the platform ends the call.
_SECONDS = 40
_LOCK = 0x5B5


async def compare(pool: Pool) -> bool:
    """Compare all that waits; False where it has to be asked for again: another process is at it, or it is much."""
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        async with pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return False
            more = await _step(pool, connection)
        outbox.kick()
        if not more:
            return True
    return False


async def _step(pool: Pool, connection: Connection) -> bool:
    await parameters.refresh(pool)
    waiting = await connection.fetch(
        """
        SELECT id FROM (
            SELECT id, ids, sum(cardinality(ids)) OVER (ORDER BY id) AS total
            FROM (
                (SELECT id, ids FROM record_change WHERE due_at IS NULL ORDER BY id LIMIT $1)
                UNION ALL (SELECT id, ids FROM record_change WHERE due_at <= now() ORDER BY due_at LIMIT $1)
            ) AS first
        ) AS summed WHERE total - cardinality(ids) < $2
        """,
        _WRITES,
        _VERSIONS,
    )
    if not waiting:
        return False
    numbers = [row["id"] for row in waiting]
    versions = await _versions(connection, numbers)
    found = await _met(pool, versions, await _candidates(connection, versions))
    await _tell(connection, numbers, versions, found)
    return True


async def _versions(connection: Connection, changes: Sequence[int]) -> list[asyncpg.Record]:
    """The versions that were written, in order; of a deletion what it was before. Purged ones are not there."""
    rows: list[asyncpg.Record] = await connection.fetch(
        """
        WITH given AS (
            SELECT change.id AS change_id, coalesce(change.due_at, change.at) AS at, t.id, t.version, t.position,
                   change.due_at IS NOT NULL AS waited
            FROM record_change change, unnest(change.ids, change.versions) WITH ORDINALITY AS t (id, version, position)
            WHERE change.id = ANY($1)
        )
        SELECT given.id, given.version, given.at, given.waited,
               CASE WHEN r.available_from > now() THEN r.available_from END AS available_from,
               coalesce(r.type, h.type) AS type, coalesce(r.patient_id, h.patient_id) AS patient_id,
               coalesce(r.organisations, h.organisations) AS organisations,
               CASE WHEN h.content IS NULL AND r.id IS NULL THEN before.keys ELSE coalesce(r.keys, h.keys) END AS keys,
               CASE WHEN h.content IS NULL AND r.id IS NULL THEN 'delete'
                    WHEN before.content IS NULL THEN 'create' ELSE 'update' END AS change,
               ARRAY(SELECT joined.id FROM record asked JOIN record joined USING (person_id)
                     WHERE asked.id = coalesce(r.patient_id, h.patient_id)) AS records
        FROM given
        LEFT JOIN resource r ON r.id = given.id AND r.version = given.version
        LEFT JOIN resource_history h ON h.id = given.id AND h.version = given.version AND r.id IS NULL
        LEFT JOIN resource_history before ON before.id = given.id AND before.version = given.version - 1
        -- What a patient had to wait for, and has a newer version since, that version told of.
        WHERE r.id IS NOT NULL OR NOT given.waited AND (h.content IS NOT NULL OR before.content IS NOT NULL)
        ORDER BY given.change_id, given.position
        """,
        list(changes),
    )
    return rows


async def _candidates(
    connection: Connection, versions: Sequence[asyncpg.Record]
) -> list[tuple[asyncpg.Record, list[int]]]:
    """The subscriptions that versions could concern, and which (places in ``versions``)."""
    places: list[int] = []
    types: list[str] = []
    keys: list[int] = []
    for place, version in enumerate(versions):
        own = {0, id_key(version["id"]), *version["keys"], *map(record_key, version["records"])}
        places += [place] * len(own)
        types += [version["type"]] * len(own)
        keys += own
    rows = await connection.fetch(
        """
        SELECT subscription_id, array_agg(DISTINCT place) AS places
        FROM unnest($1::int[], $2::text[], $3::bigint[]) AS given (place, type, key)
        JOIN subscription_interest USING (type, key) GROUP BY subscription_id
        """,
        places,
        types,
        keys,
    )
    concerned = {row["subscription_id"]: row["places"] for row in rows}
    subscriptions = await connection.fetch(
        "SELECT * FROM subscription WHERE id = ANY($1) AND listening ORDER BY id", list(concerned)
    )
    made = []
    for each in subscriptions:
        changes = TOPICS[each["topic"]].changes if each["topic"] in TOPICS else BY_CRITERIA
        chosen = [
            place
            for place in sorted(concerned[each["id"]])
            if versions[place]["change"] in changes
            and (each["waits"] or not versions[place]["waited"])
            and (each["organisation_id"] is None or each["organisation_id"] in versions[place]["organisations"])
        ]
        if chosen:
            made.append((each, chosen))
    return made


async def _met(
    pool: Pool, versions: Sequence[asyncpg.Record], candidates: Sequence[tuple[asyncpg.Record, list[int]]]
) -> list[tuple[int, uuid.UUID]]:
    """Which versions are which subscriptions' (place, subscription), in order."""
    turns = asyncio.Semaphore(_AT_ONCE)
    made: list[tuple[int, uuid.UUID]] = []
    by_reader: dict[str, set[int]] = defaultdict(set)
    for subscription, places in candidates:
        by_reader[subscription["reader"]].update(places)
    readable_to: dict[str, set[int]] = {}

    async def read(told: str, places: set[int]) -> None:
        async with turns:
            reader, arguments = Reader.of_told(json.loads(told)), Arguments()
            readable_to[told] = set(
                await _chosen(pool, versions, sorted(places), readable(reader, arguments.values), arguments)
            )

    async def ask(subscription: asyncpg.Record, places: list[int]) -> None:
        async with turns:
            try:
                made.extend((place, subscription["id"]) for place in await _asked(pool, subscription, versions, places))
            except UNAVAILABLE:
                raise
            except (SearchError, asyncpg.DataError, asyncpg.SyntaxOrAccessError) as failure:
                # Such as a parameter or a value set of the organisation's that is not there any more: what changes
                # until it is there again is not told.
                log(Event.SUBSCRIPTION_FAILED, subscription=subscription["id"], error=type(failure).__name__,
                    where=where(failure))  # fmt: skip
                await set_status(pool, subscription, ERROR, "its criteria cannot be evaluated at present")

    await asyncio.gather(*(read(told, places) for told, places in by_reader.items()))
    for subscription, places in candidates:
        places[:] = [place for place in places if place in readable_to[subscription["reader"]]]
    await asyncio.gather(*(ask(subscription, places) for subscription, places in candidates if places))
    return sorted(made)


async def _asked(
    pool: Pool, subscription: asyncpg.Record, versions: Sequence[asyncpg.Record], places: Sequence[int]
) -> list[int]:
    """Which of the versions that could concern a subscription do."""
    by_type: dict[str, list[int]] = defaultdict(list)
    for place in places:
        by_type[versions[place]["type"]].append(place)
    found: list[int] = []
    reader = Reader.of_told(json.loads(subscription["reader"]))
    for kind, query in json.loads(subscription["filters"]):
        if kind in subscription["decided"]:
            found += by_type[kind]
        elif by_type[kind]:
            arguments = Arguments(organisation_id=reader.organisation_id)
            condition = await condition_of(pool, reader, kind, query, arguments)
            found += await _chosen(pool, versions, by_type[kind], condition, arguments)
    return found


async def _chosen(
    pool: Pool, versions: Sequence[asyncpg.Record], places: Sequence[int], predicate: str, arguments: Arguments
) -> list[int]:
    """The places of those versions of which a predicate is true; a deletion is of what the version before it was."""
    by_name: dict[tuple[uuid.UUID, int], list[int]] = defaultdict(list)
    for place in places:
        version = versions[place]
        by_name[version["id"], version["version"] - (version["change"] == "delete")].append(place)
    numbers, editions = (arguments.add(list(each)) for each in zip(*by_name, strict=True))
    rows = await pool.fetch(
        f"""
        SELECT resource.id, resource.version
        FROM unnest({numbers}::uuid[], {editions}::int[]) AS asked (number, edition)
        JOIN {VERSIONS} ON resource.id = asked.number AND resource.version = asked.edition WHERE {predicate}
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments.values,
    )
    return [place for row in rows for place in by_name[row["id"], row["version"]]]


async def _tell(
    connection: Connection,
    changes: Sequence[int],
    versions: Sequence[asyncpg.Record],
    found: Sequence[tuple[int, uuid.UUID]],
) -> None:
    """Number the events of each subscription, have them delivered, and be done with the changes."""
    chosen = [versions[place] for place, _ in found]
    later = [each for each in versions if each["available_from"] is not None]
    await connection.execute(
        """
        WITH given AS MATERIALIZED (
            SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::int[], $6::text[])
                WITH ORDINALITY AS t (subscription_id, at, type, resource_id, version, change, position)
        ), counted AS (
            UPDATE subscription s SET events = s.events + given.count FROM (
                SELECT subscription_id, count(*) FROM given GROUP BY subscription_id
            ) AS given
            WHERE s.id = given.subscription_id AND s.listening
            RETURNING s.id, s.events - given.count AS before, s.webhook_id, s.lane
        ), added AS (
            INSERT INTO subscription_event (subscription_id, number, at, type, resource_id, version, change)
            SELECT id, before + row_number() OVER (PARTITION BY id ORDER BY position), at, type, resource_id, version,
                   change
            FROM given JOIN counted ON id = subscription_id
        ), later AS (
            INSERT INTO record_change (ids, versions, due_at)
            SELECT ARRAY[id], ARRAY[version], due_at
            FROM unnest($9::uuid[], $10::int[], $11::timestamptz[]) AS t (id, version, due_at)
            WHERE EXISTS (SELECT FROM subscription WHERE listening AND waits)
        ), called AS (
            INSERT INTO outbox (topic, ordering_key, data, attributes)
            SELECT DISTINCT $8, 'lane ' || webhook_id || ' ' || lane,
                   convert_to(json_build_object('receiver', webhook_id, 'lane', lane)::text, 'UTF8'), '{}'
            FROM counted
        )
        DELETE FROM record_change WHERE id = ANY($7)
        """,
        [number for _, number in found],
        [each["at"] for each in chosen],
        [each["type"] for each in chosen],
        [each["id"] for each in chosen],
        [each["version"] for each in chosen],
        [each["change"] for each in chosen],
        list(changes),
        SUBSCRIPTION_DUE,
        [each["id"] for each in later],
        [each["version"] for each in later],
        [each["available_from"] for each in later],
    )
