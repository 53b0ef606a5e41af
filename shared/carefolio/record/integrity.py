"""Referential integrity, where the installation wants it (setting REFERENTIAL_INTEGRITY).

What an app writes refers to what is there, and what is referred to is not deleted. Messages come in any order and are
free of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from carefolio.cloud.database import Connection
from carefolio.fhir import text
from carefolio.fhir.definitions import resource_types, search_parameters
from carefolio.fhir.errors import error
from carefolio.record.ids import internal_id
from carefolio.record.includes import local_references, logical_id
from carefolio.record.places import key
from carefolio.record.references import references
from carefolio.record.rows import Row


async def check(connection: Connection, rows: Sequence[Row]) -> None:
    """After a write: raise FhirError (409) where it left a reference into this server without its target."""
    wanted = {
        internal_id(kind, name): (row.type, f"{kind}/{name}")
        for row in rows
        if row.content
        for kind, name in local_references(references(text.loads(row.content)))
    }
    there = await connection.fetch("SELECT id FROM resource WHERE id = ANY($1)", list(wanted))
    for number in {row["id"] for row in there}:
        del wanted[number]
    if wanted:
        kind, reference = next(iter(wanted.values()))
        raise error(409, "conflict", f"it refers to {reference}, which is not there", kind)
    for row in rows:
        if row.content is None:
            await _check_unreferred(connection, row)


async def _check_unreferred(connection: Connection, row: Row) -> None:
    last = await connection.fetchval(
        "SELECT content FROM resource_history WHERE id = $1 AND version = $2", row.id, row.version - 1
    )
    reference = f"{row.type}/{logical_id(last)}"
    codes = {
        code
        for kind in resource_types()
        for code, parameter in search_parameters(kind).items()
        if parameter.kind == "reference" and (not parameter.targets or row.type in parameter.targets)
    }
    found = await connection.fetchval(
        "SELECT type FROM resource WHERE keys && $1::bigint[] LIMIT 1", [key(code, reference) for code in codes]
    )
    if found:
        raise error(409, "conflict", f"{found} resources refer to it", row.type)
