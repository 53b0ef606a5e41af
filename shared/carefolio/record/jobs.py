"""Asynchronous work in one shape: asked for, planned, done in parts by the queue, watched, cancelled, forgotten in
the end.

A job's first part (number 0) plans the others; each part is one message of the queue, and done once however often it is
delivered: what a part makes has the part's own name, so that doing it twice leaves the same. When the last is done the
job's kind says what comes of it. A crash in mid-work leaves an open part, which is delivered again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from carefolio.cloud import files, outbox
from carefolio.cloud.database import UNAVAILABLE, Connection, Pool
from carefolio.cloud.telemetry import Event, log, where
from carefolio.cloud.topics import JOB_PART
from carefolio.record.access import Reader

# How long what a job made can be fetched; for people, to whom a record may be closed any moment.
KEPT, _KEPT_FOR_PEOPLE = timedelta(hours=24), timedelta(minutes=15)
# How long it is known that there was one.
_KNOWN = timedelta(days=30)
# Of one client at a time.
MOST_LIVING = 5
_TRIES = 10
# Of a part at once, in seconds: before the platform ends the call; and of a whole job.
_LONGEST, _OLDEST = 540, timedelta(days=1)
_FINISH_LOCK = 0x10B


class TooManyError(Exception):
    """The reader has as many jobs under way as he may."""


class JobError(Exception):
    """What was asked for cannot be done; the text is for who asked, and tells nothing of patients."""


class NotYetError(Exception):
    """The part has to wait for something; it is delivered again."""


@dataclass(frozen=True, slots=True)
class Job:
    """``answer`` is there when ``status`` is done, ``failed`` (one sentence) when it is failed."""

    id: uuid.UUID
    kind: str
    request: str
    reader: Reader
    asked: dict[str, Any]
    made_at: datetime
    ended_at: datetime | None
    expires_at: datetime | None
    status: str
    answer: dict[str, Any] | None
    failed: str | None

    @property
    def folder(self) -> str:
        """Where its files lie (carefolio.cloud.files)."""
        return f"jobs/{self.id}"


Plan = Callable[[Pool, Job], Awaitable[Sequence[dict[str, Any]]]]
Work = Callable[[Pool, Job, int, dict[str, Any]], Awaitable[dict[str, Any]]]
Finish = Callable[[Pool, Job, list[dict[str, Any]]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of job is planned (the subjects of its parts), how a part is done, what comes of all results."""

    plan: Plan
    work: Work
    finish: Finish


_KINDS: dict[str, Kind] = {}


def register(name: str, kind: Kind) -> None:
    """Make a kind known to this process."""
    _KINDS[name] = kind


async def make(
    pool: Pool, kind: str, reader: Reader, request: str, asked: dict[str, Any], given: Mapping[str, bytes] | None = None
) -> Job:
    """Have a job begin, with files by these names in its folder. Raises TooManyError."""
    async with pool.acquire() as connection, connection.transaction():
        # Two at once see each other.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('job ' || $1))", reader.actor)
        living = await connection.fetchval(
            "SELECT count(*) FROM job WHERE reader ->> 'actor' = $1 AND status IN ('waiting', 'working')", reader.actor
        )
        if living >= MOST_LIVING:
            raise TooManyError
        row = await connection.fetchrow(
            "INSERT INTO job (kind, request, reader, asked) VALUES ($1, $2, $3, $4) RETURNING *",
            kind,
            request,
            json.dumps(reader.told()),
            json.dumps(asked),
        )
        job = _job(row)
        await _add_parts(connection, job.id, 0, [{}])
        try:
            for name, content in (given or {}).items():
                await asyncio.to_thread(files.write, f"{job.folder}/{name}", content)
        except BaseException:
            await asyncio.to_thread(files.remove, job.folder)
            raise
    outbox.kick()
    return job


def _job(row: Any) -> Job:
    reader = Reader.of_told(json.loads(row["reader"]))
    return Job(
        row["id"], row["kind"], row["request"], reader, json.loads(row["asked"]), row["made_at"], row["ended_at"],
        row["expires_at"], row["status"], json.loads(row["answer"]) if row["answer"] else None, row["failed"],
    )  # fmt: skip


async def _add_parts(connection: Connection, job: uuid.UUID, first: int, subjects: Sequence[dict[str, Any]]) -> None:
    await connection.execute(
        """
        WITH made AS (
            INSERT INTO job_part (job_id, number, subject)
            SELECT $1, $2 + position - 1, subject FROM unnest($3::jsonb[]) WITH ORDINALITY AS t (subject, position)
            ON CONFLICT (job_id, number) DO NOTHING RETURNING id
        )
        INSERT INTO outbox (topic, ordering_key, data, attributes)
        SELECT $4, '', convert_to(json_build_object('part', id)::text, 'UTF8'), '{}' FROM made
        """,
        job,
        first,
        [orjson.dumps(subject).decode() for subject in subjects],
        JOB_PART,
    )


async def find(pool: Pool, number: uuid.UUID, reader: Reader) -> Job | None:
    """The reader's own job; None for another's, for none, and for one that was asked for with more rights."""
    row = await pool.fetchrow("SELECT * FROM job WHERE id = $1 AND reader ->> 'actor' = $2", number, reader.actor)
    if row is None:
        return None
    job = _job(row)
    other = {"scope": "", "at": "", "grant": ""}
    same = job.reader.told() | other == reader.told() | other
    return job if same and _covers(reader.scope, job.reader.scope) else None


def _covers(scope: str | None, asked: str | None) -> bool:
    return scope is None or (asked is not None and set(asked.split()) <= set(scope.split()))


async def progress(pool: Pool, job: Job) -> tuple[int, int]:
    """How many of the parts are done, and of how many; (0, 0) while it is planned."""
    row = await pool.fetchrow(
        "SELECT count(done_at) AS done, count(*) AS parts FROM job_part WHERE job_id = $1 AND number > 0", job.id
    )
    return row["done"], row["parts"]


async def cancel(pool: Pool, job: Job) -> None:
    """End it; what it has made is removed, and what is being made ends at its next step."""
    await pool.execute(
        """
        UPDATE job SET status = CASE WHEN status IN ('waiting', 'working') THEN 'cancelled' ELSE 'expired' END,
            ended_at = coalesce(ended_at, now()), expires_at = now() WHERE id = $1 AND status <> 'expired'
        """,
        job.id,
    )
    await _remove(pool, job.id)


async def withdraw(connection: Connection, records: Sequence[uuid.UUID]) -> None:
    """End what may hold something of these records: jobs of whoever has read there since he asked. ``sweep`` removes
    their files."""
    await connection.execute(
        """
        UPDATE job SET status = 'cancelled', ended_at = coalesce(ended_at, now()), expires_at = now()
        WHERE status IN ('waiting', 'working', 'done') AND EXISTS (
            SELECT FROM audit WHERE patient_id = ANY($1) AND at >= job.made_at AND actor = job.reader ->> 'actor'
        )
        """,
        list(records),
    )


async def first_time(pool: Pool, job: Job, part: int) -> bool:
    """Whether what must not be done twice is begun for the first time; from then on it is not."""
    begun = await pool.fetchval(
        """
        UPDATE job_part SET subject = subject || '{"begun": true}'
        WHERE job_id = $1 AND number = $2 AND NOT subject ? 'begun' RETURNING true
        """,
        job.id,
        part,
    )
    return bool(begun)


async def still_wanted(pool: Pool, job: Job) -> bool:
    """Whether nobody has cancelled it: asked between the steps of a part."""
    return bool(await pool.fetchval("SELECT status IN ('waiting', 'working') FROM job WHERE id = $1", job.id))


async def run(pool: Pool, number: uuid.UUID) -> bool:
    """Do one part; False where it has to be delivered again. Database errors pass."""
    part = await pool.fetchrow("SELECT * FROM job_part WHERE id = $1", number)
    if part is None:
        return True
    job = _job(await pool.fetchrow("SELECT * FROM job WHERE id = $1", part["job_id"]))
    if job.status not in ("waiting", "working"):
        if job.status != "done":
            # What a process wrote before it died.
            await _remove(pool, job.id)
        return True
    if await _has_ended(pool, job.reader):
        await _fail(pool, job, "the client or account that asked for it has ended")
        return True
    if part["done_at"] is None:
        # Held by the connection: whoever dies lets go of it, and a second delivery waits for its turn.
        async with pool.acquire() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", str(number)):
                return False
            try:
                part = await pool.fetchrow("SELECT * FROM job_part WHERE id = $1", number)
                if part is not None and part["done_at"] is None and not await _do(pool, job, part):
                    return False
            finally:
                await connection.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", str(number))
    await _finish(pool, job)
    return True


async def _has_ended(pool: Pool, reader: Reader) -> bool:
    """Whether who asked may ask no more: what is not done yet is not done for him."""
    return bool(
        await pool.fetchval(
            """
            SELECT EXISTS (SELECT FROM client WHERE id = substring($1 FROM 'client/(\\S+)$') AND ended_at IS NOT NULL)
                OR EXISTS (SELECT FROM account WHERE id = $2 AND ended_at IS NOT NULL)
            """,
            reader.actor,
            reader.account,
        )
    )


async def _do(pool: Pool, job: Job, part: Any) -> bool:
    """One part, counted before it begins: whatever ends this process, there is an end to trying."""
    counted = "UPDATE job_part SET attempts = attempts + $2 WHERE id = $1 RETURNING attempts"
    if await pool.fetchval(counted, part["id"], 1) > _TRIES:
        await _fail(pool, job, "a part of it does not come to an end")
        return True
    kind = _KINDS[job.kind]
    try:
        if part["number"] == 0:
            subjects = await kind.plan(pool, job)
            async with pool.acquire() as connection, connection.transaction():
                await _add_parts(connection, job.id, 1, subjects)
                await _done(connection, part["id"], {})
                await connection.execute(
                    "UPDATE job SET status = 'working' WHERE id = $1 AND status = 'waiting'", job.id
                )
            outbox.kick()
        else:
            async with asyncio.timeout(_LONGEST):
                result = await kind.work(pool, job, part["number"], json.loads(part["subject"]))
            if not await still_wanted(pool, job):
                # Ended meanwhile: what it made came after the end.
                await _remove(pool, job.id)
                return True
            async with pool.acquire() as connection:
                await _done(connection, part["id"], result)
    except NotYetError:
        await pool.fetchval(counted, part["id"], -1)
        return False
    except UNAVAILABLE:
        raise
    except JobError as error:
        await _fail(pool, job, str(error))
    except Exception as error:
        log(Event.JOB_FAILED, job=job.id, kind=job.kind, error=type(error).__name__, where=where(error))
        if part["attempts"] + 1 < _TRIES:
            return False
        await _fail(pool, job, f"a part of it fails: {type(error).__name__}")
    return True


async def _done(connection: Connection, part: uuid.UUID, result: dict[str, Any]) -> None:
    await connection.execute(
        "UPDATE job_part SET done_at = now(), result = $2 WHERE id = $1 AND done_at IS NULL",
        part,
        orjson.dumps(result).decode(),
    )


async def _fail(pool: Pool, job: Job, reason: str) -> None:
    await pool.execute(
        """
        UPDATE job SET status = 'failed', failed = $2, ended_at = now(), expires_at = now() + $3
        WHERE id = $1 AND status IN ('waiting', 'working')
        """,
        job.id,
        reason,
        KEPT,
    )
    await _remove(pool, job.id)


async def _finish(pool: Pool, job: Job) -> None:
    """When nothing of it is open: by whoever did the last part, once."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _FINISH_LOCK, str(job.id))
        status = await connection.fetchval(
            """
            SELECT status FROM job WHERE id = $1
            AND NOT EXISTS (SELECT FROM job_part WHERE job_id = $1 AND done_at IS NULL)
            """,
            job.id,
        )
        if status != "working":
            return
        rows = await connection.fetch(
            "SELECT result FROM job_part WHERE job_id = $1 AND number > 0 ORDER BY number", job.id
        )
        answer = await _KINDS[job.kind].finish(pool, job, [json.loads(row["result"]) for row in rows])
        await connection.execute(
            """
            UPDATE job SET status = 'done', answer = $2, ended_at = now(), expires_at = now() + $3
            WHERE id = $1 AND status = 'working'
            """,
            job.id,
            orjson.dumps(answer).decode(),
            KEPT if job.reader.account is None else _KEPT_FOR_PEOPLE,
        )


async def sweep(pool: Pool) -> tuple[int, int]:
    """Publish again the open parts that the queue has lost, and remove what has run out: how many of each."""
    lost = await pool.fetchval(
        """
        WITH published AS (
            INSERT INTO outbox (topic, ordering_key, data, attributes)
            SELECT $1, '', convert_to(json_build_object('part', part.id)::text, 'UTF8'), '{}'
            FROM job_part part JOIN job ON job.id = job_id
            WHERE done_at IS NULL AND status IN ('waiting', 'working') AND job.made_at < now() - interval '1 hour'
              AND NOT EXISTS (
                  SELECT FROM job_part other WHERE other.job_id = job.id AND other.done_at > now() - interval '1 hour'
              )
            RETURNING 1
        ) SELECT count(*) FROM published
        """,
        JOB_PART,
    )
    outbox.kick()
    old = "SELECT * FROM job WHERE status IN ('waiting', 'working') AND made_at < now() - $1::interval"
    for row in await pool.fetch(old, _OLDEST):
        await _fail(pool, _job(row), "it did not come to an end within a day")
    over = await pool.fetch("SELECT id FROM job WHERE expires_at < now() AND status <> 'expired'")
    for row in over:
        await _remove(pool, row["id"])
        # It may name somebody.
        await pool.execute("UPDATE job SET status = 'expired', asked = '{}', request = '' WHERE id = $1", row["id"])
    await pool.execute("DELETE FROM job WHERE status = 'expired' AND made_at < now() - $1::interval", _KNOWN)
    return lost, len(over)


async def _remove(pool: Pool, number: uuid.UUID) -> None:
    await asyncio.to_thread(files.remove, f"jobs/{number}")
    await pool.execute("DELETE FROM job_part WHERE job_id = $1", number)
