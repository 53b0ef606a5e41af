"""A patient says that something in his record is wrong; the organisation that sent it answers (UK GDPR article 16).

Nothing is changed by it: the organisation sends what is right, or says why it stands.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection, Pool
from carefolio.fhir import text as fhir_json
from carefolio.identity import letters, webhooks
from carefolio.record.access import Reader, readable
from carefolio.record.contributing import acts
from carefolio.record.decisions import keep
from carefolio.record.includes import logical_id
from carefolio.record.items import one
from carefolio.record.sharing import SharingError, decides
from carefolio.view.telling import tell

OPEN, DONE, REFUSED = "open", "done", "refused"
_LONGEST = 4000
_MOST_OPEN = 50


@dataclass(frozen=True, slots=True)
class Correction:
    """``item`` is what it is about, as ``Type/id``, and ``version`` the one that the patient saw."""

    id: uuid.UUID
    patient: uuid.UUID
    item: str
    version: int
    title: str
    organisation: str
    text: str
    asked_at: datetime
    status: str
    answer: str
    answered_at: datetime | None


async def ask(pool: Pool, reader: Reader, record: uuid.UUID, number: uuid.UUID, text: str) -> Correction:
    """Ask for a correction: the patient, or a carer in his name. Raises SharingError."""
    said = checked("text", text)
    async with pool.acquire() as connection, connection.transaction():
        await check_speaks(connection, reader, record)
        item = await one(connection, reader, record, number)
        if item is None or item.type == "Consent" or not reader.may(item.type, "r"):
            raise SharingError("item: there is no such item in the record", missing=True)
        if item.own:
            raise SharingError("item: it is the patient's own entry: it can be changed or taken away")
        if await connection.fetchval(
            "SELECT count(*) >= $2 FROM correction WHERE record_id = $1 AND status = 'open'", record, _MOST_OPEN
        ):
            raise SharingError("too many corrections wait for an answer")
        made = await connection.fetchval(
            """
            INSERT INTO correction (record_id, organisation_id, resource_type, resource_id, version, text, asked_by)
            SELECT $1, organisation.id, $2, $3, $4, $5, $6 FROM resource
            JOIN organisation ON organisation.id = ANY(resource.organisations) WHERE resource.id = $3
            ORDER BY organisation.created_at LIMIT 1 RETURNING id
            """,
            record, item.type, number, item.version, said, reader.actor,
        )  # fmt: skip
        if made is None:
            raise SharingError("item: nobody sent it who could be asked")
        await keep(connection, reader.actor, "ask-correction", patients=[record], item=f"{item.type}/{item.id}")
        owner = await connection.fetchval("SELECT organisation_id FROM correction WHERE id = $1", made)
        await webhooks.emit(connection, owner, webhooks.CORRECTION_ASKED, f"/api/v1/corrections/{made}")
        [asked] = await _found(connection, "correction.id = $1", made)
    outbox.kick()
    return asked


async def of_record(pool: Pool, reader: Reader, record: uuid.UUID) -> list[Correction]:
    """What was asked of a record, of what the reader sees of it, the newest first. Raises SharingError."""
    async with pool.acquire() as connection:
        await check_speaks(connection, reader, record)
        arguments: list[Any] = [record]
        open_to = readable(reader, arguments, "r")
        of_person = "SELECT every.id FROM record asked JOIN record every USING (person_id) WHERE asked.id = $1"
        return await _found(connection, f"correction.record_id IN ({of_person}) AND {open_to}", *arguments)


async def of_organisation(pool: Pool, organisation: uuid.UUID, *, status: str = OPEN) -> list[Correction]:
    """What an organisation was asked, the oldest first."""
    async with pool.acquire() as connection:
        found = await _found(connection, "correction.organisation_id = $1 AND status = $2", organisation, status)
    return found[::-1]


async def answer(
    pool: Pool, organisation: uuid.UUID, actor: str, number: uuid.UUID, status: str, text: str
) -> Correction:
    """The organisation's answer, which the patient reads; once given it stands. Raises SharingError."""
    if status not in (DONE, REFUSED):
        raise SharingError("status: done, or refused")
    said = checked("answer", text)
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            """
            UPDATE correction SET status = $3, answer = $4, answered_by = $5, answered_at = now()
            WHERE id = $1 AND organisation_id = $2 AND status = 'open' RETURNING record_id
            """,
            number, organisation, status, said, actor,
        )  # fmt: skip
        if row is None:
            raise SharingError("there is no such correction that waits for an answer", missing=True)
        await keep(connection, actor, "answer-correction", patients=[row["record_id"]], status=status)
        await tell_patient(connection, row["record_id"], "correction-answered")
        [made] = await _found(connection, "correction.id = $1", number)
    letters.kick()
    return made


async def speaks(pool: Pool, reader: Reader, record: uuid.UUID) -> bool:
    """Whether somebody is the patient, or a carer who acts in his name."""
    async with pool.acquire() as connection:
        try:
            await check_speaks(connection, reader, record)
        except SharingError:
            return False
    return True


async def check_speaks(connection: Connection, reader: Reader, record: uuid.UUID) -> None:
    """Raise SharingError for whoever is neither the patient nor a carer in his name."""
    if reader.acts_for == record and await acts(connection, reader, record):
        return
    if not await decides(connection, reader, record):
        raise SharingError("this is for the patient, and carers who act in their name", forbidden=True)


async def tell_patient(connection: Connection, record: uuid.UUID, kind: str) -> None:
    """A letter that says that something is there to be read, and nothing of what."""
    rows = await connection.fetch(
        """
        SELECT account.name, account.email FROM record asked JOIN record every USING (person_id)
        JOIN account ON account.record_id = every.id
        WHERE asked.id = $1 AND account.ended_at IS NULL AND account.email_verified_at IS NOT NULL
        """,
        record,
    )
    for row in rows:
        await letters.write(connection, kind, row["email"], name=row["name"])


def checked(name: str, text: str) -> str:
    """What somebody wrote at length. Raises SharingError."""
    said = text.replace("\r\n", "\n").strip()
    if not said or "\x00" in said or len(said) > _LONGEST:
        raise SharingError(f"{name}: 1 to {_LONGEST} characters")
    return said


async def _found(connection: Connection, where: str, *arguments: object) -> list[Correction]:
    rows = await connection.fetch(
        f"""
        SELECT correction.*, organisation.name AS organisation, coalesce(r.content, (
            SELECT content FROM resource_history h WHERE h.id = resource_id AND h.version = correction.version
        )) AS content
        FROM correction JOIN organisation ON organisation.id = correction.organisation_id
        LEFT JOIN resource r ON r.id = resource_id WHERE {where} ORDER BY asked_at DESC LIMIT 200
        """,  # noqa: S608 - the condition is ours
        *arguments,
    )
    return [_correction(row) for row in rows]


def _correction(row: asyncpg.Record) -> Correction:
    name, title = str(row["resource_id"]), ""
    if row["content"]:
        name, title = logical_id(row["content"]), tell(fhir_json.loads(row["content"])).title
    return Correction(
        row["id"], row["record_id"], f"{row['resource_type']}/{name}", row["version"], title, row["organisation"],
        row["text"], row["asked_at"], row["status"], row["answer"] or "", row["answered_at"],
    )  # fmt: skip
