"""What a person reads of a record: its items by section, the newest first, with whom they come from.

The portal, the REST lists and the PDF read by it; the rule of who sees what is that of every other door.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir import text
from carefolio.record.access import Reader, of_person, opened, readable, resources
from carefolio.record.arguments import Arguments
from carefolio.record.masking import masked
from carefolio.record.search_terms import condition
from carefolio.view.sections import SECTIONS, Section
from carefolio.view.telling import tell

Place = tuple[datetime, uuid.UUID]
_AT = "coalesce(date_from, last_updated)"
_MOST_WORDS = 8
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Item:
    """``id`` is its FHIR id, ``number`` the record's own. ``at`` orders it: its clinical date, else when it came.

    ``own``: the patient, or a carer in his name, wrote it; else ``organisations`` did, the first through ``team``.
    """

    type: str
    id: str
    number: uuid.UUID
    version: int
    at: datetime
    changed: datetime
    label: str
    organisations: tuple[str, ...]
    team: str
    own: bool
    resource: dict[str, Any]


async def of_section(
    pool: Pool | Connection, reader: Reader, record: uuid.UUID, section: Section, **asked: Any
) -> list[Item]:
    """A page of a section; what may be ``asked`` is that of ``of_kinds``."""
    arguments = Arguments(organisation_id=reader.organisation_id)
    chosen = "true"
    if section.category:
        chosen = condition("Observation", "category", section.category, arguments)
    elif "Observation" in section.kinds:
        others = [each.category for each in SECTIONS.values() if each.category]
        found = " OR ".join(condition("Observation", "category", category, arguments) for category in others)
        chosen = f"NOT (type = 'Observation' AND ({found}))"
    return await _page(pool, reader, record, section.kinds, chosen, arguments, **asked)


async def of_kinds(
    pool: Pool | Connection, reader: Reader, record: uuid.UUID, kinds: Sequence[str], **asked: Any
) -> list[Item]:
    """A page of several types together: a timeline.

    Asked may be ``count``; ``after`` which place it begins; ``start`` and ``end`` of the days; ``words`` that are
    somewhere in the item, all of them; ``newest``: in the order in which they came; ``soonest``:
    the first first.
    """
    return await _page(pool, reader, record, kinds, "true", Arguments(organisation_id=reader.organisation_id), **asked)


async def _page(
    pool: Pool | Connection,
    reader: Reader,
    record: uuid.UUID,
    kinds: Sequence[str],
    chosen: str,
    arguments: Arguments,
    *,
    count: int = 50,
    after: Place | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    words: str = "",
    newest: bool = False,
    soonest: bool = False,
) -> list[Item]:
    chosen += f" AND type = ANY({arguments.add([kind for kind in kinds if reader.may(kind, 'r')])}::text[])"
    if start is not None:
        chosen += f" AND {_AT} >= {arguments.add(start)}::timestamptz"
    if end is not None:
        chosen += f" AND {_AT} < {arguments.add(end)}::timestamptz"
    wanted = words.casefold().split()[:_MOST_WORDS]
    if not wanted:
        return await chosen_items(pool, reader, record, chosen, arguments, count=count, after=after, newest=newest,
                                  soonest=soonest)  # fmt: skip
    for word in wanted:
        chosen += f" AND position({arguments.add(word)}::text in lower(content)) > 0"
    # And looked for in what the reader is shown: what is masked is not found.
    found: list[Item] = []
    while len(found) < count:
        made = Arguments(values=list(arguments.values), organisation_id=reader.organisation_id)
        page = await chosen_items(pool, reader, record, chosen, made, count=_AT_ONCE, after=after)
        found += [each for each in page if _has_words(each, wanted)]
        if len(page) < _AT_ONCE:
            break
        after = (page[-1].at, page[-1].number)
    return found[:count]


def _has_words(item: Item, wanted: Sequence[str]) -> bool:
    told = tell(item.resource)
    parts = (told.title, told.value, told.text, *(value for _, value in told.facts),
             *(f"{part.title} {part.value}" for part in told.parts))  # fmt: skip
    said = " ".join(parts).casefold()
    return all(word in said for word in wanted)


async def by_code(
    pool: Pool | Connection, reader: Reader, record: uuid.UUID, system: str, code: str, *, count: int = 200
) -> list[Item]:
    """The Observations of one code, the newest first. Raises SearchError."""
    # A comma or a bar in a code is no list of codes.
    code = "|".join(re.sub(r"([\\,|$])", r"\\\1", part) for part in (system, code))
    arguments = Arguments(organisation_id=reader.organisation_id)
    chosen = f"type = 'Observation' AND {condition('Observation', 'code', code, arguments)}"
    return await chosen_items(pool, reader, record, chosen, arguments, count=count)


async def one(pool: Pool | Connection, reader: Reader, record: uuid.UUID, number: uuid.UUID) -> Item | None:
    """One item of a record, by the record's own number of it."""
    arguments = Arguments(organisation_id=reader.organisation_id)
    found = await chosen_items(pool, reader, record, f"id = {arguments.add(number)}", arguments, count=1)
    return found[0] if found else None


async def several(
    pool: Pool | Connection, reader: Reader, record: uuid.UUID, numbers: Sequence[uuid.UUID]
) -> list[Item]:
    """Items of a record by the record's own numbers, such as the results of a report."""
    arguments = Arguments(organisation_id=reader.organisation_id)
    chosen = f"id = ANY({arguments.add(list(numbers))}::uuid[])"
    return await chosen_items(pool, reader, record, chosen, arguments, count=len(numbers))


@dataclass(frozen=True, slots=True)
class Delayed:
    """Something that a hospital tells the patient from a day on (OBX-13); what it is, is not told before."""

    type: str
    available: datetime
    organisation: str


async def delayed(pool: Pool | Connection, reader: Reader, record: uuid.UUID) -> list[Delayed]:
    """What is on its way to a patient; for him alone."""
    if reader.own != record:
        return []
    rows = await pool.fetch(
        """
        SELECT type, available_from, coalesce((
            SELECT name FROM organisation WHERE organisation.id = ANY(organisations) ORDER BY created_at LIMIT 1
        ), '') AS organisation
        FROM resource WHERE available_from > now() AND patient_id IN (
            SELECT every.id FROM record asked JOIN record every USING (person_id)
            WHERE asked.id = $1 AND every.frozen_at IS NULL
        ) AND type IN ('DiagnosticReport', 'DocumentReference') ORDER BY available_from LIMIT 20
        """,
        record,
    )
    return [Delayed(row["type"], row["available_from"], row["organisation"]) for row in rows]


async def chosen_items(
    pool: Pool | Connection,
    reader: Reader,
    record: uuid.UUID,
    chosen: str,
    arguments: Arguments,
    *,
    count: int,
    after: Place | None = None,
    newest: bool = False,
    soonest: bool = False,
) -> list[Item]:
    """The items of a record that fulfil ``chosen``, whose values are in ``arguments``; their readers are noted."""
    order = f"{'last_updated' if newest else _AT} {'ASC' if soonest else 'DESC'}"
    source, allowed = resources(reader, arguments.values), readable(reader, arguments.values)
    records = of_person(f"{arguments.add([record])}::uuid[]", reader, arguments.values)
    if after is not None:
        chosen += f" AND ({_AT}, id) < ({arguments.add(after[0])}::timestamptz, {arguments.add(after[1])}::uuid)"
    actor, organisation = arguments.add(reader.actor), arguments.add(reader.organisation_id)
    rows = await pool.fetch(
        f"""
        WITH found AS (
            SELECT id, version, type, patient_id, {_AT} AS at, last_updated, label, organisations, team_id
            FROM {source} WHERE patient_id = ANY({records}) AND {allowed} AND {chosen}
            ORDER BY {order}, id DESC LIMIT {arguments.add(count)}
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type)
            SELECT {actor}::text, {organisation}::uuid, 'read', patient_id, string_agg(DISTINCT type, ',') FROM found
            GROUP BY patient_id
        )
        SELECT found.*, opened.content, team.name AS team, organisations && {records} AS own, ARRAY(
            SELECT name FROM organisation WHERE organisation.id = ANY(organisations) ORDER BY organisation.created_at
        ) AS names
        FROM found JOIN {opened(reader, arguments.values)} USING (id, version) LEFT JOIN team ON team.id = team_id
        ORDER BY {"last_updated" if newest else "at"} {"ASC" if soonest else "DESC"}, id DESC
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments.values,
    )
    contents = await masked(pool, reader, (row["content"] for row in rows), (row["id"] for row in rows))
    return [_item(row, content) for row, content in zip(rows, contents, strict=True)]


def _item(row: asyncpg.Record, content: str | None) -> Item:
    assert content is not None
    resource = text.loads(content)
    return Item(
        row["type"], resource["id"], row["id"], row["version"], row["at"], row["last_updated"], row["label"],
        tuple(row["names"]), row["team"] or "", row["own"], resource,
    )  # fmt: skip
