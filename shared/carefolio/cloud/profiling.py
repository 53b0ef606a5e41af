"""A sampling profiler that an operator switches on for one function for some seconds, without a deploy.

Asking is a row (``ask``); each instance looks for one at most every ten seconds while it is asked for something, and
the first to see it samples its own event loop. What it finds, names of functions and never a value, is a page with the
call stacks and their flame graph over time, beside the other files.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud import database, files
from carefolio.cloud.database import Pool
from carefolio.cloud.telemetry import Event, log, where

LONGEST = 300
_LOOKS_EVERY = 10.0
# Asked for and not begun within this time: nobody called the function, and it is not begun hours later.
_WAITS = 600
_INTERVAL = 0.002
_next_look: dict[str, float] = {}
_running: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class Profile:
    """``file`` is its name among the files, None while it is not there."""

    id: uuid.UUID
    begun_at: datetime | None
    file: str | None
    failed: str | None


async def ask(pool: Pool, function: str, seconds: int, actor: str) -> uuid.UUID:
    """Have one instance of a function profiled, the next that somebody calls. Raises ValueError."""
    if not 1 <= seconds <= LONGEST:
        raise ValueError(f"a profile takes 1 to {LONGEST} seconds")
    made: uuid.UUID = await pool.fetchval(
        "INSERT INTO profile (function, seconds, asked_by) VALUES ($1, $2, $3) RETURNING id", function, seconds, actor
    )
    return made


async def find(pool: Pool, number: uuid.UUID) -> Profile:
    """How far one is that was asked for. Raises LookupError."""
    row = await pool.fetchrow("SELECT id, begun_at, file, failed FROM profile WHERE id = $1", number)
    if row is None:
        raise LookupError(str(number))
    return Profile(**row)


def look(function: str) -> None:
    """Called for every request: cheap but for one statement in ten seconds, which nobody waits for."""
    now = time.monotonic()
    if now < _next_look.get(function, 0.0):
        return
    _next_look[function] = now + _LOOKS_EVERY
    task = asyncio.get_running_loop().create_task(_look(function))
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _look(function: str) -> None:
    try:
        pool = await database.pool()
        row = await pool.fetchrow(
            """
            UPDATE profile SET begun_at = now() WHERE id = (
                SELECT id FROM profile
                WHERE function = $1 AND begun_at IS NULL AND asked_at > now() - make_interval(secs => $2)
                ORDER BY asked_at LIMIT 1 FOR UPDATE SKIP LOCKED
            ) RETURNING id, seconds
            """,
            function,
            float(_WAITS),
        )
        if row is not None:
            await _profile(pool, function, row)
    except database.UNAVAILABLE:
        # Whoever answers the request says so; here is nobody to tell.
        return


async def _profile(pool: Pool, function: str, asked: Any) -> None:
    import pyinstrument

    name = f"profiles/{function}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{asked['id']}.html"
    profiler = pyinstrument.Profiler(interval=_INTERVAL, async_mode="disabled")
    failed = None
    try:
        profiler.start()
        try:
            await asyncio.sleep(asked["seconds"])
        finally:
            profiler.stop()
        await asyncio.to_thread(_write, name, profiler)
    except Exception as error:
        # Such as another profile in the same process; the function goes on serving.
        failed = type(error).__name__
        log(Event.UNEXPECTED, function=function, error=failed, where=where(error))
    await pool.execute(
        "UPDATE profile SET file = $2, failed = $3 WHERE id = $1", asked["id"], None if failed else name, failed
    )


def _write(name: str, profiler: Any) -> None:
    files.write(name, profiler.output_html().encode())
