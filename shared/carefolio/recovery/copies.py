"""A copy of every message that is acknowledged, in another region, written before the acknowledgement leaves.

A database that is brought back to some moment lacks what was committed after it; the hospitals were told that it is
safe and do not send it again. ``put_back`` takes it in from the copies, in the order in which it came.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import orjson

from carefolio.cloud import files, outbox
from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.settings import settings
from carefolio.cloud.topics import MESSAGE_STORED

_FORMAT = 1
# What is put back at a time: a transaction each.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Stored:
    """An acknowledged message as the table ``message`` has it."""

    id: uuid.UUID
    sender_id: uuid.UUID
    organisation_id: uuid.UUID
    team_id: uuid.UUID | None
    control_id: str
    digest: bytes
    message_type: str
    received_at: datetime
    remote_address: str
    raw: bytes
    ack: bytes
    ordering_key: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """How many copies there were, were there already, and were put back; ``refused`` names copies that cannot be read,
    or whose sender is not in this database.
    """

    copies: int
    there: int
    put_back: int
    refused: tuple[str, ...]


class CopyError(OSError):
    """The copy could not be written: the message must not be acknowledged."""


async def keep(message: Stored) -> None:
    """Write the copy; nothing where none are kept. Raises CopyError."""
    place = settings().copies_url
    if not place:
        return
    try:
        await asyncio.to_thread(_write, place, message)
    except Exception as error:
        # A bucket's own errors are of many kinds, and their texts name the message.
        raise CopyError(type(error).__name__) from None


def _write(place: str, message: Stored) -> None:
    head = {
        "format": _FORMAT,
        "id": str(message.id),
        "sender": str(message.sender_id),
        "organisation": str(message.organisation_id),
        "team": str(message.team_id) if message.team_id else None,
        "control_id": message.control_id,
        "digest": message.digest.hex(),
        "type": message.message_type,
        "received_at": message.received_at,
        "remote": message.remote_address or None,
        "ordering_key": message.ordering_key,
        "ack": len(message.ack),
    }
    with files.writer(_name(message.received_at, message.id), place) as file:
        file.write(orjson.dumps(head) + b"\n" + message.ack + message.raw)


def _name(at: datetime, number: uuid.UUID) -> str:
    """By the minute, so that what came since a moment is found without reading what came before."""
    return f"{at.astimezone(UTC):%Y/%m/%d/%H/%M}/{number}"


def _read(place: str, name: str) -> Stored:
    """Raises ValueError for what is no whole copy."""
    with files.reader(name, place) as file:
        head, _, rest = file.read().partition(b"\n")
    try:
        told = orjson.loads(head)
        raw = rest[told["ack"] :]
        if told["format"] != _FORMAT or hashlib.sha256(raw).hexdigest() != told["digest"]:
            raise ValueError("not as it was written")
        return Stored(
            id=uuid.UUID(told["id"]),
            sender_id=uuid.UUID(told["sender"]),
            organisation_id=uuid.UUID(told["organisation"]),
            team_id=uuid.UUID(told["team"]) if told["team"] else None,
            control_id=told["control_id"],
            digest=bytes.fromhex(told["digest"]),
            message_type=told["type"],
            received_at=datetime.fromisoformat(told["received_at"]),
            remote_address=told["remote"] or "",
            raw=raw,
            ack=rest[: told["ack"]],
            ordering_key=told["ordering_key"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(type(error).__name__) from None


async def put_back(
    pool: Pool, place: str, since: datetime, until: datetime | None = None, *, apply: bool = True
) -> PutBack:
    """Take in what was acknowledged since a moment and is not in the database, in the order in which it came.

    ``since``: the last moment that the database has for certain, less a minute for clocks. Each message keeps its id
    and its acknowledgement: a hospital that sends it again gets the same answer. Raises OSError.
    """
    names = await asyncio.to_thread(_between, place, since, until or datetime.now(UTC))
    there, brought = 0, 0
    refused: list[str] = []
    senders = {row["id"] for row in await pool.fetch("SELECT id FROM sender")}
    for start in range(0, len(names), _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        known = await pool.fetch(
            "SELECT id FROM message WHERE id = ANY($1::uuid[])", [uuid.UUID(name[-36:]) for name in part]
        )
        present = {str(row["id"]) for row in known}
        there += len(present)
        missing = []
        for name in part:
            if name[-36:] in present:
                continue
            try:
                message = await asyncio.to_thread(_read, place, name)
            except ValueError:
                refused.append(name)
                continue
            if message.sender_id not in senders:
                refused.append(name)
            else:
                missing.append(message)
        if apply and missing:
            async with pool.acquire() as connection, connection.transaction():
                for message in missing:
                    await _insert(connection, message)
        brought += len(missing)
    if brought and apply:
        outbox.kick()
    return PutBack(len(names), there, brought, tuple(refused))


def _between(place: str, since: datetime, until: datetime) -> list[str]:
    """The names of the copies of a time, by the minute: their ids begin with their moment, which is their order."""
    minute = since.astimezone(UTC).replace(second=0, microsecond=0)
    found: list[str] = []
    while minute <= until:
        found += files.names(f"{minute:%Y/%m/%d/%H/%M}", place)
        minute += timedelta(minutes=1)
    last = until.timestamp() * 1000
    return sorted((name for name in found if int(name[-36:].replace("-", "")[:12], 16) <= last), key=lambda n: n[-36:])


async def _insert(connection: Connection, message: Stored) -> None:
    remote = str(ip_address(message.remote_address)) if message.remote_address else None
    await connection.execute(
        """
        WITH stored AS (
            INSERT INTO message (id, sender_id, organisation_id, team_id, control_id, digest, message_type,
                                 received_at, remote_address, raw, ack_code, ack, status)
            SELECT $1, $2, $3, (SELECT id FROM team WHERE id = $4), $5, $6, $7, $8, $9, $10, 'AA', $11, 'received'
            ON CONFLICT DO NOTHING RETURNING id
        )
        INSERT INTO outbox (topic, ordering_key, data, attributes) SELECT $12, $13, $14, '{}' FROM stored
        """,
        message.id,
        message.sender_id,
        message.organisation_id,
        message.team_id,
        message.control_id,
        message.digest,
        message.message_type,
        message.received_at,
        remote,
        message.raw,
        message.ack,
        MESSAGE_STORED,
        message.ordering_key,
        orjson.dumps({"message": str(message.id)}),
    )
