"""The audit trail of each day as a file beside the backup: gzip'd JSON lines, in the order in which they came."""

from __future__ import annotations

import gzip
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.from_thread
import anyio.to_thread
import orjson

from carefolio.cloud import files
from carefolio.cloud.database import Pool

_FOLDER = "audit-trail"
# What an installation that was away for long catches up in one go.
_MOST_DAYS = 400
_AT_ONCE = 5000


async def export(pool: Pool, *, now: datetime | None = None) -> list[str]:
    """Write the file of each finished day (UTC) that has lines and no file yet; returns their names."""
    today = (now or datetime.now(UTC)).replace(hour=0, minute=0, second=0, microsecond=0)
    first = await pool.fetchval("SELECT min(at) FROM audit")
    if first is None:
        return []
    there = set(await anyio.to_thread.run_sync(files.names, _FOLDER))
    day = max(first.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0),
              today - timedelta(days=_MOST_DAYS))  # fmt: skip
    made = []
    while day < today:
        name = f"{_FOLDER}/{day:%Y-%m-%d}.ndjson.gz"
        if name not in there:
            await anyio.to_thread.run_sync(_write, pool, name, day)
            made.append(name)
        day += timedelta(days=1)
    return made


def _write(pool: Pool, name: str, day: datetime) -> None:
    """One day, a few thousand lines in memory at a time."""
    with files.writer(name) as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        after = 0
        while rows := anyio.from_thread.run(_lines, pool, day, after):
            packed.write(b"".join(orjson.dumps(dict(row), default=_plain) + b"\n" for row in rows))
            after = rows[-1]["id"]


async def _lines(pool: Pool, day: datetime, after: int) -> list[Any]:
    return list(
        await pool.fetch(
            "SELECT * FROM audit WHERE at >= $1 AND at < $2 AND id > $3 ORDER BY id LIMIT $4",
            day, day + timedelta(days=1), after, _AT_ONCE,
        )
    )  # fmt: skip


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, uuid.UUID) else repr(value)
