"""A record's person is looked up in the national register, and what differs is shown to an administrator.

Nothing in the record is changed by it: hospitals and practices send what is right. What the register says is kept as
an outcome and the names of the elements that differ, without their values.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import demographics
from carefolio.record import national
from carefolio.record.access import Reader
from carefolio.record.items import one
from carefolio.record.sharing import SharingError

VERIFIED, DIFFERENT, REPLACED, UNKNOWN, DECEASED, RESTRICTED = (
    "verified", "different", "replaced", "unknown", "deceased", "restricted",
)  # fmt: skip
OUTCOMES = (VERIFIED, DIFFERENT, REPLACED, UNKNOWN, DECEASED, RESTRICTED)


@dataclass(frozen=True, slots=True)
class Trace:
    """``outcome``: the register knows him as we do (verified), or differs in ``elements``; his number was replaced; it
    is unknown; he has died; his details are restricted there.
    """

    id: uuid.UUID
    patient: uuid.UUID
    at: datetime
    outcome: str
    elements: tuple[str, ...]


async def trace(pool: Pool, reader: Reader, record: uuid.UUID) -> Trace:
    """Look a record's person up. Raises SharingError and DemographicsError."""
    person = await one(pool, reader, record, record)
    if person is None or person.type != "Patient":
        raise SharingError("patient: there is no such record, or it is not open", missing=True)
    numbers = national.nhs_numbers(person.resource)
    if not numbers:
        raise SharingError("patient: the record has no NHS number to ask for")
    registered = await demographics.read(numbers[0])
    outcome, elements = compared(person.resource, numbers[0], registered)
    row = await pool.fetchrow(
        """
        WITH noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id) VALUES ($5, $2, 'trace', $1)
        )
        INSERT INTO trace (record_id, organisation_id, outcome, elements, actor) VALUES ($1, $2, $3, $4, $5)
        RETURNING *
        """,
        record, reader.organisation_id, outcome, elements, reader.actor,
    )  # fmt: skip
    return _trace(row)


async def of_organisation(pool: Pool | Connection, organisation: uuid.UUID, outcome: str) -> list[Trace]:
    """The records of an organisation whose latest trace ended so, the newest first."""
    rows = await pool.fetch(
        """
        SELECT * FROM (
            SELECT DISTINCT ON (record_id) * FROM trace WHERE organisation_id = $1 ORDER BY record_id, at DESC
        ) AS latest WHERE outcome = $2 ORDER BY at DESC LIMIT 1000
        """,
        organisation,
        outcome,
    )
    return [_trace(row) for row in rows]


def compared(ours: dict[str, Any], number: str, registered: demographics.Registered) -> tuple[str, list[str]]:
    """How a Patient of ours and the register's answer to his number go together."""
    theirs = registered.patient
    if theirs is None:
        return UNKNOWN, [registered.reason]
    if str(theirs.get("id", number)) != number:
        return REPLACED, ["identifier"]
    marks = [each.get("code") for each in theirs.get("meta", {}).get("security", ())]
    if "R" in marks or "REDACTED" in marks:
        # A person in danger: of him nothing is compared, and nothing is told.
        return RESTRICTED, []
    differing = [name for name, of in _COMPARED.items() if of(ours) and of(theirs) and not of(ours) & of(theirs)]
    if theirs.get("deceasedDateTime") and not (ours.get("deceasedDateTime") or ours.get("deceasedBoolean")):
        return DECEASED, differing
    return (DIFFERENT if differing else VERIFIED), differing


def _names(patient: dict[str, Any]) -> set[str]:
    return {str(name.get("family", "")).casefold() for name in patient.get("name", ())} - {""}


def _given(patient: dict[str, Any]) -> set[str]:
    return {str(given).casefold() for name in patient.get("name", ()) for given in name.get("given", ())[:1]}


def _postcodes(patient: dict[str, Any]) -> set[str]:
    return {str(each.get("postalCode", "")).replace(" ", "").upper() for each in patient.get("address", ())} - {""}


_COMPARED = {
    "name.family": _names,
    "name.given": _given,
    "birthDate": lambda patient: {patient.get("birthDate")} - {None},
    "gender": lambda patient: {patient.get("gender")} - {None, "unknown"},
    "address.postalCode": _postcodes,
}


def _trace(row: asyncpg.Record) -> Trace:
    return Trace(row["id"], row["record_id"], row["at"], row["outcome"], tuple(row["elements"]))
