"""From the sender's bytes to a stored message and its acknowledgement."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from carefolio.cloud import outbox, secrets
from carefolio.cloud.database import Pool
from carefolio.cloud.telemetry import traceparent
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.hl7 import HL7Error, Message, Place, acknowledge, check, read
from carefolio.hl7.errors import TABLE_VALUE
from carefolio.hl7.query import is_query
from carefolio.hl7.rules import is_type
from carefolio.identity.senders import Sender
from carefolio.record import answers
from carefolio.record.ids import uuid7
from carefolio.record.sources import source_of
from carefolio.recovery import copies


@dataclass(frozen=True, slots=True)
class Answer:
    """``code`` is MSA-1; a ``duplicate`` got the acknowledgement of its first delivery again."""

    ack: bytes
    code: str
    message_id: uuid.UUID
    message_type: str
    duplicate: bool = False


async def take_in(pool: Pool, sender: Sender, raw: bytes, remote: str, now: datetime, *, production: bool) -> Answer:
    """Store one message and answer it. When this returns AA, the message is committed, and copied to another region.

    A query is answered at once.

    What the sender must change is answered AR, and kept for the sender's engineers to look at. Errors of the database
    and of the copy pass: the sender sends again, and gets the acknowledgement of what was committed.
    """
    message_id = uuid7()
    message: Message | None = None
    try:
        message = read(raw, sender.settings.character_set)
        check(message, now, production=production)
        organisation = _organisation(sender, message)
        if is_query(message):
            # A partner asks for the organisation that MSH-4 names.
            row = await pool.fetchrow("SELECT ods_code, codes_version FROM organisation WHERE id = $1", organisation)
            source = await source_of(pool, organisation, row["ods_code"], row["codes_version"], sender.settings)
            told = await answers.answer(pool, sender, organisation, source, message, now, message_id.hex[:20])
            return Answer(told, "AA", message_id, message.type)
    except HL7Error as error:
        enhanced = sender.settings.enhanced_acks and message is not None and not is_query(message)
        ack = acknowledge(message, "AR", now, message_id.hex[:20], error, enhanced=enhanced)
        await _store_refused(pool, sender, raw, remote, now, message_id, message, ack, str(error))
        return Answer(ack, "AR", message_id, _type(message))
    ack = acknowledge(message, "AA", now, message_id.hex[:20], enhanced=sender.settings.enhanced_acks)
    new = copies.Stored(
        id=message_id,
        sender_id=sender.id,
        organisation_id=organisation,
        team_id=sender.team_id,
        control_id=message.control_id,
        digest=hashlib.sha256(raw).digest(),
        message_type=message.type,
        received_at=now,
        remote_address=remote,
        raw=raw,
        ack=ack,
        ordering_key=ordering_key(message, organisation),
    )
    stored = await pool.fetchval(
        """
        WITH stored AS (
            INSERT INTO message (id, sender_id, organisation_id, team_id, control_id, digest, message_type,
                                 received_at, remote_address, raw, ack_code, ack, status, control_id_reused)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'AA', $11, 'received',
                   EXISTS (SELECT FROM message WHERE sender_id = $2 AND control_id = $5 AND ack_code = 'AA')
            ON CONFLICT (sender_id, control_id, digest) WHERE ack_code = 'AA' DO NOTHING
            RETURNING id
        ), queued AS (
            INSERT INTO outbox (topic, ordering_key, data, attributes) SELECT $12, $13, $14, $15 FROM stored
        )
        SELECT id FROM stored
        """,
        new.id,
        new.sender_id,
        new.organisation_id,
        new.team_id,
        new.control_id,
        new.digest,
        new.message_type,
        new.received_at,
        remote or None,
        new.raw,
        new.ack,
        MESSAGE_STORED,
        new.ordering_key,
        orjson.dumps({"message": str(new.id)}),
        orjson.dumps({"traceparent": traceparent()}).decode(),
    )
    if stored is None:
        row = await pool.fetchrow(
            """
            SELECT id, ack, received_at FROM message
            WHERE sender_id = $1 AND control_id = $2 AND digest = $3 AND ack_code = 'AA'
            """,
            sender.id,
            new.control_id,
            new.digest,
        )
        first = replace(new, id=row["id"], ack=row["ack"], received_at=row["received_at"])
        # Its first delivery may have died between the commit and the copy.
        await copies.keep(first, again=True)
        return Answer(first.ack, "AA", first.id, message.type, duplicate=True)
    # What is committed is applied, whatever becomes of the copy.
    outbox.kick()
    await copies.keep(new)
    return Answer(ack, "AA", message_id, message.type)


def refusal_of_ours(raw: bytes, now: datetime, *, enhanced: bool) -> Answer:
    """AE: we failed, nothing is stored, and the same message may be sent again."""
    message_id = uuid7()
    try:
        message = read(raw)
    except HL7Error:
        message = None
    ack = acknowledge(message, "AE", now, message_id.hex[:20], enhanced=enhanced)
    return Answer(ack, "AE", message_id, _type(message))


def ordering_key(message: Message, organisation: uuid.UUID) -> str:
    """A keyed hash of the first patient identifier: it keeps a patient's messages in a row, and tells nothing."""
    pid = message.first("PID")
    if pid is None:
        return ""
    number = pid.field(3).split(message.delimiters.repetition)[0] or pid.field(2)
    key = secrets.read("ordering-key")
    return hmac.new(key, organisation.bytes + number.encode(), hashlib.sha256).hexdigest()[:32]


def _organisation(sender: Sender, message: Message) -> uuid.UUID:
    """Whose message it is: the sender's organisation; for a partner the one that MSH-4 names."""
    if not sender.partner:
        return sender.organisation_id
    known = sender.aliases.get(message.header.get(4).strip())
    if known is None:
        raise HL7Error(TABLE_VALUE, Place("MSH", 1, 4), "no organisation that this sender may send for")
    return known


def _type(message: Message | None) -> str:
    """The type where it is one; what is not shaped like a type may hold anything, and is not repeated."""
    return message.type if message and is_type(message.type) else ""


async def _store_refused(
    pool: Pool,
    sender: Sender,
    raw: bytes,
    remote: str,
    now: datetime,
    message_id: uuid.UUID,
    message: Message | None,
    ack: bytes,
    reason: str,
) -> None:
    await pool.execute(
        """
        INSERT INTO message (id, sender_id, organisation_id, team_id, control_id, digest, message_type,
                             received_at, remote_address, raw, ack_code, ack, status, reason, settled_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'AR', $11, 'refused', $12, $8)
        """,
        message_id,
        sender.id,
        sender.organisation_id,
        sender.team_id,
        message.control_id[:199] if message else "",
        hashlib.sha256(raw).digest(),
        _type(message),
        now,
        remote or None,
        raw,
        ack,
        reason,
    )
