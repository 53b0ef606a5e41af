"""Reading single resources, their versions, histories, and everything of a patient. Each read leaves its audit line."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.record.access import Reader, of_person, opened, readable, resources, with_contents
from carefolio.record.ids import internal_id
from carefolio.record.includes import Found
from carefolio.record.masking import masked
from carefolio.record.search import Page, masked_page

_REFERENCE = re.compile(r'"reference": ?"(Practitioner|PractitionerRole|Organization|Location)/([A-Za-z0-9\-.]{1,64})"')


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a resource; ``content`` is None where it says that the resource is gone.

    ``is_new`` tells of a version in a history that it made the resource, first or once more.
    """

    type: str
    id: uuid.UUID
    version: int
    at: datetime
    content: str | None
    is_new: bool = False


@dataclass(slots=True)
class History:
    """Versions, the newest first, and the cursor of the next page where there is one."""

    versions: list[Version] = field(default_factory=list)
    cursor: tuple[datetime, uuid.UUID, int] | None = None


async def read(pool: Pool | Connection, reader: Reader, kind: str, number: uuid.UUID) -> Version | None:
    """The current version, or that of ``reader.at``; a deletion too; None where it is not there or not to be read."""
    return await _one(pool, reader, kind, number, None)


async def vread(pool: Pool | Connection, reader: Reader, kind: str, number: uuid.UUID, version: int) -> Version | None:
    """One version; None where it is not there or not to be read."""
    return await _one(pool, reader, kind, number, version)


async def _one(
    pool: Pool | Connection, reader: Reader, kind: str, number: uuid.UUID, version: int | None
) -> Version | None:
    arguments: list[Any] = [number, kind, reader.actor, reader.organisation_id]
    # A statement for each question, rather than one whose plan would depend on what is asked and be made anew.
    which, of_old = "true", "valid_to = 'infinity'"
    if version is not None:
        arguments.append(version)
        which = of_old = "version = $5" if reader.at is None else "$5::int IS NULL"
    if reader.at is None:
        now, then = readable(reader, arguments), readable(reader, arguments, "resource_history")
        found = f"""
            SELECT id, patient_id, version, last_updated AS at FROM resource
            WHERE id = $1 AND type = $2 AND {now} AND {which}
            UNION ALL
            SELECT id, patient_id, version, valid_from FROM resource_history
            WHERE id = $1 AND type = $2 AND {then} AND {of_old}
        """  # noqa: S608 - the predicates are ours, their values are arguments
    else:
        found = f"""
            SELECT id, patient_id, version, last_updated AS at FROM {resources(reader, arguments)}
            WHERE id = $1 AND type = $2 AND {readable(reader, arguments)} AND {which}
        """  # noqa: S608 - the predicates are ours, their values are arguments
    row = await pool.fetchrow(
        f"""
        WITH found AS ({found}), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, resource_id)
            SELECT $3, $4, CASE WHEN found.id IS NULL THEN 'read-nothing' ELSE 'read' END,
                   found.patient_id, $2, $1
            FROM (SELECT) AS always LEFT JOIN found ON true
        )
        SELECT opened.content, version, at FROM found JOIN {opened(reader, arguments)} USING (id, version)
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments,
    )
    if row is None:
        return None
    [content] = await masked(pool, reader, [row["content"]], [number])
    return Version(kind, number, row["version"], row["at"], content)


async def history(
    pool: Pool | Connection,
    reader: Reader,
    *,
    kind: str | None = None,
    number: uuid.UUID | None = None,
    since: datetime | None = None,
    at: tuple[datetime, datetime] | None = None,
    count: int = 50,
    cursor: tuple[datetime, uuid.UUID, int] | None = None,
) -> History:
    """A page of the versions of one resource, of a type, or of all (R4 3.1.0.14); ``at``: current in that time."""
    arguments: list[Any] = [reader.actor, reader.organisation_id, kind, number, count + 1, since]
    arguments += list(at) if at else [None, None]
    arguments += list(cursor) if cursor else [None, None, None]
    now, then = readable(reader, arguments), readable(reader, arguments, "resource_history")
    bounds = """
        ($3::text IS NULL OR type = $3) AND ($4::uuid IS NULL OR id = $4)
        AND ($6::timestamptz IS NULL OR {at} >= $6)
        AND ($7::timestamptz IS NULL OR ({at} < $8 AND {to} > $7))
        AND ($9::timestamptz IS NULL OR ({at}, id, version) < ($9, $10::uuid, $11::int))
    """
    live = bounds.format(at="last_updated", to="'infinity'::timestamptz")
    past = bounds.format(at="valid_from", to="valid_to")
    rows = await pool.fetch(
        f"""
        WITH found AS (
            (SELECT type, id, version, last_updated AS at, patient_id FROM resource WHERE {now} AND {live}
             ORDER BY last_updated DESC, id DESC, version DESC LIMIT $5)
            UNION ALL
            (SELECT type, id, version, valid_from, patient_id FROM resource_history WHERE {then} AND {past}
             ORDER BY valid_from DESC, id DESC, version DESC LIMIT $5)
        ), page AS (
            SELECT * FROM found ORDER BY at DESC, id DESC, version DESC LIMIT $5
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, resource_id)
            SELECT DISTINCT $1, $2::uuid, 'history', page.patient_id, $3::text, $4::uuid
            FROM (SELECT) AS always LEFT JOIN page ON true
        )
        SELECT page.*, opened.content, version = 1 OR EXISTS (
            SELECT FROM resource_history before
            WHERE before.id = page.id AND before.version = page.version - 1 AND before.content IS NULL
        ) AS is_new
        FROM page JOIN {opened(reader, arguments, "page")} USING (id, version)
        ORDER BY at DESC, id DESC, version DESC
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments,
    )
    page = rows[:count]
    contents = await masked(pool, reader, (row["content"] for row in page), (row["id"] for row in page))
    made = History([
        Version(row["type"], row["id"], row["version"], row["at"], content, row["is_new"])
        for row, content in zip(page, contents, strict=True)
    ])  # fmt: skip
    if len(rows) > count:
        last = made.versions[-1]
        made.cursor = (last.at, last.id, last.version)
    return made


async def everything(
    pool: Pool | Connection,
    reader: Reader,
    patient: uuid.UUID,
    *,
    count: int,
    after: uuid.UUID | None = None,
    kinds: Sequence[str] = (),
    since: datetime | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Page | None:
    """A page of all that the reader may see of a person (joined records too), then who and what it refers to.

    ``start`` and ``end`` are of the clinical dates; what has none is in. None for no such patient.
    """
    arguments: list[Any] = [
        patient,
        reader.actor,
        reader.organisation_id,
        count + 1,
        list(kinds),
        since,
        start,
        end,
        after,
    ]
    source, may_read = resources(reader, arguments), readable(reader, arguments)
    records = of_person("ARRAY[$1::uuid]", reader, arguments)
    rows = await pool.fetch(
        f"""
        WITH found AS (
            SELECT id, version, type FROM {source}
            WHERE patient_id = ANY({records}) AND {may_read}
            AND ($9::uuid IS NULL OR id > $9)
            AND ($5::text[] = '{{}}' OR type = ANY($5))
            AND ($6::timestamptz IS NULL OR last_updated >= $6)
            AND ($7::timestamptz IS NULL OR date_to IS NULL OR type = 'Patient' OR date_to > $7)
            AND ($8::timestamptz IS NULL OR date_from IS NULL OR type = 'Patient' OR date_from < $8)
            ORDER BY id LIMIT $4
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, resource_id)
            SELECT $2, $3, 'everything', CASE WHEN EXISTS (SELECT FROM found) THEN $1::uuid END, 'Patient', $1::uuid
        )
        SELECT id, type, opened.content FROM found JOIN {opened(reader, arguments)} USING (id, version) ORDER BY id
        """,  # noqa: S608 - the predicate is ours, its values are arguments
        *arguments,
    )
    if not rows and after is None and not await _is_there(pool, reader, patient):
        return None
    page = Page([Found(row["type"], row["id"], row["content"]) for row in rows[:count]])
    referred = {internal_id(kind, number) for found in page.found for kind, number in _REFERENCE.findall(found.content)}
    if referred and not kinds:
        arguments = [list(referred)]
        source = resources(reader, arguments)
        found = (
            f"SELECT id, version, type, patient_id FROM {source} WHERE id = ANY($1) AND {readable(reader, arguments)}"  # noqa: S608
        )
        others = await pool.fetch(f"{with_contents(found, reader, arguments)} ORDER BY id", *arguments)
        page.found += [Found(row["type"], row["id"], row["content"], "include") for row in others]
    page.found = await masked_page(pool, reader, page.found)
    if len(rows) > count:
        page.cursor = str(rows[count - 1]["id"])
    return page


async def _is_there(pool: Pool | Connection, reader: Reader, patient: uuid.UUID) -> bool:
    arguments: list[Any] = [patient]
    source = resources(reader, arguments)
    where = f"id = $1 AND type = 'Patient' AND {readable(reader, arguments)}"
    return bool(await pool.fetchval(f"SELECT true FROM {source} WHERE {where}", *arguments))  # noqa: S608
