"""Search columns made once more, in small steps beside all else: after a release, and for new search parameters."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import asyncpg

from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.fhir.definitions import resource_types
from carefolio.record import parameters
from carefolio.record.search_index import index

_STEP = 200
_FIRST = uuid.UUID(int=0)


async def reindex(pool: Pool) -> int:
    """Index all resources again; returns how many. What changes meanwhile indexes itself."""
    await parameters.refresh(pool, now=True)
    after, done = _FIRST, 0
    while rows := await _next(pool, sorted(resource_types()), after):
        await _index(pool, rows)
        after, done = rows[-1]["id"], done + len(rows)
    return done


async def index_new(pool: Pool, seconds: float = 20) -> int:
    """Index what search parameters that organisations defined have not seen yet, for so long; how many resources.

    A parameter's turn comes when every process knows of it, so that nothing is written past it.
    """
    ends, done = time.monotonic() + seconds, 0
    await parameters.refresh(pool, now=True)
    while time.monotonic() < ends:
        parameter = await pool.fetchrow(
            """
            SELECT id, base, coalesce(indexed_to, $2) AS after, created_at FROM search_parameter
            WHERE indexed_at IS NULL AND created_at < now() - make_interval(secs => $1) ORDER BY created_at LIMIT 1
            """,
            2.0 * parameters.REFRESH,
            _FIRST,
        )
        if parameter is None:
            break
        rows = await _next(pool, parameter["base"], parameter["after"])
        await _index(pool, rows)
        done += len(rows)
        # Who stored it anew meanwhile has it begin anew.
        await pool.execute(
            """
            UPDATE search_parameter SET indexed_to = $2, indexed_at = CASE WHEN $3 THEN now() END
            WHERE id = $1 AND created_at = $4
            """,
            parameter["id"],
            rows[-1]["id"] if rows else parameter["after"],
            len(rows) < _STEP,
            parameter["created_at"],
        )
    return done


async def _next(pool: Pool, kinds: Sequence[str], after: uuid.UUID) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await pool.fetch(
        "SELECT id, version, content FROM resource WHERE id > $1 AND type = ANY($2) ORDER BY id LIMIT $3",
        after,
        list(kinds),
        _STEP,
    )
    return rows


async def _index(pool: Pool, rows: Sequence[asyncpg.Record]) -> None:
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
        [indexed.keys for _, _, indexed in made],
        [indexed.date_from for _, _, indexed in made],
        [indexed.date_to for _, _, indexed in made],
        [indexed.texts for _, _, indexed in made],
        [indexed.ranges for _, _, indexed in made],
    )
