"""Messages that join, link, rename: A18, A24, A30, A34-A37, A39-A42, A46-A51, each by its meaning (docs/merging.md).

A join is a line in record_link: nothing moves, both records keep their identifiers, and undoing it restores exactly
what was. Doubt goes to a person.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from carefolio.cloud.database import Connection
from carefolio.hl7 import Message
from carefolio.identity.sender_settings import SenderSettings
from carefolio.mapping import Mapped, Prior
from carefolio.mapping.prior import JOINS, MOVES, RENAMES
from carefolio.record import links, matching
from carefolio.record.ids import derived
from carefolio.record.matching import Held
from carefolio.record.sources import StoredMessage

NOBODY = Prior()
_LINKS = frozenset({"A24", "A37"})
_VISITS = frozenset({"A42", "A50"})
# Accounts and alternate numbers are identifiers of a patient or a visit: the map says all there is to say.
_NUMBERS = frozenset({"A35", "A41", "A49", "A51"})
_SPECIAL = JOINS | MOVES | _LINKS | RENAMES | _VISITS | _NUMBERS


@dataclass(slots=True)
class Target:
    """Whose record a message changes: ``others`` are joined to it, ``new`` are identifiers that it gets.

    ``retired`` visits -> the visit that they are one with.
    """

    patient: uuid.UUID
    others: list[uuid.UUID]
    new: list[matching.Owned]
    retired: dict[uuid.UUID, uuid.UUID] = field(default_factory=dict)


def concerns(mapped: Mapped) -> bool:
    """Whether the message is of an event that this module decides."""
    return mapped.event in _SPECIAL


def decides(message: Message) -> bool:
    """Whether a message is of an event that this module decides."""
    return message.code == "ADT" and message.event in _SPECIAL


def moves(message: Message) -> bool:
    """Whether the message moves something from one patient to another (A43, A44, A45)."""
    return message.code == "ADT" and message.event in MOVES


async def target_of(connection: Connection, patient: uuid.UUID) -> Target:
    """A record that is known, with those that are joined to it now."""
    return Target(patient, await links.person_records(connection, patient), [])


async def repeat(connection: Connection, message: StoredMessage, patients: Sequence[uuid.UUID]) -> None:
    """Make the links that a message made then, and undo those that it undid."""
    rows = await connection.fetch(
        """
        UPDATE record_link SET undone_at = CASE WHEN message_id = $1 THEN NULL ELSE now() END
        WHERE message_id = $1 OR undone_message_id = $1 RETURNING survivor, other
        """,
        message["id"],
    )
    if rows:
        await links.regroup(
            connection, [*patients, *(number for row in rows for number in (row["survivor"], row["other"]))]
        )


async def repeat_numbers(connection: Connection, message: StoredMessage, mapped: Mapped, known: Target) -> None:
    """What joins, renames, A42 and A50 say of numbers once more, as they were applied before."""
    if mapped.event in JOINS | RENAMES:
        before = matching.usable((mapped.prior or NOBODY).identifiers, message["organisation_id"])
        rows = await connection.fetch(
            "SELECT owner, system, value FROM patient_identifier WHERE patient_id = $1", known.patient
        )
        own = {matching.Owned(row["owner"], row["system"], row["value"]) for row in rows}
        _name_old(mapped, [number for number in before if number in own])
    if mapped.event in _VISITS:
        await _one_visit(connection, message, mapped, known)


async def target(connection: Connection, message: StoredMessage, mapped: Mapped, settings: SenderSettings) -> Target:
    """The record that remains, after what the event says was done to the records' links and identifiers.

    Raises Held.
    """
    organisation: uuid.UUID = message["organisation_id"]
    prior = mapped.prior or NOBODY
    identifiers = matching.usable(mapped.identifiers, organisation)
    if not identifiers:
        raise Held("no identifier that may find a record (PID-3): an NHS number that is not verified, or none")
    found = await matching.find(connection, identifiers)
    if mapped.event in _LINKS | _NUMBERS | _VISITS | MOVES:
        if found.patient is None:
            raise Held("the patient is not known here", unknown=True)
        known = Target(found.patient, found.others, found.new)
        named = matching.usable(prior.identifiers, organisation) if mapped.event not in MOVES else []
        meant = (await matching.find(connection, named)).patient if named else None
        if meant is not None and meant not in (found.patient, *found.others):
            raise Held("the prior patient identifier is another patient's (MRG-1)")
        if mapped.event in _VISITS:
            await switched_on(connection, message, settings)
            await _one_visit(connection, message, mapped, known)
        return known
    before = matching.usable(prior.identifiers, organisation)
    if not before:
        raise Held("no prior patient identifier that may find a record (MRG-1)")
    earlier = await matching.find(connection, before)
    if found.patient is None and earlier.patient is None:
        raise Held("the patient is not known here", unknown=True)
    await switched_on(connection, message, settings)
    # National numbers are nobody's to pass on; an unknown local one leads to the surviving record from now on.
    passed_on = [number for number in earlier.new if number.owner == organisation]
    patient = found.patient or earlier.patient
    assert patient is not None
    others = found.others if found.patient else earlier.others
    if found.patient and earlier.patient and earlier.patient != found.patient:
        joined = earlier.patient in found.others
        if mapped.event in RENAMES and not joined:
            raise Held("the new identifier is another record's already (PID-3)")
        if joined and mapped.event in JOINS:
            # A link becomes a join, which its end does not part.
            await _unlinked(connection, message, found.patient, earlier.patient)
            joined = earlier.patient in await links.person_records(connection, found.patient)
        if not joined:
            await _join(connection, message, found.patient, earlier.patient, "merge")
            others = await links.person_records(connection, patient)
    _name_old(mapped, before if patient == earlier.patient else passed_on)
    return Target(patient, others, [*found.new, *passed_on])


def _name_old(mapped: Mapped, owned: Sequence[matching.Owned]) -> None:
    """Show the prior identifiers that find the record as its old ones."""
    assert mapped.patient is not None
    prior = mapped.prior or NOBODY
    found = {(number.system, number.value) for number in owned}
    shown = {(i.shown or i.system, i.value) for i in prior.identifiers if (i.system, i.value) in found}
    listed = mapped.patient.resource.setdefault("identifier", [])
    sent = {(number.get("system"), number["value"]) for number in listed}
    listed += [n for n in prior.numbers if (n.get("system"), n["value"]) in shown - sent]


async def link_parts(
    connection: Connection,
    message: StoredMessage,
    parts: Sequence[Mapped],
    settings: SenderSettings,
    patients: list[uuid.UUID],
) -> None:
    """A24 and A37: the patients of the message are one person, or are not (any more). Raises Held."""
    event = parts[0].event
    if event not in _LINKS:
        return
    if len(parts) < 2:
        raise Held("nobody to link with: the message has one PID")
    await switched_on(connection, message, settings)
    for other in patients[1:]:
        if other == patients[0]:
            continue
        if event == "A24":
            if other not in await links.person_records(connection, patients[0]):
                await _join(connection, message, patients[0], other, "link")
        else:
            if not await _unlinked(connection, message, patients[0], other):
                raise Held("the records to be unlinked are not linked")


async def switched_on(connection: Connection, message: StoredMessage, settings: SenderSettings) -> None:
    """Raise Held where the sender's merges wait for a person."""
    if not settings.accept_merges:
        doubt = matching.doubt_of("merge", message["id"])
        held = Held("joining records of this sender waits for a person (its setting accept_merges is off)", doubt=doubt)
        await matching.decided(connection, held)


async def _join(
    connection: Connection, message: StoredMessage, survivor: uuid.UUID, other: uuid.UUID, kind: str
) -> None:
    """Join two records of one person, where nothing speaks against it. Raises Held."""
    parted = await connection.fetchval(
        """
        SELECT count(*) FROM record_link WHERE undone_at IS NOT NULL AND undone_message_id IS NULL
        AND least(survivor, other) = least($1::uuid, $2) AND greatest(survivor, other) = greatest($1::uuid, $2)
        """,
        survivor,
        other,
    )
    reason = await _against(connection, message["organisation_id"], survivor, other)
    if parted:
        reason = "a person has parted these records before"
    if reason:
        # What was said before the records were parted is not an answer any more.
        await matching.decided(connection, Held(reason, doubt=matching.doubt_of("join", survivor, other, parted)))
    await links.join(connection, survivor, other, kind, f"sender/{message['sender_id']}", message["id"])


async def _against(
    connection: Connection, organisation: uuid.UUID, survivor: uuid.UUID, other: uuid.UUID
) -> str | None:
    """What speaks against these two being one person; the identifiers have said yes."""
    rows = await connection.fetch(
        "SELECT id, content, organisations FROM resource WHERE id = ANY($1) AND type = 'Patient'", [survivor, other]
    )
    if len(rows) < 2:
        return "one of the records to be joined holds no patient"
    if any(organisation not in row["organisations"] for row in rows):
        return "the organisation has not contributed to both of the records to be joined"
    numbers = await connection.fetch(
        """
        SELECT system FROM patient_identifier WHERE owner = $1 AND patient_id = ANY($2)
        GROUP BY system HAVING count(DISTINCT patient_id) > 1
        """,
        matching.NATIONAL,
        [survivor, other],
    )
    if numbers:
        return "the records to be joined have different national numbers"
    first, second = (orjson.loads(row["content"]) for row in rows)
    born, also = first.get("birthDate", ""), second.get("birthDate", "")
    if len(born) < 10 or born != also:
        return "the records to be joined do not have the same full date of birth"
    if not matching.families(first) & matching.families(second):
        return "the records to be joined do not have a family name in common"
    return None


async def _unlinked(connection: Connection, message: StoredMessage, one: uuid.UUID, other: uuid.UUID) -> bool:
    """Take back what an A24 did, never a merge; False where these are not linked."""
    link = await connection.fetchval(
        """
        SELECT id FROM record_link WHERE undone_at IS NULL AND kind = 'link'
        AND ((survivor = $1 AND other = $2) OR (survivor = $2 AND other = $1))
        """,
        one,
        other,
    )
    if link is None:
        return False
    await links.undo(connection, link, f"sender/{message['sender_id']}", message["id"])
    return True


async def _one_visit(connection: Connection, message: StoredMessage, mapped: Mapped, known: Target) -> None:
    """A42 and A50: the visit MRG-5 is the visit PV1-19, or has its number from now on. Raises Held."""
    prior = (mapped.prior or NOBODY).visit
    number = mapped.encounter.key[0] if mapped.encounter else ""
    if not number or not prior:
        raise Held("no visit number, new (PV1-19) and prior (MRG-5)")
    if number == prior:
        return
    organisation = str(message["organisation_id"])
    records = [known.patient, *known.others]
    ids = {
        visit: [derived("Encounter", str(record), organisation, visit) for record in records]
        for visit in (number, prior)
    }
    there = {
        row["id"]
        for row in await connection.fetch("SELECT id FROM resource WHERE id = ANY($1)", [*ids[number], *ids[prior]])
    }
    new, old = ([at for at, each in enumerate(ids[visit]) if each in there] for visit in (number, prior))
    if old and new and old[0] != new[0]:
        # Parting the records later would leave a visit between them.
        raise Held("the two visits are in two of the person's records (PV1-19, MRG-5)")
    if old and new and mapped.event == "A50":
        raise Held("the new visit number is another visit's already (PV1-19)")
    at = (old or new or [0])[0]
    if old and new:
        known.retired = {ids[prior][at]: ids[number][at]}
    if old and not new:
        await _alias(connection, ids[number][at], ids[prior][at])
    else:
        # What still comes with the old number belongs to the visit.
        await _alias(connection, ids[prior][at], ids[number][at])


async def _alias(connection: Connection, number: uuid.UUID, to: uuid.UUID) -> None:
    await connection.execute(
        """
        INSERT INTO resource_alias (id, target) VALUES ($1, $2)
        ON CONFLICT (id) DO UPDATE SET target = excluded.target
        """,
        number,
        to,
    )
