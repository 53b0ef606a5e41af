"""Accounts: a patient's opens his own record, a professional's what his organisation may see, a carer's what others
share with him.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import passwords

_EMAIL = re.compile(
    r"[^@\s<>(),:;\\\"\[\]\x00-\x20\x7f]{1,64}@[^@\s<>(),:;\\\"\[\]_\x00-\x20\x7f]+\.[^@\s.\x00-\x20]{2,}\Z"
)
_LONGEST_EMAIL = 254
_SHORTEST_PASSWORD = 10
_LONGEST_PASSWORD = 256
# zxcvbn's score: 2 is "somewhat guessable", which a throttled door and a second factor make enough.
_LEAST_SCORE = 2


class AccountError(Exception):
    """What was asked for cannot be; the text is for the person who asked."""


@dataclass(frozen=True, slots=True)
class Account:
    """``record_id`` of a patient, ``organisation_id`` of a professional; a carer has neither."""

    id: uuid.UUID
    kind: str
    name: str
    email: str | None
    record_id: uuid.UUID | None
    organisation_id: uuid.UUID | None
    practitioner_id: uuid.UUID | None
    password_hash: str | None
    has_totp: bool
    passkeys: int
    must_enrol: bool
    email_verified: bool
    ended: bool

    @property
    def is_professional(self) -> bool:
        return self.kind == "professional"

    @property
    def has_strong_factor(self) -> bool:
        return (self.has_totp or self.passkeys > 0) and not self.must_enrol

    @property
    def fhir_user(self) -> str | None:
        """The person as a FHIR reference (SMART App Launch, fhirUser)."""
        if self.record_id:
            return f"Patient/{self.record_id}"
        return f"Practitioner/{self.practitioner_id}" if self.practitioner_id else None


_SELECT = """
    SELECT account.*, (SELECT count(*) FROM passkey WHERE account_id = account.id) AS passkeys FROM account
"""


def account_of(row: asyncpg.Record) -> Account:
    """The account of a row that ``_SELECT`` found."""
    return Account(
        row["id"],
        row["kind"],
        row["name"],
        row["email"],
        row["record_id"],
        row["organisation_id"],
        row["practitioner_id"],
        row["password_hash"],
        row["totp_sealed"] is not None,
        row["passkeys"],
        row["must_enrol"],
        row["email_verified_at"] is not None,
        row["ended_at"] is not None,
    )


async def by_email(pool: Pool | Connection, email: str) -> Account | None:
    """The living account of an e-mail address."""
    row = await pool.fetchrow(f"{_SELECT} WHERE email_key = $1 AND ended_at IS NULL", email_key(email))
    return account_of(row) if row else None


async def by_id(pool: Pool | Connection, number: uuid.UUID) -> Account | None:
    """A living account."""
    row = await pool.fetchrow(f"{_SELECT} WHERE id = $1 AND ended_at IS NULL", number)
    return account_of(row) if row else None


async def by_record(pool: Pool | Connection, record: uuid.UUID) -> Account | None:
    """The living account of the person whose record this is, or is joined with."""
    row = await pool.fetchrow(
        f"""
        {_SELECT} WHERE ended_at IS NULL AND record_id = ANY(ARRAY(
            SELECT joined.id FROM record asked JOIN record joined USING (person_id) WHERE asked.id = $1
        )) ORDER BY created_at LIMIT 1
        """,  # noqa: S608 - ours
        record,
    )
    return account_of(row) if row else None


async def by_name(pool: Pool, text: str) -> Account:
    """The account that an operator names by its e-mail address or its number. Raises AccountError."""
    try:
        found = await by_id(pool, uuid.UUID(text))
    except ValueError:
        found = await by_email(pool, text)
    if found is None:
        raise AccountError(f"there is no account {text}")
    return found


async def add(
    connection: Connection,
    *,
    kind: str,
    name: str,
    email: str | None,
    password: str | None = None,
    record: uuid.UUID | None = None,
    organisation: uuid.UUID | None = None,
    teams: Sequence[uuid.UUID] = (),
    verified: bool = False,
) -> Account:
    """Make an account. Raises AccountError where the e-mail address or the record has one.

    ``verified``: the address was proven to be his, by a letter to it or by a provider that speaks for it.
    """
    if email is not None:
        email = checked_email(email)
        await release_unverified(connection, email)
    try:
        async with connection.transaction():
            number = await connection.fetchval(
                """
                INSERT INTO account (kind, name, email, email_key, password_hash, record_id, organisation_id,
                                     email_verified_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN now() END) RETURNING id
                """,
                kind,
                name,
                email,
                email_key(email) if email else None,
                await passwords.hashed(password) if password else None,
                record,
                organisation,
                verified,
            )
    except asyncpg.UniqueViolationError:
        raise AccountError("there is an account already") from None
    await connection.executemany(
        "INSERT INTO account_team (account_id, team_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        [(number, team) for team in teams],
    )
    made = await by_id(connection, number)
    assert made is not None
    return made


async def has_role(pool: Pool | Connection, account: uuid.UUID, role: str) -> bool:
    """Whether a living account has a role in its organisation: ``administrator``, ``privacy-officer``."""
    return bool(
        await pool.fetchval("SELECT $2 = ANY(roles) FROM account WHERE id = $1 AND ended_at IS NULL", account, role)
    )


async def roles_of(pool: Pool, account: uuid.UUID) -> list[str]:
    """What a living account is in its organisation besides its teams."""
    return list(await pool.fetchval("SELECT roles FROM account WHERE id = $1 AND ended_at IS NULL", account) or ())


async def verified(connection: Pool | Connection, account: Account) -> None:
    """The address was proven: somebody read a letter that went to it."""
    await connection.execute(
        "UPDATE account SET email_verified_at = coalesce(email_verified_at, now()) WHERE id = $1", account.id
    )


async def release_unverified(connection: Connection, email: str) -> None:
    """End an account that somebody made with this address and never proved: it keeps nobody out, and nobody in."""
    known = await by_email(connection, email)
    if known is not None and not known.email_verified:
        await end(connection, known)


async def set_password(connection: Pool | Connection, account: Account, password: str) -> None:
    """Raises AccountError for a password that is too easily guessed."""
    await check_password(password, account.email or "", account.name)
    await connection.execute(
        "UPDATE account SET password_hash = $2 WHERE id = $1", account.id, await passwords.hashed(password)
    )


async def end(connection: Connection, account: Account) -> None:
    """No more sign-ins; sessions and apps end, and the e-mail address is free again."""
    await connection.execute(
        "UPDATE account SET ended_at = now(), email_key = NULL, password_hash = NULL WHERE id = $1", account.id
    )
    await connection.execute(
        "UPDATE session SET ended_at = now() WHERE account_id = $1 AND ended_at IS NULL", account.id
    )
    await connection.execute(
        "UPDATE app_grant SET ended_at = now() WHERE account_id = $1 AND ended_at IS NULL", account.id
    )


def email_key(email: str) -> str:
    """How an address is looked up: in small letters. (It is ASCII: ``checked_email``.)"""
    return email.strip().lower()


def checked_email(email: str) -> str:
    """The address as its owner writes it. Raises AccountError where it is none."""
    email = email.strip()
    if len(email) > _LONGEST_EMAIL or not email.isascii() or not _EMAIL.match(email) or ".." in email:
        raise AccountError("Enter an e-mail address in the correct format, like name@example.com")
    return email


async def check_password(password: str, *personal: str) -> None:
    """Raises AccountError for one that is short, or that somebody would try (NCSC; OWASP ASVS 2.1)."""
    if len(password) < _SHORTEST_PASSWORD:
        raise AccountError(f"Your password must have at least {_SHORTEST_PASSWORD} characters")
    if len(password) > _LONGEST_PASSWORD:
        raise AccountError(f"Your password must have at most {_LONGEST_PASSWORD} characters")
    words = [word for text in personal for word in re.split(r"[^\w]+", text.casefold()) if len(word) > 2]
    rest = password.casefold()
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, "")
    if len(rest) < _SHORTEST_PASSWORD - 4:
        raise AccountError("Choose a password that has neither your name nor your e-mail address in it")
    if await passwords.score(password, [*words, "carefolio", "patient", "hospital"]) < _LEAST_SCORE:
        raise AccountError(
            "Choose a password that is harder to guess, for example three words that do not belong together"
        )
