"""What a process does at its end: the framework runs no lifespan, so whoever serves calls this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from carefolio.cloud import database, outbox, queue

_more: list[Callable[[], Awaitable[None]]] = []


def also(close: Callable[[], Awaitable[None]]) -> None:
    """Have ``close`` called at the end, before the database goes."""
    _more.append(close)


async def close_all() -> None:
    """Publish what is waiting, then let go of the queue and the database."""
    for close in _more:
        await close()
    await outbox.close()
    await queue.close()
    await database.close()
