"""Invitations: how somebody gets an account.

A patient's comes from an organisation that holds a record of him, by letter or e-mail, and is used with the date of
birth that the record has; a carer's (carefolio.record.caring) by e-mail, and with the date of the one he is to care
for. What is wrong is never told apart: the code, the date, or an invitation that is over.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import asyncpg

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import accounts, letters, passwords, sealed, security_events
from carefolio.identity.accounts import Account, AccountError, email_key
from carefolio.identity.security_events import SecurityEvent

DAYS = 30
_TRIES = 5
# No letter that is read for another; 12 of them are 57 bits.
_ALPHABET = "BCDFGHJKLMNPQRSTVWXYZ2345679"
_LENGTH = 12
# Of carers: of one record, and to one address.
_CARERS_A_DAY, _LETTERS_A_DAY = 20, 5
_NHS_NUMBER = "https://fhir.nhs.uk/Id/nhs-number"


@dataclass(frozen=True, slots=True)
class CaringOffer:
    """What a carer is invited to see of a record, until when, and whether he ``acts`` in its patient's name."""

    record: uuid.UUID
    labels: tuple[str, ...]
    acts: bool
    until: datetime | None
    invited_by: str


@dataclass(frozen=True, slots=True)
class Invitation:
    """A living invitation; ``caring`` of a carer. A patient's own has no organisation where he invites a carer."""

    id: uuid.UUID
    kind: str
    record_id: uuid.UUID | None
    organisation_id: uuid.UUID | None
    teams: tuple[uuid.UUID, ...]
    name: str
    email: str | None
    caring: CaringOffer | None = None


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """``code`` is known here, in the letter, and nowhere else."""

    code: str
    name: str
    email: str | None
    expires: str


async def invite_patient(
    pool: Pool,
    organisation: uuid.UUID,
    *,
    nhs_number: str = "",
    record: uuid.UUID | None = None,
    email: str | None = None,
    actor: str = "",
    known_address: bool = False,
) -> NewInvitation:
    """Invite the person of a record that the organisation contributes to. Raises AccountError.

    ``known_address``: by the e-mail address that the record has, and no other.
    """
    email = accounts.checked_email(email) if email else None
    async with pool.acquire() as connection, connection.transaction():
        if record is None:
            record = await record_of(connection, nhs_number)
        row = await connection.fetchrow(
            """
            SELECT content::json ->> 'birthDate' AS born, (
                SELECT contact ->> 'value' FROM json_array_elements(content::json -> 'telecom') AS contact
                WHERE contact ->> 'system' = 'email' LIMIT 1
            ) AS email FROM resource WHERE id = $1 AND type = 'Patient' AND organisations @> ARRAY[$2::uuid]
            AND NOT EXISTS (
                SELECT FROM record own JOIN record every USING (person_id)
                WHERE own.id = $1 AND every.frozen_at IS NOT NULL
            )
            """,
            record,
            organisation,
        )
        if record is None or row is None:
            raise AccountError("this organisation holds no record with that NHS number")
        if not row["born"]:
            raise AccountError("the record has no date of birth, by which the patient could be known")
        if known_address:
            if not row["email"]:
                raise AccountError("the record has no e-mail address: an administrator invites by a letter")
            email = accounts.checked_email(row["email"])
        known = await accounts.by_record(connection, record)
        if known and not known.email_verified and known.password_hash:
            # The address was mistyped: nobody ever read a letter there.
            await accounts.end(connection, known)
        elif known:
            raise AccountError("the patient has an account already")
        await _withdraw(connection, record=record)
        await connection.execute(
            "INSERT INTO audit (actor, organisation_id, action, patient_id) VALUES ($1, $2, 'invite', $3)",
            actor or f"organisation/{organisation}",
            organisation,
            record,
        )
        name = await _name_of(connection, record)
        made = await _invite(connection, "patient", organisation, name=name, email=email, record=record)
    letters.kick()
    return made


async def invite_professional(
    pool: Pool, organisation: uuid.UUID, name: str, email: str, teams: Sequence[uuid.UUID] = ()
) -> NewInvitation:
    """Invite somebody who works for the organisation, into its teams. Raises AccountError."""
    email = accounts.checked_email(email)
    async with pool.acquire() as connection, connection.transaction():
        known = await accounts.by_email(connection, email)
        if known and known.email_verified:
            raise AccountError("there is an account with this e-mail address already")
        if await connection.fetchval(
            "SELECT EXISTS (SELECT unnest($1::uuid[]) EXCEPT SELECT id FROM team WHERE organisation_id = $2)",
            list(teams),
            organisation,
        ):
            raise AccountError("teams: the organisation has not all of them")
        await _withdraw(connection, email=email)
        made = await _invite(connection, "professional", organisation, name=name, email=email, teams=teams)
    letters.kick()
    return made


async def invite_carer(
    connection: Connection, offer: CaringOffer, email: str, organisation: uuid.UUID | None
) -> uuid.UUID:
    """Invite a carer, in the caller's transaction; an older invitation of the same address ends. Raises AccountError.

    Whoever invites does not learn the code, nor whether the address has an account.
    """
    email = accounts.checked_email(email)
    lately = await connection.fetchrow(
        """
        SELECT count(*) FILTER (WHERE record_id = $1) AS of_record, count(*) FILTER (WHERE lower(email) = lower($2))
            AS of_address FROM invitation WHERE kind = 'carer' AND created_at > now() - interval '1 day'
        """,
        offer.record,
        email,
    )
    if lately["of_record"] >= _CARERS_A_DAY or lately["of_address"] >= _LETTERS_A_DAY:
        raise AccountError("There were too many invitations today. Try again tomorrow")
    await connection.execute(
        """
        UPDATE invitation SET used_at = now()
        WHERE used_at IS NULL AND kind = 'carer' AND record_id = $1 AND lower(email) = lower($2)
        """,
        offer.record,
        email,
    )
    code, expires = _new_code(), datetime.now(UTC) + timedelta(days=DAYS)
    number: uuid.UUID = await connection.fetchval(
        """
        INSERT INTO invitation (digest, kind, record_id, organisation_id, email, expires_at, labels, acts, until,
                                invited_by)
        VALUES ($1, 'carer', $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id
        """,
        sealed.mac("invitation", code), offer.record, organisation, email, expires, list(offer.labels), offer.acts,
        offer.until, offer.invited_by,
    )  # fmt: skip
    inviter = await connection.fetchval(
        "SELECT coalesce((SELECT name FROM organisation WHERE id = $1),"
        " (SELECT name FROM account WHERE record_id = $2 AND ended_at IS NULL), 'A patient')",
        organisation,
        offer.record,
    )
    await security_events.record(connection, SecurityEvent.INVITED, detail="carer")
    await letters.write(connection, "caring", email, inviter=inviter, acts=offer.acts, code=_shown(code),
                        until=f"{expires.day} {expires:%B %Y}")  # fmt: skip
    return number


def _new_code() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def _shown(code: str) -> str:
    return "-".join(code[at : at + 4] for at in range(0, _LENGTH, 4))


async def _invite(
    connection: Connection, kind: str, organisation: uuid.UUID, *, name: str, email: str | None,
    record: uuid.UUID | None = None, teams: Sequence[uuid.UUID] = (),
) -> NewInvitation:  # fmt: skip
    code = _new_code()
    expires = datetime.now(UTC) + timedelta(days=DAYS)
    await connection.execute(
        """
        INSERT INTO invitation (digest, kind, record_id, organisation_id, teams, name, email, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        sealed.mac("invitation", code),
        kind,
        record,
        organisation,
        list(teams),
        name,
        email,
        expires,
    )
    until = f"{expires.day} {expires:%B %Y}"
    shown = _shown(code)
    await security_events.record(connection, SecurityEvent.INVITED, detail=kind)
    if email:
        title = await connection.fetchval("SELECT name FROM organisation WHERE id = $1", organisation)
        await letters.write(
            connection,
            "invitation",
            email,
            name=name,
            organisation=title,
            code=shown,
            until=until,
            patient=kind == "patient",
        )
    return NewInvitation(shown, name, email, until)


async def _withdraw(connection: Connection, *, record: uuid.UUID | None = None, email: str | None = None) -> None:
    """A new invitation ends the older ones."""
    await connection.execute(
        "UPDATE invitation SET used_at = now() WHERE used_at IS NULL AND kind <> 'carer'"
        " AND (record_id = $1 OR lower(email) = lower($2))",
        record,
        email,
    )


async def waiting(pool: Pool, organisation: uuid.UUID) -> list[asyncpg.Record]:
    """The living invitations of an organisation."""
    return list(
        await pool.fetch(
            "SELECT id, kind, name, email, created_at, expires_at FROM invitation"
            " WHERE organisation_id = $1 AND used_at IS NULL AND expires_at > now() ORDER BY created_at",
            organisation,
        )
    )


async def end(pool: Pool | Connection, number: uuid.UUID, organisation: uuid.UUID | None = None) -> None:
    """End an invitation (of an ``organisation``, where one is given). Raises AccountError."""
    done = await pool.execute(
        """
        UPDATE invitation SET used_at = now()
        WHERE id = $1 AND used_at IS NULL AND ($2::uuid IS NULL OR organisation_id = $2)
        """,
        number,
        organisation,
    )
    if done != "UPDATE 1":
        raise AccountError(f"there is no living invitation {number}")


async def proven(pool: Pool, code: str, born: date | None) -> Invitation | None:
    """The invitation of a code whose patient was born on that day; a wrong day is counted, and five end it."""
    row = await pool.fetchrow(
        """
        UPDATE invitation SET tries = tries + 1
        WHERE digest = $1 AND used_at IS NULL AND expires_at > now() AND tries < $2 RETURNING *
        """,
        sealed.mac("invitation", plain(code)),
        _TRIES,
    )
    if row is None:
        return None
    invitation = _invitation(row)
    if invitation.record_id and (born is None or await birth_date(pool, invitation.record_id) != born.isoformat()):
        return None
    await pool.execute("UPDATE invitation SET tries = tries - 1 WHERE id = $1", invitation.id)
    return invitation


Begin = Callable[[Connection, Invitation, Account], Awaitable[None]]


async def accept(
    pool: Pool, invitation: Invitation, name: str, email: str, password: str, begin: Begin | None = None
) -> None:
    """Make the account of an invitation, which is then used; ``begin`` in the same transaction. Raises AccountError.

    Where the address has an account, its owner is written to and nothing else is done: whoever asks sees no difference.
    """
    email = accounts.checked_email(email)
    await accounts.check_password(password, email, name)
    async with pool.acquire() as connection, connection.transaction():
        known = await accounts.by_email(connection, email)
        if known and known.email_verified:
            await passwords.hashed(password)
            await letters.write(connection, "email-taken", email, name=known.name)
        else:
            await use(connection, invitation)
            made = await accounts.add(
                connection,
                kind=invitation.kind,
                name=name,
                email=email,
                password=password,
                record=invitation.record_id if invitation.kind == "patient" else None,
                organisation=invitation.organisation_id if invitation.kind == "professional" else None,
                teams=invitation.teams,
                # Its code came by a letter to this very address.
                verified=invitation.email is not None and email_key(invitation.email) == email_key(email),
            )
            await security_events.record(
                connection, SecurityEvent.ACCOUNT_MADE, account=made.id, detail=invitation.kind
            )
            if begin is not None:
                await begin(connection, invitation, made)
    letters.kick()


async def use(connection: Connection, invitation: Invitation) -> None:
    """An invitation is used, in the caller's transaction. Raises AccountError."""
    used = await connection.execute(
        "UPDATE invitation SET used_at = now() WHERE id = $1 AND used_at IS NULL", invitation.id
    )
    if used != "UPDATE 1":
        raise AccountError("This invitation has been used already")


async def birth_date(pool: Pool | Connection, record: uuid.UUID) -> str | None:
    """The date of birth (YYYY-MM-DD) that a record has."""
    born = await pool.fetchval(
        "SELECT content::json ->> 'birthDate' FROM resource WHERE id = $1 AND type = 'Patient'", record
    )
    return str(born) if born else None


async def record_of(pool: Pool | Connection, nhs_number: str) -> uuid.UUID | None:
    """The record of an NHS number."""
    number = await pool.fetchval(
        "SELECT patient_id FROM patient_identifier WHERE owner = $1 AND system = $2 AND value = $3",
        uuid.UUID(int=0),
        _NHS_NUMBER,
        re.sub(r"\D", "", nhs_number),
    )
    return uuid.UUID(str(number)) if number else None


async def _name_of(connection: Connection, record: uuid.UUID) -> str:
    """How the record calls its person."""
    given, family = await connection.fetchrow(
        """
        SELECT content::json -> 'name' -> 0 -> 'given' ->> 0, content::json -> 'name' -> 0 ->> 'family'
        FROM resource WHERE id = $1 AND type = 'Patient'
        """,
        record,
    )
    return " ".join(filter(None, (given, family))) or "patient"


def plain(code: str) -> str:
    """A code as it was made: people write it in small letters, with blanks and hyphens."""
    return re.sub(r"[^A-Z0-9]", "", code.upper())


def _invitation(row: asyncpg.Record) -> Invitation:
    caring = None
    if row["kind"] == "carer":
        caring = CaringOffer(row["record_id"], tuple(row["labels"]), row["acts"], row["until"], row["invited_by"])
    return Invitation(
        row["id"], row["kind"], row["record_id"], row["organisation_id"], tuple(row["teams"]), row["name"],
        row["email"], caring,
    )  # fmt: skip
