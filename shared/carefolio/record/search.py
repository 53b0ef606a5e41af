"""Searching the record (FHIR R4 3.1.1): conditions, chains, order, pages, what goes with the matches.

Every SELECT goes through carefolio.record.access.readable; each search leaves its audit line with it.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
import orjson

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.definitions import SearchParameter, compartment, resource_types, search_parameters
from carefolio.fhir.paths import compile_path
from carefolio.record import search_index as ix
from carefolio.record.access import Reader, of_person, readable
from carefolio.record.ids import internal_id
from carefolio.record.includes import Found, include, local_references, logical_id
from carefolio.record.search_terms import (
    COMMON,
    Arguments,
    SearchError,
    UnknownParameterError,
    condition,
    reference_of,
    split,
)

DEFAULT_COUNT = 50
MAX_COUNT = 1000
# Chains go through at most so many resources.
_MOST_LINKED = 10_000
_DEEPEST_CHAIN = 5
_COUNT = re.compile(r"[0-9]{1,6}\Z")
# Parameters that are about the answer.
_ANSWER = frozenset({
    "_count", "_cursor", "_sort", "_total", "_summary", "_elements", "_include", "_revinclude", "_format", "_pretty",
    "_contained", "_containedType", "_type",
})  # fmt: skip


@dataclass(slots=True)
class Page:
    """Resources in order, and the cursor of the next page where there is one; ``total`` where it is known.

    ``ignored`` are parameters that the type does not have; ``cut`` tells that more would have gone with the matches.
    """

    found: list[Found] = field(default_factory=list)
    cursor: str | None = None
    total: int | None = None
    ignored: list[str] = field(default_factory=list)
    cut: bool = False


@dataclass(slots=True)
class _Asked:
    """A search, read."""

    count: int = DEFAULT_COUNT
    cursor: str = ""
    order: list[tuple[str, bool]] = field(default_factory=list)
    total: str = ""
    includes: list[tuple[str, bool, bool]] = field(default_factory=list)
    terms: list[tuple[str, str]] = field(default_factory=list)


async def search(
    pool: Pool | Connection,
    reader: Reader,
    kinds: Sequence[str],
    query: Sequence[tuple[str, str]],
    base: str,
    *,
    strict: bool = True,
    patient: uuid.UUID | None = None,
) -> Page:
    """One page of a search over one type or several, in a patient's compartment where one is given.

    Raises SearchError; with ``strict`` also for parameters that a type does not have.
    """
    asked = _read(kinds, query)
    arguments = Arguments(base)
    page = Page()
    conditions = [f"type = ANY({arguments.add(list(kinds))}::text[])", _readable(reader, arguments)]
    if patient is not None:
        conditions.append(f"patient_id = ANY({of_person(arguments.add([patient]) + '::uuid[]')})")
    for name, value in asked.terms:
        try:
            conditions.append(await _term(pool, reader, kinds, name, value, arguments, 0))
        except UnknownParameterError:
            if strict:
                raise
            page.ignored.append(name)
    where = " AND ".join(conditions)
    if asked.count == 0 or asked.total == "count":
        page.total = await _counted(pool, reader, kinds, where, arguments, query)
        return page
    rows = await _rows(pool, reader, kinds, where, asked, arguments, query, counted=asked.total == "accurate")
    page.found = [Found(row["type"], row["id"], row["content"]) for row in rows[: asked.count]]
    if asked.total == "accurate":
        page.total = rows[0]["total"] if rows else 0
        if not rows and asked.cursor:
            page.total = None
    elif not asked.cursor and len(rows) <= asked.count and asked.total != "none":
        page.total = len(rows)
    if len(rows) > asked.count:
        page.cursor = _cursor(rows[asked.count - 1], len(asked.order))
    if asked.includes and page.found:
        added, page.cut = await include(pool, reader, asked.includes, page.found, base)
        page.found += added
    return page


def _read(kinds: Sequence[str], query: Sequence[tuple[str, str]]) -> _Asked:
    """The query's parts. Raises SearchError."""
    asked = _Asked()
    for name, value in query:
        plain = name.partition(":")[0]
        if plain not in _ANSWER:
            asked.terms.append((name, value))
        elif name == "_count":
            asked.count = read_count(value)
        elif name == "_cursor":
            asked.cursor = value
        elif name == "_sort":
            asked.order = [order for part in value.split(",") for order in [_order(kinds, part)]]
        elif name == "_total":
            if value not in ("none", "estimate", "accurate"):
                raise SearchError("_total", "one of none, estimate, accurate")
            asked.total = "accurate" if value == "estimate" else value
        elif name == "_summary":
            if value not in ("true", "text", "data", "count", "false"):
                raise SearchError("_summary", "one of true, text, data, count, false")
            if value == "count":
                asked.total = "count"
        elif plain in ("_include", "_revinclude"):
            modifier = name.partition(":")[2]
            if modifier not in ("", "iterate", "recurse"):
                raise SearchError(name, "the one modifier is :iterate")
            asked.includes.append((value, plain == "_revinclude", bool(modifier)))
    if not asked.order:
        asked.order = [("last_updated", True)]
    return asked


def _order(kinds: Sequence[str], text: str) -> tuple[str, bool]:
    """The SQL by which a parameter sorts, and whether it is descending."""
    descending = text.startswith("-")
    name = text.removeprefix("-").partition(":")[0]
    if name == "_lastUpdated":
        return "last_updated", descending
    if name == "_id":
        return "id", descending
    if len(kinds) == 1:
        kind = kinds[0]
        if ix.MAIN_DATE.get(kind) == name:
            return "date_to" if descending else "date_from", descending
        parameter = search_parameters(kind).get(name)
        if parameter is not None and parameter.kind == "string":
            least = "max" if descending else "min"
            texts = f"SELECT {least}(t.text) FROM unnest(texts) AS t (text) WHERE t.text LIKE '{name}\x1f%'"  # noqa: S608
            return f"({texts})", descending
        if parameter is not None and parameter.kind in ("date", "number", "quantity"):
            span = f"numrange '{ix.range_literal(name, ix.Interval(-ix.LIMIT, ix.LIMIT))}'"
            edge = "max(upper(r.span))" if descending else "min(lower(r.span))"
            ranges = f"SELECT {edge} FROM unnest(ranges) AS r (span) WHERE r.span && {span}"  # noqa: S608 - ours
            return f"({ranges})", descending
    raise SearchError("_sort", "one of _id, _lastUpdated, and the type's dates, numbers, quantities and strings")


async def _term(
    pool: Pool | Connection,
    reader: Reader,
    kinds: Sequence[str],
    name: str,
    value: str,
    arguments: Arguments,
    depth: int,
) -> str:
    """The SQL of one parameter, chains resolved. Raises SearchError."""
    if depth > _DEEPEST_CHAIN:
        raise SearchError(name, f"a chain of more than {_DEEPEST_CHAIN}")
    if name.startswith("_has:"):
        return await _has(pool, reader, kinds, name, value, arguments, depth)
    head, dot, rest = name.partition(".")
    made = []
    for kind in kinds:
        if dot:
            made.append(await _chain(pool, reader, kind, name, head, rest, value, arguments, depth))
        elif (patients := _patients(kind, name, value, arguments)) is not None:
            made.append(patients)
        else:
            made.append(condition(kind, name, value, arguments))
        if head.partition(":")[0] in COMMON and not (name == "_id" and len(kinds) > 1):
            return made[0]
    if len(kinds) == 1:
        return made[0]
    return "(" + " OR ".join(f"(type = '{k}' AND {sql})" for k, sql in zip(kinds, made, strict=True)) + ")"


def _patients(kind: str, name: str, value: str, arguments: Arguments) -> str | None:
    """A search by the record's own patient goes by the record, and follows the person; None where it is none."""
    code, _, modifier = name.partition(":")
    if code not in ("patient", "subject") or kind == "Patient" or not compartment(kind):
        return None
    parameter = search_parameters(kind).get(code)
    if parameter is None or modifier not in ("", "Patient"):
        return None
    asked = [reference_of(part, modifier, arguments.base) for part in split(value, ",")]
    plain = [part.removeprefix("Patient/") for part in asked]
    if any("/" in part for part in plain) or not all(plain):
        return None
    if code == "subject" and not all(part.startswith("Patient/") for part in asked):
        return None
    keys = [ix.key(code, f"Patient/{part}") for part in plain]
    numbers = f"{arguments.add([internal_id('Patient', part) for part in plain])}::uuid[]"
    own = f"keys && {arguments.add(keys)}::bigint[]"
    # In records that were joined to it the element names their own Patient.
    return f"(patient_id = ANY({of_person(numbers)}) AND ({own} OR patient_id <> ALL({numbers})))"


async def _chain(
    pool: Pool | Connection,
    reader: Reader,
    kind: str,
    name: str,
    head: str,
    rest: str,
    value: str,
    arguments: Arguments,
    depth: int,
) -> str:
    """``subject:Patient.name``: the resources whose reference points at one that matches the rest."""
    code, _, of = head.partition(":")
    parameter = search_parameters(kind).get(code)
    if parameter is None or parameter.kind != "reference":
        raise UnknownParameterError(name, f"{code} is not a reference parameter of {kind}")
    targets = [target for target in _targets(name, code, parameter, of, rest) if reader.may(target, "s")]
    if not targets:
        raise SearchError(name, "the token does not search what the chain goes through")
    keys: list[int] = []
    for target in targets:
        inner = Arguments(arguments.base)
        conditions = [f"type = {inner.add(target)}", _readable(reader, inner)]
        conditions.append(await _term(pool, reader, [target], rest, value, inner, depth + 1))
        rows = await pool.fetch(
            f"""
            SELECT left(content, 200) AS head FROM resource
            WHERE {" AND ".join(conditions)} LIMIT {_MOST_LINKED + 1}
            """,  # noqa: S608 - predicates are ours, values are arguments
            *inner.values,
        )
        if len(rows) > _MOST_LINKED:
            raise SearchError(name, f"the chain goes through more than {_MOST_LINKED} resources: narrow it")
        keys += [ix.key(code, f"{target}/{logical_id(row['head'])}") for row in rows]
    return f"keys && {arguments.add(keys)}::bigint[]"


def _targets(name: str, code: str, parameter: SearchParameter, of: str, rest: str) -> list[str]:
    """The types that a chain may go through: the one that is named, else those that have the next parameter."""
    if of:
        if of not in resource_types():
            raise SearchError(name, f"{of} is no resource type")
        return [of]
    following = rest.partition(".")[0].partition(":")[0]
    listed = ["Patient"] if code == "patient" else parameter.targets or sorted(resource_types())
    fitting = [t for t in listed if following in COMMON or following == "_has" or following in search_parameters(t)]
    if not fitting:
        raise UnknownParameterError(name, f"{following} is not a search parameter of what {code} refers to")
    return fitting


async def _has(
    pool: Pool | Connection,
    reader: Reader,
    kinds: Sequence[str],
    name: str,
    value: str,
    arguments: Arguments,
    depth: int,
) -> str:
    """``_has:Observation:patient:code``: the resources that one which matches refers to (R4 3.1.1.4.14)."""
    parts = name.split(":", 3)
    if len(parts) != 4 or parts[1] not in resource_types():
        raise SearchError(name, "_has:Type:reference:parameter")
    _, of, code, rest = parts
    if not reader.may(of, "s"):
        raise SearchError(name, f"the token does not search {of}")
    parameter = search_parameters(of).get(code)
    if parameter is None or parameter.kind != "reference":
        raise SearchError(name, f"{code} is not a reference parameter of {of}")
    inner = Arguments(arguments.base)
    conditions = [f"type = {inner.add(of)}", _readable(reader, inner)]
    conditions.append(await _term(pool, reader, [of], rest, value, inner, depth + 1))
    if list(kinds) == ["Patient"] and code in ("patient", "subject") and compartment(of):
        rows = await pool.fetch(
            f"SELECT DISTINCT patient_id FROM resource WHERE {' AND '.join(conditions)} LIMIT {_MOST_LINKED + 1}",  # noqa: S608
            *inner.values,
        )
        numbers = [row["patient_id"] for row in rows]
    else:
        rows = await pool.fetch(
            f"SELECT content FROM resource WHERE {' AND '.join(conditions)} LIMIT {_MOST_LINKED + 1}",  # noqa: S608
            *inner.values,
        )
        select = compile_path(parameter.expression)
        numbers = [
            internal_id(kind, number)
            for row in rows
            for kind, number in local_references(select(orjson.loads(row["content"])), arguments.base)
            if kind in kinds
        ]
    if len(rows) > _MOST_LINKED:
        raise SearchError(name, f"the chain goes through more than {_MOST_LINKED} resources: narrow it")
    return f"id = ANY({arguments.add(numbers)}::uuid[])"


async def _counted(
    pool: Pool | Connection,
    reader: Reader,
    kinds: Sequence[str],
    where: str,
    arguments: Arguments,
    query: Sequence[tuple[str, str]],
) -> int:
    noted = _noted(reader, kinds, arguments, query, "NULL::uuid")
    counted: int = await pool.fetchval(
        f"WITH noted AS ({noted}) SELECT count(*) FROM resource WHERE {where}",  # noqa: S608
        *arguments.values,
    )
    return counted


async def _rows(
    pool: Pool | Connection,
    reader: Reader,
    kinds: Sequence[str],
    where: str,
    asked: _Asked,
    arguments: Arguments,
    query: Sequence[tuple[str, str]],
    *,
    counted: bool,
) -> list[asyncpg.Record]:
    """One page and one row more."""
    order = [*asked.order, ("id", asked.order[-1][1])]
    total = f"(SELECT count(*) FROM resource WHERE {where})" if counted else "NULL::bigint"  # noqa: S608
    page = f"{where} AND {_after(order, asked.cursor, arguments)}" if asked.cursor else where
    sorted_by = ", ".join(f"{sql} {'DESC' if descending else 'ASC'} NULLS LAST" for sql, descending in order)
    columns = ", ".join(f"{sql} AS sort{number}" for number, (sql, _) in enumerate(asked.order))
    again = ", ".join(
        f"sort{number} {'DESC' if descending else 'ASC'} NULLS LAST"
        for number, (_, descending) in enumerate(asked.order)
    )
    limit = arguments.add(asked.count + 1)
    noted = _noted(reader, kinds, arguments, query, "found.patient_id")
    rows: list[asyncpg.Record] = await pool.fetch(
        f"""
        WITH found AS (
            SELECT id, type, patient_id, content, {columns} FROM resource
            WHERE {page} ORDER BY {sorted_by} LIMIT {limit}
        ), noted AS ({noted})
        SELECT *, {total} AS total FROM found
        ORDER BY {again}, id {"DESC" if order[-1][1] else "ASC"}
        """,  # noqa: S608 - columns and predicates are ours, values are arguments
        *arguments.values,
    )
    return rows


def _noted(
    reader: Reader, kinds: Sequence[str], arguments: Arguments, query: Sequence[tuple[str, str]], patient: str
) -> str:
    """The audit line of a search: one for each patient who was found."""
    text = "&".join(f"{name}={value}" for name, value in query)[:2000]
    values = ", ".join(
        (
            f"{arguments.add(reader.actor)}::text",
            f"{arguments.add(reader.organisation_id)}::uuid",
            "'search'",
            patient,
            f"{arguments.add(','.join(kinds)[:200])}::text",
            f"{arguments.add(text)}::text",
        )
    )
    source = "(SELECT) AS always LEFT JOIN found ON true" if patient.startswith("found") else "(SELECT) AS always"
    return f"""
        INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, query)
        SELECT DISTINCT {values} FROM {source}
    """  # noqa: S608 - values are arguments


def _readable(reader: Reader, arguments: Arguments) -> str:
    return readable(reader, arguments.values)


def read_count(value: str) -> int:
    """_count; 0 asks for the total alone. Raises SearchError."""
    if not _COUNT.match(value):
        raise SearchError("_count", "a number")
    return min(int(value), MAX_COUNT)


def _cursor(row: asyncpg.Record, keys: int) -> str:
    values = [row[f"sort{number}"] for number in range(keys)]
    texts = [
        None if value is None else ["t", value.isoformat()] if isinstance(value, datetime) else ["s", str(value)]
        if not isinstance(value, Decimal) else ["n", str(value)]
        for value in values
    ]  # fmt: skip
    return base64.urlsafe_b64encode(orjson.dumps([texts, str(row["id"])])).decode().rstrip("=")


def _after(order: Sequence[tuple[str, bool]], cursor: str, arguments: Arguments) -> str:
    """What comes after the last row of the page before; rows without a sorted value come last."""
    try:
        texts, number = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        last = [_value(text) for text in texts] + [uuid.UUID(number)]
        if len(last) != len(order):
            raise ValueError
    except (ValueError, TypeError, KeyError, ArithmeticError, binascii.Error):
        raise SearchError("_cursor", "not a cursor of this search") from None
    beyond = []
    equal: list[str] = []
    for (sql, descending), value in zip(order, last, strict=True):
        if value is None:
            equal.append(f"{sql} IS NULL")
            continue
        kind = {datetime: "timestamptz", Decimal: "numeric", uuid.UUID: "uuid"}.get(type(value), "text")
        placeholder = f"{arguments.add(value)}::{kind}"
        further = f"({sql} {'<' if descending else '>'} {placeholder} OR {sql} IS NULL)"
        beyond.append(" AND ".join([*equal, further]))
        equal.append(f"{sql} = {placeholder}")
    return "((" + ") OR (".join(beyond) + "))"


def _value(text: Any) -> Any:
    if text is None:
        return None
    kind, value = text
    if kind == "t":
        return datetime.fromisoformat(value)
    return Decimal(value) if kind == "n" else str(value)
