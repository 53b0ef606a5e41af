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
from carefolio.mapping import Mapped, Prior
from carefolio.record import decisions, joining, matching
from carefolio.record.decisions import DecisionError
from carefolio.record.matching import Held
from carefolio.record.rebuild import rebuild, write_difference
from carefolio.record.sources import StoredMessage


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
    numbers = [number for number in before if number.owner == organisation]
    wrong = await matching.find(connection, before)
    if right.patient is None or wrong.patient is None:
        raise Held("the patient is not known here", unknown=True)
    if wrong.patient in (right.patient, *right.others):
        return
    await joining.switched_on(connection, message, settings)
    given = await _sent_under(connection, message, mapped, prior, wrong.patient)
    if mapped.event == "A43":
        if not numbers or len(numbers) < len(before):
            raise Held("only the organisation's own identifiers move to another patient (MRG-1)")
        await connection.executemany(
            "UPDATE patient_identifier SET patient_id = $4 WHERE owner = $1 AND system = $2 AND value = $3",
            [(number.owner, number.system, number.value, right.patient) for number in numbers],
        )
    elif not given:
        raise Held("nothing was sent here under what is to be moved (MRG)")
    await _give(connection, given, wrong.patient, right.patient, f"sender/{message['sender_id']}", message["id"])


async def give(pool: Pool, numbers: Sequence[uuid.UUID], patient: uuid.UUID, actor: str) -> list[uuid.UUID]:
    """Give applied messages to another record, by hand; returns the resources that changed. Raises DecisionError."""
    async with pool.acquire() as connection, connection.transaction():
        if not await connection.fetchval("SELECT 1 FROM record WHERE id = $1", patient):
            raise DecisionError("there is no such record")
        rows = await connection.fetch(
            "SELECT id, patient_id FROM message WHERE id = ANY($1) AND status = 'applied' FOR UPDATE", list(numbers)
        )
        if len(rows) != len(set(numbers)) or len({row["patient_id"] for row in rows}) != 1:
            raise DecisionError("name messages that are applied, all to one record")
        before = rows[0]["patient_id"]
        if before == patient:
            raise DecisionError("the messages are that record's already")
        return await _give(connection, list(numbers), before, patient, actor, None)


async def _give(
    connection: Connection,
    messages: Sequence[uuid.UUID],
    wrong: uuid.UUID,
    right: uuid.UUID,
    actor: str,
    source: uuid.UUID | None,
) -> list[uuid.UUID]:
    """Give messages to ``right``, and make both records again."""
    decision = await decisions.keep(
        connection, actor, "move", message_id=source, patients=[wrong, right], messages=[str(m) for m in messages]
    )
    await connection.execute(
        """
        UPDATE message SET moved_to = $2, patient_id = $2,
            other_patients = array_append(array_remove(other_patients, $2), $3),
            life = life || jsonb_build_object('at', now(), 'status', 'given to another record', 'by', $4::text)
        WHERE id = ANY($1)
        """,
        list(messages),
        right,
        wrong,
        actor,
    )
    written = []
    for patient in (wrong, right):
        made = await rebuild(connection, patient)
        written += await write_difference(connection, made, actor, source or decision)
    return written


async def _sent_under(
    connection: Connection, message: StoredMessage, mapped: Mapped, prior: Prior, wrong: uuid.UUID
) -> list[uuid.UUID]:
    """The applied messages of this organisation that named the number, account or visit for the wrong patient."""
    rows = await connection.fetch(
        """
        SELECT id, raw FROM message
        WHERE patient_id = $1 AND organisation_id = $2 AND status = 'applied' ORDER BY applied_seq
        """,
        wrong,
        message["organisation_id"],
    )
    numbers = {number.value for number in prior.identifiers}
    found = []
    for row in rows:
        try:
            parsed = read(row["raw"])
        except HL7Error:
            continue
        if _names(parsed, mapped.event, prior, numbers):
            found.append(row["id"])
    return found


def _names(message: Message, event: str, prior: Prior, numbers: set[str]) -> bool:
    person, visit = message.first("PID"), message.first("PV1")
    if person is None:
        return False
    if event == "A45":
        return visit is not None and visit.get(19).strip() == prior.visit != ""
    if event == "A44":
        return person.get(18).strip() == prior.account != ""
    named = {r.get(1).strip() for field in (2, 3) for r in person.repetitions(field)}
    return bool(named & numbers)
