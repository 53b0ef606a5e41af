"""How an installation is doing, in figures: for the operator's status page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from carefolio.cloud.database import Pool


@dataclass(frozen=True, slots=True)
class Figures:
    """``waiting`` messages are acknowledged and not applied; ``hours`` are (hour, messages) of the last day."""

    waiting: int
    oldest: datetime | None
    held: int
    failed: int
    unsent: int
    letters: int
    records: int
    accounts: int
    database_bytes: int
    sealed_upto: datetime | None
    hours: tuple[tuple[datetime, int], ...]


async def figures(pool: Pool) -> Figures:
    """The figures of now; none of them takes long, whatever the size of the database."""
    row = await pool.fetchrow(
        """
        SELECT count(*) FILTER (WHERE status = 'received') AS waiting,
               min(received_at) FILTER (WHERE status = 'received') AS oldest,
               count(*) FILTER (WHERE status = 'held') AS held, count(*) FILTER (WHERE status = 'failed') AS failed,
               (SELECT count(*) FROM outbox) AS unsent,
               (SELECT count(*) FROM letter WHERE sent_at IS NULL) AS letters,
               (SELECT reltuples::bigint FROM pg_class WHERE oid = 'record'::regclass) AS records,
               (SELECT count(*) FROM account WHERE ended_at IS NULL) AS accounts,
               pg_database_size(current_database()) AS database_bytes,
               (SELECT max(sealed_at) FROM audit_seal) AS sealed_upto
        FROM message WHERE status <> 'applied'
        """
    )
    hours = await pool.fetch(
        """
        SELECT hour, count(message.id) AS messages
        FROM generate_series(date_trunc('hour', now()) - interval '23 hours', now(), interval '1 hour') AS hour
        LEFT JOIN message ON received_at >= hour AND received_at < hour + interval '1 hour'
            AND received_at > now() - interval '25 hours'
        GROUP BY hour ORDER BY hour
        """
    )
    return Figures(
        row["waiting"], row["oldest"], row["held"], row["failed"], row["unsent"], row["letters"],
        max(row["records"], 0), row["accounts"], row["database_bytes"], row["sealed_upto"],
        tuple((each["hour"], each["messages"]) for each in hours),
    )  # fmt: skip
