"""A batch on its way into the record, stage by stage: decrypt, rows, settle, shared, patients, finish.

Each stage is a number of steps, each step one transaction and one message: short enough for a function's life, and done
once however often it is delivered. The last step of a stage begins the next; after a crash nobody has to begin anew.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from carefolio.cloud import files, outbox
from carefolio.cloud.database import UNAVAILABLE, Connection, Pool
from carefolio.cloud.telemetry import Event, log, where
from carefolio.cloud.topics import EXTRACT_STEP
from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements, batches, patients, practices, rows
from carefolio.extracts.agreements import Agreement
from carefolio.extracts.decrypting import decrypt
from carefolio.extracts.rows import parsed
from carefolio.extracts.stages import BEGIN, STAGES
from carefolio.record.write import RETRIED

_TRIES = 5

Work = Callable[[Connection, Any, dict[str, Any], Agreement], Awaitable[dict[str, Any]]]
_WORK: dict[str, Work] = {
    "rows": rows.load_piece,
    "shared": practices.write_shared,
    "patients": patients.apply_set,
}


async def run(pool: Pool, number: uuid.UUID, *, delivered: bool = True) -> bool:
    """Do one step, unless it is done; False where it must be delivered again. Database errors pass.

    ``delivered``: by the queue, for which a step that is done may be the last before a crash.
    """
    step = await pool.fetchrow("SELECT * FROM extract_step WHERE id = $1", number)
    if step is None or (step["done_at"] is not None and not delivered):
        return True
    batch = await _batch(pool, step["batch_id"])
    if batch["status"] != "loading":
        return True
    agreement = await agreements.by_id(pool, batch["agreement_id"])
    if step["done_at"] is None:
        try:
            if not await _do(pool, step, batch, agreement):
                return False
        except RETRIED:
            return False
        except UNAVAILABLE as error:
            # A file or a secret that is not there does not come back with the database.
            if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
                return await _failed(pool, step, batch, agreement, error)
            raise
        except ExtractError as error:
            await fail(pool, batch, agreement, step["stage"], str(error))
            return True
        except Exception as error:
            if not await _failed(pool, step, batch, agreement, error):
                return False
    await _go_on(pool, batch, agreement)
    return True


async def _failed(pool: Pool, step: Any, batch: dict[str, Any], agreement: Agreement, error: Exception) -> bool:
    """A fault of ours: tried a few times, then the batch stops; False where it is to be tried again."""
    place = where(error)
    tries = await pool.fetchval(
        "UPDATE extract_step SET attempts = attempts + 1 WHERE id = $1 RETURNING attempts", step["id"]
    )
    log(Event.EXTRACT_FAILED, agreement=agreement.name, batch=batch["stamp"], stage=step["stage"],
        error=type(error).__name__, where=place)  # fmt: skip
    if tries is not None and tries < _TRIES:
        return False
    if step["stage"] == "patients" and not isinstance(error, OSError):
        await _part(pool, step, f"it could not be applied: {type(error).__name__} at {place}")
        return True
    # What the system says of a full disk or a missing file names no patient.
    what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    await fail(pool, batch, agreement, step["stage"], f"{what} at {place}")
    return True


async def _part(pool: Pool, step: Any, reason: str) -> None:
    """Have a set that cannot be applied done patient by patient; who cannot be alone is parked, and holds up nobody."""
    subject = parsed(step["subject"])
    async with pool.acquire() as connection, connection.transaction():
        open_ = await connection.fetchval(
            "SELECT true FROM extract_step WHERE id = $1 AND done_at IS NULL FOR UPDATE", step["id"]
        )
        if not open_:
            return
        if len(subject["patients"]) > 1:
            alone = [subject | {"patients": [patient]} for patient in subject["patients"]]
            await batches.add_steps(connection, step["batch_id"], step["stage"], alone)
            await _done(connection, step["id"], {})
        else:
            [patient] = subject["patients"]
            result = await patients.park(connection, subject["practice"], uuid.UUID(patient), reason)
            await _done(connection, step["id"], result)
    outbox.kick()


async def _go_on(pool: Pool, batch: dict[str, Any], agreement: Agreement) -> None:
    """Begin the next stage where this one is done; what cannot be begun stops the batch."""
    try:
        await _advance(pool, batch["id"], agreement)
    except (*RETRIED, *UNAVAILABLE):
        raise
    except ExtractError as error:
        await fail(pool, batch, agreement, batch["stage"] or "", str(error))
    except Exception as error:
        place = where(error)
        log(Event.EXTRACT_FAILED, agreement=agreement.name, batch=batch["stamp"], stage=batch["stage"],
            error=type(error).__name__, where=place)  # fmt: skip
        await fail(pool, batch, agreement, batch["stage"] or "", f"{type(error).__name__} at {place}")


async def _batch(pool: Pool | Connection, number: uuid.UUID) -> dict[str, Any]:
    row = await pool.fetchrow("SELECT * FROM extract_batch WHERE id = $1", number)
    return dict(row) | {"whole": row["kind"] == "bulk"}


async def _do(pool: Pool, step: Any, batch: dict[str, Any], agreement: Agreement) -> bool:
    """Do a step's work once; False where another delivery of it is at work."""
    subject = parsed(step["subject"])
    if step["stage"] == "decrypt":
        return await _decrypt(pool, step["id"], batch, subject, agreement)
    async with pool.acquire() as connection, connection.transaction():
        open_ = await connection.fetchval(
            "SELECT true FROM extract_step WHERE id = $1 AND done_at IS NULL FOR UPDATE SKIP LOCKED", step["id"]
        )
        if open_:
            result = await _WORK[step["stage"]](connection, batch, subject, agreement)
            await _done(connection, step["id"], result)
            return True
    return await _is_done(pool, step["id"])


async def _is_done(connection: Pool | Connection, number: uuid.UUID) -> bool:
    return bool(await connection.fetchval("SELECT done_at IS NOT NULL FROM extract_step WHERE id = $1", number))


async def _decrypt(
    pool: Pool, number: uuid.UUID, batch: dict[str, Any], subject: dict[str, Any], agreement: Agreement
) -> bool:
    """It takes minutes, and is no transaction: whoever holds the lock does it."""
    key = number.int >> 65
    async with pool.acquire() as guard:
        if not await guard.fetchval("SELECT pg_try_advisory_lock($1)", key):
            return False
        try:
            if not await _is_done(guard, number):
                await _done(guard, number, await decrypt(pool, batch, subject, agreement))
        finally:
            await guard.execute("SELECT pg_advisory_unlock($1)", key)
    return True


async def _done(connection: Pool | Connection, number: uuid.UUID, result: dict[str, Any]) -> None:
    await connection.execute(
        "UPDATE extract_step SET done_at = now(), result = $2 WHERE id = $1", number, json.dumps(result)
    )


_OPEN = "SELECT EXISTS (SELECT FROM extract_step WHERE batch_id = $1 AND done_at IS NULL)"


async def _advance(pool: Pool, number: uuid.UUID, agreement: Agreement) -> None:
    """Begin the next stage where this one is done; a stage without steps is done at once."""
    finished = False
    async with pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(_OPEN, number):
            return
        await connection.execute("SELECT FROM extract_batch WHERE id = $1 FOR UPDATE", number)
        while True:
            batch = await _batch(connection, number)
            if batch["status"] != "loading" or await connection.fetchval(_OPEN, number):
                break
            following = STAGES[STAGES.index(batch["stage"]) + 1]
            await connection.execute("UPDATE extract_batch SET stage = $2 WHERE id = $1", number, following)
            subjects = await BEGIN[following](connection, batch, agreement)
            if following == "finish":
                finished = True
                break
            await batches.add_steps(connection, number, following, subjects)
    outbox.kick()
    if finished:
        await asyncio.to_thread(_forget_files, agreement.id, batch["stamp"])
        await batches.start_next(pool, agreement.id)


def _forget_files(agreement: int, stamp: str) -> None:
    """The pieces are in the clear, and have served; the encrypted files stay as long as the bucket says."""
    files.remove(f"extracts/{agreement}/{stamp}/pieces")


async def fail(pool: Pool, batch: dict[str, Any], agreement: Agreement, stage: str, reason: str) -> None:
    """Stop a batch, and all that come after it, until a person has it tried again.

    A step that began before a person did so, and fails after it, stops nothing: it will be done again.
    """
    stopped = await pool.fetchval(
        """
        UPDATE extract_batch SET status = 'failed', reason = $2
        WHERE id = $1 AND status = 'loading' AND retries = $3 RETURNING true
        """,
        batch["id"],
        f"{stage}: {reason}",
        batch["retries"],
    )
    if not stopped:
        return
    await batches.alert(pool, agreement, batch["stamp"], [f"batch {batch['stamp']} failed at {stage}: {reason}"])


async def retry(pool: Pool, agreement: Agreement, stamp: str, *, again: bool = False) -> None:
    """Have a failed batch go on where it stopped; ``again``: its files are fetched anew. Raises ExtractError."""
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            "SELECT * FROM extract_batch WHERE agreement_id = $1 AND stamp = $2 FOR UPDATE", agreement.id, stamp
        )
        if row is None or row["status"] != "failed":
            raise ExtractError(f"batch {stamp}", "it has not failed" if row else "there is none")
        number = row["id"]
        if again:
            await asyncio.to_thread(files.remove, f"extracts/{agreement.id}/{stamp}")
            await connection.execute("DELETE FROM extract_step WHERE batch_id = $1", number)
            await connection.execute(
                "UPDATE extract_file SET status = 'seen', object = NULL, reason = NULL WHERE batch_id = $1", number
            )
            await connection.execute(
                """
                UPDATE extract_batch SET status = 'seen', stage = NULL, reason = NULL, retries = retries + 1
                WHERE id = $1
                """,
                number,
            )
            return
        await connection.execute("UPDATE extract_file SET status = 'fetched' WHERE batch_id = $1 AND status = 'failed'",
                                 number)  # fmt: skip
        await connection.execute(
            "UPDATE extract_batch SET status = 'loading', reason = NULL, retries = retries + 1 WHERE id = $1", number
        )
        await connection.execute("UPDATE extract_step SET attempts = 0 WHERE batch_id = $1", number)
    await sweep(pool)


async def sweep(pool: Pool) -> int:
    """Publish the open steps of batches that are being loaded once more, where the queue has lost them."""
    published = 0
    for known in await agreements.all_of_them(pool):
        await batches.start_next(pool, known.id)
    for row in await pool.fetch(
        "SELECT agreement_id, stamp FROM extract_batch WHERE loaded_at > now() - interval '2 days'"
    ):
        # Where a crash came between the end and the tidying.
        await asyncio.to_thread(_forget_files, row["agreement_id"], row["stamp"])
    for row in await pool.fetch("SELECT * FROM extract_batch WHERE status = 'loading'"):
        batch = dict(row)
        agreement = await agreements.by_id(pool, batch["agreement_id"])
        await _go_on(pool, batch, agreement)
        published += await pool.fetchval(
            """
            WITH lost AS (
                INSERT INTO outbox (topic, ordering_key, data, attributes)
                SELECT $2, '', convert_to(json_build_object('step', id)::text, 'UTF8'), '{}'
                FROM extract_step WHERE batch_id = $1 AND done_at IS NULL LIMIT 1000 RETURNING id
            )
            SELECT count(*) FROM lost
            """,
            batch["id"],
            EXTRACT_STEP,
        )
    outbox.kick()
    return published


async def is_loading(pool: Pool, agreement_id: int) -> bool:
    """Whether a batch of the agreement is on its way."""
    return bool(
        await pool.fetchval(
            "SELECT EXISTS (SELECT FROM extract_batch WHERE agreement_id = $1 AND status = 'loading')", agreement_id
        )
    )


async def advance(pool: Pool, agreement: Agreement) -> None:
    """Begin the next stage of the agreement's batch where its steps are done."""
    number = await pool.fetchval(
        "SELECT id FROM extract_batch WHERE agreement_id = $1 AND status = 'loading'", agreement.id
    )
    if number is not None:
        await _go_on(pool, await _batch(pool, number), agreement)


async def open_steps(pool: Pool, agreement_id: int) -> list[uuid.UUID]:
    """The steps of an agreement's batches that can be done now."""
    rows = await pool.fetch(
        """
        SELECT s.id FROM extract_step s JOIN extract_batch b ON b.id = s.batch_id
        WHERE b.agreement_id = $1 AND b.status = 'loading' AND s.done_at IS NULL ORDER BY s.id LIMIT 200
        """,
        agreement_id,
    )
    return [row["id"] for row in rows]
