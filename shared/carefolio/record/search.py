"""Searching the record (FHIR R4 3.1.1): conditions, chains, order, pages, what goes with the matches.

Every SELECT goes through carefolio.record.access.readable; each search leaves its audit line with it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.dates import date_range
from carefolio.record import parameters
from carefolio.record.access import Reader, of_person, opened, readable, resources
from carefolio.record.arguments import Arguments, SearchError, UnknownParameterError
from carefolio.record.conditions import Conditions
from carefolio.record.includes import Found, include
from carefolio.record.masking import masked
from carefolio.record.paging import after, cursor_of, order_by

DEFAULT_COUNT = 50
MAX_COUNT = 1000
_COUNT = re.compile(r"[0-9]{1,6}\Z")
# Parameters that are about the answer.
_ANSWER = frozenset({
    "_count", "_cursor", "_sort", "_total", "_summary", "_elements", "_include", "_revinclude", "_format", "_pretty",
    "_contained", "_containedType", "_type", "_at",
})  # fmt: skip


@dataclass(slots=True)
class Page:
    """Resources in order, and the cursor of the next page where there is one; ``total`` where it is known.

    ``ignored`` are parameters that the type does not have, ``unfinished`` those by which older resources are still
    being indexed; ``cut`` tells that more would have gone with the matches, ``withheld`` that the caller may
    not read all that would.
    """

    found: list[Found] = field(default_factory=list)
    cursor: str | None = None
    total: int | None = None
    ignored: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    cut: bool = False
    withheld: bool = False


@dataclass(slots=True)
class _Asked:
    """A search, read."""

    count: int = DEFAULT_COUNT
    cursor: str = ""
    order: list[tuple[str, bool]] = field(default_factory=list)
    total: str = ""
    includes: list[tuple[str, bool, bool]] = field(default_factory=list)
    at: datetime | None = None
    terms: list[tuple[str, str]] = field(default_factory=list)


async def search(
    pool: Pool | Connection,
    reader: Reader,
    kinds: Sequence[str],
    query: Sequence[tuple[str, str]],
    *,
    strict: bool | None = None,
    patient: uuid.UUID | None = None,
) -> Page:
    """One page of a search over one type or several, in a patient's compartment where one is given.

    Raises SearchError. A parameter that a type does not have is one with ``strict``; where nothing is said, unless its
    name begins with ``_``: without what it would have chosen the answer would be another.
    """
    await parameters.refresh(pool)
    asked = _read(kinds, query)
    reader = replace(reader, at=asked.at or reader.at)
    made = Conditions(pool, reader)
    arguments = made.arguments()
    arguments.of_one_record = patient is not None or made.is_of_patients(kinds, asked.terms)
    page = Page()
    source = resources(reader, arguments.values)
    conditions = [readable(reader, arguments.values)]
    if patient is not None:
        records = of_person(arguments.add([patient]) + "::uuid[]", reader, arguments.values)
        conditions.append(f"patient_id = ANY({records})")
    for name, value in asked.terms:
        before = len(arguments.values)
        try:
            conditions.append(await made.of(kinds, name, value, arguments))
        except UnknownParameterError as unknown:
            if strict or (strict is None and not unknown.parameter.startswith("_")):
                raise
            # PostgreSQL takes no value that its statement does not name.
            del arguments.values[before:]
            page.ignored.append(name)
        if parameters.is_unfinished(name.partition(":")[0], reader.organisation_id):
            page.unfinished.append(name)
    conditions.append(arguments.of_types(kinds))
    where = f"{source} WHERE {' AND '.join(conditions)}"
    note = _Note(reader, kinds, query)
    if asked.count == 0 or asked.total == "count":
        page.total = await pool.fetchval(
            f"WITH noted AS ({note.sql(arguments, 'NULL::uuid')}) SELECT count(*) FROM {where}",  # noqa: S608
            *arguments.values,
        )
        return page
    rows = await _rows(pool, where, asked, arguments, note)
    page.found = [Found(row["type"], row["id"], row["content"]) for row in rows[: asked.count]]
    if asked.total == "accurate":
        page.total = rows[0]["total"] if rows else 0
        if not rows and asked.cursor:
            page.total = None
    elif not asked.cursor and len(rows) <= asked.count and asked.total != "none":
        page.total = len(rows)
    if len(rows) > asked.count:
        page.cursor = cursor_of(rows[asked.count - 1], len(asked.order))
    if asked.includes and page.found:
        added, page.cut = await include(pool, reader, asked.includes, page.found)
        page.found += added
    page.found = await masked_page(pool, reader, page.found)
    return page


async def masked_page(pool: Pool | Connection, reader: Reader, found: Sequence[Found]) -> list[Found]:
    """What was found, as the reader may have it (carefolio.record.masking)."""
    contents = await masked(pool, reader, (each.content for each in found), (each.id for each in found))
    return [
        each if content is each.content or content is None else replace(each, content=content)
        for each, content in zip(found, contents, strict=True)
    ]


def _read(kinds: Sequence[str], query: Sequence[tuple[str, str]]) -> _Asked:
    """The query's parts. Raises SearchError."""
    asked = _Asked()
    for name, value in query:
        plain = name.partition(":")[0]
        if name == "_query":
            raise SearchError("_query", "there are no named queries")
        if plain not in _ANSWER:
            asked.terms.append((name, value))
        elif name == "_count":
            asked.count = read_count(value)
        elif name == "_cursor":
            asked.cursor = value
        elif name == "_sort":
            asked.order = [order for part in value.split(",") for order in [order_by(kinds, part)]]
        elif name == "_total":
            if value not in ("none", "estimate", "accurate"):
                raise SearchError("_total", "one of none, estimate, accurate")
            asked.total = "accurate" if value == "estimate" else value
        elif name == "_summary":
            if value not in ("true", "text", "data", "count", "false"):
                raise SearchError("_summary", "one of true, text, data, count, false")
            if value == "count":
                asked.total = "count"
        elif name == "_contained":
            if value not in ("false", "both"):
                raise SearchError("_contained", "contained resources are not searched by themselves")
        elif plain != name and plain not in ("_include", "_revinclude"):
            raise SearchError(name, "no modifier is known here")
        elif name == "_at":
            asked.at = moment_of(value)
        elif plain in ("_include", "_revinclude"):
            modifier = name.partition(":")[2]
            if modifier not in ("", "iterate", "recurse"):
                raise SearchError(name, "the one modifier is :iterate")
            asked.includes.append((value, plain == "_revinclude", bool(modifier)))
    if not asked.order:
        asked.order = [("last_updated", True)]
    return asked


@dataclass(frozen=True, slots=True)
class _Note:
    """The audit line of a search: one for each patient who was found."""

    reader: Reader
    kinds: Sequence[str]
    query: Sequence[tuple[str, str]]

    def sql(self, arguments: Arguments, patient: str) -> str:
        text = "&".join(f"{name}={value}" for name, value in self.query)[:2000]
        values = ", ".join(
            (
                f"{arguments.add(self.reader.actor)}::text",
                f"{arguments.add(self.reader.organisation_id)}::uuid",
                "'search'",
                patient,
                f"{arguments.add(','.join(self.kinds)[:200])}::text",
                f"{arguments.add(text)}::text",
            )
        )
        source = "(SELECT) AS always LEFT JOIN found ON true" if patient.startswith("found") else "(SELECT) AS always"
        return f"""
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, query)
            SELECT DISTINCT {values} FROM {source}
        """  # noqa: S608 - values are arguments


async def _rows(
    pool: Pool | Connection, where: str, asked: _Asked, arguments: Arguments, note: _Note
) -> list[asyncpg.Record]:
    """One page and one row more."""
    order = [*asked.order, ("id", asked.order[-1][1])]
    total = f"(SELECT count(*) FROM {where})" if asked.total == "accurate" else "NULL::bigint"  # noqa: S608
    page = f"{where} AND {after(order, asked.cursor, arguments)}" if asked.cursor else where
    sorted_by = ", ".join(f"{sql} {'DESC' if descending else 'ASC'} NULLS LAST" for sql, descending in order)
    columns = ", ".join(f"{sql} AS sort{number}" for number, (sql, _) in enumerate(asked.order))
    again = ", ".join(
        f"sort{number} {'DESC' if descending else 'ASC'} NULLS LAST"
        for number, (_, descending) in enumerate(asked.order)
    )
    rows: list[asyncpg.Record] = await pool.fetch(
        f"""
        WITH found AS (
            SELECT id, version, type, patient_id, {columns} FROM {page} ORDER BY {sorted_by} LIMIT {asked.count + 1}
        ), noted AS ({note.sql(arguments, "found.patient_id")})
        SELECT found.*, opened.content, {total} AS total
        FROM found JOIN {opened(note.reader, arguments.values)} USING (id, version)
        ORDER BY {again}, id {"DESC" if order[-1][1] else "ASC"}
        """,  # noqa: S608 - columns and predicates are ours, values are arguments
        *arguments.values,
    )
    return rows


def moment_of(value: str) -> datetime:
    """``_at`` as Reader takes it: the first moment after it. Raises SearchError."""
    try:
        end = date_range(value.replace(" ", "+")).end
    except (ValueError, OverflowError):
        raise SearchError("_at", "not a date") from None
    return min(end, datetime.now(UTC))


def chooses(query: Sequence[tuple[str, str]]) -> bool:
    """Whether a query has a criterion, and not only words about the form of its answer."""
    return any(name.partition(":")[0] not in _ANSWER for name, _ in query)


def read_count(value: str) -> int:
    """_count; 0 asks for the total alone. Raises SearchError."""
    if not _COUNT.match(value):
        raise SearchError("_count", "a number")
    return min(int(value), MAX_COUNT)
