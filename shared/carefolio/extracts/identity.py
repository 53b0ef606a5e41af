"""Whose record a practice's patient is, by the rules for everybody (docs/matching.md)."""

from __future__ import annotations

import uuid

import orjson

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.extracts.sets import Patient, Practice
from carefolio.hl7 import Moment
from carefolio.mapping import Entry, Mapped, PatientIdentifier
from carefolio.mapping import codes as systems
from carefolio.mapping.emis import GpPatient
from carefolio.mapping.emis.patient import PATIENT_GUID
from carefolio.record import matching
from carefolio.record.matching import Held


async def identify(connection: Connection, practice: Practice, patient: Patient, person: GpPatient) -> None:
    """Whose record it is, by the rules for everybody (docs/matching.md); it is locked. Raises Held, Rejected."""
    assert patient.person is not None
    mapped = _as_mapped(practice, patient, person)
    owned = matching.usable(mapped.identifiers, practice.organisation)
    found = await matching.find(connection, owned)
    if found.new:
        await matching.lock_identifiers(connection, owned)
        found = await matching.find(connection, owned)
    if found.patient is None:
        matching.check_creation(mapped)
        number = uuid.uuid4()
        await connection.execute("INSERT INTO record (id, person_id, created_at) VALUES ($1, $1, now())", number)
    else:
        number = patient.record or found.patient
        if patient.record is not None and patient.record not in (found.patient, *found.others):
            raise Held("the NHS number is on another record than the one that the practice's patient has")
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM extract_patient WHERE practice = $1 AND record_id = $2 AND status = 'loaded'"
            " AND patient <> $3::text::uuid)", practice.number, number, patient.guid,
        ):  # fmt: skip
            raise Held("the practice has this person twice: the other registration has to end first")
        current = await connection.fetchrow("SELECT content, organisations FROM resource WHERE id = $1", number)
        if current is not None:
            first = practice.organisation not in current["organisations"]
            content = orjson.loads(current["content"])
            if held := matching.difference(mapped, content, practice.organisation, number, first_contact=first):
                await matching.decided(connection, held)
    if found.new:
        await connection.execute(
            """
            INSERT INTO patient_identifier (owner, system, value, patient_id)
            SELECT owner, system, value, $4 FROM unnest($1::uuid[], $2::text[], $3::text[]) AS w (owner, system, value)
            ON CONFLICT DO NOTHING
            """,
            [i.owner for i in found.new], [i.system for i in found.new], [i.value for i in found.new], number,
        )  # fmt: skip
        if await matching.release(connection, found.new, MESSAGE_STORED):
            outbox.kick()
    patient.record = number
    addresses = matching.emails(person.patient)
    if addresses and not await _may_have(connection, number, addresses):
        # A family shares an address: it stays with whom it was first, and is not shown for the others.
        practice.counts["shared_emails"] += 1
        patient.email_is_shared = True


async def _may_have(connection: Connection, number: uuid.UUID, addresses: list[str]) -> bool:
    if await connection.fetchval(
        """
        SELECT 1 FROM patient_email JOIN record ON record.id = patient_id
        WHERE email = ANY($1) AND person_id <> (SELECT person_id FROM record WHERE id = $2)
        """,
        addresses,
        number,
    ):
        return False
    return await matching.register_emails(connection, number, addresses)


def _as_mapped(practice: Practice, patient: Patient, person: GpPatient) -> Mapped:
    """A practice's patient as matching knows patients: a registration, which may correct a date of birth."""
    assert patient.person is not None
    place = f"{patient.person.table} row {patient.person.number}"
    identifiers = [PatientIdentifier(PATIENT_GUID, patient.guid, False, None, place)]
    if person.nhs_number is not None:
        identifiers.append(PatientIdentifier(systems.NHS_NUMBER, person.nhs_number, True, None, place))
    entry = Entry("Patient", (), "patient", person.patient, place)
    return Mapped(
        "A31",
        Moment(practice.now, 14, practice.now.isoformat(timespec="seconds")),
        patient=entry,
        identifiers=identifiers,
    )
