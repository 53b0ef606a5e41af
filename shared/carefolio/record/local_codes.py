"""An organisation's own codes: each that nobody has explained is work for a person; once explained, it is re-mapped."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.mapping import Mapped
from carefolio.mapping.codes import BASE
from carefolio.record.places import key
from carefolio.record.sources import StoredMessage

# The element of each type that a reader must understand.
_CODED = {
    "AllergyIntolerance": "code", "Condition": "code", "DiagnosticReport": "code", "Immunization": "vaccineCode",
    "MedicationAdministration": "medicationCodeableConcept", "MedicationDispense": "medicationCodeableConcept",
    "MedicationRequest": "medicationCodeableConcept", "MedicationStatement": "medicationCodeableConcept",
    "Observation": "code", "Procedure": "code", "ServiceRequest": "code",
}  # fmt: skip
_MOST_REMEMBERED = 100_000
_LONGEST = 500
# Codes that this process has noted; the table itself is the truth.
_noted: set[tuple[uuid.UUID, str, str]] = set()


class CodeError(Exception):
    """What was asked for cannot be; the text is for an administrator."""


async def note(connection: Connection, message: StoredMessage, parts: Sequence[Mapped]) -> None:
    """Make work items of the codes that only the sender understands."""
    organisation = message["organisation_id"]
    new = {
        (system, code): shown
        for mapped in parts
        for system, code, shown in _unexplained(mapped)
        if (organisation, system, code) not in _noted
    }
    if not new:
        return
    await connection.execute(
        """
        INSERT INTO local_code (organisation_id, system, code, display, message_id)
        SELECT $1, system, code, display, $5
        FROM unnest($2::text[], $3::text[], $4::text[]) AS t (system, code, display)
        ON CONFLICT DO NOTHING
        """,
        organisation,
        [system for system, _ in new],
        [code for _, code in new],
        list(new.values()),
        message["id"],
    )
    if len(_noted) > _MOST_REMEMBERED:
        _noted.clear()
    _noted.update((organisation, system, code) for system, code in new)


def _unexplained(mapped: Mapped) -> Iterator[tuple[str, str, str]]:
    """(system, code, display) of each coded element in which no coding is of a system that others know."""
    for entry in mapped.entries:
        codings: list[dict[str, Any]] = entry.resource.get(_CODED.get(entry.type, ""), {}).get("coding", [])
        if codings and all(coding.get("system", BASE).startswith(BASE) for coding in codings):
            for coding in codings[:1]:
                if len(coding["code"]) <= _LONGEST:
                    yield coding.get("system", ""), coding["code"], coding.get("display", "")[:_LONGEST]


async def work(pool: Pool, organisation: str | None = None, *, solved: bool = False) -> list[dict[str, Any]]:
    """The codes that wait for an explanation, or those that have one; the newest first."""
    rows = await pool.fetch(
        """
        SELECT ods_code AS organisation, system, code, display, seen_at, target_system, target_code, target_display,
               solved_by, solved_at
        FROM local_code JOIN organisation ON organisation.id = organisation_id
        WHERE ($1::text IS NULL OR ods_code = upper($1)) AND (target_code IS NOT NULL) = $2
        ORDER BY seen_at DESC, system, code LIMIT 10000
        """,
        organisation,
        solved,
    )
    return [dict(row) for row in rows]


async def solve(
    pool: Pool,
    organisation: str,
    code: tuple[str, str],
    target: tuple[str, str, str],
    actor: str,
) -> list[uuid.UUID]:
    """Say what an organisation's own (system, code) means: (system, code, display) of a system that others know.

    Returns the patients in whose records it stands, for the caller to rebuild. Raises CodeError.
    """
    if not target[0].startswith(("http://", "https://", "urn:")) or not target[1] or target[0].startswith(BASE):
        raise CodeError("the meaning is a code with the URI of its system, such as http://snomed.info/sct|271649006")
    system, own = code
    async with pool.acquire() as connection, connection.transaction():
        number = await connection.fetchval("SELECT id FROM organisation WHERE ods_code = $1", organisation.upper())
        if number is None:
            raise CodeError(f"there is no organisation {organisation}")
        done = await connection.execute(
            """
            UPDATE local_code SET target_system = $4, target_code = $5, target_display = $6, solved_by = $7,
                   solved_at = now()
            WHERE organisation_id = $1 AND system = $2 AND code = $3
            """,
            number, system, own, *target, actor,
        )  # fmt: skip
        if done != "UPDATE 1":
            raise CodeError(f"{organisation} has sent no such code: {system}|{own}")
        await connection.execute("UPDATE organisation SET codes_version = codes_version + 1 WHERE id = $1", number)
        await connection.execute(
            "INSERT INTO audit (actor, organisation_id, action, query) VALUES ($1, $2, 'solve-code', $3)",
            actor,
            number,
            f"{system}|{own} -> {target[0]}|{target[1]}",
        )
        rows = await connection.fetch(
            """
            SELECT DISTINCT patient_id FROM resource
            WHERE keys && $1 AND $2 = ANY(organisations) AND patient_id IS NOT NULL
            """,
            [key(name, f"{system}|{own}") for name in ("code", "vaccine-code")],
            number,
        )
    return [row["patient_id"] for row in rows]
