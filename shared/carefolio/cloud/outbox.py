"""The outbox: rows written with the data, published after commit, deleted when the queue has them.

A crash between commit and publication leaves the rows to ``sweep``, which the operations function and every
other relay run; so a message may be published twice, and never not at all.
"""

from __future__ import annotations

import asyncio

from carefolio.cloud import database
from carefolio.cloud.queue import Outgoing, queue
from carefolio.cloud.telemetry import Event, log

_BATCH = 500
_relays: dict[asyncio.AbstractEventLoop, Relay] = {}


class Relay:
    """Publishes what the process committed; many commits become one publication."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def kick(self) -> None:
        self._wanted.set()

    def kick_soon(self) -> None:
        loop = asyncio.get_running_loop()
        for seconds in (0.02, 0.3, 3):
            loop.call_later(seconds, self._wanted.set)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = 0.5
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while await sweep() == _BATCH:
                    pass
                pause = 0.5
            except Exception as error:
                log(Event.OUTBOX_FAILED, error=type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30)
                self._wanted.set()


def kick() -> None:
    """Tell the running loop's relay that there are new rows."""
    _relay().kick()


def kick_soon() -> None:
    """As ``kick``, for rows of a transaction that has not ended yet; one that takes long is left to the clock."""
    _relay().kick_soon()


def _relay() -> Relay:
    loop = asyncio.get_running_loop()
    if loop not in _relays:
        _relays[loop] = Relay()
    return _relays[loop]


async def close() -> None:
    if relay := _relays.pop(asyncio.get_running_loop(), None):
        await relay.close()


async def sweep() -> int:
    """Publish up to a batch of rows that nobody else is publishing; returns how many."""
    pool = await database.pool()
    async with pool.acquire() as connection, connection.transaction():
        # Losing this deletion in a crash only means that the rows are published again.
        await connection.execute("SET LOCAL synchronous_commit = off")
        rows = await connection.fetch(
            """
            DELETE FROM outbox WHERE id IN (
                SELECT id FROM outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
            )
            RETURNING id, topic, ordering_key, data, attributes
            """,
            _BATCH,
        )
        if rows:
            rows.sort(key=lambda row: row["id"])
            # What many commits say alike is said once.
            said = (Outgoing(row["topic"], row["ordering_key"], row["data"], row["attributes"]) for row in rows)
            await queue().publish(list(dict.fromkeys(said)))
    return len(rows)
