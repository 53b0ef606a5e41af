"""From a stored message to the record: once, however often it is delivered, and to an end that a person can read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.telemetry import Event, log, span, where
from carefolio.hl7 import HL7Error, Message
from carefolio.identity import webhooks
from carefolio.identity.sender_settings import SenderSettings, parse_settings
from carefolio.mapping import Mapped, UnsupportedTypeError
from carefolio.record import joining, local_codes, matching, moves
from carefolio.record.change import apply_parts
from carefolio.record.matching import Held, Rejected
from carefolio.record.sources import StoredMessage, map_beside, map_stored, source_of
from carefolio.record.write import RETRIED, EndedMeanwhileError

_TRIES = 4
_FAILURES = 6
# For these a person is wanted.
_WAITS = frozenset({"held", "failed", "unsupported"})
# The message with all that mapping it needs.
SELECT_MESSAGE = """
    SELECT message.*, organisation.ods_code, organisation.codes_version, sender.settings FROM message
    JOIN organisation ON organisation.id = message.organisation_id
    JOIN sender ON sender.id = message.sender_id
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a message ended: applied, held, rejected, unsupported or failed, or that it had ended ``before``.

    ``released``: messages that were held may have been queued again.
    """

    status: str
    reason: str | None = None
    resources: int = 0
    before: bool = False
    released: bool = False


async def apply_message(pool: Pool, message_id: uuid.UUID) -> Outcome:
    """Apply one stored message, once, however often this is called.

    Database errors pass, and leave the message as it was.
    """
    message = await pool.fetchrow(f"{SELECT_MESSAGE} WHERE message.id = $1", message_id)
    if message is None or message["status"] != "received":
        return Outcome(message["status"] if message else "failed", before=True)
    settings = parse_settings(message["settings"])
    source = await source_of(pool, message["organisation_id"], message["ods_code"], message["codes_version"], settings)
    with span("map"):
        try:
            parsed, parts = await map_beside(message["raw"], settings, source)
        except UnsupportedTypeError as error:
            return await _end(pool, message, Outcome("unsupported", str(error)))
        except (HL7Error, ValueError) as error:
            reason = str(error) if isinstance(error, HL7Error) else "the message could not be mapped"
            return await _end(pool, message, Outcome("failed", reason))
    for attempt in range(_TRIES):
        try:
            with span("apply"):
                outcome = await _apply(pool, message, parsed, parts, settings)
            break
        except EndedMeanwhileError:
            return Outcome("applied", before=True)
        except RETRIED:
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(0.02 * 2**attempt)
            # References and merged contents are of the attempt that failed.
            parsed, parts = map_stored(message["raw"], settings, source)
    if outcome.released or outcome.status in _WAITS:
        outbox.kick()
    _log(message, outcome)
    return outcome


async def note_failure(pool: Pool, message_id: uuid.UUID, error: BaseException) -> bool:
    """Keep what went wrong; after a few times the message ends as failed, for a person. Returns whether it has."""
    row = await pool.fetchrow(
        """
        UPDATE message SET attempts = attempts + 1, reason = $2,
            status = CASE WHEN attempts + 1 >= $3 THEN 'failed' ELSE status END,
            settled_at = CASE WHEN attempts + 1 >= $3 THEN now() END,
            life = life || jsonb_build_object('at', now(), 'status', 'attempt failed', 'reason', $2::text)
        WHERE id = $1 AND status = 'received' RETURNING status, attempts, organisation_id
        """,
        message_id,
        f"{type(error).__name__} at {where(error)}",
        _FAILURES,
    )
    attempt = row["attempts"] if row else None
    log(Event.MESSAGE_FAILED, message_id=message_id, error=type(error).__name__, where=where(error), attempt=attempt)
    if row is not None and row["status"] == "failed":
        await webhooks.emit(pool, row["organisation_id"], webhooks.MESSAGE_FAILED, f"/api/v1/messages/{message_id}")
    return row is None or row["status"] == "failed"


async def give_up(pool: Pool, message_id: uuid.UUID) -> None:
    """A message that the queue no longer tries goes to the review queue as failed, with its last reason."""
    organisation = await pool.fetchval(
        """
        UPDATE message SET status = 'failed', settled_at = now(), reason = coalesce(reason, 'it was never reached'),
            life = life || jsonb_build_object('at', now(), 'status', 'failed')
        WHERE id = $1 AND status = 'received' RETURNING organisation_id
        """,
        message_id,
    )
    if organisation is not None:
        await webhooks.emit(pool, organisation, webhooks.MESSAGE_FAILED, f"/api/v1/messages/{message_id}")


async def _end(pool: Pool, message: StoredMessage, outcome: Outcome) -> Outcome:
    """End a message that cannot be mapped."""
    await _settle(pool, message, outcome)
    outbox.kick()
    return outcome


async def _settle(
    connection: Pool | Connection,
    message: StoredMessage,
    outcome: Outcome,
    *,
    doubt: str | None = None,
    notes: Sequence[str] = (),
) -> Outcome:
    """End a message that does not change the record."""
    await connection.execute(
        """
        UPDATE message SET status = $2, reason = $3, doubt = $4, notes = $5, settled_at = now(),
            life = life || jsonb_build_object('at', now(), 'status', $2::text, 'reason', $3::text)
        WHERE id = $1 AND status = 'received'
        """,
        message["id"],
        outcome.status,
        outcome.reason,
        doubt,
        list(notes),
    )
    if outcome.status in _WAITS:
        kind = webhooks.MESSAGE_HELD if outcome.status == "held" else webhooks.MESSAGE_FAILED
        await webhooks.emit(connection, message["organisation_id"], kind, f"/api/v1/messages/{message['id']}")
    if outcome.status != "held":
        _log(message, outcome)
    return outcome


def _log(message: StoredMessage, outcome: Outcome) -> None:
    log(
        Event.MESSAGE_SETTLED,
        message_id=message["id"],
        status=outcome.status,
        reason=outcome.reason,
        resources=outcome.resources,
    )


async def _apply(
    pool: Pool, message: StoredMessage, parsed: Message, parts: Sequence[Mapped], settings: SenderSettings
) -> Outcome:
    async with pool.acquire() as connection, connection.transaction():
        try:
            # A move that is then held must be undone with the rest.
            async with connection.transaction() if joining.moves(parsed) else nullcontext():
                if joining.moves(parsed):
                    await moves.move(connection, message, parts[0], settings)
                change = await apply_parts(connection, message, parts, settings)
        except Held as held:
            return await _hold(connection, message, parts, held)
        except Rejected as rejected:
            return await _settle(connection, message, Outcome("rejected", rejected.reason))
        await local_codes.note(connection, message, parts)
        return Outcome("applied", None, len(change.rows), released=change.released)


async def _hold(connection: Connection, message: StoredMessage, parts: Sequence[Mapped], held: Held) -> Outcome:
    notes = [note for mapped in parts for note in mapped.notes]
    outcome = await _settle(connection, message, Outcome("held", held.reason), doubt=held.doubt, notes=notes)
    if held.unknown:
        everybody = [
            i for mapped in parts for i in (*mapped.identifiers, *(mapped.prior or joining.NOBODY).identifiers)
        ]
        await matching.wait(connection, message["id"], matching.usable(everybody, message["organisation_id"]))
    return outcome
