"""A copy of a database that is nobody's to act with: nothing leaves it."""

from __future__ import annotations

import typer

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.commands.terminal import UsageError, enter, run


def quiet() -> None:
    """For a copy of a database, of a rehearsal: no letters, no webhooks, no extracts are sent or fetched from here."""
    enter()
    if settings().production:
        raise UsageError("this is production, and not a copy of it")

    async def work(pool: Pool) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("UPDATE webhook SET ended_at = now() WHERE ended_at IS NULL")
            await connection.execute("UPDATE agreement SET ended_at = now() WHERE ended_at IS NULL")
            await connection.execute("DELETE FROM outbox WHERE topic IN ('letter-written', 'webhook-event')")

    run(work)
    typer.echo("nothing leaves this copy")
