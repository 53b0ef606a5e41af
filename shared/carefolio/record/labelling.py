"""The privacy label of what is new, by where it comes from (domain rules A8): its team, then its code."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.record.labels import GENERAL

_SNOMED = "http://snomed.info/sct"


def concepts(resource: dict[str, Any]) -> list[str]:
    """The SNOMED CT concepts of a resource's code."""
    code = resource.get("code")
    codings = code.get("coding", ()) if isinstance(code, dict) else ()
    return [each["code"] for each in codings if each.get("system") == _SNOMED and str(each.get("code", "")).isdigit()]


async def of_team(connection: Connection | Pool, team: uuid.UUID | None, records: Sequence[uuid.UUID]) -> str:
    """What a team contributes to a person's records: as the patient chose, or the team."""
    if team is None:
        return GENERAL
    found: str | None = await connection.fetchval(
        """
        SELECT coalesce((
            SELECT label FROM team_label WHERE record_id = ANY($2) AND team_id = $1 ORDER BY set_at DESC LIMIT 1
        ), label) FROM team WHERE id = $1
        """,
        team,
        records,
    )
    return found or GENERAL


async def of_concepts(connection: Connection, resources: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The labels of sensitive concepts among the codes of resources."""
    asked = {int(code) for resource in resources for code in concepts(resource) if len(code) < 19}
    if not asked:
        return {}
    rows = await connection.fetch("SELECT concept, label FROM sensitive_concept WHERE concept = ANY($1)", sorted(asked))
    return {str(row["concept"]): row["label"] for row in rows}


async def label_by_origin(
    connection: Connection, team: uuid.UUID | None, records: Sequence[uuid.UUID], resource: dict[str, Any]
) -> str:
    """Both, for one resource."""
    found = await of_team(connection, team, records)
    if found != GENERAL:
        return found
    by_code = await of_concepts(connection, [resource])
    return next((by_code[code] for code in concepts(resource) if code in by_code), GENERAL)
