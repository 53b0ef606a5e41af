"""A professional's patients: those who share with him or with one of his teams, or to whom his team contributed."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from carefolio.cloud.database import Pool
from carefolio.record.access import IS_OPEN, Reader, opened, readable
from carefolio.record.finding import shown

Place = tuple[str, uuid.UUID]


@dataclass(frozen=True, slots=True)
class Listed:
    """A patient in the list; ``labels`` are what is seen of him, ``teams`` through which teams (none: himself)."""

    id: uuid.UUID
    name: str
    born: str
    nhs_number: str
    labels: tuple[str, ...]
    teams: tuple[str, ...]
    sort: str


async def patients(
    pool: Pool, reader: Reader, *, name: str = "", count: int = 50, after: Place | None = None
) -> list[Listed]:
    """A page of the list in the order of names, beginning after a place in it; ``name``: words with which family and
    given names begin.

    Each patient who is shown leaves an audit line.
    """
    words = name.replace(",", " ").casefold().split()[:5]
    arguments: list[object] = [reader.account, words, count, *(after or (None, None))]
    allowed = readable(reader, arguments, "p")
    arguments += [reader.actor, reader.organisation_id]
    actor, organisation = f"${len(arguments) - 1}", f"${len(arguments)}"
    rows = await pool.fetch(
        f"""
        WITH grantees AS (
            SELECT team_id AS id, team.name FROM account_team JOIN team ON team.id = team_id WHERE account_id = $1
            UNION ALL SELECT $1, NULL
        ), shared AS (
            SELECT every.id, array_agg(DISTINCT grantees.name) FILTER (WHERE grantees.name IS NOT NULL) AS teams,
                   array_agg(DISTINCT label) FILTER (WHERE label IS NOT NULL) AS labels
            FROM grantees JOIN sharing s ON s.grantee = grantees.id AND s.ended_at IS NULL
            AND (s.ends_at > now() OR s.contributed) AND (s.kind <> 'glass' OR EXISTS ({IS_OPEN}))
            JOIN record known ON known.id = s.record_id JOIN record every USING (person_id)
            LEFT JOIN LATERAL unnest(s.labels) AS label ON every.sharing_off_at IS NULL AND s.ends_at > now()
            GROUP BY every.id
        ), named AS (
            SELECT p.id, p.version, shared.teams, shared.labels,
                   lower(coalesce(p.content::json #>> '{{name,0,family}}', p.content::json #>> '{{name,0,text}}', ''))
                   || ' ' || lower(coalesce(p.content::json #>> '{{name,0,given,0}}', '')) AS sort
            FROM shared JOIN resource p ON p.id = shared.id AND p.type = 'Patient' AND {allowed}
        ), found AS (
            SELECT * FROM named WHERE NOT EXISTS (
                SELECT FROM unnest($2::text[]) AS word WHERE NOT starts_with(sort, word)
                AND position(' ' || word IN sort) = 0
            )
            AND ($4::text IS NULL OR (sort, id) > ($4::text, $5::uuid)) ORDER BY sort, id LIMIT $3
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type)
            SELECT {actor}::text, {organisation}::uuid, 'find', id, 'Patient' FROM found
        ) SELECT found.*, opened.content FROM found JOIN {opened(reader, arguments)} USING (id, version)
        ORDER BY sort, id
        """,  # noqa: S608 - the predicate is ours, its values are arguments
        *arguments,
    )
    made = []
    for row in rows:
        person = shown(row["id"], json.loads(row["content"]))
        made.append(
            Listed(row["id"], person["name"], person["born"], person["nhs_number"], tuple(row["labels"] or ()),
                   tuple(row["teams"] or ()), row["sort"])
        )  # fmt: skip
    return made
