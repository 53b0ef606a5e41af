"""Batches and their files in the database: what was seen, what has landed, which batch is next."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.telemetry import Event, log
from carefolio.cloud.topics import EXTRACT_STEP
from carefolio.emis.batches import Batch, batches
from carefolio.emis.errors import ExtractError
from carefolio.emis.names import FileName
from carefolio.extracts import landing
from carefolio.extracts.agreements import Agreement


async def note(
    connection: Connection, agreement: Agreement, seen: Sequence[tuple[str, FileName, int]]
) -> tuple[list[Batch], list[str]]:
    """Write down the files that lie there (path, what its name says, size); returns the batches, and what to tell.

    A batch that contradicts itself, or is older than one that was loaded, is not taken.
    """
    told = []
    found: list[Batch] = []
    by_stamp: dict[str, list[tuple[str, FileName]]] = {}
    for path, name, _ in seen:
        by_stamp.setdefault(name.batch, []).append((path, name))
    sizes = {path: size for path, _, size in seen}
    last = await connection.fetchval(
        "SELECT max(stamp) FROM extract_batch WHERE agreement_id = $1 AND status IN ('loading', 'failed', 'loaded')",
        agreement.id,
    )
    for stamp, names in sorted(by_stamp.items()):
        try:
            batch = batches(names, agreement.guid)[0]
        except ExtractError as error:
            # It is there, so nothing after it may be loaded before it.
            told.append(str(error))
            if last is None or stamp > last:
                await connection.execute(
                    """
                    INSERT INTO extract_batch (agreement_id, stamp, kind, status, reason)
                    VALUES ($1, $2, '', 'seen', $3) ON CONFLICT DO NOTHING
                    """,
                    agreement.id,
                    stamp,
                    str(error),
                )
            continue
        known = await connection.fetchrow(
            "SELECT id, status FROM extract_batch WHERE agreement_id = $1 AND stamp = $2", agreement.id, stamp
        )
        if known is None and last is not None and stamp < last:
            told.append(f"batch {stamp} is older than the last one that was loaded")
            continue
        if known is not None and known["status"] != "seen":
            late = await connection.fetchval(
                "SELECT array_agg(t) FROM unnest($2::text[]) AS t WHERE NOT EXISTS ("
                "SELECT FROM extract_file f WHERE f.batch_id = $1 AND f.table_name = t)",
                known["id"], list(batch.files),
            )  # fmt: skip
            if late:
                told.append(f"batch {stamp}: {', '.join(sorted(late))} came when it was loaded already")
            continue
        if known is not None:
            await connection.execute(
                "UPDATE extract_batch SET kind = $2, reason = NULL WHERE id = $1", known["id"], batch.kind.value
            )
        number = known["id"] if known else await connection.fetchval(
            "INSERT INTO extract_batch (agreement_id, stamp, kind, status) VALUES ($1, $2, $3, 'seen') RETURNING id",
            agreement.id, stamp, batch.kind.value,
        )  # fmt: skip
        await connection.executemany(
            """
            INSERT INTO extract_file AS f (batch_id, table_name, path, remote_size, status)
            VALUES ($1, $2, $3, $4, 'seen')
            ON CONFLICT (batch_id, table_name) DO UPDATE SET path = excluded.path, remote_size = excluded.remote_size
            WHERE f.status = 'seen'
            """,
            [(number, table, path, sizes[path]) for table, path in batch.files.items()],
        )
        found.append(batch)
    return found, told


async def fetched(pool: Pool, file: uuid.UUID, folder: str, size: int, sha256: bytes) -> None:
    """A file has landed."""
    await pool.execute(
        """
        UPDATE extract_file SET status = 'fetched', object = $2, size = $3, sha256 = $4, fetched_at = now(),
            reason = NULL
        WHERE id = $1 AND status = 'seen'
        """,
        file,
        folder,
        size,
        sha256,
    )


async def complete(
    pool: Pool, agreement: Agreement, found: Sequence[Batch], growing: Collection[str] = ()
) -> list[str]:
    """Mark the batches that have landed whole, and have the next one loaded; returns their stamps.

    ``growing`` are those to which files are still being added.
    """
    landed = []
    # Three tables may lack; but not one that this agreement has ever brought.
    usual = {
        row["table_name"]
        for row in await pool.fetch(
            """
            SELECT DISTINCT table_name FROM extract_file f JOIN extract_batch b ON b.id = f.batch_id
            WHERE b.agreement_id = $1 AND b.status = 'loaded'
            """,
            agreement.id,
        )
    }
    for batch in found:
        if not batch.is_whole or not usual <= set(batch.files) or batch.id in growing:
            continue
        row = await pool.fetchrow(
            """
            UPDATE extract_batch b SET status = 'landed', landed_at = now()
            WHERE agreement_id = $1 AND stamp = $2 AND status = 'seen'
              AND NOT EXISTS (SELECT FROM extract_file f WHERE f.batch_id = b.id AND f.status = 'seen')
            RETURNING id
            """,
            agreement.id,
            batch.id,
        )
        if row is not None:
            landed.append(batch.id)
    if landed:
        await start_next(pool, agreement.id)
    return landed


async def start_next(pool: Pool, agreement_id: int) -> uuid.UUID | None:
    """Begin the agreement's oldest landed batch, where none is being loaded, and none before it is missing."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM agreement WHERE id = $1 FOR UPDATE", agreement_id)
        row = await connection.fetchrow(
            """
            SELECT id, status FROM extract_batch WHERE agreement_id = $1 AND status <> 'loaded'
            ORDER BY stamp LIMIT 1
            """,
            agreement_id,
        )
        # What is loading, has failed or is not here yet holds up all that is later: nothing is ever skipped.
        if row is None or row["status"] != "landed":
            return None
        number: uuid.UUID = row["id"]
        await connection.execute(
            # Its number says after what it is loaded, which need not be after what it was seen.
            """
            UPDATE extract_batch SET status = 'loading', stage = 'decrypt', reason = NULL, number = DEFAULT
            WHERE id = $1
            """,
            number,
        )
        files = await connection.fetch("SELECT id FROM extract_file WHERE batch_id = $1", number)
        await add_steps(connection, number, "decrypt", [{"file": str(file["id"])} for file in files])
    outbox.kick()
    return number


async def add_steps(connection: Connection, batch: uuid.UUID, stage: str, subjects: Sequence[dict[str, Any]]) -> None:
    """Steps of a stage, and a message for each."""
    await connection.execute(
        """
        WITH made AS (
            INSERT INTO extract_step (batch_id, stage, subject)
            SELECT $1, $2, subject FROM unnest($3::jsonb[]) AS t (subject) RETURNING id
        )
        INSERT INTO outbox (topic, ordering_key, data, attributes)
        SELECT $4, '', convert_to(json_build_object('step', id)::text, 'UTF8'), '{}' FROM made
        """,
        batch,
        stage,
        [json.dumps(subject) for subject in subjects],
        EXTRACT_STEP,
    )


async def alert(pool: Pool, agreement: Agreement, batch: str | None, told: Sequence[str]) -> None:
    """What an operator must know: kept with the batch, and in the log (without patient data)."""
    for reason in told:
        log(Event.EXTRACT_ALERT, agreement=agreement.name, reason=reason)
    if batch is not None and told:
        await pool.execute(
            """
            UPDATE extract_batch SET alerts = ARRAY(SELECT DISTINCT unnest(alerts || $3::text[]) ORDER BY 1)
            WHERE agreement_id = $1 AND stamp = $2
            """,
            agreement.id,
            batch,
            list(told),
        )


async def take_folder(pool: Pool, agreement: Agreement, names: Sequence[tuple[str, FileName]]) -> list[str]:
    """Land the files of a folder as if they had been fetched; returns the batches' stamps. Raises ExtractError."""
    seen = [(path, name, await asyncio.to_thread(_size, path)) for path, name in names]
    async with pool.acquire() as connection, connection.transaction():
        found, told = await note(connection, agreement, seen)
    await alert(pool, agreement, None, told)
    if told and not found:
        raise ExtractError("folder", told[0])
    for batch in found:
        if not batch.is_whole:
            raise ExtractError(f"batch {batch.id}", f"it lacks {', '.join(sorted(batch.missing))}")
        for row in await waiting(pool, agreement, batch.id):
            path, size = row["path"], row["remote_size"]
            folder = landing.folder_of(agreement.id, batch.id, row["table_name"], size)
            digest = await asyncio.to_thread(landing.land, folder, size, _from_disk(path))
            await fetched(pool, row["id"], folder, size, digest)
    return await complete(pool, agreement, found)


async def waiting(pool: Pool, agreement: Agreement, stamp: str) -> list[Any]:
    """The files of a batch that have not landed."""
    return list(
        await pool.fetch(
            """
            SELECT f.* FROM extract_file f JOIN extract_batch b ON b.id = f.batch_id
            WHERE b.agreement_id = $1 AND b.stamp = $2 AND f.status = 'seen' ORDER BY f.table_name
            """,
            agreement.id,
            stamp,
        )
    )


def _size(path: str) -> int:
    return Path(path).stat().st_size


def _from_disk(path: str) -> landing.Blocks:
    def blocks(start: int, end: int) -> Any:
        with Path(path).open("rb") as file:
            file.seek(start)
            at = start
            while at < end and (block := file.read(min(1024 * 1024, end - at))):
                at += len(block)
                yield block

    return blocks


async def stale(pool: Pool, agreement: Agreement, now: datetime) -> list[str]:
    """A night that was missed, and batches of which only a part is there."""
    told = []
    row = await pool.fetchrow(
        """
        SELECT max(landed_at) AS last, (SELECT created_at FROM agreement WHERE id = $1) AS since
        FROM extract_batch WHERE agreement_id = $1
        """,
        agreement.id,
    )
    hours = (now - (row["last"] or row["since"])).total_seconds() / 3600
    if hours > agreement.stale_hours:
        told.append(f"no batch has come for {int(hours)} hours")
    halves = await pool.fetch(
        """
        SELECT stamp FROM extract_batch WHERE agreement_id = $1 AND status = 'seen'
          AND seen_at < now() - interval '6 hours' ORDER BY stamp
        """,
        agreement.id,
    )
    return told + [f"batch {half['stamp']} is only partly there, for more than 6 hours" for half in halves]
