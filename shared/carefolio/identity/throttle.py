"""Slowing down guessing, over all instances: the count lies in the database.

An attempt counts before it is tried, so that a hundred at once are a hundred; success takes the count away. While a key
is blocked nothing counts, so that nobody can be locked out for longer than one pause; a browser that its owner has
signed in with before has a key of its own, which a stranger cannot block (OWASP's device cookies).
"""

from __future__ import annotations

from dataclasses import dataclass

from carefolio.cloud.database import Pool
from carefolio.identity import sealed

_LONGEST = 15 * 60
_FORGOTTEN = 60 * 60


@dataclass(frozen=True, slots=True)
class Limit:
    """``free`` attempts within an hour of each other, then after each a pause: ``pause`` seconds, doubling to a
    quarter of an hour.
    """

    name: str
    free: int
    pause: int = 30


PASSWORD = Limit("password", 5)
# From everywhere together, where the browser is not known: a stranger elsewhere does not use up the owner's five.
EVERYWHERE = Limit("everywhere", 30)
ADDRESS = Limit("address", 60)
SECOND_FACTOR = Limit("second factor", 5)
MAIL = Limit("mail", 5, 120)
MAIL_EVERYWHERE = Limit("mail everywhere", 20, 120)
INVITATION = Limit("invitation", 60)
EMERGENCY = Limit("emergency", 10)
USER_CODE = Limit("user code", 10)
REGISTRATION = Limit("registration", 20)


def key(limit: Limit, value: str) -> bytes:
    """The key under which attempts of ``value`` (an e-mail address, a network address) are counted."""
    return sealed.mac("throttle", f"{limit.name}:{value}")


async def admit(pool: Pool, limit: Limit, value: str) -> int:
    """Count an attempt. Returns 0 where it may be tried, else the seconds to wait."""
    waiting = await pool.fetchval(
        """
        INSERT INTO throttle AS t (key, attempts, last_at, blocked_until) VALUES ($1, 1, now(), '-infinity')
        ON CONFLICT (key) DO UPDATE SET
            attempts = CASE
                WHEN t.blocked_until > now() THEN t.attempts
                WHEN t.last_at < now() - make_interval(secs => $4) THEN 1
                ELSE t.attempts + 1 END,
            last_at = CASE WHEN t.blocked_until > now() THEN t.last_at ELSE now() END,
            blocked_until = CASE
                WHEN t.blocked_until > now() THEN t.blocked_until
                WHEN t.last_at >= now() - make_interval(secs => $4) AND t.attempts + 1 >= $2
                    THEN now() + make_interval(secs => least($5, $3 * 2 ^ least(t.attempts + 1 - $2, 20)))
                ELSE '-infinity' END
        RETURNING CASE WHEN last_at = now() THEN 0 ELSE ceil(extract(epoch FROM blocked_until - now()))::int END
        """,
        key(limit, value),
        limit.free,
        float(limit.pause),
        float(_FORGOTTEN),
        float(_LONGEST),
    )
    return int(waiting)


async def forgive(pool: Pool, limit: Limit, value: str) -> None:
    """Take one attempt back, since it was good; the others stay."""
    await pool.execute(
        "UPDATE throttle SET attempts = greatest(attempts - 1, 0) WHERE key = $1 AND blocked_until <= now()",
        key(limit, value),
    )


async def clear(pool: Pool, limit: Limit, value: str) -> None:
    """Forget the attempts: one was good, or an operator said so."""
    await pool.execute("DELETE FROM throttle WHERE key = $1", key(limit, value))
