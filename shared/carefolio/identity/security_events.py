"""Every event of security, kept for operators and for the person whom it is about."""

from __future__ import annotations

import uuid
from enum import Enum
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.telemetry import Event, log


class SecurityEvent(Enum):
    """What happened."""

    ACCOUNT_MADE = "account_made"
    ACCOUNT_ENDED = "account_ended"
    INVITED = "invited"
    INVITATION_REFUSED = "invitation_refused"
    SIGN_IN = "sign_in"
    SIGN_IN_FAILED = "sign_in_failed"
    SIGN_IN_THROTTLED = "sign_in_throttled"
    SECOND_FACTOR_FAILED = "second_factor_failed"
    SIGN_OUT = "sign_out"
    SESSION_ENDED = "session_ended"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - an event
    PASSWORD_FORGOTTEN = "password_forgotten"  # noqa: S105 - an event
    EMAIL_CHANGED = "email_changed"
    FACTOR_ADDED = "factor_added"
    FACTOR_REMOVED = "factor_removed"
    UNLOCKED = "unlocked"
    PROVIDER_REFUSED = "provider_refused"
    PROVIDER_LINKED = "provider_linked"
    HAND_OVER = "hand_over"
    APP_ALLOWED = "app_allowed"
    APP_ENDED = "app_ended"
    TOKEN_REUSED = "token_reused"  # noqa: S105 - an event
    CLIENT_REFUSED = "client_refused"
    CLIENT_REGISTERED = "client_registered"
    KEY_ROTATED = "key_rotated"


# Of which an operator should look at many.
_SUSPICIOUS = frozenset(
    {
        SecurityEvent.INVITATION_REFUSED,
        SecurityEvent.SIGN_IN_FAILED,
        SecurityEvent.SIGN_IN_THROTTLED,
        SecurityEvent.SECOND_FACTOR_FAILED,
        SecurityEvent.PROVIDER_REFUSED,
        SecurityEvent.TOKEN_REUSED,
        SecurityEvent.CLIENT_REFUSED,
    }
)


async def record(
    pool: Pool | Connection,
    event: SecurityEvent,
    *,
    account: uuid.UUID | None = None,
    client: str | None = None,
    address: str | None = None,
    detail: str | None = None,
) -> None:
    """Keep an event, in the caller's transaction where he has one. ``detail`` holds no secret and no patient data."""
    await pool.execute(
        "INSERT INTO security_event (kind, account_id, client_id, address, detail) VALUES ($1, $2, $3, $4, $5)",
        event.value,
        account,
        client,
        address or None,
        detail,
    )
    log(Event.SECURITY_ALERT if event in _SUSPICIOUS else Event.SECURITY, kind=event.value, detail=detail)


async def latest(
    pool: Pool, *, suspicious: bool = False, account: uuid.UUID | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The latest events, of one account or of all; ``suspicious`` leaves those that an operator should look at."""
    kinds = [event.value for event in SecurityEvent if event in _SUSPICIOUS or not suspicious]
    rows = await pool.fetch(
        """
        SELECT event.at, event.kind, coalesce(account.email, account.name) AS account, event.client_id,
               host(event.address) AS address, event.detail
        FROM security_event event LEFT JOIN account ON account.id = event.account_id
        WHERE event.kind = ANY($1) AND ($2::uuid IS NULL OR event.account_id = $2)
        ORDER BY event.at DESC LIMIT $3
        """,
        kinds,
        account,
        limit,
    )
    return [dict(row) for row in rows]
