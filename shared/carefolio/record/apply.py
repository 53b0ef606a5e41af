"""From a stored message to the record: one transaction that writes resources, versions, search, audit and outbox."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import orjson

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.telemetry import Event, log, span, where
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.hl7 import HL7Error, read
from carefolio.mapping import Entry, Mapped, Source, UnsupportedTypeError, check_applicable, map_message, merge
from carefolio.mapping.merge import MERGED
from carefolio.mapping.serialise import dumps
from carefolio.record import matching
from carefolio.record.ids import derived
from carefolio.record.matching import Held
from carefolio.record.search_keys import index


class _EndedMeanwhile(Exception):  # noqa: N818 - a reason to undo, not an error
    """Another delivery of the same message was faster."""


class _ChangedMeanwhile(Exception):  # noqa: N818 - a reason to start again
    """Another message wrote the same shared resource (a clinician, a ward) at the same moment."""


# What two messages at the same moment can do to each other; each is whole the second time.
_RETRIED = (_ChangedMeanwhile, asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError)
_TRIES = 4
_FAILURES = 6
# Bytes from which a message is mapped beside the loop, so that the others need not wait for it.
_LARGE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a message ended: applied, held, unsupported or failed, or that it had ended ``before``.

    ``released``: messages that were held may have been queued again.
    """

    status: str
    reason: str | None = None
    resources: int = 0
    before: bool = False
    released: bool = False


@dataclass(slots=True)
class _Row:
    """A resource as it will be written."""

    id: uuid.UUID
    entry: Entry
    version: int
    content: str
    digest: bytes
    organisations: list[uuid.UUID]
    keys: str
    date_from: datetime | None
    date_to: datetime | None


async def apply_message(pool: Pool, message_id: uuid.UUID) -> Outcome:
    """Apply one stored message, once, however often this is called.

    Database errors pass, and leave the message as it was.
    """
    message = await pool.fetchrow(
        """
        SELECT message.*, organisation.ods_code, sender.auto_create FROM message
        JOIN organisation ON organisation.id = message.organisation_id
        JOIN sender ON sender.id = message.sender_id
        WHERE message.id = $1
        """,
        message_id,
    )
    if message is None or message["status"] != "received":
        return Outcome(message["status"] if message else "failed", before=True)
    with span("map"):
        try:
            if len(message["raw"]) > _LARGE:
                mapped = await asyncio.to_thread(_map, message)
            else:
                mapped = _map(message)
        except UnsupportedTypeError as error:
            return await _settle(pool, message, Outcome("unsupported", str(error)))
        except (HL7Error, ValueError) as error:
            reason = str(error) if isinstance(error, HL7Error) else "the message could not be mapped"
            return await _settle(pool, message, Outcome("failed", reason))
    for attempt in range(_TRIES):
        try:
            with span("apply"):
                outcome = await _apply(pool, message, mapped)
            break
        except _EndedMeanwhile:
            return Outcome("applied", before=True)
        except _RETRIED:
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(0.02 * 2**attempt)
    if outcome.released:
        outbox.kick()
    log(
        Event.MESSAGE_SETTLED,
        message_id=message_id,
        status=outcome.status,
        reason=outcome.reason,
        resources=outcome.resources,
    )
    return outcome


def _map(message: asyncpg.Record) -> Mapped:
    parsed = read(message["raw"])
    check_applicable(parsed)
    mapped = map_message(parsed, Source(message["ods_code"]))
    # The message itself is kept with all that its header says.
    mapped.entries = [entry for entry in mapped.entries if entry.type != "MessageHeader"]
    return mapped


async def note_failure(pool: Pool, message_id: uuid.UUID, error: BaseException) -> bool:
    """Keep what went wrong; after a few times the message ends as failed, for a person. Returns whether it has."""
    row = await pool.fetchrow(
        """
        UPDATE message SET attempts = attempts + 1, reason = $2,
            status = CASE WHEN attempts + 1 >= $3 THEN 'failed' ELSE status END,
            settled_at = CASE WHEN attempts + 1 >= $3 THEN now() END
        WHERE id = $1 AND status = 'received' RETURNING status, attempts
        """,
        message_id,
        f"{type(error).__name__} at {where(error)}",
        _FAILURES,
    )
    attempt = row["attempts"] if row else None
    log(Event.MESSAGE_FAILED, message_id=message_id, error=type(error).__name__, where=where(error), attempt=attempt)
    return row is None or row["status"] == "failed"


async def give_up(pool: Pool, message_id: uuid.UUID) -> None:
    """A message that the queue no longer tries goes to the review queue as failed, with its last reason."""
    await pool.execute(
        """
        UPDATE message SET status = 'failed', settled_at = now(), reason = coalesce(reason, 'it was never reached')
        WHERE id = $1 AND status = 'received'
        """,
        message_id,
    )


async def _settle(pool: Pool, message: asyncpg.Record, outcome: Outcome) -> Outcome:
    await pool.execute(
        "UPDATE message SET status = $2, reason = $3, settled_at = now() WHERE id = $1 AND status = 'received'",
        message["id"],
        outcome.status,
        outcome.reason,
    )
    log(Event.MESSAGE_SETTLED, message_id=message["id"], status=outcome.status, reason=outcome.reason, resources=0)
    return outcome


async def _apply(pool: Pool, message: asyncpg.Record, mapped: Mapped) -> Outcome:
    async with pool.acquire() as connection, connection.transaction():
        try:
            patient_id, new = await _patient(connection, message, mapped)
            ids = {id(entry): _id(entry, message["organisation_id"], patient_id) for entry in mapped.entries}
            known = await _known(connection, list(ids.values()))
            if current := known.get(patient_id):
                first_contact = message["organisation_id"] not in current["organisations"]
                matching.check_same_person(mapped, orjson.loads(current["content"]), first_contact=first_contact)
        except Held as held:
            return await _hold(connection, message, mapped, held)
        if new:
            await _register(connection, message, patient_id, new)
        rows = _rows(message, mapped, ids, known)
        await _write(connection, message, mapped, patient_id, rows, list(known))
        return Outcome("applied", None, len(rows), released=bool(new))


async def _hold(connection: Connection, message: asyncpg.Record, mapped: Mapped, held: Held) -> Outcome:
    done = await connection.execute(
        """
        UPDATE message SET status = 'held', reason = $2, notes = $3, settled_at = now()
        WHERE id = $1 AND status = 'received'
        """,
        message["id"],
        held.reason,
        mapped.notes,
    )
    if held.unknown and done == "UPDATE 1":
        identifiers = matching.usable(mapped.identifiers, message["organisation_id"])
        await matching.wait(connection, message["id"], identifiers)
    return Outcome("held", held.reason)


async def _patient(
    connection: Connection, message: asyncpg.Record, mapped: Mapped
) -> tuple[uuid.UUID, list[matching.Owned]]:
    """The record of the message's patient, locked, and its identifiers that are new; a new record where allowed.

    Raises Held.
    """
    identifiers = matching.usable(mapped.identifiers, message["organisation_id"])
    if not identifiers:
        raise Held("no identifier that may find a record (PID-3): an NHS number that is not verified, or none")
    found = await matching.find(connection, identifiers)
    if found.new:
        # From here on, messages that bring the same new identifiers decide one after the other.
        await matching.lock_identifiers(connection, identifiers)
        found = await matching.find(connection, identifiers)
    if found.patient is not None:
        return found.patient, found.new
    if not matching.may_create(mapped, auto_create=message["auto_create"]):
        raise Held("the patient is not known here", unknown=True)
    matching.check_creation(mapped)
    number = uuid.uuid4()
    await connection.execute("INSERT INTO record (id, person_id, created_at) VALUES ($1, $1, now())", number)
    return number, found.new


async def _register(
    connection: Connection, message: asyncpg.Record, patient_id: uuid.UUID, new: list[matching.Owned]
) -> None:
    await matching.register(connection, patient_id, new, message["id"])
    await matching.release(connection, new, MESSAGE_STORED)


async def _known(connection: Connection, numbers: list[uuid.UUID]) -> dict[uuid.UUID, asyncpg.Record]:
    """What is there already of the message's resources; read after the record was locked."""
    rows = await connection.fetch(
        """
        SELECT id, version, digest, seq, source_time, organisations,
               CASE WHEN type = ANY($2) THEN content END AS content
        FROM resource WHERE id = ANY($1)
        """,
        numbers,
        list(MERGED),
    )
    return {row["id"]: row for row in rows}


def _rows(
    message: asyncpg.Record, mapped: Mapped, ids: dict[int, uuid.UUID], known: dict[uuid.UUID, asyncpg.Record]
) -> list[_Row]:
    """What has to be written: new resources, and those that the message changes."""
    organisation: uuid.UUID = message["organisation_id"]
    for entry in mapped.entries:
        for reference, target in entry.references:
            reference["reference"] = f"{target.type}/{ids[id(target)]}"
    now = datetime.now(UTC)
    rows = []
    # In the order of ids, so that two messages never wait for each other.
    for entry in sorted(mapped.entries, key=lambda entry: ids[id(entry)]):
        number = ids[id(entry)]
        current = known.get(number)
        resource = entry.resource
        organisations = [organisation]
        if current is not None:
            older = _is_older(entry, current, message, mapped)
            organisations = list(dict.fromkeys([*current["organisations"], organisation]))
            if entry.type in MERGED:
                before = orjson.loads(current["content"])
                for element in ("id", "meta"):
                    before.pop(element, None)
                resource = merge(before, resource, entry.erased, mapped.event, older=older)
            elif older:
                continue
        body = {name: value for name, value in resource.items() if name != "resourceType"}
        text = dumps(body)
        digest = hashlib.blake2b(text, digest_size=16).digest()
        if current is not None and current["digest"] == digest and organisations == current["organisations"]:
            continue
        version = current["version"] + 1 if current is not None else 1
        indexed = index(resource)
        rows.append(
            _Row(
                id=number,
                entry=entry,
                version=version,
                content=_content(entry.type, number, version, now, message["id"], text),
                digest=digest,
                organisations=organisations,
                keys="{" + ",".join(map(str, indexed.keys)) + "}",
                date_from=indexed.date_from,
                date_to=indexed.date_to,
            )
        )
    return rows


def _id(entry: Entry, organisation: uuid.UUID, patient_id: uuid.UUID) -> uuid.UUID:
    if entry.type == "Patient":
        return patient_id
    if entry.scope == "patient":
        return derived(entry.type, str(patient_id), str(organisation), *entry.key)
    owner = str(organisation) if entry.scope == "organisation" else ""
    return derived(entry.type, owner, *entry.key)


def _is_older(entry: Entry, current: asyncpg.Record, message: asyncpg.Record, mapped: Mapped) -> bool:
    """Demographics go by the sender's clock (MSH-7), everything else by the order of receipt."""
    if entry.type == "Patient":
        return bool(mapped.time.instant < current["source_time"])
    return bool(message["seq"] < current["seq"])


def _content(kind: str, number: uuid.UUID, version: int, now: datetime, message: uuid.UUID, body: bytes) -> str:
    stamp = now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
    head = (
        f'{{"resourceType":"{kind}","id":"{number}",'
        f'"meta":{{"versionId":"{version}","lastUpdated":"{stamp}","source":"urn:uuid:{message}"}}'
    )
    rest = body.decode()
    return head + ("}" if rest == "{}" else "," + rest[1:])


async def _write(
    connection: Connection,
    message: asyncpg.Record,
    mapped: Mapped,
    patient_id: uuid.UUID,
    rows: list[_Row],
    seen: list[uuid.UUID],
) -> None:
    """Everything in one statement: old versions to history, new ones in place, audit lines, the message's end.

    ``seen`` are the resources that were there: one that did not change knows from now on that this message said
    the same. Raises _EndedMeanwhile and _ChangedMeanwhile, which undo the transaction.
    """
    written = await connection.fetchval(
        """
        WITH incoming AS (
            SELECT * FROM unnest(
                $1::uuid[], $2::text[], $3::int[], $4::text[], $5::bytea[], $6::text[], $7::text[],
                $8::timestamptz[], $9::timestamptz[], $10::bool[], $11::text[]
            ) AS t (id, type, version, content, digest, organisations, keys, date_from, date_to, personal, place)
        ), kept AS (
            INSERT INTO resource_history (id, version, type, valid_from, valid_to, patient_id, organisations,
                                          team_id, label, message_id, place, seq, content)
            SELECT r.id, r.version, r.type, r.last_updated, $12, r.patient_id, r.organisations,
                   r.team_id, r.label, r.message_id, r.place, r.seq, r.content
            FROM resource r JOIN incoming USING (id)
        ), written AS (
            INSERT INTO resource AS r (id, type, version, last_updated, patient_id, organisations, team_id,
                                       message_id, place, seq, source_time, digest, content, keys,
                                       date_from, date_to)
            SELECT id, type, version, $12, CASE WHEN personal THEN $13::uuid END, organisations::uuid[],
                   $14, $15, place, $16, $17, digest, content, keys::bigint[], date_from, date_to
            FROM incoming
            ON CONFLICT (id) DO UPDATE SET
                version = excluded.version, last_updated = excluded.last_updated,
                organisations = excluded.organisations, message_id = excluded.message_id,
                place = excluded.place, seq = greatest(r.seq, excluded.seq),
                source_time = greatest(r.source_time, excluded.source_time), digest = excluded.digest,
                content = excluded.content, keys = excluded.keys, date_from = excluded.date_from,
                date_to = excluded.date_to
            WHERE r.version = excluded.version - 1
            RETURNING id
        ), confirmed AS (
            UPDATE resource SET seq = greatest(seq, $16), source_time = greatest(source_time, $17)
            WHERE id = ANY($21) AND NOT id = ANY($1) AND (seq < $16 OR source_time < $17)
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, message_id, written)
            SELECT $18, $19, 'write', $13::uuid, $15, array_agg(concat_ws('/', type, id, version) ORDER BY id)
            FROM incoming HAVING count(*) > 0
        )
        UPDATE message SET status = 'applied', reason = NULL, settled_at = $12, patient_id = $13, notes = $20
        WHERE id = $15 AND status = 'received'
        RETURNING (SELECT count(*) FROM written)
        """,
        [row.id for row in rows],
        [row.entry.type for row in rows],
        [row.version for row in rows],
        [row.content for row in rows],
        [row.digest for row in rows],
        ["{" + ",".join(map(str, row.organisations)) + "}" for row in rows],
        [row.keys for row in rows],
        [row.date_from for row in rows],
        [row.date_to for row in rows],
        [row.entry.scope == "patient" for row in rows],
        [row.entry.place for row in rows],
        datetime.now(UTC),
        patient_id,
        message["team_id"],
        message["id"],
        message["seq"],
        mapped.time.instant,
        f"sender/{message['sender_id']}",
        message["organisation_id"],
        mapped.notes,
        seen,
    )
    if written is None:
        raise _EndedMeanwhile
    if written < len(rows):
        raise _ChangedMeanwhile
