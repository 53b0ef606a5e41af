"""For whom somebody writes by FHIR, and what label it gets: as if a message had brought it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.fhir.definitions import compartment, search_parameters
from carefolio.fhir.errors import error
from carefolio.fhir.paths import compile_path
from carefolio.record.access import Reader, are_open, team_of
from carefolio.record.ids import internal_id
from carefolio.record.includes import local_references
from carefolio.record.labelling import label_by_origin
from carefolio.record.labels import ALWAYS_GENERAL, GENERAL, label_in
from carefolio.record.rows import Row
from carefolio.record.write import Origin


async def for_whom(
    connection: Connection, reader: Reader, origin: Origin, rows: Sequence[Row], patients: Sequence[uuid.UUID]
) -> Origin:
    """People add to the records that they see, a professional for his team. Raises FhirError."""
    if reader.account is None:
        return origin
    new = {row.id for row in rows if row.type == "Patient" and row.version == 1}
    known = [patient for patient in patients if patient not in new]
    if known and not await are_open(connection, reader, known):
        raise error(422, "business-rule", "the record is not open to this person")
    if reader.own is not None:
        return origin
    return replace(origin, team_id=await team_of(connection, reader.account), welcome=True)


async def new_label(connection: Connection, reader: Reader, resource: dict[str, Any], patient: uuid.UUID | None) -> str:
    """The label of a new resource: what it brings with it, its team's, its code's, general."""
    if resource["resourceType"] in ALWAYS_GENERAL or patient is None:
        return GENERAL
    if (brought := label_in(resource)) != GENERAL:
        return brought
    professional = reader.account if reader.own is None else None
    team = await team_of(connection, professional) if professional is not None else None
    return await label_by_origin(connection, team, [patient], resource)


def patient_of(resource: dict[str, Any], number: uuid.UUID) -> uuid.UUID | None:
    """In whose record a resource is: the Patient that the parameters of the compartment name first."""
    kind = resource["resourceType"]
    if kind == "Patient":
        return number
    parameters = search_parameters(kind)
    codes = sorted(compartment(kind), key=lambda code: code not in ("patient", "subject"))
    for code in codes:
        if code in parameters:
            values = compile_path(parameters[code].expression)(resource)
            for of, name in local_references(values):
                if of == "Patient":
                    return internal_id("Patient", name)
    return None
