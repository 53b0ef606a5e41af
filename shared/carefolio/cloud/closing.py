"""What a process does at its end: the framework runs no lifespan, so whoever serves calls this."""

from __future__ import annotations

from carefolio.cloud import database, outbox, queue


async def close_all() -> None:
    """Publish what is waiting, then let go of the queue and the database."""
    await outbox.close()
    await queue.close()
    await database.close()
