"""Sharing agreements: what an extract is, where it lies, which keys open it, whose practices it may bring.

Keys and passwords are secrets (carefolio.cloud.secrets), never rows of the database.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from carefolio.cloud import schedule, secrets
from carefolio.cloud.database import Connection, Pool
from carefolio.emis.errors import ExtractError
from carefolio.emis.openpgp import Keyring

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}\Z")
_ODS = re.compile(r"[A-Z0-9]{3,12}\Z")
KEEP, REMOVE = "keep", "remove"
EVERY_TWO_HOURS = "0 */2 * * *"


class AgreementError(ValueError):
    """An agreement that cannot be registered or found; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """``practices`` are ODS codes, none for all that the sharing file has activated; ``signers`` fingerprints."""

    id: int
    name: str
    guid: uuid.UUID
    host: str
    port: int
    host_keys: tuple[str, ...]
    username: str
    path: str
    schedule: str
    practices: tuple[str, ...]
    signers: tuple[str, ...]
    roll_off: str
    stale_hours: int
    tried_at: datetime
    fetched_at: datetime | None
    trouble: str | None
    ended_at: datetime | None

    @property
    def job(self) -> str:
        """The name of its job with the clock."""
        return f"emis-fetch-{self.name}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An agreement as an operator registers it. Keys are armoured (OpenPGP) or OpenSSH's PEM (SSH).

    A key, password or passphrase that is None is left as it was agreed.
    """

    name: str
    guid: uuid.UUID
    host: str = ""
    port: int = 22
    host_keys: Sequence[str] = ()
    username: str = ""
    path: str = "."
    ssh_key: bytes | None = None
    ssh_passphrase: bytes | None = None
    password: bytes | None = None
    decrypt_keys: Sequence[bytes] | None = None
    passphrase: bytes | None = None
    verify_keys: Sequence[bytes] | None = None
    schedule: str = EVERY_TWO_HOURS
    practices: Sequence[str] = ()
    roll_off: str = KEEP
    stale_hours: int = 36


# Of each agreement; what is not there is not kept.
_SECRETS = ("ssh-key", "ssh-passphrase", "password", "decrypt-keys", "passphrase", "verify-keys")


async def add(pool: Pool, wanted: Wanted) -> Agreement:
    """Register an agreement, or change the one of that name. Raises AgreementError."""
    signers = await asyncio.to_thread(_check, wanted)
    known = await pool.fetchrow(
        "SELECT name, guid FROM agreement WHERE name = $1 OR guid = $2", wanted.name, wanted.guid
    )
    if known is not None and known["name"] != wanted.name:
        raise AgreementError("there is an agreement with this GUID under another name")
    if known is not None and known["guid"] != wanted.guid:
        raise AgreementError(f"{wanted.name} is an agreement with another GUID")
    contents = {
        # One takes the other's place.
        "ssh-key": b"" if wanted.password else wanted.ssh_key,
        "ssh-passphrase": b"" if wanted.password else wanted.ssh_passphrase,
        "password": b"" if wanted.ssh_key else wanted.password,
        "decrypt-keys": None if wanted.decrypt_keys is None else b"\n".join(wanted.decrypt_keys),
        "passphrase": wanted.passphrase,
        "verify-keys": None if wanted.verify_keys is None else b"\n".join(wanted.verify_keys),
    }
    if known is None and wanted.host and not wanted.ssh_key and not wanted.password:
        raise AgreementError("a user, and either an SSH key or a password, are needed")
    for kind, content in contents.items():
        # What is left out stays as it was agreed; nobody can write again what is never shown.
        if content is not None or known is None:
            await asyncio.to_thread(secrets.store, _secret(wanted.name, kind), content or b"\n")
    try:
        row = await pool.fetchrow(
            """
            INSERT INTO agreement (name, guid, host, port, host_keys, username, path, schedule, practices, signers,
                                   roll_off, stale_hours)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
            ON CONFLICT (name) DO UPDATE SET
                host = excluded.host, port = excluded.port, host_keys = excluded.host_keys,
                username = excluded.username, path = excluded.path, schedule = excluded.schedule,
                practices = excluded.practices,
                signers = CASE WHEN $13 THEN excluded.signers ELSE agreement.signers END, roll_off = excluded.roll_off,
                stale_hours = excluded.stale_hours, ended_at = NULL, trouble = NULL
            WHERE agreement.guid = excluded.guid
            RETURNING *
            """,
            wanted.name, wanted.guid, wanted.host, wanted.port, list(wanted.host_keys), wanted.username, wanted.path,
            wanted.schedule, [code.strip().upper() for code in wanted.practices], signers, wanted.roll_off,
            wanted.stale_hours, wanted.verify_keys is not None,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise AgreementError("there is an agreement with this GUID under another name") from None
    if row is None:
        raise AgreementError(f"{wanted.name} is an agreement with another GUID")
    made = _agreement(row)
    if made.host:
        await asyncio.to_thread(_keep_job, made)
    return made


def _keep_job(agreement: Agreement) -> None:
    schedule.keep(agreement.job, agreement.schedule, "emis_fetch", "/emis_fetch", {"agreement": agreement.name})


async def remake_jobs(pool: Pool) -> int:
    """The clock's job of every living agreement, in the region of this process: after a switch the other's are gone."""
    living = [each for each in await all_of_them(pool) if each.host and each.ended_at is None]
    for agreement in living:
        await asyncio.to_thread(_keep_job, agreement)
    return len(living)


def _check(wanted: Wanted) -> list[str]:
    """The fingerprints of the keys that sign. Raises AgreementError."""
    if not _NAME.match(wanted.name):
        raise AgreementError("a name has small letters, digits and hyphens, at most 40")
    if wanted.host:
        if not _HOST.match(wanted.host) or not 1 <= wanted.port <= 65535:
            raise AgreementError("not a host and port")
        if not wanted.host_keys:
            raise AgreementError("the server's host key is needed: without it anybody may be the server")
        for line in wanted.host_keys:
            _check_host_key(line)
        if not wanted.username or (wanted.ssh_key and wanted.password):
            raise AgreementError("a user, and either an SSH key or a password, are needed")
        if wanted.ssh_key:
            _check_ssh_key(wanted)
    if wanted.roll_off not in (KEEP, REMOVE):
        raise AgreementError(f"the roll-off policy is {KEEP} or {REMOVE}")
    if not 1 <= wanted.stale_hours <= 1000:
        raise AgreementError("a night is missed after 1 to 1000 hours")
    if any(not _ODS.match(code.strip().upper()) for code in wanted.practices):
        raise AgreementError("a practice is named by its ODS code")
    try:
        schedule.check(wanted.schedule)
    except schedule.ScheduleError as error:
        raise AgreementError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="carefolio-keys-") as home:
        keyring = Keyring(Path(home))
        try:
            for key in wanted.decrypt_keys or ():
                keyring.add(key.decode())
            return sorted({print_ for key in wanted.verify_keys or () for print_ in keyring.add(key.decode())})
        except (ExtractError, UnicodeDecodeError):
            raise AgreementError("a decryption or verification key is no armoured OpenPGP key") from None


def _check_host_key(line: str) -> None:
    from carefolio.extracts.sftp import host_key

    try:
        host_key(line)
    except ValueError as error:
        raise AgreementError(str(error)) from None


def _check_ssh_key(wanted: Wanted) -> None:
    from carefolio.extracts.sftp import private_key

    try:
        private_key(wanted.ssh_key or b"", wanted.ssh_passphrase or b"")
    except ValueError as error:
        raise AgreementError(str(error)) from None


async def find(pool: Pool | Connection, name: str) -> Agreement:
    """The agreement of a name. Raises AgreementError."""
    row = await pool.fetchrow("SELECT * FROM agreement WHERE name = $1", name)
    if row is None:
        raise AgreementError(f"there is no agreement {name}")
    return _agreement(row)


async def by_id(pool: Pool | Connection, number: int) -> Agreement:
    """The agreement with this number."""
    return _agreement(await pool.fetchrow("SELECT * FROM agreement WHERE id = $1", number))


async def all_of_them(pool: Pool) -> list[Agreement]:
    """Every agreement, the ended ones too, by name."""
    return [_agreement(row) for row in await pool.fetch("SELECT * FROM agreement ORDER BY name")]


async def due(pool: Pool) -> list[Agreement]:
    """The agreements whose schedule has come up since the last try, or since they were registered."""
    return [
        agreement
        for agreement in await all_of_them(pool)
        if agreement.host and agreement.ended_at is None and schedule.is_due(agreement.schedule, agreement.tried_at)
    ]


async def end(pool: Pool, name: str) -> None:
    """Fetch no more for an agreement; what was loaded stays. Raises AgreementError."""
    agreement = await find(pool, name)
    await pool.execute("UPDATE agreement SET ended_at = now() WHERE id = $1", agreement.id)
    await asyncio.to_thread(schedule.drop, agreement.job)


def secret(agreement: Agreement, kind: str) -> bytes:
    """One of an agreement's secrets, empty for none. Blocks."""
    return secrets.fetch(_secret(agreement.name, kind)).strip(b"\n")


def _secret(name: str, kind: str) -> str:
    assert kind in _SECRETS
    return f"emis-{name}-{kind}"


def _agreement(row: Any) -> Agreement:
    given = {name: row[name] for name in Agreement.__slots__}
    for name in ("host_keys", "practices", "signers"):
        given[name] = tuple(given[name])
    return Agreement(**given)
