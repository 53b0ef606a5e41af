"""One process at a time serves a lane: it holds the lane by a lock of PostgreSQL's, which goes when it dies."""

from __future__ import annotations

import asyncio

from carefolio.cloud import closing, database
from carefolio.cloud.database import Connection


class Holder:
    """A connection of its own, by which lanes are held: whoever dies lets go of them."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        # By lane the connection that holds it: a new one holds none of those before.
        self._held: dict[str, Connection] = {}
        self._turn = asyncio.Lock()

    async def take(self, lane: str) -> bool:
        """Hold a lane, unless somebody does."""
        # Not given up half way: a lock that nobody knows of would stay.
        return await asyncio.shield(self._take(lane))

    async def _take(self, lane: str) -> bool:
        async with self._turn:
            if lane in self._held:
                return False
            if self._connection is None or self._connection.is_closed():
                self._connection = await database.connect()
            taken = await self._connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", lane)
            if taken:
                self._held[lane] = self._connection
            return bool(taken)

    def holds(self, lane: str) -> bool:
        """Whether the lane is still ours: its connection may have been lost."""
        held = self._held.get(lane)
        return held is not None and not held.is_closed()

    async def leave(self, lane: str) -> None:
        """Let others hold it."""
        await asyncio.shield(self._leave(lane))

    async def _leave(self, lane: str) -> None:
        async with self._turn:
            held = self._held.pop(lane, None)
            if held is not None and not held.is_closed():
                await held.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", lane)

    async def close(self) -> None:
        """Let go of all of them."""
        if self._connection is not None:
            await self._connection.close()


_holders: dict[asyncio.AbstractEventLoop, Holder] = {}


def holder() -> Holder:
    """This process's."""
    return _holders.setdefault(asyncio.get_running_loop(), Holder())


async def _close() -> None:
    if ours := _holders.pop(asyncio.get_running_loop(), None):
        await ours.close()


closing.also(_close)
