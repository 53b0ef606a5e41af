"""Loading from a folder on this machine, or going on with what is landed, without the queue: step after step here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from carefolio.cloud import closing, database, telemetry
from carefolio.cloud.database import Pool
from carefolio.emis.checking import found_in
from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements, batches, steps
from carefolio.extracts.agreements import Agreement

# One reads or maps while the database works for the other.
_AT_ONCE = 2
# Where all that is open is being done by others.
_PAUSE = 0.1

# stamp, stage, steps done, steps in all
Progress = Callable[[str, str, int, int], None]


async def load_folder(
    pool: Pool, agreement: Agreement, folder: Path, *, workers: int = 1, progress: Progress | None = None
) -> list[str]:
    """Load the batches of an agreement that lie in a folder, oldest first; returns their stamps.

    Raises ExtractError.
    """
    found = await asyncio.to_thread(found_in, folder)
    names = [(path, name) for path, name in found if name.agreement == agreement.guid]
    if not names:
        raise ExtractError(folder.name, "there is no file of this agreement")
    landed = await batches.take_folder(pool, agreement, names)
    await batches.start_next(pool, agreement.id)
    await load(pool, agreement, workers=workers, progress=progress)
    return landed


async def load_fetched(
    pool: Pool, agreement: Agreement, *, workers: int = 1, progress: Progress | None = None
) -> list[str]:
    """Load what has been fetched and is not loaded yet; returns the stamps. Raises ExtractError."""
    waiting = await pool.fetch(
        "SELECT stamp FROM extract_batch WHERE agreement_id = $1 AND status IN ('landed', 'loading') ORDER BY stamp",
        agreement.id,
    )
    await batches.start_next(pool, agreement.id)
    await load(pool, agreement, workers=workers, progress=progress)
    return [row["stamp"] for row in waiting]


async def load(pool: Pool, agreement: Agreement, *, workers: int = 1, progress: Progress | None = None) -> None:
    """Load what has landed of an agreement, with so many processes. Raises ExtractError for a batch that failed."""
    others = [
        multiprocessing.get_context("spawn").Process(target=_work, args=(agreement.name,), daemon=True)
        for _ in range(workers - 1)
    ]
    for other in others:
        other.start()
    try:
        _spare_the_collector()
        await go_on(pool, agreement, progress)
    finally:
        for other in others:
            await asyncio.to_thread(other.join)


def _spare_the_collector() -> None:
    """Rows become resources by the ten thousand, none of them in a cycle; looking took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _work(name: str) -> None:
    """A process beside the first: it does what is open, and ends when nothing is."""

    async def work() -> None:
        pool = await database.pool()
        try:
            with contextlib.suppress(ExtractError):
                await go_on(pool, await agreements.find(pool, name), None)
        finally:
            await closing.close_all()

    telemetry.log_to(sys.stderr.buffer)
    _spare_the_collector()
    asyncio.run(work())


async def go_on(pool: Pool, agreement: Agreement, progress: Progress | None = None) -> None:
    """Do every open step of the agreement's batches, here, until none is left.

    Raises ExtractError for a batch that failed.
    """
    # Who has finished a batch may be another, who has not begun the next one yet.
    while await steps.is_loading(pool, agreement.id) or await batches.start_next(pool, agreement.id) is not None:
        open_ = await steps.open_steps(pool, agreement.id)
        done = [False]
        # Two processes that begin at the same end are in each other's way.
        random.shuffle(open_)
        waiting = iter(open_)

        async def work(waiting: Iterator[uuid.UUID] = waiting, done: list[bool] = done) -> None:
            for number in waiting:
                if await steps.run(pool, number, delivered=False):
                    done[0] = True
                if progress is not None:
                    await _tell(pool, agreement, progress)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        if not done[0]:
            # What is open is being done by others, or a crash came between the last step and the next stage.
            await asyncio.sleep(_PAUSE)
            await steps.advance(pool, agreement)
    # The queue may have been faster, and failed.
    failed = await pool.fetchrow(
        """
        SELECT stamp, reason FROM extract_batch WHERE agreement_id = $1 AND status = 'failed'
        ORDER BY stamp LIMIT 1
        """,
        agreement.id,
    )
    if failed is not None:
        raise ExtractError(f"batch {failed['stamp']}", failed["reason"])


async def _tell(pool: Pool, agreement: Agreement, progress: Progress) -> None:
    row = await pool.fetchrow(
        """
        SELECT b.stamp, b.stage, count(s.done_at) AS done, count(*) AS all FROM extract_batch b
        JOIN extract_step s ON s.batch_id = b.id AND s.stage = b.stage
        WHERE b.agreement_id = $1 AND b.status = 'loading' GROUP BY 1, 2
        """,
        agreement.id,
    )
    if row is not None:
        with contextlib.suppress(RuntimeError):
            progress(row["stamp"], row["stage"], row["done"], row["all"])
