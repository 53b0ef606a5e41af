"""The NHS numbers of Patients that apps write: each finds one record."""

from __future__ import annotations

import uuid
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.fhir.errors import error
from carefolio.mapping.patient import nhs_number
from carefolio.record import matching

_NHS = "https://fhir.nhs.uk/Id/nhs-number"


def nhs_numbers(resource: dict[str, Any]) -> list[str]:
    """The valid NHS numbers of a Patient."""
    return [
        digits
        for identifier in resource.get("identifier", [])
        if identifier.get("system") == _NHS and (digits := nhs_number(str(identifier.get("value", ""))))
    ]


async def register(connection: Connection, patient: uuid.UUID, resource: dict[str, Any]) -> None:
    """The NHS numbers of a Patient find his record, and nobody else's. Raises FhirError (409)."""
    numbers = nhs_numbers(resource)
    if not numbers:
        return
    rows = await connection.fetch(
        """
        INSERT INTO patient_identifier (owner, system, value, patient_id)
        SELECT $1, $2, value, $4 FROM unnest($3::text[]) AS t (value)
        ON CONFLICT (owner, system, value) DO UPDATE SET owner = excluded.owner
        RETURNING patient_id
        """,
        matching.NATIONAL,
        _NHS,
        numbers,
        patient,
    )
    if any(row["patient_id"] != patient for row in rows):
        raise error(409, "duplicate", "the NHS number is on another record", "Patient.identifier")
