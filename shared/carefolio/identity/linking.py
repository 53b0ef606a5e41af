"""Whose account it is that a provider's person has: the rules by which he is linked, or an account is made.

A patient is known by his NHS number, proven at P9, and by his date of birth being the record's. A professional is
known by the provider's name for him; his first account is made in the organisation that the provider is registered
for.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.identity import accounts, invitations, letters, security_events
from carefolio.identity.accounts import Account, AccountError, email_key
from carefolio.identity.providers import CIS2, NHS_LOGIN, Provider
from carefolio.identity.relying_party import SignedIn, SignInError
from carefolio.identity.security_events import SecurityEvent

_YOUNGEST = 16


@dataclass(frozen=True, slots=True)
class Linked:
    """The account, and the e-mail address that the provider knows where it is another one (first use only)."""

    account: Account
    other_email: str | None = None


async def link(pool: Pool, signed: SignedIn, role: int | None = None) -> Linked:
    """The account of who signed in. Raises SignInError with why there is none."""
    if signed.provider.kind == NHS_LOGIN:
        return await _patient(pool, signed)
    if signed.provider.kind == CIS2:
        return Linked(await _by_role(pool, signed, role))
    return Linked(await _professional(pool, signed))


async def _patient(pool: Pool, signed: SignedIn) -> Linked:
    claims = signed.claims
    number, born = str(claims.get("nhs_number", "")), str(claims.get("birthdate", ""))
    if claims.get("identity_proofing_level", "P9") != "P9":
        raise SignInError("not_proven")
    if not (len(number) == 10 and number.isdigit()):
        raise SignInError("no_nhs_number")
    try:
        birthday = date.fromisoformat(born)
    except ValueError:
        raise SignInError("no_birthdate") from None
    if _age(birthday, datetime.now(UTC).date()) < _YOUNGEST:
        raise SignInError("too_young")
    async with pool.acquire() as connection, connection.transaction():
        record = await invitations.record_of(connection, number)
        if record is None:
            raise SignInError("no_record")
        if await invitations.birth_date(connection, record) != birthday.isoformat():
            await security_events.record(connection, SecurityEvent.PROVIDER_REFUSED, detail="date of birth")
            raise SignInError("other_person")
        linked = await _linked(connection, signed.provider, signed.subject)
        owner = await accounts.by_record(connection, record)
        if owner is not None and owner.password_hash and not owner.email_verified:
            # Made by an invitation and never proven: he who has proven more takes its place.
            await accounts.end(connection, owner)
            owner = None
        if linked is not None:
            # The NHS number that he proves today must be that of the record which his account opens.
            if owner is None or owner.id != linked.id:
                raise SignInError("other_person")
            return Linked(linked)
        email = str(claims.get("email", "")) if claims.get("email_verified") in (True, "true") else ""
        made = owner is None
        if owner is None:
            owner, email = await _new_patient(connection, record, claims, email), ""
        await _keep(connection, signed.provider, signed.subject, owner, new=made)
        differs = bool(email) and email_key(email) != email_key(owner.email or "")
        return Linked(owner, email if differs and not await accounts.by_email(connection, email) else None)


async def _new_patient(connection: Connection, record: uuid.UUID, claims: dict[str, Any], email: str) -> Account:
    name = " ".join(str(claims[part]) for part in ("given_name", "family_name") if claims.get(part))
    taken = not email or await accounts.by_email(connection, email) is not None
    try:
        made = await accounts.add(
            connection, kind="patient", name=name[:100] or "Patient", email=None if taken else email, record=record,
            verified=not taken,
        )  # fmt: skip
    except AccountError:
        raise SignInError("no_account") from None
    await security_events.record(connection, SecurityEvent.ACCOUNT_MADE, account=made.id, detail="NHS login")
    return made


def _age(born: date, today: date) -> int:
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


async def _professional(
    pool: Pool, signed: SignedIn, *, organisation: uuid.UUID | None = None, subject: str = ""
) -> Account:
    """The account of an organisation's person, made at his first sign-in."""
    provider, claims = signed.provider, signed.claims
    subject, organisation = subject or signed.subject, organisation or provider.organisation_id
    names = {"email": "email", "name": "name", "teams": "groups"} | provider.settings.get("claims", {})
    email, name = str(claims.get(names["email"], "")).strip(), str(claims.get(names["name"], "")).strip()
    async with pool.acquire() as connection, connection.transaction():
        linked = await _linked(connection, provider, subject)
        if linked is not None:
            await _teams(connection, provider, linked, claims.get(names["teams"]))
            return linked
        domain = email.casefold().rpartition("@")[2]
        if provider.domains and domain not in provider.domains:
            raise SignInError("other_domain")
        try:
            email = accounts.checked_email(email)
        except AccountError:
            raise SignInError("no_email") from None
        # The organisation speaks for the addresses of its own domains, and for those that it has verified.
        speaks = domain in provider.domains or claims.get("email_verified") is True
        if speaks:
            await accounts.release_unverified(connection, email)
        known = await accounts.by_email(connection, email)
        new = known is None
        if known is not None:
            if known.organisation_id != organisation or not speaks:
                raise SignInError("email_taken")
        else:
            known = await accounts.add(
                connection, kind="professional", name=name[:100] or email, email=email, organisation=organisation,
                teams=[provider.team_id] if provider.team_id else [], verified=speaks,
            )  # fmt: skip
            await security_events.record(
                connection, SecurityEvent.ACCOUNT_MADE, account=known.id, detail=f"provider {provider.name}"
            )
        await _keep(connection, provider, subject, known, new=new)
        await _teams(connection, provider, known, claims.get(names["teams"]))
        return known


async def _teams(connection: Connection, provider: Provider, account: Account, groups: Any) -> None:
    """He is in the teams that his groups stand for, of those that the provider decides."""
    decided: dict[str, str] = provider.settings.get("teams", {})
    if not decided:
        return
    mine = {decided[str(group)] for group in (groups if isinstance(groups, list) else []) if str(group) in decided}
    rows = await connection.fetch(
        "SELECT id, name FROM team WHERE organisation_id = $1 AND name = ANY($2)",
        account.organisation_id,
        list(decided.values()),
    )
    await connection.execute(
        "DELETE FROM account_team WHERE account_id = $1 AND team_id = ANY($2)",
        account.id,
        [row["id"] for row in rows if row["name"] not in mine],
    )
    await connection.executemany(
        "INSERT INTO account_team (account_id, team_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        [(account.id, row["id"]) for row in rows if row["name"] in mine],
    )


def roles_of(claims: dict[str, Any]) -> list[dict[str, str]]:
    """The national RBAC roles in CIS2's claim ``nhsid_nrbac_roles``."""
    found = claims.get("nhsid_nrbac_roles")
    roles = [role for role in found if isinstance(role, dict)] if isinstance(found, list) else []
    wanted = ("person_roleid", "org_code", "org_name", "role_name", "role_code")
    return [{name: str(role.get(name, ""))[:200] for name in wanted} for role in roles if role.get("org_code")]


async def _by_role(pool: Pool, signed: SignedIn, chosen: int | None) -> Account:
    """One role for a session: the organisation that it is at must be one of ours."""
    roles = await known_roles(pool, signed)
    selected = signed.claims.get("selected_roleid")
    if selected:
        roles = [role for role in roles if role["person_roleid"] == str(selected)]
    if not roles:
        raise SignInError("no_role")
    if len(roles) > 1 and (chosen is None or not 0 <= chosen < len(roles)):
        raise SignInError("choose_role")
    role = roles[chosen or 0] if len(roles) > 1 else roles[0]
    organisation = await pool.fetchval("SELECT id FROM organisation WHERE ods_code = $1", role["org_code"])
    return await _professional(pool, signed, organisation=organisation, subject=f"{signed.subject}@{role['org_code']}")


async def known_roles(pool: Pool, signed: SignedIn) -> list[dict[str, str]]:
    """The roles at organisations that take part here (and, of a provider for one, at that one)."""
    roles = roles_of(signed.claims)
    rows = await pool.fetch(
        "SELECT ods_code FROM organisation WHERE ods_code = ANY($1) AND ($2::uuid IS NULL OR id = $2)",
        [role["org_code"] for role in roles],
        signed.provider.organisation_id,
    )
    ours = {row["ods_code"] for row in rows}
    return [role for role in roles if role["org_code"] in ours]


async def _linked(connection: Connection, provider: Provider, subject: str) -> Account | None:
    number = await connection.fetchval(
        "SELECT account_id FROM provider_identity WHERE provider_id = $1 AND subject = $2", provider.id, subject
    )
    known = await accounts.by_id(connection, number) if number else None
    if number and known is None:
        # An operator ended it; coming again does not bring it back.
        raise SignInError("ended")
    return known


async def _keep(connection: Connection, provider: Provider, subject: str, account: Account, *, new: bool) -> None:
    """Remember it; the owner of an account that was there is told."""
    await connection.execute(
        """
        INSERT INTO provider_identity (provider_id, subject, account_id) VALUES ($1, $2, $3)
        ON CONFLICT (provider_id, subject) DO UPDATE SET account_id = excluded.account_id
        """,
        provider.id,
        subject,
        account.id,
    )
    await security_events.record(
        connection, SecurityEvent.PROVIDER_LINKED, account=account.id, detail=f"provider {provider.name}"
    )
    if account.email and not new:
        what = f"{provider.title} was connected: it signs in to your account from now on."
        await letters.write(connection, "factor-changed", account.email, name=account.name, what=what)
