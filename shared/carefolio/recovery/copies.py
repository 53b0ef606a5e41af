"""A copy of every message that is acknowledged, in another region, written before the acknowledgement leaves.

A database that is brought back to some moment lacks what was committed after it; the hospitals were told that it is
safe and do not send it again. ``put_back`` takes it in from the copies, in the order in which it came.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import orjson

from carefolio.cloud import files, outbox
from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log
from carefolio.cloud.topics import MESSAGE_STORED

_FORMAT = 1
# What is put back at a time: a transaction each.
_AT_ONCE = 500
_READERS = 16
# Seconds for one copy, and for which a place that failed is not asked first.
_PATIENCE, _AWAY = 10.0, 60.0
# By how much clocks of instances differ, and what came first may have been committed last.
_CLOCKS = timedelta(minutes=10)
_away_until: dict[str, float] = {}


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
    """The copy could be written nowhere: the message must not be acknowledged."""


async def keep(message: Stored, *, again: bool = False) -> None:
    """Write the copy; nothing where none are kept. Raises CopyError.

    The first place is in another region. Where that one is away the copy goes to the next, with an alert: a message is
    safe from one fault at a time, and a lost region must not stop the other. ``again``: there may be a copy already; it
    is left as it is, since who may add one may not write over another.
    """
    places = settings().copies_urls
    failed = ""
    for place in sorted(places, key=_is_away):
        try:
            await asyncio.wait_for(asyncio.to_thread(_write, place, message, again=again), _PATIENCE)
        except Exception as error:
            # A bucket's own errors are of many kinds, and their texts name the message.
            failed = type(error).__name__
            _away_until[place] = time.monotonic() + _AWAY
            log(Event.COPY_FAILED, place=places.index(place), error=failed)
        else:
            return
    if places:
        raise CopyError(failed)


def _is_away(place: str) -> bool:
    """Whether it failed a moment ago: then the next one is asked first, and nobody waits for it."""
    return time.monotonic() < _away_until.get(place, 0.0)


def _write(place: str, message: Stored, *, again: bool) -> None:
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
    name = f"{message.received_at.astimezone(UTC):%Y/%m/%d/%H/%M}/{message.id}"
    content = orjson.dumps(head) + b"\n" + message.ack + message.raw
    files.write(f"{name}-{secrets.token_hex(4)}" if again else name, content, place)


def _number(name: str) -> str:
    """The message's id in a copy's name, which begins with the minute in which it came."""
    return name.rpartition("/")[2][:36]


def _read(place: str, name: str) -> Stored:
    """Raises ValueError for what is no whole copy."""
    head, _, rest = files.read(name, place).partition(b"\n")
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
    """Take in what was acknowledged between two moments and is not in the database, in the order in which it came.

    ``since``: the last moment that the database has for certain. Each message keeps its id and its acknowledgement: a
    hospital that sends it again gets the same answer. What was sent again meanwhile is there under another id. To be
    done before new messages come in, since what is put back counts as come last. Raises OSError.
    """
    names = await asyncio.to_thread(_between, place, since, until or datetime.now(UTC))
    there, brought = 0, 0
    refused: list[str] = []
    senders = {row["id"] for row in await pool.fetch("SELECT id FROM sender")}
    for start in range(0, len(names), _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        numbers = [uuid.UUID(_number(name)) for name in part]
        known = {row["id"] for row in await pool.fetch("SELECT id FROM message WHERE id = ANY($1::uuid[])", numbers)}
        there += len(known)
        asked = [name for name, number in zip(part, numbers, strict=True) if number not in known]
        missing = []
        for name, found in zip(asked, await asyncio.to_thread(_read_all, place, asked), strict=True):
            if found is None or found.sender_id not in senders:
                refused.append(name)
            else:
                missing.append(found)
        again = await _sent_again(pool, missing)
        there += len(again)
        missing = [message for message in missing if message.id not in again]
        if apply and missing:
            async with pool.acquire() as connection, connection.transaction():
                for message in missing:
                    await _insert(connection, message)
        brought += len(missing)
    if brought and apply:
        outbox.kick()
    return PutBack(len(names), there, brought, tuple(refused))


async def _sent_again(pool: Pool, messages: Sequence[Stored]) -> set[uuid.UUID]:
    """Those of which the same message of the same sender is there, acknowledged once more since."""
    rows = await pool.fetch(
        """
        SELECT asked.id
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[]) AS asked (id, sender, control, digest)
        JOIN message m ON m.sender_id = asked.sender AND m.control_id = asked.control AND m.digest = asked.digest
        WHERE m.ack_code = 'AA'
        """,
        [message.id for message in messages],
        [message.sender_id for message in messages],
        [message.control_id for message in messages],
        [message.digest for message in messages],
    )
    return {row["id"] for row in rows}


def _read_all(place: str, names: Sequence[str]) -> list[Stored | None]:
    """The copies, several read at once; None for what is no whole one."""

    def read(name: str) -> Stored | None:
        try:
            return _read(place, name)
        except ValueError:
            return None

    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, names))


def _between(place: str, since: datetime, until: datetime) -> list[str]:
    """The names of the copies of a time, one for each message: ids begin with their moment, which is their order."""
    minute = (since - _CLOCKS).astimezone(UTC).replace(second=0, microsecond=0)
    minutes = []
    while minute <= until:
        minutes.append(f"{minute:%Y/%m/%d/%H/%M}")
        minute += timedelta(minutes=1)
    with ThreadPoolExecutor(_READERS) as readers:
        found = {
            _number(name): name for names in readers.map(lambda at: files.names(at, place), minutes) for name in names
        }
    last = until.timestamp() * 1000
    return [name for number, name in sorted(found.items()) if _moment(number) <= last]


def _moment(number: str) -> int:
    """Milliseconds since 1970, of a UUID of version 7."""
    return int(number.replace("-", "")[:12], 16)


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
