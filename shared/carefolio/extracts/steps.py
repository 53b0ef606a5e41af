"""A batch on its way into the record, stage by stage: decrypt, rows, settle, shared, patients, finish.

Each stage is a number of steps, each step one transaction and one message: short enough for a function's life, and done
once however often it is delivered. The last step of a stage begins the next; after a crash nobody has to begin anew.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from carefolio.cloud import files, outbox
from carefolio.cloud.database import UNAVAILABLE, Connection, Pool
from carefolio.cloud.telemetry import Event, log, where
from carefolio.cloud.topics import EXTRACT_STEP
from carefolio.emis.chunks import CODING, NOBODY, NUMBERS
from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements, batches, patients, practices, rows
from carefolio.extracts.agreements import Agreement
from carefolio.extracts.decrypting import ORGANISATION, SHARING, decrypt
from carefolio.extracts.rows import parsed
from carefolio.record.write import RETRIED

STAGES = ("decrypt", "rows", "settle", "shared", "patients", "finish")
_ROWS_PER_SET = 1500
_MOST_PATIENTS = 500
_SHARED_PER_SET = 2000
_TRIES = 5
# Kilobytes (migration 0003), and sets from which a bulk is a large one.
_WAITING, _WAITING_IN_BULK, _LARGE_BULK = 128, 4096, 10
_NOBODY = uuid.UUID(NOBODY)
_BULK_PATIENTS, _BULK_OBSERVATIONS = 1000, 4000

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
            return await _failed(pool, step, batch, agreement, error)
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
    # What the system says of a full disk or a missing file names no patient.
    what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    await fail(pool, batch, agreement, step["stage"], f"{what} at {place}")
    return True


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
            subjects = await _BEGIN[following](connection, batch, agreement)
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


async def _begin_rows(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """All files have vouched for themselves: know the practices, and take the pieces of those that are loaded."""
    found = await connection.fetch("SELECT * FROM extract_file WHERE batch_id = $1 ORDER BY table_name", batch["id"])
    counts = {row["table_name"]: parsed(row["counts"]) for row in found}
    sharing = counts.get(SHARING, {}).get("sharing", {})
    told = await practices.know(connection, agreement, sharing, counts.get(ORGANISATION, {}).get("organisations", {}))
    loaded = await practices.loaded(connection, agreement)
    subjects, skipped = [], Counter[str]()
    for row in found:
        table, of = row["table_name"], counts[row["table_name"]]
        if row["extra"]:
            told.append(f"{table} has columns that are not known: {', '.join(row['extra'][:5])}")
        if of["bad"]:
            first, reason = of["bad"][0]
            told.append(f"{table}: {len(of['bad'])} rows could not be placed, first row {first}, {reason}")
        for practice, count, piece in of["pieces"]:
            if practice and practice not in loaded and not _is_shared(table):
                skipped[practice] += count
                continue
            subjects.append({"table": table, "file": row["number"], "rows": count, "piece": piece})
    for practice, count in sorted(skipped.items()):
        disabled = sharing.get(practice, [False, False, False])[1]
        told.append(
            f"practice {practice} is {'disabled: it is frozen as it stands' if disabled else 'not shared with us'}, "
            f"{count} rows were left alone"
        )
    await connection.execute(
        """
        UPDATE extract_batch SET verified_at = now(), kind = CASE WHEN kind = '' THEN 'delta' ELSE kind END,
            alerts = ARRAY(SELECT DISTINCT unnest(alerts || $2::text[]) ORDER BY 1)
        WHERE id = $1
        """,
        batch["id"],
        told,
    )
    for reason in told:
        log(Event.EXTRACT_ALERT, agreement=agreement.name, reason=reason)
    return subjects


def _is_shared(table: str) -> bool:
    return table in CODING or table in (ORGANISATION, "Admin_Location", "Admin_OrganisationLocation",
                                        "Admin_UserInRole", "Appointment_SessionUser")  # fmt: skip


async def _begin_settle(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """Rather a moment than a step: what follows from all rows together."""
    names = await connection.fetch("SELECT path, counts FROM extract_file WHERE batch_id = $1", batch["id"])
    if not batch["whole"] and not any("delta_" in row["path"] for row in names):
        batch["whole"] = await _looks_like_bulk(connection, batch)
        if batch["whole"]:
            await connection.execute("UPDATE extract_batch SET kind = 'bulk' WHERE id = $1", batch["id"])
    loaded = [row["number"] for row in (await practices.loaded(connection, agreement)).values()]
    told = await rows.settle(connection, batch, agreement, loaded)
    await connection.execute("UPDATE extract_batch SET alerts = alerts || $2::text[] WHERE id = $1", batch["id"], told)
    return []


async def _looks_like_bulk(connection: Connection, batch: dict[str, Any]) -> bool:
    """Without a prefix in the name (domain notes B6): no deletions, everybody's patient is there, and many of both."""
    found = await connection.fetch(
        "SELECT table_name, rows, counts FROM extract_file WHERE batch_id = $1 AND table_name = ANY($2)",
        batch["id"],
        ["Admin_Patient", "CareRecord_Observation"],
    )
    by_table = {row["table_name"]: row for row in found}
    people, observations = by_table["Admin_Patient"], by_table["CareRecord_Observation"]
    if people["rows"] < _BULK_PATIENTS or observations["rows"] < _BULK_OBSERVATIONS:
        return False
    if any(parsed(row["counts"])["deleted"] for row in found):
        return False
    return not await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM extract_change c WHERE c.batch = $1 AND c.kind = $2 AND NOT EXISTS (
                SELECT FROM extract_row p WHERE p.practice = c.practice AND p.patient = c.patient AND p.kind = $3
                AND p.batch = $1
            )
        )
        """,
        batch["number"],
        NUMBERS["CareRecord_Observation"],
        NUMBERS["Admin_Patient"],
    )


async def _begin_shared(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """What is no patient's: rows that changed, and those whose links did."""
    loaded = [row["number"] for row in (await practices.loaded(connection, agreement)).values()]
    kinds = {NUMBERS[name] for name in practices.SHARED}
    links = {NUMBERS["Admin_OrganisationLocation"]: NUMBERS["Admin_Location"],
             NUMBERS["Appointment_SessionUser"]: NUMBERS["Appointment_Session"]}  # fmt: skip
    found = await connection.fetch(
        """
        SELECT practice, kind, id::text FROM extract_row
        WHERE practice = ANY($1) AND patient = $2 AND kind = ANY($3) AND batch = $4
        UNION
        SELECT target.practice, target.kind, target.id::text FROM extract_row link
        JOIN unnest($5::smallint[], $6::smallint[]) AS l (link, target) ON l.link = link.kind
        JOIN extract_row target ON target.practice = ANY($1) AND target.patient = $2 AND target.kind = l.target
         AND target.id = link.parent
        WHERE link.practice = ANY($1) AND link.patient = $2 AND link.batch = $4
        ORDER BY 1, 2, 3
        """,
        loaded, _NOBODY, list(kinds), batch["number"], list(links), list(links.values()),
    )  # fmt: skip
    by_kind: dict[tuple[int, int], list[str]] = {}
    for row in found:
        by_kind.setdefault((row["practice"], row["kind"]), []).append(row["id"])
    return [
        {"practice": practice, "kind": kind, "ids": ids[at : at + _SHARED_PER_SET]}
        for (practice, kind), ids in by_kind.items()
        for at in range(0, len(ids), _SHARED_PER_SET)
    ]


async def _begin_patients(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """Sets of patients, each of about as many rows."""
    subjects = []
    for row in (await practices.loaded(connection, agreement)).values():
        if row["organisation_id"] is None:
            continue
        if batch["whole"]:
            # All that are stored: those who are left out of a bulk have left.
            sql = "SELECT patient, count(*) AS rows FROM extract_row WHERE practice = $1 AND patient <> $2 GROUP BY 1"
            found = await connection.fetch(f"{sql} ORDER BY 1", row["number"], _NOBODY, timeout=600)
        else:
            found = await connection.fetch(
                """
                SELECT patient, count(*) AS rows FROM extract_change
                WHERE batch = $1 AND practice = $2 AND patient <> $3 GROUP BY 1 ORDER BY 1
                """,
                batch["number"], row["number"], _NOBODY, timeout=600,
            )  # fmt: skip
        taken: list[str] = []
        size = 0
        for each in found:
            taken.append(str(each["patient"]))
            size += each["rows"]
            if size >= _ROWS_PER_SET or len(taken) >= _MOST_PATIENTS:
                subjects.append({"practice": row["number"], "patients": taken, "whole": batch["whole"]})
                taken, size = [], 0
        if taken:
            subjects.append({"practice": row["number"], "patients": taken, "whole": batch["whole"]})
    if batch["whole"] and len(subjects) > _LARGE_BULK:
        await _let_wait(connection, _WAITING_IN_BULK)
    return subjects


async def _let_wait(connection: Connection, kilobytes: int) -> None:
    """How much of what is written may wait to be sorted into the index of search.

    Little, so that searches need not read it; much while a practice comes for the first time: measured, that writes
    half as fast again, and searches meanwhile take up to three times as long.
    """
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            await connection.execute(f"ALTER INDEX resource_keys SET (gin_pending_list_limit = {kilobytes})")
    except (asyncpg.InsufficientPrivilegeError, asyncpg.LockNotAvailableError):
        # Then it is slower.
        return


async def _finish(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """The report, and what has served is removed."""
    report = await _report(connection, batch)
    loaded = [row["number"] for row in (await practices.loaded(connection, agreement)).values()]
    await rows.forget_batch(connection, batch["number"], loaded)
    await connection.execute("UPDATE extract_practice SET loaded_batch = $2 WHERE number = ANY($1)", loaded,
                             batch["number"])  # fmt: skip
    if batch["whole"]:
        await _let_wait(connection, _WAITING)
    await connection.execute("DELETE FROM extract_step WHERE batch_id = $1", batch["id"])
    await connection.execute(
        "UPDATE extract_batch SET status = 'loaded', stage = NULL, loaded_at = now(), report = $2 WHERE id = $1",
        batch["id"],
        json.dumps(report),
    )
    total: Counter[str] = Counter()
    for each in report.values():
        total.update({name: count for name, count in each.items() if isinstance(count, int)})
    log(Event.EXTRACT_LOADED, agreement=agreement.name, batch=batch["stamp"],
        **{name: total[name] for name in ("rows", "created", "updated", "removed", "parked")})  # fmt: skip
    return []


async def _report(connection: Connection, batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By practice: rows read, resources created, updated, removed, rows and patients parked with their reasons."""
    report: dict[str, dict[str, Any]] = {}
    for row in await connection.fetch("SELECT counts FROM extract_file WHERE batch_id = $1", batch["id"]):
        for practice, count in parsed(row["counts"])["by_practice"].items():
            of = report.setdefault(practice or "shared", {})
            of["rows"] = of.get("rows", 0) + count
    steps = await connection.fetch(
        "SELECT result FROM extract_step WHERE batch_id = $1 AND stage IN ('shared', 'patients')", batch["id"]
    )
    for step in steps:
        result = parsed(step["result"])
        of = report.setdefault(result.pop("practice", "shared").replace(NOBODY, "shared"), {})
        for reason, count in result.pop("reasons", {}).items():
            reasons = of.setdefault("reasons", {})
            reasons[reason] = reasons.get(reason, 0) + count
        for name, count in result.items():
            if isinstance(count, int):
                of[name] = of.get(name, 0) + count
    return report


_BEGIN: dict[str, Callable[[Connection, dict[str, Any], Agreement], Awaitable[list[dict[str, Any]]]]] = {
    "rows": _begin_rows,
    "settle": _begin_settle,
    "shared": _begin_shared,
    "patients": _begin_patients,
    "finish": _finish,
}
