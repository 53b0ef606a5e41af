"""PostgreSQL through asyncpg: a pool per event loop, made at first use and closed by the process's own hook.

The framework imports a function before it forks and never runs a lifespan, so nothing is made at import
(docs/decisions/0002-runtime.md).
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import asyncpg

from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import span

Connection: TypeAlias = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Pool: TypeAlias = asyncpg.Pool

# What a function answers 503 to: the database is away, restarting, or out of room for connections.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.TooManyConnectionsError,
    asyncpg.exceptions.DiskFullError,
)
_pools: dict[asyncio.AbstractEventLoop, Pool] = {}
_connectors: dict[asyncio.AbstractEventLoop, Any] = {}
_opening: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}


async def pool() -> Pool:
    """The running loop's pool."""
    loop = asyncio.get_running_loop()
    ready = _pools.get(loop)
    if ready is not None:
        return ready
    async with _opening.setdefault(loop, asyncio.Lock()):
        if loop not in _pools:
            _pools[loop] = await _open()
        return _pools[loop]


async def close() -> None:
    """Close the running loop's pool, if one was made."""
    loop = asyncio.get_running_loop()
    _opening.pop(loop, None)
    if opened := _pools.pop(loop, None):
        try:
            await asyncio.wait_for(opened.close(), 5)
        except TimeoutError:
            opened.terminate()
    if connector := _connectors.pop(loop, None):
        await connector.close_async()


async def _open() -> Pool:
    return await asyncpg.create_pool(
        connect=connect,
        min_size=1,
        max_size=settings().pool_size,
        command_timeout=settings().statement_seconds,
        reset=_leave_as_it_is,
    )


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """No user of the pool sets anything beyond its transaction, so a round trip to reset it would be for nothing."""


class _Traced(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose statements are spans; only their text is told, never a value."""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        with span("sql", **_statement(query)):
            return str(await super().execute(query, *args, **options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[asyncpg.Record]:
        with span("sql", **_statement(query)):
            return list(await super().fetch(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> asyncpg.Record | None:
        with span("sql", **_statement(query)):
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        with span("sql", **_statement(query)):
            return await super().fetchval(query, *args, **options)


def _statement(query: str) -> dict[str, Any]:
    return {"db.system.name": "postgresql", "db.query.text": " ".join(query.split())[:500]}


async def connect(*_: Any, **options: Any) -> asyncpg.Connection:
    """One connection of its own, for the pool, for migrations and for listeners.

    Raises what UNAVAILABLE names, and ValueError where no database is configured.
    """
    wanted = settings()
    options["connection_class"] = _Traced if wanted.trace_share else asyncpg.Connection
    options["server_settings"] = {
        "application_name": "carefolio",
        "jit": "off",
        "TimeZone": "UTC",
        # Every statement of ours has an index to go by, and a plan that was made while a table was small is kept by
        # its connection long after: measured, scans of a growing table doubled the database's work.
        "enable_seqscan": "off",
    }
    if wanted.cloud_sql_instance:
        connector = await _cloud_sql()
        return await connector.connect_async(
            wanted.cloud_sql_instance,
            "asyncpg",
            user=wanted.database_user,
            db=wanted.database_name,
            enable_iam_auth=True,
            **options,
        )
    if not wanted.database_url:
        raise ValueError("neither DATABASE_URL nor CLOUD_SQL_INSTANCE is set")
    return await asyncpg.connect(wanted.database_url, timeout=5, **options)


async def _cloud_sql() -> Any:
    """The running loop's Cloud SQL connector, over private addresses.

    "lazy" because a background refresh dies while Cloud Run throttles the CPU; a domain name instead of an instance
    name lets a recovered instance take over by one DNS record.
    """
    loop = asyncio.get_running_loop()
    if loop not in _connectors:
        from google.cloud.sql.connector import DnsResolver, IPTypes, create_async_connector

        extra: dict[str, Any] = {} if ":" in settings().cloud_sql_instance else {"resolver": DnsResolver}
        _connectors[loop] = await create_async_connector(
            refresh_strategy="lazy", ip_type=IPTypes.PRIVATE, loop=loop, **extra
        )
    return _connectors[loop]
