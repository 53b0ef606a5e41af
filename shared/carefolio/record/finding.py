"""Finding a patient by name or number, for a person who is about to choose one."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from datetime import date
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.record import matching
from carefolio.record.access import Reader, opened, readable
from carefolio.record.arguments import Arguments
from carefolio.record.search_terms import condition

_MOST = 20
_NHS_NUMBER = "https://fhir.nhs.uk/Id/nhs-number"


async def patients(pool: Pool, reader: Reader, who: str) -> list[dict[str, Any]]:
    """Those whom ``who`` means, an NHS number, a date of birth or the beginning of a family name: id, name, born,
    nhs_number.

    Each of them leaves an audit line.
    """
    arguments = Arguments(organisation_id=reader.organisation_id)
    digits = re.sub(r"\s", "", who)
    if born := _birth_date(who):
        wanted = condition("Patient", "birthdate", born, arguments)
    elif re.fullmatch(r"[\d-]+", digits):
        digits = digits.replace("-", "")
        wanted = condition("Patient", "identifier", f"{_NHS_NUMBER}|{digits}", arguments)
    else:
        wanted = condition("Patient", "family", who.replace(",", r"\,"), arguments)
    return await _shown(pool, reader, wanted, arguments)


def _birth_date(text: str) -> str:
    """A date as people write it (3/4/1958, 1958-04-03); empty for what is none."""
    if match := re.fullmatch(r"(\d{1,2})[/. ](\d{1,2})[/. ](\d{4})", text.strip()):
        text = f"{match[3]}-{int(match[2]):02}-{int(match[1]):02}"
    try:
        return date.fromisoformat(text.strip()).isoformat() if "-" in text else ""
    except ValueError:
        return ""


async def by_number_and_birth(pool: Pool, nhs_number: str, born: str) -> uuid.UUID | None:
    """The record of somebody whose NHS number and date of birth are both known to who asks; nothing of it is told."""
    day = _birth_date(born)
    found = await pool.fetchval(
        """
        SELECT r.id FROM patient_identifier known JOIN resource r ON r.id = known.patient_id AND r.type = 'Patient'
        WHERE known.owner = $1 AND known.system = $2 AND known.value = $3
        AND r.content::json ->> 'birthDate' = $4 AND $4 <> ''
        """,
        matching.NATIONAL,
        _NHS_NUMBER,
        re.sub(r"[\s-]", "", nhs_number),
        day,
    )
    return uuid.UUID(str(found)) if found else None


async def named(pool: Pool, reader: Reader, patients: Sequence[uuid.UUID]) -> list[dict[str, Any]]:
    """These patients as a list shows them, as far as the reader sees them."""
    arguments = Arguments(organisation_id=reader.organisation_id)
    return await _shown(pool, reader, f"id = ANY({arguments.add(list(patients))})", arguments)


async def name_of(pool: Pool, reader: Reader, patient: uuid.UUID) -> str | None:
    """How a record calls its person, with the date of birth, as the reader may know."""
    found = await named(pool, reader, [patient])
    return f"{found[0]['name']}, born {found[0]['born']}" if found else None


async def _shown(pool: Pool, reader: Reader, wanted: str, arguments: Arguments) -> list[dict[str, Any]]:
    allowed = readable(reader, arguments.values)
    actor, organisation = arguments.add(reader.actor), arguments.add(reader.organisation_id)
    rows = await pool.fetch(
        f"""
        WITH found AS (
            SELECT id, version FROM resource WHERE type = 'Patient' AND {wanted} AND {allowed} LIMIT {_MOST}
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type)
            SELECT {actor}::text, {organisation}::uuid, 'find', id, 'Patient' FROM found
        ) SELECT id, opened.content FROM found JOIN {opened(reader, arguments.values)} USING (id, version) ORDER BY id
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments.values,
    )
    return [shown(row["id"], json.loads(row["content"])) for row in rows]


def shown(number: uuid.UUID, content: dict[str, Any]) -> dict[str, Any]:
    """A Patient as a list shows him: id, name, born, nhs_number (3-3-4)."""
    name = (content.get("name") or [{}])[0]
    numbers = [each.get("value", "") for each in content.get("identifier", []) if each.get("system") == _NHS_NUMBER]
    shown = f"{numbers[0][:3]} {numbers[0][3:6]} {numbers[0][6:]}" if numbers and len(numbers[0]) == 10 else ""
    given = " ".join(name.get("given", []))
    return {"id": number, "name": f"{given} {name.get('family', '')}".strip() or name.get("text", "unknown"),
            "born": content.get("birthDate", "unknown"), "nhs_number": shown}  # fmt: skip
