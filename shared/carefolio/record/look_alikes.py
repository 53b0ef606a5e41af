"""The Patients of a record that may be the one that is described (R4 Patient $match).

(http://hl7.org/fhir/R4/patient-operation-match.html) Of those that the reader sees. Who shares a number, a birth
date, a name or a postcode is compared (carefolio.record.likeness); who was only compared leaves no line in anybody's
trail, who is told of does.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.fhir.errors import error
from carefolio.record import parameters
from carefolio.record.access import Reader, opened, readable, with_contents
from carefolio.record.arguments import Arguments
from carefolio.record.likeness import CERTAIN, NOT, Likeness, compare, settled
from carefolio.record.search_terms import condition

# Compared of each block; told of.
_OF_BLOCK = 300
MOST = 100
_MOST_IDENTIFIERS = 10
# What a search takes for the end of a value.
_SPECIAL = str.maketrans({each: f"\\{each}" for each in "\\,|$"})


@dataclass(frozen=True, slots=True)
class Alike:
    """A Patient as he is stored, and how like he is."""

    content: str
    likeness: Likeness


async def find(pool: Pool, reader: Reader, described: dict[str, Any], count: int, *, only_certain: bool) -> list[Alike]:
    """The most alike first, none that is certainly another. Raises FhirError (422) where too little is said."""
    blocks = list(_blocks(described))
    if not blocks:
        reason = "to look for somebody takes an identifier, or a family name with a given name, birth date or postcode"
        raise error(422, "required", reason, "Parameters.parameter.resource")
    await parameters.refresh(pool)
    near: dict[uuid.UUID, int] = {}
    all_seen = True
    for block in blocks:
        arguments = Arguments(organisation_id=reader.organisation_id)
        may_read = readable(reader, arguments.values)
        conditions = [condition("Patient", name, value, arguments) for name, value in block]
        rows = await pool.fetch(
            f"""
            SELECT id, version FROM resource WHERE type = 'Patient' AND {may_read} AND {" AND ".join(conditions)}
            ORDER BY id LIMIT {_OF_BLOCK}
            """,  # noqa: S608 - the predicates are ours, their values are arguments
            *arguments.values,
        )
        all_seen = all_seen and len(rows) < _OF_BLOCK
        near |= {row["id"]: row["version"] for row in rows}
    values: list[Any] = [list(near), list(near.values())]
    rows = await pool.fetch(
        f"""
        WITH found AS (SELECT * FROM unnest($1::uuid[], $2::int[]) AS t (id, version))
        SELECT id, opened.content FROM found JOIN {opened(reader, values)} USING (id, version)
        """,  # noqa: S608 - ours
        *values,
    )
    graded = await anyio.to_thread.run_sync(
        lambda: settled({row["id"]: compare(described, text.loads(row["content"])) for row in rows}, all_seen=all_seen)
    )
    chosen = {
        number: likeness
        for number, likeness in sorted(graded.items(), key=lambda each: (-each[1].score, str(each[0])))
        if likeness.grade != NOT and (likeness.grade == CERTAIN or not only_certain)
    }
    best = dict(list(chosen.items())[:count])
    values = [list(best)]
    told = f"SELECT id, version, type, patient_id FROM resource WHERE id = ANY($1) AND {readable(reader, values)}"  # noqa: S608
    contents = {row["id"]: row["content"] for row in await pool.fetch(with_contents(told, reader, values), *values)}
    return [Alike(contents[number], likeness) for number, likeness in best.items() if number in contents]


def _blocks(described: dict[str, Any]) -> Iterator[list[tuple[str, str]]]:
    """By what those who are compared are found: each block is a search."""
    for each in described.get("identifier", [])[:_MOST_IDENTIFIERS]:
        if each.get("system") and each.get("value"):
            yield [("identifier", f"{_said(each['system'])}|{_said(each['value'])}")]
    names = [name for name in described.get("name", [])[:3] if name.get("family")]
    born, homes = str(described.get("birthDate", "")), described.get("address", [])
    given = [(name["family"], name["given"][0]) for name in names if any(name.get("given", [])[:1])]
    codes = [each["postalCode"] for each in homes if each.get("postalCode")]
    if names and born:
        yield [("birthdate", born)]
        yield from ([("birthdate", born), ("family", _said(name["family"]))] for name in names)
        year, *rest = born.split("-")
        if len(rest) == 2 and rest[0] != rest[1] and int(rest[1]) <= 12:
            yield [("birthdate", f"{year}-{rest[1]}-{rest[0]}")]
    for family, first in given:
        yield [("family:exact", _said(family)), ("given", _said(first[:1]))]
    if names:
        for code in codes[:3]:
            yield [("address-postalcode", _said(code))]


def _said(text_: object) -> str:
    return str(text_)[:200].translate(_SPECIAL)
