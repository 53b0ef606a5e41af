"""A receiver's lane is served by one process at a time, whatever becomes of it."""

from __future__ import annotations

import asyncio

import asyncpg
from tests.conftest import unique

from carefolio.record.lanes import Holder


async def test_one_process_holds_a_lane_and_a_dead_one_none(pool: asyncpg.Pool) -> None:
    """Two processes, of which one loses its connection: it holds nothing then, and the other does."""
    lane = unique("lane")
    one, other = Holder(), Holder()
    try:
        assert sorted(await asyncio.gather(one.take(lane), other.take(lane))) == [False, True]
        holding, waiting = (one, other) if one.holds(lane) else (other, one)
        # Not twice by itself either: its own turns are no different from another's.
        assert not await holding.take(lane)
        assert not waiting.holds(lane)
        ended = await pool.fetchval(
            """
            SELECT pg_terminate_backend(pid) FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
              AND (classid::bigint << 32 | objid::bigint) = hashtextextended($1, 0)
            """,
            lane,
        )
        assert ended
        for _ in range(100):
            if not holding.holds(lane) and await waiting.take(lane):
                break
            await asyncio.sleep(0.02)
        assert waiting.holds(lane)
        assert not holding.holds(lane)
        await waiting.leave(lane)
        # Who lost it knows nothing of it any more, and may have it again.
        await holding.leave(lane)
        assert await holding.take(lane)
        await holding.leave(lane)
    finally:
        await one.close()
        await other.close()
