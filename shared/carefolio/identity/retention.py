"""What has run out is forgotten, after the time for which it could still be asked about."""

from __future__ import annotations

from carefolio.cloud.database import Pool

_STATEMENTS = (
    "DELETE FROM client_assertion WHERE expires_at < now() - interval '5 minutes'",
    "DELETE FROM revoked_token WHERE expires_at < now() - interval '5 minutes'",
    "DELETE FROM authorization_request WHERE expires_at < now()",
    "DELETE FROM provider_sign_in WHERE expires_at < now()",
    # What a repeated request was answered: it may hold what is told once.
    "DELETE FROM repeatable WHERE created_at < now() - interval '1 day'",
    "DELETE FROM throttle WHERE last_at < now() - interval '1 day' AND blocked_until < now()",
    # A code or refresh token that is used again must be known as used.
    "DELETE FROM authorization_code WHERE expires_at < now() - interval '1 day'",
    "DELETE FROM refresh_token WHERE expires_at < now() - interval '1 day'",
    "DELETE FROM device_code WHERE expires_at < now() - interval '1 day'",
    "DELETE FROM one_time WHERE expires_at < now() - interval '1 day'",
    "DELETE FROM session WHERE created_at < now() - interval '30 days'",
    "DELETE FROM letter WHERE sent_at < now() - interval '30 days'",
    "DELETE FROM app_grant WHERE greatest(expires_at, ended_at) < now() - interval '1 year'",
    # Audit of security is kept for two years.
    "DELETE FROM security_event WHERE at < now() - interval '2 years'",
)


async def forget(pool: Pool) -> int:
    """Delete what has run out; returns how many rows."""
    count = 0
    for statement in _STATEMENTS:
        count += int((await pool.execute(statement)).rpartition(" ")[2])
    return count
