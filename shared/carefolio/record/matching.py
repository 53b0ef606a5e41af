"""Whose message is it? Written rules (docs/matching.md); doubt is held for review and never guessed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.mapping import Mapped, PatientIdentifier
from carefolio.record.ids import derived

NATIONAL = uuid.UUID(int=0)


class Held(Exception):  # noqa: N818 - an outcome for a person to decide on, not an error
    """The message needs a person's decision; ``reason`` says why, without patient data.

    ``unknown`` tells that it waits for a patient who may yet become known, or be found to be one. ``doubt`` names a
    question that a person can answer, the same for every message that raises it; None where the message must change.
    """

    def __init__(self, reason: str, *, unknown: bool = False, doubt: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unknown = unknown
        self.doubt = doubt


@dataclass(frozen=True, slots=True)
class Owned:
    """An identifier with its owner: the organisation for local numbers, nobody in particular for national ones."""

    owner: uuid.UUID
    system: str
    value: str


@dataclass(frozen=True, slots=True)
class Found:
    """``patient`` is None where no identifier is known; ``new`` are those that are not.

    ``others`` are the further records of the same person, joined to this one.
    """

    patient: uuid.UUID | None
    new: list[Owned]
    others: list[uuid.UUID]


def usable(identifiers: Sequence[PatientIdentifier], organisation: uuid.UUID) -> list[Owned]:
    """The identifiers that may find or make a record; an NHS number whose status is not 01 may not."""
    return [
        Owned(NATIONAL if identifier.national else organisation, identifier.system, identifier.value)
        for identifier in identifiers
        if identifier.verified is not False
    ]


async def find(connection: Connection, identifiers: Sequence[Owned]) -> Found:
    """The one record that the identifiers point at, locked until the transaction ends.

    Of joined records it is the surviving one that is pointed at. Raises Held where they point at two people, or
    contradict each other (two numbers of one national system).
    """
    rows = await connection.fetch(
        """
        SELECT owner, system, value, patient_id, person_id, ARRAY(
            SELECT other.id FROM record other WHERE other.person_id = record.person_id
        ) AS records
        FROM patient_identifier
        JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS wanted (owner, system, value)
            USING (owner, system, value)
        JOIN record ON record.id = patient_id
        FOR UPDATE OF record
        """,
        *_columns(identifiers),
    )
    if len({row["person_id"] for row in rows}) > 1:
        raise Held("the identifiers point at two records", unknown=True)
    national: dict[str, set[str]] = {}
    for identifier in identifiers:
        if identifier.owner == NATIONAL:
            national.setdefault(identifier.system, set()).add(identifier.value)
    if any(len(values) > 1 for values in national.values()):
        raise Held("two different national numbers in one message")
    known = {(row["owner"], row["system"], row["value"]) for row in rows}
    new = [
        identifier for identifier in identifiers if (identifier.owner, identifier.system, identifier.value) not in known
    ]
    if not rows:
        return Found(None, new, [])
    patients = {row["patient_id"] for row in rows}
    survivor = rows[0]["person_id"]
    patient = survivor if survivor in patients else min(patients)
    others = [other for other in rows[0]["records"] if other != patient]
    if others:
        # What comes for any of a person's records may change all of them.
        await connection.execute("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", [patient, *others])
    return Found(patient, new, others)


async def lock_identifiers(connection: Connection, identifiers: Sequence[Owned]) -> None:
    """Until the transaction ends nobody else decides anything about these identifiers."""
    keys = sorted(derived(str(i.owner), i.system, i.value).int >> 65 for i in identifiers)
    for key in keys:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", key)


async def register(
    connection: Connection, patient: uuid.UUID, identifiers: Sequence[Owned], message: uuid.UUID
) -> None:
    """Give the record identifiers that nobody has."""
    await connection.execute(
        """
        INSERT INTO patient_identifier (owner, system, value, patient_id, message_id)
        SELECT owner, system, value, $4, $5
        FROM unnest($1::uuid[], $2::text[], $3::text[]) AS wanted (owner, system, value)
        ON CONFLICT DO NOTHING
        """,
        *_columns(identifiers),
        patient,
        message,
    )


async def wait(connection: Connection, message: uuid.UUID, identifiers: Sequence[Owned]) -> None:
    """Note that a held message waits for any of these identifiers."""
    await connection.execute(
        """
        INSERT INTO message_waits (message_id, owner, system, value)
        SELECT $4, owner, system, value FROM unnest($1::uuid[], $2::text[], $3::text[]) AS w (owner, system, value)
        ON CONFLICT DO NOTHING
        """,
        *_columns(identifiers),
        message,
    )


async def missing(pool: Pool, organisation: uuid.UUID, *, limit: int) -> list[asyncpg.Record]:
    """The identifiers for which an organisation's messages wait, the newest message first."""
    rows: list[asyncpg.Record] = await pool.fetch(
        """
        SELECT message.id AS message, control_id, received_at, system, value FROM message_waits
        JOIN message ON message.id = message_id
        WHERE organisation_id = $1 AND status = 'held' ORDER BY seq DESC LIMIT $2
        """,
        organisation,
        limit,
    )
    return rows


async def release(connection: Connection, identifiers: Sequence[Owned], topic: str) -> int:
    """Send the messages that waited for these identifiers through ingest again, in the order of their receipt."""
    rows = await connection.fetch(
        """
        WITH known AS (
            DELETE FROM message_waits USING unnest($1::uuid[], $2::text[], $3::text[]) AS k (owner, system, value)
            WHERE (message_waits.owner, message_waits.system, message_waits.value) = (k.owner, k.system, k.value)
            RETURNING message_id
        ), freed AS (
            UPDATE message SET status = 'received', reason = NULL,
                life = life || jsonb_build_object('at', now(), 'status', 'released')
            WHERE id IN (SELECT message_id FROM known) AND status = 'held'
            RETURNING id, seq
        )
        INSERT INTO outbox (topic, ordering_key, data, attributes)
        SELECT $4, '', convert_to(json_build_object('message', id)::text, 'UTF8'), '{}' FROM freed ORDER BY seq
        RETURNING id
        """,
        *_columns(identifiers),
        topic,
    )
    return len(rows)


def may_create(mapped: Mapped, *, auto_create: bool) -> bool:
    """Whether the message may make a record: A28 and A31, or any where the sender has auto-create on."""
    return auto_create or mapped.event in ("A28", "A31")


def check_creation(mapped: Mapped) -> None:
    """Raise Held where no record can be made of the message: it needs a family and a given name.

    Nor is one made where the NHS number is not verified, even if there is a local number too.
    """
    if any(identifier.verified is False for identifier in mapped.identifiers):
        raise Held("the NHS number's status is not 01, verified (PID-3): no record is made from it")
    assert mapped.patient is not None
    names = mapped.patient.resource.get("name", [])
    if not any(name.get("family") and name.get("given") for name in names):
        raise Held("no record can be made without family name and given name (PID-5)")


def difference(
    mapped: Mapped, current: dict[str, Any], organisation: uuid.UUID, patient: uuid.UUID, *, first_contact: bool
) -> Held | None:
    """What speaks against the message's patient being the record's; None where nothing does.

    The date of birth decides. A28 and A31 may correct it, unless the family name differs too. An organisation that
    has never contributed to this record must know the whole date and the family name: a number alone, with a slip in
    it, would show it somebody else.
    """
    assert mapped.patient is not None
    incoming = mapped.patient.resource
    born, known = incoming.get("birthDate"), current.get("birthDate")
    names = families(incoming)
    if first_contact and (not born or born != known or not names & families(current)):
        return Held(
            "the organisation's first message about this record: date of birth and family name must agree",
            doubt=doubt_of("first contact", organisation, patient, born, *sorted(names)),
        )
    if not born or not known or same_date(born, known):
        return None
    if mapped.event in ("A28", "A31") and names & families(current):
        return None
    return Held(
        "the date of birth differs from the record's (PID-7)",
        doubt=doubt_of("date of birth", organisation, patient, born),
    )


def emails(patient: dict[str, Any]) -> list[str]:
    """The e-mail addresses of a Patient, without case."""
    found = (c["value"].casefold() for c in patient.get("telecom", []) if c.get("system") == "email" and "value" in c)
    return sorted(set(found))


async def check_emails(connection: Connection, mapped: Mapped, records: Sequence[uuid.UUID]) -> None:
    """Raise Held where an e-mail address of the message sits on somebody else's record (domain rules A6)."""
    assert mapped.patient is not None
    addresses = emails(mapped.patient.resource)
    if addresses and await connection.fetchval(
        "SELECT 1 FROM patient_email WHERE email = ANY($1) AND patient_id <> ALL($2)", addresses, list(records)
    ):
        raise Held("the e-mail address is on another record (PID-13, PID-14)")


async def register_emails(connection: Connection, patient: uuid.UUID, addresses: Sequence[str]) -> bool:
    """Make these the record's addresses; False where another record took one at the same moment."""
    await connection.execute(
        "DELETE FROM patient_email WHERE patient_id = $1 AND NOT email = ANY($2)", patient, list(addresses)
    )
    await connection.execute(
        """
        INSERT INTO patient_email (email, patient_id) SELECT email, $1 FROM unnest($2::text[]) AS t (email)
        ON CONFLICT DO NOTHING
        """,
        patient,
        list(addresses),
    )
    return not await connection.fetchval(
        """
        SELECT 1 FROM patient_email JOIN record ON record.id = patient_id
        WHERE email = ANY($2) AND person_id <> (SELECT person_id FROM record WHERE id = $1)
        """,
        patient,
        list(addresses),
    )


def doubt_of(*facts: object) -> str:
    """The name of a question: the same facts ask the same question."""
    return derived("doubt", *map(str, facts)).hex


async def decided(connection: Connection, held: Held) -> None:
    """Raise what is held, unless a person has said yes to this very question.

    Raises Rejected where a person has said no to it.
    """
    if held.doubt is None:
        raise held
    verdict = await connection.fetchval(
        "SELECT kind FROM decision WHERE doubt = $1 ORDER BY seq DESC LIMIT 1", held.doubt
    )
    if verdict == "reject":
        raise Rejected(held.reason)
    if verdict != "approve":
        raise held


class Rejected(Exception):  # noqa: N818 - an outcome, not an error
    """A person has rejected this message, or one that raised the same question."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def same_date(left: str, right: str) -> bool:
    """Whether two FHIR dates agree as far as both are precise."""
    shorter = min(len(left), len(right))
    return left[:shorter] == right[:shorter]


def families(patient: dict[str, Any]) -> set[str]:
    """The family names of a Patient, without case."""
    return {name["family"].casefold() for name in patient.get("name", []) if "family" in name}


def _columns(identifiers: Sequence[Owned]) -> tuple[list[uuid.UUID], list[str], list[str]]:
    return [i.owner for i in identifiers], [i.system for i in identifiers], [i.value for i in identifiers]
