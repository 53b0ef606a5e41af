"""Sessions lie in the database; the browser holds a random name of one.

30 minutes without use end it, and 12 hours in any case (NHS login's rules for a web session, for everybody).
"""

from __future__ import annotations

import hmac
import time
import uuid
from dataclasses import dataclass
from typing import Any

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import sealed
from carefolio.identity.accounts import Account, account_of

IDLE = 30 * 60
ABSOLUTE = 12 * 60 * 60
# A session is written to at most this often for being seen.
_SEEN_EVERY = 60
# A change of how one signs in asks for a sign-in not older than this.
RECENT = 15 * 60


@dataclass(frozen=True, slots=True)
class Session:
    """``stage``: ``second`` (a second factor is awaited), ``enrol`` (one must be added) or ``open``.

    ``level``: ``weak`` where the second factor was a code by e-mail. ``methods`` are RFC 8176's. ``patient_id`` locks
    it
    to one record.
    """

    id: bytes
    number: uuid.UUID
    account: Account
    stage: str
    level: str
    methods: tuple[str, ...]
    provider_id: uuid.UUID | None
    in_app: bool
    patient_id: uuid.UUID | None
    challenge: bytes | None
    authenticated_at: Any

    @property
    def is_open(self) -> bool:
        return self.stage == "open"

    @property
    def is_recent(self) -> bool:
        """Whether the person proved who he is a moment ago; a hospital's word for it does not count."""
        return self.patient_id is None and bool(time.time() - self.authenticated_at.timestamp() < RECENT)


async def start(
    pool: Pool | Connection,
    account: Account,
    *,
    stage: str,
    level: str,
    methods: list[str],
    provider: uuid.UUID | None = None,
    in_app: bool = False,
    patient: uuid.UUID | None = None,
    agent: str = "",
    address: str = "",
) -> str:
    """Start a session; returns the cookie's value, which nobody else knows."""
    value = sealed.token()
    await pool.execute(
        """
        INSERT INTO session (id, account_id, stage, level, methods, provider_id, in_app, patient_id, agent, address)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        sealed.digest(value),
        account.id,
        stage,
        level,
        methods,
        provider,
        in_app,
        patient,
        agent[:200],
        address or None,
    )
    return value


async def find(pool: Pool, value: str) -> Session | None:
    """The living session of a cookie, and note that it is used."""
    row = await pool.fetchrow(
        """
        SELECT session.id AS session_id, session.number, session.stage, session.level, session.methods,
               session.provider_id, session.in_app, session.patient_id, session.challenge, session.authenticated_at,
               session.seen_at < now() - make_interval(secs => $4) AS stale, account.*,
               (SELECT count(*) FROM passkey WHERE account_id = account.id) AS passkeys
        FROM session JOIN account ON account.id = session.account_id
        WHERE session.id = $1 AND session.ended_at IS NULL AND account.ended_at IS NULL
          AND session.seen_at > now() - make_interval(secs => $2)
          AND session.created_at > now() - make_interval(secs => $3)
        """,
        sealed.digest(value),
        float(IDLE),
        float(ABSOLUTE),
        float(_SEEN_EVERY),
    )
    if row is None:
        return None
    if row["stale"]:
        await pool.execute("UPDATE session SET seen_at = now() WHERE id = $1", row["session_id"])
    return _session(row)


async def renew(
    pool: Pool | Connection, session: Session, *, stage: str, level: str, methods: list[str], authenticated: bool = True
) -> str:
    """The session under a new name, at a new stage: whoever saw the old name has nothing of it."""
    value = sealed.token()
    await pool.execute(
        """
        UPDATE session SET id = $2, stage = $3, level = $4, methods = $5, seen_at = now(), challenge = NULL,
            code_digest = NULL, code_expires_at = NULL,
            authenticated_at = CASE WHEN $6 THEN now() ELSE authenticated_at END
        WHERE id = $1
        """,
        session.id,
        sealed.digest(value),
        stage,
        level,
        methods,
        authenticated,
    )
    await pool.execute("UPDATE app_grant SET session_id = $2 WHERE session_id = $1", session.id, sealed.digest(value))
    return value


async def challenge(pool: Pool, session: Session, value: bytes) -> None:
    """Keep what a passkey must sign (WebAuthn)."""
    await pool.execute("UPDATE session SET challenge = $2 WHERE id = $1", session.id, value)


async def take_challenge(pool: Pool, session: Session) -> bytes | None:
    """What a passkey must sign, once."""
    taken = await pool.fetchval(
        """
        WITH asked AS (SELECT id, challenge FROM session WHERE id = $1 FOR UPDATE)
        UPDATE session SET challenge = NULL FROM asked WHERE session.id = asked.id RETURNING asked.challenge
        """,
        session.id,
    )
    return bytes(taken) if taken else None


async def of_account(pool: Pool, account: uuid.UUID) -> list[asyncpg.Record]:
    """The living sessions of an account, the latest first."""
    return list(
        await pool.fetch(
            """
            SELECT number, created_at, seen_at, agent, host(address) AS address, level, methods FROM session
            WHERE account_id = $1 AND ended_at IS NULL AND stage = 'open'
              AND seen_at > now() - make_interval(secs => $2) AND created_at > now() - make_interval(secs => $3)
            ORDER BY seen_at DESC
            """,
            account,
            float(IDLE),
            float(ABSOLUTE),
        )
    )


async def end(
    pool: Pool | Connection, account: uuid.UUID, *, number: uuid.UUID | None = None, but: Session | None = None
) -> int:
    """End one session of an account, or all (``but`` one), and what apps hold that live only as long as they do."""
    ended = await pool.fetch(
        """
        UPDATE session SET ended_at = now()
        WHERE account_id = $1 AND ended_at IS NULL AND ($2::uuid IS NULL OR number = $2)
          AND ($3::bytea IS NULL OR id <> $3)
        RETURNING id
        """,
        account,
        number,
        but.id if but else None,
    )
    await pool.execute(
        "UPDATE app_grant SET ended_at = now() WHERE session_id = ANY($1) AND ended_at IS NULL",
        [row["id"] for row in ended],
    )
    return len(ended)


def form_token(cookie: str) -> str:
    """What a form of the page that belongs to this cookie must send back."""
    return sealed.mac("form", cookie).hex()[:40]


def is_form_token(cookie: str, sent: str) -> bool:
    return hmac.compare_digest(form_token(cookie).encode(), sent.encode())


async def end_half_open(pool: Pool | Connection, account: uuid.UUID, but: Session) -> None:
    """A factor was added: whoever was on the way in without one starts again."""
    await pool.execute(
        "UPDATE session SET ended_at = now()"
        " WHERE account_id = $1 AND stage <> 'open' AND id <> $2 AND ended_at IS NULL",
        account,
        but.id,
    )


def _session(row: asyncpg.Record) -> Session:
    account = account_of(row)
    # Who was to add his first factor, and has one by now, shows it.
    stage = "second" if row["stage"] == "enrol" and account.has_strong_factor else row["stage"]
    return Session(
        row["session_id"],
        row["number"],
        account,
        stage,
        row["level"],
        tuple(row["methods"]),
        row["provider_id"],
        row["in_app"],
        row["patient_id"],
        row["challenge"],
        row["authenticated_at"],
    )
