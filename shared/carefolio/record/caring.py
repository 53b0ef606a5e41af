"""Carers: who is invited to care for a patient, and whom a carer cares for (domain rules A8, A9).

A patient invites whom he likes. A hospital or practice invites for a patient under 16, whose parents have no say here
until it has seen that they are his parents. An invitation goes by e-mail, and is used with the patient's date of birth.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import accounts, invitations, letters
from carefolio.identity.accounts import Account, AccountError
from carefolio.identity.invitations import CaringOffer, Invitation
from carefolio.record import sharing
from carefolio.record.access import Reader
from carefolio.record.decisions import retried
from carefolio.record.sharing import CARER, SharingError

_MOST_WAITING = 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """A carer who has not come yet."""

    id: uuid.UUID
    email: str
    labels: tuple[str, ...]
    acts: bool
    until: datetime | None
    expires: datetime


async def invite(
    pool: Pool,
    reader: Reader,
    record: uuid.UUID,
    email: str,
    wanted: Sequence[str],
    *,
    acts: bool = False,
    until: datetime | None = None,
) -> Waiting:
    """Invite a carer of a record: by its patient, or by an organisation that contributes to a child's.

    Raises SharingError.
    """
    chosen = sharing.checked(wanted)
    if not chosen:
        raise SharingError("labels: choose at least one")
    if until is not None and until <= datetime.now(UTC):
        raise SharingError("until: the end lies in the past")
    async with pool.acquire() as connection, connection.transaction():
        await sharing.lock(connection, record)
        organisation = await _may_invite(connection, reader, record)
        if organisation is None:
            # His word is kept with his own record, whatever it is joined to.
            assert reader.own is not None
            record = reader.own
        if len(await _waiting(connection, record)) >= _MOST_WAITING:
            raise SharingError("too many invitations wait already: withdraw some")
        offer = CaringOffer(record, tuple(chosen), acts, until, reader.actor)
        try:
            number = await invitations.invite_carer(connection, offer, email, organisation)
        except AccountError as error:
            raise SharingError(f"email: {error}") from None
        [made] = [each for each in await _waiting(connection, record) if each.id == number]
    letters.kick()
    return made


async def _may_invite(connection: Connection, reader: Reader, record: uuid.UUID) -> uuid.UUID | None:
    """The organisation that invites; None where the patient does. Raises SharingError.

    Of an organisation its own client and its administrators: they have seen that these are the parents.
    """
    if await sharing.decides(connection, reader, record):
        return None
    organisation = reader.organisation_id if reader.is_professional or reader.account is None else None
    trusted = reader.account is None or await accounts.has_role(connection, reader.account, "administrator")
    if organisation is None or not trusted or not await sharing.is_its_own(connection, record, organisation):
        raise SharingError("carers are invited by the patient", forbidden=True)
    if await sharing.sixteen(connection, record) is None:
        raise SharingError("from 16 on, or where the date of birth is not known, the patient decides",
                           forbidden=True)  # fmt: skip
    return organisation


async def waiting(pool: Pool, reader: Reader, record: uuid.UUID) -> list[Waiting]:
    """The invitations of carers that were not used yet. Raises SharingError."""
    async with pool.acquire() as connection:
        organisation = await _may_invite(connection, reader, record)
        return await _waiting(connection, record, organisation)


async def withdraw(pool: Pool, reader: Reader, record: uuid.UUID, number: uuid.UUID) -> None:
    """End an invitation of a carer. Raises SharingError."""
    async with pool.acquire() as connection, connection.transaction():
        organisation = await _may_invite(connection, reader, record)
        if number not in [each.id for each in await _waiting(connection, record, organisation)]:
            raise SharingError("there is no such invitation", missing=True)
        await invitations.end(connection, number)


async def _waiting(connection: Connection, record: uuid.UUID, organisation: uuid.UUID | None = None) -> list[Waiting]:
    """Of an organisation those that it made itself."""
    rows = await connection.fetch(
        """
        SELECT id, email, labels, acts, until, expires_at FROM invitation
        WHERE record_id = $1 AND kind = 'carer' AND used_at IS NULL AND expires_at > now()
        AND ($2::uuid IS NULL OR organisation_id = $2) ORDER BY created_at
        """,
        record,
        organisation,
    )
    return [Waiting(row["id"], row["email"], tuple(row["labels"]), row["acts"], row["until"], row["expires_at"])
            for row in rows]  # fmt: skip


async def begin(connection: Connection, invitation: Invitation, account: Account) -> None:
    """Share the record of an invitation with the carer who has accepted it. Raises SharingError."""
    offer = invitation.caring
    assert offer is not None
    if account.is_professional:
        raise SharingError("a professional's account is for work: care for somebody with an account of your own")
    if account.record_id == offer.record:
        raise SharingError("this is your own record: you see it anyway")
    await sharing.lock(connection, offer.record)
    if invitation.organisation_id is not None:
        if await sharing.sixteen(connection, offer.record) is None:
            raise SharingError("the invitation is over: the patient is 16 and decides alone")
        if await sharing.was_refused(connection, offer.record, account.id):
            raise SharingError("the patient has said no")
    owner = await connection.fetchval("SELECT id FROM account WHERE record_id = $1 AND ended_at IS NULL", offer.record)
    inviting = Reader(offer.invited_by, offer.record, own=offer.record, account=owner)
    await sharing.write(connection, inviting, offer.record, account.id, CARER, offer.labels, acts=offer.acts,
                        until=offer.until)  # fmt: skip
    if owner is not None:
        found = await accounts.by_id(connection, owner)
        if found is not None and found.email and found.email_verified:
            await letters.write(connection, "carer-came", found.email, name=found.name, carer=account.name)


async def accept(pool: Pool, invitation: Invitation, account: Account) -> None:
    """Somebody who has an account begins to care for a patient. Raises AccountError and SharingError."""

    async def work(connection: Connection) -> None:
        await invitations.use(connection, invitation)
        await begin(connection, invitation, account)

    await retried(pool, work)


async def records(pool: Pool, account: uuid.UUID) -> list[uuid.UUID]:
    """The records that an account cares for, as of now."""
    rows = await pool.fetch(
        """
        SELECT DISTINCT s.record_id FROM sharing s JOIN record ON record.id = s.record_id
        WHERE s.grantee = $1 AND s.role = 'carer' AND s.labels <> '{}' AND s.ended_at IS NULL AND s.ends_at > $2
        AND record.sharing_off_at IS NULL AND record.frozen_at IS NULL
        """,
        account,
        datetime.now(UTC) + timedelta(seconds=1),
    )
    return [row["record_id"] for row in rows]
