"""Things that are good once and for a while: links in letters, hand-overs, launches, registration tokens."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import sealed


@dataclass(frozen=True, slots=True)
class OneTime:
    """What was given out, once it is used."""

    account_id: uuid.UUID | None
    facts: dict[str, Any]


async def give(
    pool: Pool | Connection, purpose: str, seconds: float, *, account: uuid.UUID | None = None, **facts: Any
) -> str:
    """A random value that stands for ``facts`` until it is used, or the time is over."""
    value = sealed.token()
    await pool.execute(
        """
        INSERT INTO one_time (digest, purpose, account_id, facts, expires_at)
        VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
        """,
        sealed.digest(value),
        purpose,
        account,
        json.dumps(facts),
        float(seconds),
    )
    return value


async def use(pool: Pool | Connection, purpose: str, value: str) -> OneTime | None:
    """What a value stands for; of any number that come with it at once, one gets it."""
    row = await pool.fetchrow(
        """
        UPDATE one_time SET used_at = now()
        WHERE digest = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > now()
        RETURNING account_id, facts
        """,
        sealed.digest(value),
        purpose,
    )
    return OneTime(row["account_id"], json.loads(row["facts"])) if row else None


async def look(pool: Pool | Connection, purpose: str, value: str) -> OneTime | None:
    """The same without using it: for the page that asks first."""
    row = await pool.fetchrow(
        """
        SELECT account_id, facts FROM one_time
        WHERE digest = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > now()
        """,
        sealed.digest(value),
        purpose,
    )
    return OneTime(row["account_id"], json.loads(row["facts"])) if row else None


async def withdraw(pool: Pool | Connection, purpose: str, account: uuid.UUID) -> None:
    """End all of a purpose that an account has."""
    await pool.execute(
        "UPDATE one_time SET used_at = now() WHERE purpose = $1 AND account_id = $2 AND used_at IS NULL",
        purpose,
        account,
    )
