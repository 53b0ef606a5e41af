"""A43, A44, A45: a number, an account or a visit belongs to another patient than it was sent for.

What was written under it was written by messages; they are given to the right record, and both records are made again
from their messages (carefolio.record.rebuild). A person can do the same with any message.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from carefolio.cloud.database import Connection, Pool
from carefolio.hl7 import HL7Error, Message, read
from carefolio.identity.sender_settings import SenderSettings
from carefolio.mapping import Mapped, Source, map_parts
from carefolio.record import decisions, joining, matching
from carefolio.record.decisions import DecisionError
from carefolio.record.matching import Held, Owned
from carefolio.record.rebuild import RebuildError, rebuild, write_difference
from carefolio.record.rows import without_head
from carefolio.record.sources import StoredMessage
from carefolio.record.write import known


async def move(connection: Connection, message: StoredMessage, mapped: Mapped, settings: SenderSettings) -> None:
    """Give what an A43, A44 or A45 names to the patient of its PID, in the caller's transaction. Raises Held."""
    organisation: uuid.UUID = message["organisation_id"]
    prior = mapped.prior or joining.NOBODY
    everybody = matching.usable([*mapped.identifiers, *prior.identifiers], organisation)
    await matching.lock_identifiers(connection, everybody)
    right = await matching.find(connection, matching.usable(mapped.identifiers, organisation))
    before = matching.usable(prior.identifiers, organisation)
    if not before:
        raise Held("no prior patient identifier that may find a record (MRG-1)")
    wrong = await matching.find(connection, before)
    if right.patient is None or wrong.patient is None:
        raise Held("the patient is not known here", unknown=True)
    if wrong.patient in (right.patient, *right.others):
        return
    await joining.switched_on(connection, message, settings)
    if mapped.event == "A43" and any(number.owner != organisation for number in before):
        raise Held("only the organisation's own identifiers move to another patient (MRG-1)")
    await _same_person(connection, mapped, right.patient, organisation)
    given = await _sent_under(connection, message, mapped, before, [wrong.patient, *wrong.others])
    if mapped.event == "A43":
        await connection.executemany(
            "UPDATE patient_identifier SET patient_id = $4 WHERE owner = $1 AND system = $2 AND value = $3",
            [(number.owner, number.system, number.value, right.patient) for number in before],
        )
    elif not given:
        raise Held("nothing was sent here under what is to be moved (MRG)")
    actor = f"sender/{message['sender_id']}"
    try:
        await _give(connection, given, [wrong.patient], right.patient, actor, message["id"])
    except RebuildError as error:
        raise Held(f"the records cannot be made again: {error}") from None


async def _same_person(connection: Connection, mapped: Mapped, patient: uuid.UUID, organisation: uuid.UUID) -> None:
    """Raise Held where the message's patient does not seem to be the one who is to get the data."""
    current = (await known(connection, [patient], ["Patient"])).get(patient)
    if current is None or current.content is None:
        raise Held("the record that is to get the data holds no patient")
    first_contact = organisation not in current.organisations
    content = without_head(current.content)
    if held := matching.difference(mapped, content, organisation, patient, first_contact=first_contact):
        await matching.decided(connection, held)


async def give(pool: Pool, numbers: Sequence[uuid.UUID], patient: uuid.UUID, actor: str) -> list[uuid.UUID]:
    """Give applied messages to another record, by hand; returns the resources that changed. Raises DecisionError."""

    async def work(connection: Connection) -> list[uuid.UUID]:
        if not await connection.fetchval("SELECT 1 FROM record WHERE id = $1", patient):
            raise DecisionError("there is no such record")
        rows = await connection.fetch(
            """
            SELECT id, patient_id, moved_to, raw, other_patients FROM message
            WHERE id = ANY($1) AND status = 'applied' FOR UPDATE
            """,
            list(numbers),
        )
        if len(rows) != len(set(numbers)):
            raise DecisionError("name messages that are applied")
        for row in rows:
            if (row["moved_to"] or row["patient_id"]) == patient:
                raise DecisionError("the messages are that record's already")
            if row["other_patients"] or joining.decides(read(row["raw"])):
                raise DecisionError(
                    "a message about several patients, or one that joins, links or renames, cannot be moved "
                    "(a join is taken back with record undo)"
                )
        wrong = list(dict.fromkeys(row["moved_to"] or row["patient_id"] for row in rows))
        try:
            return await _give(connection, list(numbers), wrong, patient, actor, None)
        except RebuildError as error:
            raise DecisionError(str(error)) from None

    return await decisions.retried(pool, work)


async def _give(
    connection: Connection,
    messages: Sequence[uuid.UUID],
    wrong: Sequence[uuid.UUID],
    right: uuid.UUID,
    actor: str,
    source: uuid.UUID | None,
) -> list[uuid.UUID]:
    """Give messages to ``right``, and make the records again. Raises RebuildError."""
    decision = await decisions.keep(
        connection, actor, "move", message_id=source, patients=[*wrong, right], messages=[str(m) for m in messages]
    )
    # Back where it was sent is not moved any more.
    await connection.execute(
        """
        UPDATE message SET moved_to = nullif($2, patient_id),
            life = life || jsonb_build_object('at', now(), 'status', 'given to another record', 'by', $3::text)
        WHERE id = ANY($1)
        """,
        list(messages),
        right,
        actor,
    )
    written = []
    for patient in (*wrong, right):
        made = await rebuild(connection, patient)
        written += await write_difference(connection, made, actor, source or decision)
    return written


async def _sent_under(
    connection: Connection,
    message: StoredMessage,
    mapped: Mapped,
    numbers: Sequence[Owned],
    records: Sequence[uuid.UUID],
) -> list[uuid.UUID]:
    """The applied messages of this organisation that named the number, account or visit for the wrong patient.

    One that joins or is about several is left where it is; so is, of a number, one that names the patient otherwise.
    """
    rows = await connection.fetch(
        """
        SELECT id, raw FROM message
        WHERE coalesce(moved_to, patient_id) = ANY($1) AND organisation_id = $2 AND status = 'applied'
        AND other_patients = '{}' ORDER BY applied_seq
        """,
        list(records),
        message["organisation_id"],
    )
    found = []
    for row in rows:
        try:
            parsed = read(row["raw"])
            if not joining.decides(parsed) and _names(parsed, mapped, set(numbers), message):
                found.append(row["id"])
        except HL7Error:
            continue
    return found


def _names(parsed: Message, mapped: Mapped, numbers: set[Owned], message: StoredMessage) -> bool:
    prior = mapped.prior or joining.NOBODY
    person, visit = parsed.first("PID"), parsed.first("PV1")
    if person is None:
        return False
    if mapped.event == "A45":
        return visit is not None and visit.get(19).strip() == prior.visit != ""
    if mapped.event == "A44":
        return person.get(18).strip() == prior.account != ""
    (part,) = map_parts(parsed, Source(message["ods_code"]))
    named = set(matching.usable(part.identifiers, message["organisation_id"]))
    return bool(named) and named <= numbers
