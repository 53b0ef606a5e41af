"""Every resource's search columns once more, after a release that finds more: in small steps, beside all else."""

from __future__ import annotations

import uuid

import orjson

from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.record.search_index import index

_STEP = 200


async def reindex(pool: Pool) -> int:
    """Index all resources again; returns how many. What changes meanwhile indexes itself."""
    after, done = uuid.UUID(int=0), 0
    while rows := await pool.fetch(
        "SELECT id, version, content FROM resource WHERE id > $1 ORDER BY id LIMIT $2", after, _STEP
    ):
        made = [(row["id"], row["version"], index(text.loads(row["content"]))) for row in rows]
        await pool.execute(
            """
            UPDATE resource SET keys = new.keys::bigint[], date_from = new.date_from, date_to = new.date_to,
                texts = ARRAY(SELECT json_array_elements_text(new.texts::json)), ranges = new.ranges::nummultirange
            FROM unnest($1::uuid[], $2::int[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::text[])
                AS new (id, version, keys, date_from, date_to, texts, ranges)
            WHERE resource.id = new.id AND resource.version = new.version
            """,
            [number for number, _, _ in made],
            [version for _, version, _ in made],
            ["{" + ",".join(map(str, indexed.keys)) + "}" for _, _, indexed in made],
            [indexed.date_from for _, _, indexed in made],
            [indexed.date_to for _, _, indexed in made],
            [orjson.dumps(indexed.texts).decode() for _, _, indexed in made],
            [indexed.ranges for _, _, indexed in made],
        )
        after, done = rows[-1]["id"], done + len(rows)
    return done
