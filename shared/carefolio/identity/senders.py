"""Senders of HL7 messages: username and password, and the networks that they may come from."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import secrets
import time
import uuid
from dataclasses import dataclass, field

import asyncpg

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import Network
from carefolio.identity import passwords
from carefolio.identity.sender_settings import SenderSettings, parse_settings

_KEPT_SECONDS = 60
_MOST_KEPT = 1000
# Keyed with a value of this process, so that the cache holds nothing that could be tried elsewhere.
_PEPPER = secrets.token_bytes(32)
_kept: dict[bytes, tuple[float, Sender]] = {}


class RefusedError(Exception):
    """``status`` 401: unknown or wrong credentials. 403: not from this address."""

    def __init__(self, status: int, reason: str, sender_id: uuid.UUID | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.sender_id = sender_id


@dataclass(frozen=True, slots=True)
class Sender:
    """``aliases`` (MSH-4 -> organisation) only of a partner, which sends for several organisations."""

    id: uuid.UUID
    organisation_id: uuid.UUID
    ods_code: str
    team_id: uuid.UUID | None
    partner: bool
    networks: tuple[Network, ...]
    settings: SenderSettings
    codes_version: int
    aliases: dict[str, uuid.UUID] = field(default_factory=dict)


async def authenticate(pool: Pool, authorization: str, address: str) -> Sender:
    """The sender whose Basic credentials (RFC 7617) these are.

    Verified by argon2id once and then known for a minute. Raises RefusedError.
    """
    username, password = _basic(authorization)
    known = hashlib.blake2b(f"{username}\x00{password}".encode(), key=_PEPPER, digest_size=32).digest()
    kept = _kept.get(known)
    if kept and kept[0] > time.monotonic():
        sender = kept[1]
    else:
        sender = await _verified(pool, username, password)
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[known] = (time.monotonic() + _KEPT_SECONDS, sender)
    if not _allowed(sender, address):
        raise RefusedError(403, "this address may not send with these credentials", sender.id)
    return sender


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise RefusedError(401, "username and password are needed (HTTP Basic)")
    try:
        username, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        raise RefusedError(401, "the Authorization header cannot be read") from None
    if not colon or "\x00" in username or len(username) > 200 or len(password) > 1000:
        raise RefusedError(401, "the Authorization header cannot be read")
    return username, password


_SELECT = """
    SELECT sender.*, organisation.ods_code, organisation.codes_version, (
        SELECT json_object_agg(alias, organisation_id) FROM sender_alias WHERE sender_id = sender.id
    ) AS aliases
    FROM sender JOIN organisation ON organisation.id = sender.organisation_id
"""


async def _verified(pool: Pool, username: str, password: str) -> Sender:
    row = await pool.fetchrow(f"{_SELECT} WHERE username = $1", username)
    good = await passwords.verify(row["password_hash"] if row else None, password)
    if row is None or not good:
        raise RefusedError(401, "unknown username or wrong password")
    return _sender(row)


async def all_of(pool: Pool, organisation: uuid.UUID) -> list[tuple[str, Sender]]:
    """An organisation's senders, by name."""
    rows = await pool.fetch(f"{_SELECT} WHERE sender.organisation_id = $1 ORDER BY sender.name", organisation)
    return [(row["name"], _sender(row)) for row in rows]


def _sender(row: asyncpg.Record) -> Sender:
    return Sender(
        id=row["id"],
        organisation_id=row["organisation_id"],
        ods_code=row["ods_code"],
        team_id=row["team_id"],
        partner=row["partner"],
        networks=tuple(row["networks"]),
        settings=parse_settings(row["settings"]),
        codes_version=row["codes_version"],
        aliases={alias: uuid.UUID(number) for alias, number in json.loads(row["aliases"] or "{}").items()},
    )


def _allowed(sender: Sender, address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed.version == network.version and parsed in network for network in sender.networks)


async def all_networks(pool: Pool) -> set[Network]:
    """Where senders may come from, all of them together: for the load balancer."""
    rows = await pool.fetch("SELECT DISTINCT unnest(networks) AS network FROM sender")
    return {row["network"] for row in rows}


async def of_organisation(pool: Pool, organisation: uuid.UUID, name: str | None = None) -> list[asyncpg.Record]:
    """The senders of an organisation: name, username, networks."""
    rows: list[asyncpg.Record] = await pool.fetch(
        """
        SELECT name, username, networks FROM sender
        WHERE organisation_id = $1 AND ($2::text IS NULL OR name = $2) ORDER BY name
        """,
        organisation,
        name,
    )
    return rows
