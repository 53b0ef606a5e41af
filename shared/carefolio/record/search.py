"""Reading the record: by id, by search, and everything of a patient. Each read leaves its audit line with it.

FHIR R4 3.1.1 (search). Every SELECT goes through carefolio.record.access.readable.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from carefolio.cloud.database import Pool
from carefolio.record.access import Reader, of_person, readable
from carefolio.record.search_keys import MAIN_DATE, date_range, key, parameters

DEFAULT_COUNT = 50
MAX_COUNT = 1000
_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le)?(\d.*)\Z")
_COUNT = re.compile(r"[0-9]{1,6}\Z")
_REFERENCE = re.compile(r'"reference": ?"(?:Practitioner|Organization|Location)/([0-9a-f-]{36})"')


class SearchError(Exception):
    """A search that cannot be answered; ``parameter`` is the one at fault."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter}: {reason}")
        self.parameter = parameter
        self.reason = reason


@dataclass(slots=True)
class Page:
    """Stored resources in order, and the cursor of the next page where there is one."""

    contents: list[tuple[str, uuid.UUID, str]] = field(default_factory=list)
    cursor: str | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class _Order:
    column: str
    descending: bool


async def read(pool: Pool, reader: Reader, kind: str, number: uuid.UUID) -> asyncpg.Record | None:
    """One resource (content, version, last_updated), None where it is not there or not to be read."""
    arguments: list[Any] = [number, kind, reader.actor, reader.organisation_id]
    return await pool.fetchrow(
        f"""
        WITH found AS (
            SELECT id, type, patient_id, content, version, last_updated FROM resource
            WHERE id = $1 AND type = $2 AND {readable(reader, arguments)}
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, resource_id)
            SELECT $3, $4, CASE WHEN found.id IS NULL THEN 'read-nothing' ELSE 'read' END,
                   found.patient_id, $2, $1
            FROM (SELECT) AS always LEFT JOIN found ON true
        )
        SELECT content, version, last_updated FROM found
        """,  # noqa: S608 - the predicate is ours, its values are arguments
        *arguments,
    )


async def search(pool: Pool, reader: Reader, kind: str, query: Sequence[tuple[str, str]]) -> Page:
    """One page of a search.

    Raises SearchError for a parameter that is unknown or cannot be read; nothing is ignored.
    """
    arguments: list[Any] = []
    conditions = [f"type = {_argument(arguments, kind)}", readable(reader, arguments)]
    count, cursor, order, total = DEFAULT_COUNT, "", _Order("last_updated", descending=True), False
    for name, value in query:
        if name == "_count":
            count = read_count(value)
        elif name == "_cursor":
            cursor = value
        elif name == "_sort":
            order = _order(kind, value)
        elif name == "_total":
            total = _total(value)
        elif name == "_format":
            continue
        else:
            conditions.append(_condition(kind, name, value, arguments))
    matching = " AND ".join(conditions)
    counted = f"(SELECT count(*) FROM resource WHERE {matching})" if total else "NULL::bigint"  # noqa: S608
    if cursor:
        conditions.append(_after(order, cursor, arguments))
    direction = "DESC" if order.descending else "ASC"
    sql = f"""
        WITH found AS (
            SELECT id, type, patient_id, content, {order.column} AS sorted FROM resource
            WHERE {" AND ".join(conditions)}
            ORDER BY {order.column} {direction} NULLS LAST, id {direction}
            LIMIT {_argument(arguments, count + 1)}
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, query)
            SELECT DISTINCT {_argument(arguments, reader.actor)}, {_argument(arguments, reader.organisation_id)}::uuid,
                   'search', found.patient_id, {_argument(arguments, kind)}, {_argument(arguments, _query(query))}
            FROM (SELECT) AS always LEFT JOIN found ON true
        )
        SELECT id, type, content, sorted, {counted} AS total FROM found
        ORDER BY sorted {direction} NULLS LAST, id {direction}
    """  # noqa: S608 - columns and predicates are ours, values are arguments
    rows = await pool.fetch(sql, *arguments)
    page = Page([(row["type"], row["id"], row["content"]) for row in rows[:count]])
    if total:
        page.total = rows[0]["total"] if rows else 0
    elif not cursor and len(rows) <= count:
        page.total = len(rows)
    if len(rows) > count:
        last = rows[count - 1]
        page.cursor = _cursor(last["sorted"], last["id"])
    return page


async def everything(pool: Pool, reader: Reader, patient: uuid.UUID, count: int, cursor: str) -> Page | None:
    """A page of all that the reader may see of a person (joined records too), then who and what it refers to.

    None for no such patient.
    """
    arguments: list[Any] = [patient, reader.actor, reader.organisation_id, count + 1]
    may_read = readable(reader, arguments)
    start = f"AND id > {_argument(arguments, _uuid('_cursor', cursor))}" if cursor else ""
    rows = await pool.fetch(
        f"""
        WITH found AS (
            SELECT id, type, content FROM resource
            WHERE patient_id = ANY({of_person("ARRAY[$1::uuid]")}) AND {may_read} {start}
            ORDER BY id LIMIT $4
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, resource_id)
            SELECT $2, $3, 'everything', CASE WHEN EXISTS (SELECT FROM found) THEN $1::uuid END, 'Patient', $1::uuid
        )
        SELECT * FROM found ORDER BY id
        """,  # noqa: S608 - the predicate is ours, its values are arguments
        *arguments,
    )
    if not rows and not cursor:
        return None
    page = Page([(row["type"], row["id"], row["content"]) for row in rows[:count]])
    referred = {uuid.UUID(found) for _, _, content in page.contents for found in _REFERENCE.findall(content)}
    if referred:
        arguments = [list(referred)]
        others = await pool.fetch(
            f"SELECT id, type, content FROM resource WHERE id = ANY($1) AND {readable(reader, arguments)} ORDER BY id",  # noqa: S608
            *arguments,
        )
        page.contents += [(row["type"], row["id"], row["content"]) for row in others]
    if len(rows) > count:
        page.cursor = str(rows[count - 1]["id"])
    return page


def search_parameters(kind: str) -> dict[str, str]:
    """What can be asked of a type: name -> kind of parameter."""
    known = {name: parameter.kind for name, parameter in parameters(kind).items()}
    return known | {"_id": "token", "_lastUpdated": "date"}


def _condition(kind: str, name: str, value: str, arguments: list[Any]) -> str:
    """The SQL of one parameter; commas are alternatives (R4 3.1.1.3)."""
    plain, _, modifier = name.partition(":")
    if modifier:
        raise SearchError(name, "this modifier is not supported")
    alternatives = [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", value)]
    if not all(alternatives):
        raise SearchError(name, "an empty value")
    if len(alternatives) > 200:
        raise SearchError(name, "more than 200 alternatives")
    if plain == "_id":
        numbers = [_uuid_or_none(part) for part in alternatives]
        return f"id = ANY({_argument(arguments, [number for number in numbers if number])}::uuid[])"
    if plain == "_lastUpdated":
        return _dates(name, alternatives, "last_updated", "last_updated", arguments)
    parameter = parameters(kind).get(plain)
    if parameter is None:
        raise SearchError(name, f"not a search parameter of {kind} here")
    if parameter.kind == "date":
        return _dates(name, alternatives, "date_from", "date_to", arguments)
    if parameter.kind == "token":
        keys = [key(plain, _token(part)) for part in alternatives]
        return f"keys && {_argument(arguments, keys)}::bigint[]"
    references = [_reference(plain, part) for part in alternatives]
    keys = [key(plain, reference) for reference in references]
    condition = f"keys && {_argument(arguments, keys)}::bigint[]"
    patients = [_uuid_or_none(reference[8:]) for reference in references if reference.startswith("Patient/")]
    if len(patients) == len(references) and kind != "Patient" and plain in ("patient", "subject"):
        # The record's own index is the shorter way; the keys then hold the parameter to its element. In records
        # that were joined to it the element names their own Patient.
        asked = f"{_argument(arguments, [p for p in patients if p])}::uuid[]"
        return f"(patient_id = ANY({of_person(asked)}) AND ({condition} OR patient_id <> ALL({asked})))"
    return condition


def _token(value: str) -> str:
    """A token as its key was made; ``|code`` asks for a code without system."""
    return value.replace("\\|", "|")


def _reference(parameter: str, value: str) -> str:
    if value.startswith("http"):
        value = "/".join(value.rstrip("/").split("/")[-2:])
    return value if "/" in value or parameter != "patient" else f"Patient/{value}"


def _dates(name: str, alternatives: list[str], start: str, end: str, arguments: list[Any]) -> str:
    """R4 3.1.1.4.7: a date is a range, and so is what is stored."""
    conditions = []
    for part in alternatives:
        match = _PREFIX.match(part)
        try:
            low, high = date_range(match.group(2) if match else part)
        except (ValueError, OverflowError):
            raise SearchError(name, "not a date, with one of the prefixes eq ne gt lt ge le or none") from None
        prefix = (match.group(1) if match else None) or "eq"
        first, last = _argument(arguments, low), _argument(arguments, high)
        point = start == end
        inside = f"{start} >= {first} AND {end} {'<' if point else '<='} {last}"
        conditions.append(
            {
                "eq": f"({inside})",
                "ne": f"NOT ({inside})",
                "gt": f"{end} {'>=' if point else '>'} {last}",
                "ge": f"({end} {'>=' if point else '>'} {last} OR ({inside}))",
                "lt": f"{start} < {first}",
                "le": f"({start} < {first} OR ({inside}))",
            }[prefix]
        )
        # Every placeholder must be used, or PostgreSQL cannot tell its type.
        conditions[-1] += f" AND {first}::timestamptz <= {last}::timestamptz"
    return "((" + ") OR (".join(conditions) + "))"


def _order(kind: str, value: str) -> _Order:
    descending = value.startswith("-")
    name = value.removeprefix("-")
    if name == "_lastUpdated":
        return _Order("last_updated", descending)
    if name == MAIN_DATE.get(kind):
        return _Order("date_from", descending)
    raise SearchError("_sort", f"{kind} can be sorted by _lastUpdated" + f" or {MAIN_DATE[kind]}" * (kind in MAIN_DATE))


def read_count(value: str) -> int:
    number = int(value) if _COUNT.match(value) else 0
    if not 1 <= number <= MAX_COUNT:
        raise SearchError("_count", f"a number from 1 to {MAX_COUNT}")
    return number


def _total(value: str) -> bool:
    if value not in ("none", "estimate", "accurate"):
        raise SearchError("_total", "one of none, estimate, accurate")
    return value != "none"


def _cursor(at: datetime | None, number: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(f"{at.isoformat() if at else ''}|{number}".encode()).decode().rstrip("=")


def _after(order: _Order, cursor: str, arguments: list[Any]) -> str:
    """What comes after the last row of the page before; rows without the sorted value come last."""
    try:
        stamp, _, number = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("|")
        last = _argument(arguments, uuid.UUID(number))
        at = datetime.fromisoformat(stamp).astimezone(UTC) if stamp else None
    except (ValueError, OverflowError, binascii.Error):
        raise SearchError("_cursor", "not a cursor of this server") from None
    sign = "<" if order.descending else ">"
    if at is None:
        return f"({order.column} IS NULL AND id {sign} {last})"
    moment = _argument(arguments, at)
    return f"(({order.column}, id) {sign} ({moment}, {last}) OR {order.column} IS NULL)"


def _argument(arguments: list[Any], value: Any) -> str:
    arguments.append(value)
    return f"${len(arguments)}"


def _uuid(parameter: str, text: str) -> uuid.UUID:
    found = _uuid_or_none(text)
    if found is None:
        raise SearchError(parameter, "not a cursor of this server")
    return found


def _uuid_or_none(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def _query(query: Sequence[tuple[str, str]]) -> str:
    return "&".join(f"{name}={value}" for name, value in query)[:2000]
