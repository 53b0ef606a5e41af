"""What a person compares who decides on a held message: its patient, beside the records that it points at."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import orjson

from carefolio.cloud.database import Pool
from carefolio.hl7 import HL7Error
from carefolio.identity.sender_settings import parse_settings
from carefolio.mapping import UnsupportedTypeError
from carefolio.record import matching
from carefolio.record.apply import SELECT_MESSAGE
from carefolio.record.sources import map_stored, source_of


async def sides(pool: Pool, number: uuid.UUID, organisation: uuid.UUID, actor: str) -> list[dict[str, Any]]:
    """The Patient of a held message of the organisation, and after it those of the records; audited.

    A record is shown by the rule for an organisation's own system: where the organisation has contributed to its
    Patient (else a number that was guessed would tell whose it is) and it is not frozen. Empty where the message
    cannot be mapped.
    """
    message = await pool.fetchrow(
        f"{SELECT_MESSAGE} WHERE message.id = $1 AND message.organisation_id = $2 AND status = 'held'",
        number,
        organisation,
    )
    if message is None:
        return []
    settings = parse_settings(message["settings"])
    source = await source_of(pool, organisation, message["ods_code"], message["codes_version"], settings)
    try:
        _, parts = await asyncio.to_thread(map_stored, message["raw"], settings, source)
    except (UnsupportedTypeError, HL7Error, ValueError):
        return []
    said = [part for part in parts if part.patient is not None]
    identifiers = [each for part in said for each in matching.usable(part.identifiers, organisation)]
    rows = await pool.fetch(
        """
        WITH shown AS (
            SELECT opened.id, opened.content
            FROM (
                SELECT array_agg(resource.id) AS ids, array_agg(resource.version) AS versions FROM resource
                WHERE type = 'Patient' AND id IN (
                    SELECT patient_id FROM patient_identifier
                    JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS wanted (owner, system, value)
                        USING (owner, system, value)
                )
            ) AS pointed_at, open_contents(ids, versions, $4) AS opened
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, message_id)
            SELECT $5, $4, 'read-message', id, $6 FROM shown
        )
        SELECT content FROM shown ORDER BY id
        """,
        [each.owner for each in identifiers],
        [each.system for each in identifiers],
        [each.value for each in identifiers],
        organisation,
        actor,
        number,
    )
    return [part.patient.resource for part in said if part.patient] + [orjson.loads(row["content"]) for row in rows]
