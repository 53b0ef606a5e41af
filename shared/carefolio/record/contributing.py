"""For whom somebody writes by FHIR, and what label it gets: as if a message had brought it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carefolio.cloud.database import Connection
from carefolio.fhir import text
from carefolio.fhir.definitions import compartment, search_parameters
from carefolio.fhir.errors import error
from carefolio.fhir.paths import compile_path
from carefolio.mapping.codes import BASE
from carefolio.record.access import Reader, are_open, team_of
from carefolio.record.ids import internal_id
from carefolio.record.includes import local_references
from carefolio.record.labelling import label_by_origin
from carefolio.record.labels import ALWAYS_GENERAL, GENERAL, label_in
from carefolio.record.rows import Known, Row
from carefolio.record.write import Origin

if TYPE_CHECKING:
    from carefolio.record.resources import Operation

AUTHOR = f"{BASE}/CodeSystem/author"
_DIRECTORY = ("CareTeam", "Practitioner", "PractitionerRole")


async def for_whom(
    connection: Connection, reader: Reader, origin: Origin, rows: Sequence[Row], patients: Sequence[uuid.UUID]
) -> Origin:
    """People add to the records that they see: a professional for his team, a carer in the patient's name, where the
    patient lets him. Raises FhirError.
    """
    if reader.account is None:
        return origin
    new = {row.id for row in rows if row.type == "Patient" and row.version == 1}
    known = [patient for patient in patients if patient not in new]
    if known and not await are_open(connection, reader, known):
        raise error(422, "business-rule", "the record is not open to this person")
    if reader.acts_for is not None:
        if not await acts(connection, reader, reader.acts_for):
            raise error(403, "forbidden", "the carer reads this record, and does not write in its patient's name")
        return replace(origin, welcome=True)
    if not reader.is_professional:
        return origin
    return replace(origin, team_id=await team_of(connection, reader.account), welcome=True)


async def new_label(connection: Connection, reader: Reader, resource: dict[str, Any], patient: uuid.UUID | None) -> str:
    """The label of a new resource: what it brings with it, its team's, its code's, general."""
    if resource["resourceType"] in ALWAYS_GENERAL or patient is None:
        return GENERAL
    if (brought := label_in(resource)) != GENERAL:
        return brought
    team = await team_of(connection, reader.account) if reader.account and reader.is_professional else None
    return await label_by_origin(connection, team, [patient], resource)


async def acts(connection: Connection, reader: Reader, record: uuid.UUID) -> bool:
    """Whether the patient of a record lets a carer act in his name, and the record is open to him."""
    return await are_open(connection, reader, [record]) and bool(
        await connection.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM record asked JOIN record every USING (person_id) JOIN sharing s ON s.record_id = every.id
                WHERE asked.id = $1 AND s.grantee = $2 AND s.role = 'carer' AND s.acts AND s.labels <> '{}'
                AND s.ended_at IS NULL AND s.ends_at > now() AND asked.sharing_off_at IS NULL
            )
            """,
            record,
            reader.account,
        )
    )


async def check_author(
    connection: Connection, reader: Reader, operation: Operation, current: Known | None, number: uuid.UUID
) -> None:
    """Raise FhirError for what is not this writer's, though it is in a record that he may write into.

    A carer changes what he wrote himself; teams' and professionals' numbers in the directory are ours.
    """
    if operation.type in _DIRECTORY and current is None and operation.id is not None and not operation.directory:
        taken = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM account WHERE id = $1 UNION ALL SELECT FROM team WHERE id = $1)", number
        )
        if taken:
            raise error(403, "forbidden", "the id is one of the directory's own", operation.place)
    if reader.acts_for is None:
        return
    if operation.type in ("Consent", "Patient"):
        raise error(403, "forbidden", "a carer does not write who the patient is, or what he shares", operation.place)
    if current is not None:
        name = await connection.fetchval("SELECT name FROM account WHERE id = $1", reader.account)
        tags = text.loads(current.content or "{}").get("meta", {}).get("tag", [])
        if {"system": AUTHOR, "code": "carer", "display": name} not in tags:
            raise error(403, "forbidden", "a carer changes what he wrote himself", operation.place)


async def marked(connection: Connection, reader: Reader, resource: dict[str, Any]) -> dict[str, Any]:
    """The resource with the mark of who wrote it, where it was its patient, or a carer in his name (meta.tag).

    Nobody else sets it.
    """
    meta = resource.get("meta") or {}
    tags = [tag for tag in meta.get("tag", ()) if tag.get("system") != AUTHOR]
    if reader.acts_for is not None:
        name = await connection.fetchval("SELECT name FROM account WHERE id = $1", reader.account)
        tags.append({"system": AUTHOR, "code": "carer", "display": name})
    elif reader.own is not None:
        tags.append({"system": AUTHOR, "code": "patient"})
    if tags == meta.get("tag", []):
        return resource
    meta = {name: value for name, value in meta.items() if name != "tag"} | ({"tag": tags} if tags else {})
    return {name: value for name, value in resource.items() if name != "meta"} | ({"meta": meta} if meta else {})


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
