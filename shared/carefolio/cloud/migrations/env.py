"""Alembic's environment: migrations run over the one driver that the product has."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

from carefolio.cloud import database, migrations


def run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    """Through the product's own connect function, so that Cloud SQL works as it does for functions."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=migrations.connect, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()
    await database.close()


asyncio.run(main())
