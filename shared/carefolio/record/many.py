"""Very many versions at once, by COPY: for feeds, whose rows are made by the ten thousand.

What record.write does for a message is done here for a set of patients: old versions to history, new ones in place, one
audit line for each patient; all in the caller's transaction, under the locks of the records.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection
from carefolio.cloud.topics import RECORD_CHANGED
from carefolio.record import parameters
from carefolio.record.rows import BEGINNING, Known, Row
from carefolio.record.write import ChangedMeanwhileError

_COLUMNS = (
    "id", "type", "version", "last_updated", "patient_id", "organisations", "message_id", "place", "seq", "source_time",
    "digest", "content", "keys", "date_from", "date_to", "label", "available_from", "texts", "ranges", "by_app",
    "confidential",
)  # fmt: skip
# Lines in one message of COPY.
_LINES = 250
_LISTED = ", ".join(_COLUMNS)
_INCOMING = (  # our own columns
    f"CREATE TEMP TABLE IF NOT EXISTS incoming ON COMMIT DELETE ROWS AS SELECT {_LISTED} FROM resource WITH NO DATA"  # noqa: S608
)


@dataclass(frozen=True, slots=True)
class Feed:
    """Who writes: ``actor`` for the audit trail, the practice's organisation, and the batch that it is about."""

    actor: str
    organisation_id: uuid.UUID
    about: str


async def there(connection: Connection, numbers: Sequence[str]) -> dict[uuid.UUID, Known]:
    """What is there of these ids, deleted or not; without contents."""
    await parameters.refresh(connection)
    rows = await connection.fetch(
        """
        SELECT id, version, true AS live, patient_id, digest, seq, source_time, organisations, label, available_from,
               EXISTS (SELECT FROM item_label WHERE resource_id = id) AS label_is_his
        FROM resource WHERE id = ANY($1::uuid[])
        UNION ALL
        SELECT id, version, false, patient_id, ''::bytea, seq, NULL, organisations, label, NULL,
               EXISTS (SELECT FROM item_label WHERE resource_id = id)
        FROM resource_history WHERE id = ANY($1::uuid[]) AND valid_to = 'infinity'
        """,
        numbers,
    )
    return {row["id"]: _known(row) for row in rows}


def _known(row: Mapping[str, object]) -> Known:
    given = dict(row)
    given.pop("type", None)
    given["source_time"] = given["source_time"] or BEGINNING
    return Known(content=None, **given)  # type: ignore[arg-type]


async def write_many(connection: Connection, feed: Feed, rows: Sequence[tuple[Row, uuid.UUID]], now: datetime) -> None:
    """Write versions, each with the file that it came from. Raises ChangedMeanwhileError, which must undo it all."""
    if not rows:
        return
    new = [each for each in rows if each[0].version == 1]
    changed = [each for each in rows if each[0].version > 1]
    if new:
        await _copy(connection, "resource", new, now)
    if changed:
        await _change(connection, changed, now)
    await _note(connection, feed, [row for row, _ in rows])
    told = await connection.execute(
        """
        WITH changed AS (
            INSERT INTO record_change (ids, versions)
            SELECT $1::uuid[], $2::int[] WHERE EXISTS (SELECT FROM subscription WHERE listening) RETURNING 1
        )
        INSERT INTO outbox (topic, ordering_key, data, attributes)
        SELECT $3, 'changes', convert_to('{}', 'UTF8'), '{}' FROM changed
        """,
        [row.id for row, _ in rows],
        [row.version for row, _ in rows],
        RECORD_CHANGED,
    )
    if told != "INSERT 0 0":
        outbox.kick_soon()


async def _change(connection: Connection, rows: Sequence[tuple[Row, uuid.UUID]], now: datetime) -> None:
    await connection.execute(
        # Our own columns.
        f"CREATE TEMP TABLE IF NOT EXISTS incoming ON COMMIT DELETE ROWS AS SELECT {_LISTED} FROM resource"  # noqa: S608
        " WITH NO DATA"
    )
    await _copy(connection, "incoming", rows, now)
    counted = await connection.fetchrow(
        f"""
        WITH kept AS (
            INSERT INTO resource_history (id, version, type, valid_from, valid_to, patient_id, organisations, team_id,
                                          label, message_id, place, seq, content, available_from, keys, date_from,
                                          date_to, texts, ranges, confidential, by_app)
            SELECT r.id, r.version, r.type, r.last_updated, $1::timestamptz, r.patient_id, r.organisations, r.team_id,
                   r.label, r.message_id, r.place, r.seq, r.content, r.available_from, r.keys, r.date_from, r.date_to,
                   r.texts, r.ranges, r.confidential OR incoming.confidential, r.by_app
            FROM resource r JOIN incoming USING (id)
            UNION ALL
            SELECT i.id, i.version, i.type, $1, 'infinity', i.patient_id, i.organisations, r.team_id, i.label,
                   i.message_id, i.place, i.seq, NULL, r.available_from, '{{}}', NULL, NULL, '{{}}', '{{}}',
                   r.confidential, r.by_app
            FROM incoming i JOIN resource r USING (id) WHERE i.content IS NULL
        ), as_of_now AS (
            -- That its author restricts it is true of what it was before too.
            UPDATE resource_history h SET confidential = true FROM incoming
            WHERE h.id = incoming.id AND h.valid_to < 'infinity' AND incoming.confidential AND NOT h.confidential
        ), back AS (
            UPDATE resource_history h SET valid_to = $1 FROM incoming
            WHERE h.id = incoming.id AND h.valid_to = 'infinity' AND incoming.content IS NOT NULL
        ), gone AS (
            DELETE FROM resource r USING incoming
            WHERE r.id = incoming.id AND incoming.content IS NULL AND r.version = incoming.version - 1
            RETURNING r.id
        ), written AS (
            INSERT INTO resource AS r ({_LISTED})
            SELECT {_LISTED} FROM incoming WHERE content IS NOT NULL
            ON CONFLICT (id) DO UPDATE SET
                version = excluded.version, last_updated = excluded.last_updated,
                organisations = excluded.organisations, message_id = excluded.message_id, place = excluded.place,
                digest = excluded.digest, content = excluded.content, keys = excluded.keys,
                date_from = excluded.date_from, date_to = excluded.date_to, label = excluded.label,
                available_from = excluded.available_from, texts = excluded.texts, ranges = excluded.ranges,
                by_app = excluded.by_app, confidential = excluded.confidential
            WHERE r.version = excluded.version - 1
            RETURNING id
        )
        SELECT (SELECT count(*) FROM written) + (SELECT count(*) FROM gone) AS done
        """,  # noqa: S608 - our own columns
        now,
    )
    await connection.execute("TRUNCATE incoming")
    if counted["done"] < len(rows):
        raise ChangedMeanwhileError


async def _note(connection: Connection, feed: Feed, rows: Sequence[Row]) -> None:
    """One audit line for each patient; which versions they were is told by the file that each names."""
    counts: dict[uuid.UUID | None, list[int]] = {}
    for row in rows:
        made = counts.setdefault(row.patient_id, [0, 0, 0])
        made[2 if row.content is None else 0 if row.version == 1 else 1] += 1
    await connection.execute(
        """
        INSERT INTO audit (actor, organisation_id, action, patient_id, query)
        SELECT $1, $2, 'write', patient_id, said FROM unnest($3::uuid[], $4::text[]) AS t (patient_id, said)
        """,
        feed.actor,
        feed.organisation_id,
        list(counts),
        [f"{feed.about}: {new} created, {old} updated, {gone} removed" for new, old, gone in counts.values()],
    )


async def _copy(connection: Connection, table: str, rows: Sequence[tuple[Row, uuid.UUID]], now: datetime) -> None:
    stamp = now.isoformat()

    async def source() -> AsyncIterator[bytes]:
        # Not as a file: asyncpg keeps one in a cycle, until the collector comes by.
        for start in range(0, len(rows), _LINES):
            yield "".join([_line(row, file, stamp) for row, file in rows[start : start + _LINES]]).encode()

    await connection.copy_to_table(table, source=source(), columns=_COLUMNS, format="text")


def _line(row: Row, file: uuid.UUID, stamp: str) -> str:
    r"""A row as COPY's text has it: tabs between, \N for none, backslashes doubled. JSON has no bare control codes."""
    content = _NONE if row.content is None else row.content.replace("\\", "\\\\")
    # by_app: what a feed made is not made again from messages (record.rebuild). seq and source_time are of messages;
    # the first one that comes is older than nothing.
    return (
        f"{row.id}\t{row.type}\t{row.version}\t{stamp}\t{row.patient_id or _NONE}\t"
        f"{{{','.join(map(str, row.organisations))}}}\t{file}\t{row.place}\t0\t{BEGINNING}\t"
        f"\\\\x{row.digest.hex()}\t{content}\t{row.keys}\t{row.date_from or _NONE}\t{row.date_to or _NONE}\t"
        f"{row.label}\t{row.available_from or _NONE}\t{_array(row.texts)}\t{row.ranges}\tt\t"
        f"{'t' if row.confidential else 'f'}\n"
    )


_NONE = r"\N"


def _array(texts: str) -> str:
    """A JSON list of strings as an array of PostgreSQL's inside COPY's text."""
    if texts == "[]":
        return "{}"
    quoted = ['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in orjson.loads(texts)]
    return (
        ("{" + ",".join(quoted) + "}")
        .replace("\\", "\\\\")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\t", "\\t")
    )
