"""What a person allowed an app, and everything that comes of it: codes and refresh tokens.

Each is used by compare-and-swap: of any number that come with it at once, one gets what it stands for. One that comes a
second time ends the whole family, since one of the two who have it is a thief (RFC 9700 sections 2.1.1 and 4.14.2).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import scopes, sealed, security_events
from carefolio.identity.accounts import Account
from carefolio.identity.security_events import SecurityEvent
from carefolio.identity.sessions import ABSOLUTE, Session

CODE_SECONDS = 60
_OFFLINE_DAYS = 180
# A refresh token that nobody uses for so long is forgotten.
_IDLE_DAYS = 30


@dataclass(frozen=True, slots=True)
class Grant:
    """A living grant, with what tokens need of its person."""

    id: uuid.UUID
    account_id: uuid.UUID
    client_id: str
    scope: str
    patient_id: uuid.UUID | None
    nonce: str | None
    methods: tuple[str, ...]
    level: str
    authenticated_at: datetime
    expires_at: datetime
    organisation_id: uuid.UUID | None
    record_id: uuid.UUID | None
    practitioner_id: uuid.UUID | None
    name: str
    email: str | None
    email_verified: bool
    redirect_uri: str | None = None
    challenge: str | None = None

    @property
    def fhir_user(self) -> str | None:
        if self.record_id:
            return f"Patient/{self.record_id}"
        return f"Practitioner/{self.practitioner_id}" if self.practitioner_id else None


LIVING = """
    app_grant.ended_at IS NULL AND app_grant.expires_at > now() AND EXISTS (
        SELECT FROM account WHERE account.id = app_grant.account_id AND account.ended_at IS NULL)
    AND (app_grant.session_id IS NULL OR EXISTS (
        SELECT FROM session WHERE session.id = app_grant.session_id AND session.ended_at IS NULL
        AND session.created_at > now() - interval '12 hours'))
"""
SELECT = """
    SELECT app_grant.*, account.organisation_id, account.record_id, account.practitioner_id, account.name,
           account.email,
           account.email_verified_at IS NOT NULL AS email_verified
    FROM app_grant JOIN account ON account.id = app_grant.account_id
"""


async def allow(
    pool: Pool | Connection,
    session: Session,
    client_id: str,
    scope: str,
    *,
    patient: uuid.UUID | None,
    nonce: str | None,
) -> uuid.UUID:
    """The person of a session allows an app ``scope``. It lasts as long as he was told (``lasting``)."""
    names = scope.split()
    seconds = _OFFLINE_DAYS * 86400 if scopes.OFFLINE in names else ABSOLUTE if scopes.ONLINE in names else 3600
    number: uuid.UUID = await pool.fetchval(
        """
        INSERT INTO app_grant (account_id, client_id, scope, patient_id, session_id, nonce, methods, level,
                               authenticated_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10)) RETURNING id
        """,
        session.account.id,
        client_id,
        scope,
        patient,
        None if scopes.OFFLINE in names else session.id,
        nonce,
        list(session.methods),
        session.level,
        session.authenticated_at,
        float(seconds),
    )
    await security_events.record(pool, SecurityEvent.APP_ALLOWED, account=session.account.id, client=client_id)
    return number


def lasting(scope: str) -> str:
    """How long a grant lasts, in the person's words."""
    names = scope.split()
    if scopes.OFFLINE in names:
        return "It lasts for 6 months, also while you do not use the app."
    return "It lasts until you sign out." if scopes.ONLINE in names else "It lasts for at most one hour."


def may_refresh(scope: str) -> bool:
    return bool({scopes.OFFLINE, scopes.ONLINE} & set(scope.split()))


async def has_allowed(pool: Pool, account: uuid.UUID, client_id: str, scope: str, patient: uuid.UUID | None) -> bool:
    """Whether the person has allowed this app all of it before, and not stopped it."""
    rows = await pool.fetch(
        "SELECT scope FROM app_grant WHERE account_id = $1 AND client_id = $2"
        " AND patient_id IS NOT DISTINCT FROM $3 AND ended_at IS NULL AND expires_at > now()",
        account,
        client_id,
        patient,
    )
    return any(set(scope.split()) <= set(row["scope"].split()) for row in rows)


async def end(pool: Pool | Connection, grant: uuid.UUID) -> None:
    """End a grant, and with it every token of its family."""
    await pool.execute("UPDATE app_grant SET ended_at = now() WHERE id = $1 AND ended_at IS NULL", grant)


async def end_all(pool: Pool | Connection, account: uuid.UUID) -> None:
    await pool.execute("UPDATE app_grant SET ended_at = now() WHERE account_id = $1 AND ended_at IS NULL", account)


async def of_account(pool: Pool, account: uuid.UUID) -> list[asyncpg.Record]:
    """The apps that a person allows, the latest first: one line for each, of everything that it was allowed."""
    return list(
        await pool.fetch(
            f"""
            SELECT client.id, client.name, string_agg(app_grant.scope, ' ') AS scope,
                   min(app_grant.created_at) AS created_at, max(app_grant.expires_at) AS expires_at
            FROM app_grant JOIN client ON client.id = app_grant.client_id
            WHERE account_id = $1 AND {LIVING} GROUP BY client.id, client.name ORDER BY max(app_grant.created_at) DESC
            """,  # noqa: S608 - ours
            account,
        )
    )


async def end_app(pool: Pool, account: uuid.UUID, client_id: str) -> bool:
    """End everything that a person allowed an app."""
    done = await pool.execute(
        "UPDATE app_grant SET ended_at = now() WHERE account_id = $1 AND client_id = $2 AND ended_at IS NULL",
        account,
        client_id,
    )
    return bool(done != "UPDATE 0")


async def person(pool: Pool, grant: uuid.UUID) -> Grant | None:
    """A living grant by its number, with its person."""
    row = await pool.fetchrow(f"{SELECT} WHERE app_grant.id = $1 AND {LIVING}", grant)
    return grant_of(row) if row else None


# Authorization codes.


async def give_code(
    pool: Pool | Connection, grant: uuid.UUID, code: str, redirect_uri: str, challenge: str | None
) -> None:
    """A code for the app's redirect URI, good for a minute."""
    await pool.execute(
        """
        INSERT INTO authorization_code (digest, grant_id, redirect_uri, challenge, expires_at)
        VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
        """,
        sealed.digest(code),
        grant,
        redirect_uri,
        challenge,
        float(CODE_SECONDS),
    )


async def use_code(pool: Pool, code: str, client_id: str) -> Grant | None:
    """The grant of a code of this client; a code that was used ends it."""
    row = await pool.fetchrow(
        f"""
        WITH used AS (
            UPDATE authorization_code code SET used_at = now() FROM app_grant
            WHERE code.digest = $1 AND code.used_at IS NULL AND code.expires_at > now()
              AND app_grant.id = code.grant_id AND app_grant.client_id = $2
            RETURNING code.grant_id, code.redirect_uri, code.challenge
        )
        SELECT used.redirect_uri, used.challenge, living.* FROM used JOIN LATERAL (
            {SELECT} WHERE app_grant.id = used.grant_id AND {LIVING}
        ) AS living ON true
        """,  # noqa: S608 - ours
        sealed.digest(code),
        client_id,
    )
    if row is None:
        await _reused(pool, "authorization_code", code)
        return None
    return grant_of(row)


# Refresh tokens.


async def give_refresh(pool: Pool | Connection, grant: uuid.UUID) -> str:
    """A refresh token of a grant."""
    value = sealed.token()
    await pool.execute(
        """
        INSERT INTO refresh_token (digest, grant_id, expires_at)
        SELECT $1, id, least(expires_at, now() + make_interval(days => $3)) FROM app_grant WHERE id = $2
        """,
        sealed.digest(value),
        grant,
        _IDLE_DAYS,
    )
    return value


async def use_refresh(pool: Pool, value: str, client_id: str) -> Grant | None:
    """The grant of a refresh token of this client, which is then used; one that was used before ends the grant."""
    row = await pool.fetchrow(
        f"""
        WITH used AS (
            UPDATE refresh_token token SET used_at = now() FROM app_grant
            WHERE token.digest = $1 AND token.used_at IS NULL AND token.expires_at > now()
              AND app_grant.id = token.grant_id AND app_grant.client_id = $2
            RETURNING token.grant_id
        ), noted AS (UPDATE app_grant SET used_at = now() FROM used WHERE app_grant.id = used.grant_id)
        SELECT living.* FROM used JOIN LATERAL (
            {SELECT} WHERE app_grant.id = used.grant_id AND {LIVING}
        ) AS living ON true
        """,  # noqa: S608 - ours
        sealed.digest(value),
        client_id,
    )
    if row is None:
        await _reused(pool, "refresh_token", value)
        return None
    return grant_of(row)


async def of_refresh(pool: Pool, value: str) -> asyncpg.Record | None:
    """A refresh token and its grant, for introspection and revocation."""
    return await pool.fetchrow(
        f"""
        SELECT token.grant_id, token.expires_at, app_grant.client_id, app_grant.scope, app_grant.account_id,
               token.used_at IS NULL AND token.expires_at > now() AND {LIVING} AS living
        FROM refresh_token token JOIN app_grant ON app_grant.id = token.grant_id WHERE token.digest = $1
        """,  # noqa: S608 - ours
        sealed.digest(value),
    )


async def _reused(pool: Pool, table: str, value: str) -> None:
    row = await pool.fetchrow(
        f"""
        UPDATE app_grant SET ended_at = now() FROM {table} given
        WHERE given.digest = $1 AND given.used_at IS NOT NULL AND app_grant.id = given.grant_id
          AND app_grant.ended_at IS NULL
        RETURNING app_grant.account_id, app_grant.client_id
        """,  # noqa: S608 - ours
        sealed.digest(value),
    )
    if row is not None:
        await security_events.record(
            pool, SecurityEvent.TOKEN_REUSED, account=row["account_id"], client=row["client_id"], detail=table
        )


async def may_open(pool: Pool, account: Account, patient: uuid.UUID) -> bool:
    """Whether a person may choose this record: his own, one that his organisation contributes to, or one that he
    cares for.
    """
    return bool(
        await pool.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM record own JOIN record asked USING (person_id) WHERE own.id = $2 AND asked.id = $1
            ) OR EXISTS (
                SELECT FROM resource WHERE id = $1 AND type = 'Patient' AND organisations @> ARRAY[$3::uuid]
            ) OR EXISTS (
                SELECT FROM sharing WHERE record_id = $1 AND grantee = $4 AND role = 'carer' AND labels <> '{}'
                AND ended_at IS NULL AND ends_at > now()
            )
            """,
            patient,
            account.record_id,
            account.organisation_id,
            account.id,
        )
    )


def grant_of(row: asyncpg.Record) -> Grant:
    return Grant(
        row["id"], row["account_id"], row["client_id"], row["scope"], row["patient_id"], row["nonce"],
        tuple(row["methods"]), row["level"], row["authenticated_at"], row["expires_at"], row["organisation_id"],
        row["record_id"], row["practitioner_id"], row["name"], row["email"],
        row["email_verified"], row.get("redirect_uri"), row.get("challenge"),
    )  # fmt: skip


async def session_of(pool: Pool, grant: uuid.UUID) -> uuid.UUID | None:
    """The number of the session that a grant lives in; None for one that lasts without it."""
    found: uuid.UUID | None = await pool.fetchval(
        """
        SELECT session.number FROM app_grant JOIN session ON session.id = session_id
        WHERE app_grant.id = $1 AND app_grant.ended_at IS NULL
        """,
        grant,
    )
    return found
