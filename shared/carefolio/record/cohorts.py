"""Groups whose members are the patients that searches find (Bulk Data Access, bulk cohort API: member-filter).

The members are found when the Group is written, each hour, and once more by an export of it. Several filters are met by
all of the members. A Group holds its members up to MOST; of more it tells the number, and an export has them all.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.telemetry import Event, log, where
from carefolio.fhir.definitions import resource_types
from carefolio.fhir.errors import error
from carefolio.record.access import Reader, readable
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.own_writes import rewrite
from carefolio.record.rows import instant
from carefolio.record.subscribing import UNTOLD, condition_of
from carefolio.record.write import RETRIED

FILTER = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/member-filter"
REFRESHED = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/members-refreshed"
LANGUAGE = "application/x-fhir-query"
MOST = 10_000
_MOST_FILTERS = 10
_ACTOR = "carefolio/cohorts"
Filters = list[tuple[str, str]]


def filters_of(resource: dict[str, Any]) -> Filters:
    """Type and query of each filter; empty where the Group lists its members itself. Raises FhirError."""
    made: Filters = []
    for place, each in enumerate(resource.get("modifierExtension", [])):
        if each.get("url") != FILTER:
            continue
        here = f"Group.modifierExtension[{place}]"
        said = each.get("valueExpression", {})
        if said.get("language") != LANGUAGE:
            raise error(422, "not-supported", f"a filter is a valueExpression in {LANGUAGE}", here)
        kind, _, query = str(said.get("expression", "")).partition("?")
        if kind not in resource_types() or kind in UNTOLD or not query:
            raise error(422, "invalid", "a search of one type, such as Condition?code=…", here)
        made.append((kind, query))
    if len(made) > _MOST_FILTERS:
        raise error(422, "too-costly", f"at most {_MOST_FILTERS} filters", "Group.modifierExtension")
    return made


async def prepared(
    connection: Connection, reader: Reader, resource: dict[str, Any], _number: uuid.UUID
) -> tuple[dict[str, Any], Filters]:
    """A Group, with its members as they are now where it has filters, and these. Raises FhirError."""
    filters = filters_of(resource)
    if not filters:
        return resource, filters
    if reader.account is not None:
        raise error(403, "forbidden", "groups by a search are for systems (client credentials)", "Group")
    if resource.get("type") != "person" or resource.get("actual") is not True:
        raise error(422, "invalid", "a group by a search is of actual persons", "Group.type")
    for kind, _ in filters:
        if not reader.may(kind, "s"):
            raise error(403, "forbidden", f"searching {kind} needs a scope", "Group.modifierExtension")
    try:
        found = await members(connection, reader, filters)
    except SearchError as failure:
        raise error(422, "invalid", f"{failure.parameter}: {failure.reason}", "Group.modifierExtension") from None
    return _with_members(resource, found), filters


async def members(connection: Pool | Connection, reader: Reader, filters: Filters) -> list[tuple[uuid.UUID, str]]:
    """The patients that every filter finds among what the reader reads: number and id. Raises SearchError."""
    arguments = Arguments(organisation_id=reader.organisation_id)
    chosen = []
    for kind, query in filters:
        condition = await condition_of(connection, reader, kind, query, arguments)
        whose = "id" if kind == "Patient" else "patient_id"
        seen = readable(reader, arguments.values)
        chosen.append(f"SELECT {whose} FROM resource WHERE type = '{kind}' AND {seen} AND {condition}")  # noqa: S608
    patients = readable(reader, arguments.values)
    rows = await connection.fetch(
        f"""
        WITH chosen (patient) AS MATERIALIZED ({" INTERSECT ".join(f"({each})" for each in chosen)})
        SELECT id, content::json ->> 'id' AS name FROM resource
        WHERE type = 'Patient' AND id IN (SELECT patient FROM chosen) AND {patients} ORDER BY id
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments.values,
    )
    return [(row["id"], row["name"]) for row in rows]


def _with_members(resource: dict[str, Any], found: Sequence[tuple[uuid.UUID, str]]) -> dict[str, Any]:
    kept = [each for each in resource.get("extension", []) if each.get("url") != REFRESHED]
    made = {name: value for name, value in resource.items() if name not in ("member", "extension")}
    made["extension"] = [*kept, {"url": REFRESHED, "valueDateTime": instant(datetime.now(UTC))}]
    made["quantity"] = len(found)
    if 0 < len(found) <= MOST:
        made["member"] = [{"entity": {"reference": f"Patient/{name}"}} for _, name in found]
    return made


async def remove(connection: Connection, number: uuid.UUID) -> None:
    """The Group is refreshed no more."""
    await connection.execute("DELETE FROM cohort WHERE group_id = $1", number)


async def keep(connection: Connection, reader: Reader, number: uuid.UUID, _content: str, filters: Filters) -> None:
    """From now on the Group is refreshed in this reader's name; without filters no more."""
    if not filters:
        await remove(connection, number)
        return
    await connection.execute(
        """
        INSERT INTO cohort (group_id, reader, filters) VALUES ($1, $2, $3)
        ON CONFLICT (group_id) DO UPDATE SET reader = excluded.reader, filters = excluded.filters, refreshed_at = now()
        """,
        number,
        json.dumps(reader.told()),
        json.dumps(filters),
    )


async def filters_kept(pool: Pool, number: uuid.UUID) -> Filters:
    """The filters of a Group; empty where it has none."""
    said = await pool.fetchval("SELECT filters FROM cohort WHERE group_id = $1", number)
    return [(kind, query) for kind, query in json.loads(said)] if said else []


async def refresh(pool: Pool) -> int:
    """Find the members of all such Groups again; how many of them changed. Those whose client has ended are left."""
    rows = await pool.fetch(
        """
        SELECT cohort.* FROM cohort WHERE EXISTS (
            SELECT FROM client WHERE id = substring(reader ->> 'actor' FROM 'client/(.+)$') AND ended_at IS NULL
        ) ORDER BY refreshed_at LIMIT 500
        """
    )
    changed = 0
    for row in rows:
        try:
            changed += await _refresh(pool, row)
        except RETRIED:
            # Somebody writes it at this moment; the next hour comes.
            continue
        except SearchError as failure:
            log(Event.COHORT_FAILED, group=row["group_id"], error=type(failure).__name__, where=where(failure))
    return changed


async def _refresh(pool: Pool, row: Any) -> bool:
    reader = Reader.of_told(json.loads(row["reader"]))
    found = await members(pool, reader, [(kind, query) for kind, query in json.loads(row["filters"])])

    def change(resource: dict[str, Any]) -> dict[str, Any]:
        made = _with_members(resource, found)
        same = all(made.get(name) == resource.get(name) for name in ("member", "quantity"))
        return resource if same else made

    async with pool.acquire() as connection, connection.transaction():
        changed = await rewrite(connection, "Group", row["group_id"], change, _ACTOR)
        await connection.execute("UPDATE cohort SET refreshed_at = now() WHERE group_id = $1", row["group_id"])
    return changed
