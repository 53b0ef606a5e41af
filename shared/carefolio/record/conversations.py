"""Messages of a patient and a team: each a Communication in his record, with the privacy label of the team's things."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import letters, webhooks
from carefolio.mapping.codes import BASE
from carefolio.record import resources
from carefolio.record.access import Reader, readable
from carefolio.record.consents import GRANTEE
from carefolio.record.corrections import check_speaks, checked, tell_patient
from carefolio.record.ids import internal_id, uuid7
from carefolio.record.items import Item, several
from carefolio.record.labelling import of_team
from carefolio.record.labels import GENERAL, SYSTEM
from carefolio.record.resources import Operation
from carefolio.record.sharing import SharingError

CONVERSATION = f"{BASE}/Id/conversation"
TEAM, PATIENT = "team", "patient"
_LONGEST_TOPIC = 200
_MOST = 500


@dataclass(frozen=True, slots=True)
class Conversation:
    """``waits_for`` says whose turn it is, ``ended`` that the team closed it."""

    id: uuid.UUID
    patient: uuid.UUID
    team: str
    team_id: uuid.UUID
    organisation: str
    topic: str
    begun_at: datetime
    last_at: datetime
    waits_for: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody said in a conversation, and who he was then."""

    at: datetime
    sender: str
    text: str


async def begin(pool: Pool, reader: Reader, record: uuid.UUID, team: uuid.UUID, topic: str, text: str) -> Conversation:
    """Write to a team (or, as its member, to a patient) for the first time. Raises SharingError and FhirError."""
    topic, said = " ".join(checked("topic", topic).split()), checked("text", text)
    if len(topic) > _LONGEST_TOPIC:
        raise SharingError(f"topic: at most {_LONGEST_TOPIC} characters")
    number = uuid.uuid4()
    async with pool.acquire() as connection, connection.transaction():
        await _check(connection, reader, record, team)
        await connection.execute(
            "INSERT INTO conversation (id, record_id, team_id, topic, waits_for) VALUES ($1, $2, $3, $4, $5)",
            number, record, team, topic, _other(reader),
        )  # fmt: skip
        [made] = await _found(connection, None, "conversation.id = $1", number)
    try:
        await _say(pool, reader, made, said)
    except BaseException:
        await pool.execute(
            """
            WITH gone AS (DELETE FROM conversation_message WHERE conversation_id = $1)
            DELETE FROM conversation WHERE id = $1
            """,
            number,
        )
        raise
    return made


async def reply(pool: Pool, reader: Reader, number: uuid.UUID, text: str) -> Conversation:
    """Go on with a conversation. Raises SharingError and FhirError."""
    said = checked("text", text)
    async with pool.acquire() as connection, connection.transaction():
        known = await _one(connection, reader, number)
        if known.ended:
            raise SharingError("the conversation is closed: begin another")
        await _check(connection, reader, known.patient, known.team_id)
        # Before the message is there: that a team looks for nothing is better than that it does not look.
        await connection.execute(
            "UPDATE conversation SET last_at = now(), waits_for = $2 WHERE id = $1", number, _other(reader)
        )
        [made] = await _found(connection, None, "conversation.id = $1", number)
    await _say(pool, reader, made, said)
    return made


async def close(pool: Pool, reader: Reader, number: uuid.UUID) -> None:
    """The team has done what was asked for. Raises SharingError."""
    async with pool.acquire() as connection, connection.transaction():
        known = await _one(connection, reader, number)
        if not reader.is_professional:
            raise SharingError("a team closes a conversation", forbidden=True)
        await connection.execute("UPDATE conversation SET ended_at = now() WHERE id = $1", known.id)


async def of_record(pool: Pool, reader: Reader, record: uuid.UUID) -> list[Conversation]:
    """A patient's conversations, the latest first. Raises SharingError."""
    async with pool.acquire() as connection:
        await check_speaks(connection, reader, record)
        return await _found(
            connection,
            reader,
            "record_id IN (SELECT every.id FROM record asked JOIN record every USING (person_id) WHERE asked.id = $1)",
            record,
        )


async def inbox(pool: Pool, reader: Reader, *, waiting: bool = True) -> list[Conversation]:
    """What is written to the teams of a professional, the oldest that waits first."""
    async with pool.acquire() as connection:
        found = await _found(
            connection,
            reader,
            "team_id IN (SELECT team_id FROM account_team WHERE account_id = $1) AND conversation.ended_at IS NULL"
            " AND (waits_for = 'team' OR NOT $2)",
            reader.account, waiting,
        )  # fmt: skip
    return found[::-1]


async def teams_of_member(pool: Pool, reader: Reader) -> list[tuple[uuid.UUID, str]]:
    """The teams for which a professional may write: number and name."""
    rows = await pool.fetch(
        "SELECT id, name FROM team JOIN account_team ON team_id = id WHERE account_id = $1 ORDER BY name",
        reader.account,
    )
    return [(row["id"], row["name"]) for row in rows]


async def teams_of_record(pool: Pool, reader: Reader, record: uuid.UUID) -> list[tuple[uuid.UUID, str]]:
    """The teams to which a patient may write: those that see something of his record. Raises SharingError."""
    async with pool.acquire() as connection:
        await check_speaks(connection, reader, record)
    rows = await pool.fetch(
        """
        SELECT DISTINCT team.id, team.name || ', ' || organisation.name AS name
        FROM record asked JOIN record every USING (person_id) JOIN sharing s ON s.record_id = every.id
        JOIN team ON team.id = s.grantee JOIN organisation ON organisation.id = team.organisation_id
        WHERE asked.id = $1 AND s.role = 'team' AND s.labels <> '{}' AND s.ended_at IS NULL AND s.ends_at > now()
        ORDER BY name LIMIT 200
        """,
        record,
    )
    return [(row["id"], row["name"]) for row in rows]


async def read(pool: Pool, reader: Reader, number: uuid.UUID) -> tuple[Conversation, list[Message]]:
    """A conversation and its messages, the first first, as far as the reader sees them. Raises SharingError."""
    async with pool.acquire() as connection:
        known = await _one(connection, reader, number)
        rows = await connection.fetch(
            "SELECT resource_id, sender FROM conversation_message WHERE conversation_id = $1 LIMIT $2", number, _MOST
        )
        senders = {row["resource_id"]: row["sender"] for row in rows}
        found = await several(connection, reader, known.patient, list(senders))
    return known, [Message(each.at, senders[each.number], _words(each)) for each in found[::-1]]


def _words(item: Item) -> str:
    return "\n".join(str(each.get("contentString", "")) for each in item.resource.get("payload", ()))


def _other(reader: Reader) -> str:
    return PATIENT if reader.is_professional else TEAM


async def _one(connection: Connection, reader: Reader, number: uuid.UUID) -> Conversation:
    found = await _found(connection, reader, "conversation.id = $1", number)
    if not found:
        raise SharingError("there is no such conversation", missing=True)
    if reader.is_professional:
        if not await _is_member(connection, reader, found[0].team_id):
            raise SharingError("there is no such conversation", missing=True)
    else:
        await check_speaks(connection, reader, found[0].patient)
    return found[0]


async def _check(connection: Connection, reader: Reader, record: uuid.UUID, team: uuid.UUID) -> None:
    """Raise SharingError where the two do not speak: the one who writes, and a team that would not read it."""
    if reader.is_professional:
        if not await _is_member(connection, reader, team):
            raise SharingError("you write for a team of yours", forbidden=True)
    else:
        await check_speaks(connection, reader, record)
    label = await of_team(connection, team, [record])
    if not await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM record asked JOIN record every USING (person_id) JOIN sharing s ON s.record_id = every.id
            WHERE asked.id = $1 AND s.grantee = $2 AND s.role = 'team' AND $3 = ANY(s.labels)
            AND s.ended_at IS NULL AND s.ends_at > now() AND asked.sharing_off_at IS NULL AND asked.frozen_at IS NULL
        )
        """,
        record, team, label,
    ):  # fmt: skip
        raise SharingError("this team would not see the message: nothing of this kind is shared with it")


async def _is_member(connection: Connection, reader: Reader, team: uuid.UUID) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM account_team WHERE account_id = $1 AND team_id = $2)", reader.account, team
        )
    )


async def _say(pool: Pool, reader: Reader, conversation: Conversation, text: str) -> None:
    """The message itself, and to a patient a letter that one has come."""
    label = await of_team(pool, conversation.team_id, [conversation.patient])
    patient = {"reference": f"Patient/{conversation.patient}"}
    name = await pool.fetchval("SELECT name FROM account WHERE id = $1", reader.account)
    team: dict[str, Any] = {
        "type": "CareTeam",
        "identifier": {"system": GRANTEE, "value": str(conversation.team_id)},
        "display": conversation.team,
    }
    sender = f"{name}, {conversation.team}" if reader.is_professional else name
    number = uuid7()
    made: dict[str, Any] = {
        "resourceType": "Communication",
        "identifier": [{"system": CONVERSATION, "value": str(conversation.id)}],
        "status": "completed",
        "subject": patient,
        "topic": {"text": conversation.topic},
        "sent": datetime.now(UTC).isoformat(timespec="seconds"),
        "sender": {"type": "Practitioner", "display": sender} if reader.is_professional else patient
        | {"display": sender},
        "recipient": [patient if reader.is_professional else team],
        "payload": [{"contentString": text}],
    }  # fmt: skip
    if label != GENERAL:
        made["meta"] = {"security": [{"system": SYSTEM, "code": label}]}
    resources.check(made, "Communication")
    # Known as one of the conversation's before it is there: whatever else an app writes is none.
    await pool.execute(
        "INSERT INTO conversation_message (resource_id, conversation_id, sender) VALUES ($1, $2, $3)",
        internal_id("Communication", str(number)), conversation.id, sender,
    )  # fmt: skip
    await resources.commit(pool, reader, [Operation("PUT", "Communication", str(number), resource=made)])
    async with pool.acquire() as connection, connection.transaction():
        if reader.is_professional:
            await tell_patient(connection, conversation.patient, "message")
        else:
            owner = await connection.fetchval("SELECT organisation_id FROM team WHERE id = $1", conversation.team_id)
            where = f"/api/v1/conversations/{conversation.id}"
            await webhooks.emit(connection, owner, webhooks.CONVERSATION_WAITING, where)
    letters.kick()


async def _found(connection: Connection, reader: Reader | None, where: str, *arguments: object) -> list[Conversation]:
    """Conversations of which the reader sees a message; without one, for the library itself, any."""
    values = list(arguments)
    seen = "true"
    if reader is not None:
        seen = f"""EXISTS (
            SELECT FROM conversation_message said JOIN resource ON resource.id = said.resource_id
            WHERE said.conversation_id = conversation.id AND {readable(reader, values)}
        )"""
    rows = await connection.fetch(
        f"""
        SELECT conversation.*, team.name AS team, organisation.name AS organisation FROM conversation
        JOIN team ON team.id = team_id JOIN organisation ON organisation.id = team.organisation_id
        WHERE {where} AND {seen} ORDER BY last_at DESC LIMIT 200
        """,  # noqa: S608 - the conditions are ours
        *values,
    )
    return [_conversation(row) for row in rows]


def _conversation(row: asyncpg.Record) -> Conversation:
    return Conversation(
        row["id"], row["record_id"], row["team"], row["team_id"], row["organisation"], row["topic"], row["begun_at"],
        row["last_at"], row["waits_for"], row["ended_at"] is not None,
    )  # fmt: skip
