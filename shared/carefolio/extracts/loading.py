"""Loading from a folder on this machine, or going on with what is landed, without the queue: step after step here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from carefolio.cloud.database import Pool
from carefolio.emis.checking import found_in
from carefolio.emis.errors import ExtractError
from carefolio.extracts import batches, steps
from carefolio.extracts.agreements import Agreement

# One decrypts or maps while the database works for the other.
_AT_ONCE = 2

# stamp, stage, steps done, steps in all
Progress = Callable[[str, str, int, int], None]


async def load_folder(pool: Pool, agreement: Agreement, folder: Path, *, progress: Progress | None = None) -> list[str]:
    """Load the batches of an agreement that lie in a folder, oldest first; returns their stamps.

    Raises ExtractError.
    """
    names = [
        (path, name) for path, name in await asyncio.to_thread(found_in, folder) if name.agreement == agreement.guid
    ]
    if not names:
        raise ExtractError(folder.name, "there is no file of this agreement")
    landed = await batches.take_folder(pool, agreement, names)
    await batches.start_next(pool, agreement.id)
    await go_on(pool, agreement, progress)
    return landed


async def go_on(pool: Pool, agreement: Agreement, progress: Progress | None = None) -> None:
    """Do every open step of the agreement's batches, here, until none is left.

    Raises ExtractError for a batch that failed.
    """
    while open_ := await steps.open_steps(pool, agreement.id):
        waiting = iter(open_)

        async def work(waiting: object = waiting) -> None:
            for number in waiting:  # type: ignore[attr-defined]
                # What another writer was in the way of is done with the next round.
                await steps.run(pool, number)
                if progress is not None:
                    await _tell(pool, agreement, progress)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
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
