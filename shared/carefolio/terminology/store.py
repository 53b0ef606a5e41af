"""What there is of terminology, and how it comes in: a new one is filled aside, and then takes the old one's place."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib import resources as files
from io import BytesIO
from typing import Any

from carefolio.cloud import migrations
from carefolio.cloud.database import Connection, Pool
from carefolio.terminology.concepts import Concept, TerminologyError, lines
from carefolio.terminology.resources import Mapping, concepts_of, mappings_of, without_concepts

CORE = "hl7.fhir.r4.core#4.0.1"
# Systems with more concepts have a table of their own.
_LARGE = 20_000
# How long the filling or indexing of one may take.
_SECONDS = 3600
_LONGEST_URL = 1000
# Of what is posted: with all that its concepts are kinds of.
_MOST_POSTED, _MOST_ABOVE_POSTED, _MOST_ABOVE = 50_000, 1_000_000, 200_000_000
_COLUMNS = ("system_id", "code", "number", "display", "active", "parents", "above", "names", "properties", "words")
_MAPPED = ("map_id", "source_system", "source_code", "target_system", "target_code", "target_display", "equivalence")


@dataclass(frozen=True, slots=True)
class Canonical:
    """A code system, value set, concept map or profile; ``content`` is the resource without its concepts."""

    id: int
    kind: str
    url: str
    version: str
    source: str
    concepts: int
    content: dict[str, Any]


async def find(
    pool: Pool | Connection, kind: str, url: str, organisation: uuid.UUID | None, version: str = ""
) -> Canonical | None:
    """By its URL (``|version`` may be part of it), the organisation's own before everybody's, the latest first."""
    url, _, said = url.partition("|")
    row = await pool.fetchrow(
        """
        SELECT * FROM canonical
        WHERE kind = $1 AND url = $2 AND ready AND (organisation_id IS NULL OR organisation_id = $3)
          AND ($4 = '' OR version = $4)
        ORDER BY organisation_id IS NULL, id DESC LIMIT 1
        """,
        kind,
        url,
        organisation,
        version or said,
    )
    return _canonical(row) if row else None


async def find_posted(
    pool: Pool | Connection, kind: str, resource: uuid.UUID, organisation: uuid.UUID
) -> Canonical | None:
    """What an organisation posted under a resource's number."""
    row = await pool.fetchrow(
        "SELECT * FROM canonical WHERE kind = $1 AND resource_id = $2 AND organisation_id = $3 AND ready",
        kind,
        resource,
        organisation,
    )
    return _canonical(row) if row else None


def _canonical(row: Any) -> Canonical:
    return Canonical(
        row["id"], row["kind"], row["url"], row["version"], row["source"], row["concepts"], json.loads(row["content"])
    )


async def listed(pool: Pool, kind: str = "") -> list[Canonical]:
    """All of a kind that is everybody's; of every kind where none is named."""
    rows = await pool.fetch(
        """
        SELECT * FROM canonical WHERE ready AND organisation_id IS NULL AND ($1 = '' OR kind = $1)
        ORDER BY kind, url, version
        """,
        kind,
    )
    return [_canonical(row) for row in rows]


@dataclass(slots=True)
class Incoming:
    """What a resource is without its concepts or mappings, and they."""

    content: dict[str, Any]
    concepts: Sequence[Concept] = ()
    mappings: Sequence[Mapping] = ()

    @classmethod
    def of(cls, resource: dict[str, Any]) -> Incoming:
        """Raises TerminologyError."""
        kind = resource["resourceType"]
        if len(resource.get("url", "")) > _LONGEST_URL:
            raise TerminologyError(f"a url of at most {_LONGEST_URL} characters is needed")
        concepts = concepts_of(resource) if kind == "CodeSystem" else ()
        mappings = list(mappings_of(resource)) if kind == "ConceptMap" else ()
        return cls(without_concepts(resource), concepts, mappings)


async def add(
    connection: Connection,
    incoming: Sequence[Incoming],
    source: str,
    organisation: uuid.UUID | None = None,
    number: uuid.UUID | None = None,
) -> None:
    """Take in resources: everybody's, or what an organisation posted under a resource's ``number``.

    Each takes the place of what had its URL and version, in the caller's transaction. Raises TerminologyError.
    """
    rows = await connection.fetch(
        "SELECT nextval(pg_get_serial_sequence('canonical', 'id')) AS id FROM generate_series(1, $1)", len(incoming)
    )
    numbers = [row["id"] for row in rows]
    await connection.execute(
        """
        INSERT INTO canonical (id, kind, url, version, organisation_id, source, content, concepts)
        OVERRIDING SYSTEM VALUE
        SELECT id, content ->> 'resourceType', content ->> 'url', coalesce(content ->> 'version', ''), $4, $5, content,
               concepts
        FROM unnest($1::int[], $2::jsonb[], $3::int[]) AS t (id, content, concepts)
        """,
        numbers,
        [json.dumps(each.content) for each in incoming],
        [len(each.concepts) for each in incoming],
        organisation,
        source,
    )
    filled = list(zip(numbers, incoming, strict=True))
    large = await (_fill_posted if number is not None else _fill)(connection, filled)
    old = await connection.fetch(
        """
        SELECT DISTINCT old.id FROM canonical new JOIN canonical old USING (kind)
        WHERE new.id = ANY($1) AND old.id < new.id AND (
            old.resource_id = $2 OR $2::uuid IS NULL AND old.resource_id IS NULL AND old.url = new.url
            AND old.version = new.version AND old.organisation_id IS NOT DISTINCT FROM new.organisation_id
        )
        """,
        numbers,
        number,
    )
    # Only now is anything locked that others read.
    for each in large:
        await connection.execute("SELECT attach_concepts($1)", each)
    await _remove(connection, [row["id"] for row in old])
    await connection.execute("UPDATE canonical SET ready = true, resource_id = $2 WHERE id = ANY($1)", numbers, number)


async def _fill_posted(connection: Connection, incoming: Sequence[tuple[int, Incoming]]) -> list[int]:
    """What an app posts, which is bounded, and made beside the event loop."""
    for system, each in incoming:
        if len(each.concepts) > _MOST_POSTED or len(each.mappings) > _MOST_POSTED:
            raise TerminologyError(f"more than {_MOST_POSTED} concepts or mappings: an operator loads them")
        made = await asyncio.to_thread(_joined, system, each.concepts)
        if made:
            await connection.copy_to_table("concept_small", source=BytesIO(made), columns=_COLUMNS, format="text")
    await _map(connection, incoming)
    return []


def _joined(system: int, concepts: Sequence[Concept]) -> bytes:
    return b"".join(lines(system, concepts, _MOST_ABOVE_POSTED))


async def _fill(connection: Connection, incoming: Sequence[tuple[int, Incoming]]) -> list[int]:
    """What an operator loads; the large systems among them, whose tables are not attached yet."""

    async def source(some: Sequence[tuple[int, Incoming]]) -> AsyncIterator[bytes]:
        for system, each in some:
            for part in lines(system, each.concepts, _MOST_ABOVE):
                yield part

    await _map(connection, incoming)
    small = [each for each in incoming if 0 < len(each[1].concepts) <= _LARGE]
    if small:
        await connection.copy_to_table(
            "concept_small", source=source(small), columns=_COLUMNS, format="text", timeout=_SECONDS
        )
    large = [each for each in incoming if len(each[1].concepts) > _LARGE]
    for system, each in large:
        table = await connection.fetchval("SELECT begin_concepts($1)", system)
        some = source([(system, each)])
        await connection.copy_to_table(table, source=some, columns=_COLUMNS, format="text", timeout=_SECONDS)
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT index_concepts($1)", system, timeout=_SECONDS)
    return [system for system, _ in large]


async def _map(connection: Connection, incoming: Sequence[tuple[int, Incoming]]) -> None:
    if mappings := [(number, *each) for number, one in incoming for each in one.mappings]:
        await connection.copy_records_to_table(
            "concept_map_element", records=mappings, columns=_MAPPED, timeout=_SECONDS
        )


async def remove_posted(connection: Connection, number: uuid.UUID) -> None:
    """What was posted under a resource's number is no more."""
    rows = await connection.fetch("SELECT id FROM canonical WHERE resource_id = $1", number)
    await _remove(connection, [row["id"] for row in rows])


async def remove_source(pool: Pool, source: str) -> int:
    """All that came with a package or release; how many resources that were."""
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch("SELECT id FROM canonical WHERE source = $1 AND organisation_id IS NULL", source)
        await _remove(connection, [row["id"] for row in rows])
    return len(rows)


async def _remove(connection: Connection, numbers: Sequence[int]) -> None:
    for number in numbers:
        # Of a small one the rows, of a large one the table; what is posted is always small.
        is_large = "SELECT concepts > $2 AND organisation_id IS NULL FROM canonical WHERE id = $1"
        if await connection.fetchval(is_large, number, _LARGE):
            await connection.execute("SELECT drop_concepts($1)", number)
        else:
            await connection.execute("DELETE FROM concept_small WHERE system_id = $1", number)
        await connection.execute("DELETE FROM canonical WHERE id = $1", number)


def install() -> None:
    """Have FHIR's own codes there from the beginning: after every migration."""
    asyncio.run(_install())


async def _install() -> None:
    connection = await migrations.connect()
    try:
        await add_core(connection)
    finally:
        await connection.close()


async def add_core(connection: Connection) -> None:
    """FHIR R4's own code systems, value sets and maps, where they are not there."""
    if await connection.fetchval("SELECT EXISTS (SELECT FROM canonical WHERE source = $1)", CORE):
        return
    packed = files.files("carefolio.fhir").joinpath("definitions/terminology.ndjson.gz").read_bytes()
    async with connection.transaction():
        await add(connection, [Incoming.of(json.loads(line)) for line in gzip.decompress(packed).splitlines()], CORE)
