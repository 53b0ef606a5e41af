"""The first step of a batch: a file decrypted to its end, read, and cut into pieces that lie in the bucket.

Nothing of it is used before the whole file has vouched for itself; what a failure leaves is removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from carefolio.cloud import files
from carefolio.cloud.database import Connection, Pool
from carefolio.emis import values
from carefolio.emis.chunks import CODING, split
from carefolio.emis.errors import ExtractError
from carefolio.emis.openpgp import Keyring
from carefolio.emis.rows import Row, Rows, text_of
from carefolio.emis.tables import tables
from carefolio.extracts import agreements, landing
from carefolio.extracts.agreements import Agreement

SHARING, ORGANISATION = "Agreements_SharingOrganisation", "Admin_Organisation"
_MOST_ORGANISATIONS = 50_000
_PIPE = 1024 * 1024


@dataclass(slots=True)
class Decrypted:
    """What a file held. ``pieces``: (practice's GUID, rows, object); ``sharing`` and ``organisations`` by GUID."""

    rows: int = 0
    deleted: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    by_practice: dict[str, int] = field(default_factory=dict)
    pieces: list[tuple[str, int, str]] = field(default_factory=list)
    sharing: dict[str, list[bool]] = field(default_factory=dict)
    organisations: dict[str, list[str]] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    size: int = 0
    sha256: bytes = b""
    signed_by: str | None = None


async def decrypt(pool: Pool, batch: Any, subject: dict[str, Any], agreement: Agreement) -> dict[str, Any]:
    """One file of a batch; returns what the step tells. Raises ExtractError, which fails the batch."""
    row = await pool.fetchrow("SELECT * FROM extract_file WHERE id = $1", uuid.UUID(subject["file"]))
    if row["status"] != "verified":
        try:
            found = await asyncio.to_thread(_decrypt, row, agreement, batch["stamp"])
        except ExtractError as error:
            await pool.execute(
                "UPDATE extract_file SET status = 'failed', reason = $2 WHERE id = $1", row["id"], str(error)
            )
            raise
        async with pool.acquire() as connection:
            await _verified(connection, row["id"], found)
    return {}


async def _verified(connection: Connection, number: uuid.UUID, found: Decrypted) -> None:
    counts = asdict(found)
    for name in ("extra", "size", "sha256", "signed_by", "rows"):
        counts.pop(name)
    await connection.execute(
        """
        UPDATE extract_file SET status = 'verified', plain_size = $2, plain_sha256 = $3, signed_by = $4, rows = $5,
            counts = $6, extra = $7, verified_at = now(), reason = NULL
        WHERE id = $1
        """,
        number,
        found.size,
        found.sha256,
        found.signed_by,
        found.rows,
        json.dumps(counts),
        list(found.extra),
    )


def _decrypt(row: Any, agreement: Agreement, stamp: str) -> Decrypted:
    table, place = row["table_name"], f"extracts/{agreement.id}/{stamp}/pieces/{row['table_name']}"
    files.remove(place)
    found = Decrypted()
    try:
        with landing.Landed(row["object"], row["size"]) as landed:
            encrypted = cast(BinaryIO, io.BufferedReader(landed, _PIPE))
            if row["path"].endswith(".gpg"):
                _through_gpg(encrypted, agreement, table, place, found)
            else:
                counting = _Counting(encrypted)
                _read(table, cast(BinaryIO, io.BufferedReader(counting, _PIPE)), place, found)
                found.size, found.sha256 = counting.size, counting.hashed.digest()
    except BaseException:
        files.remove(place)
        raise
    return found


def _through_gpg(encrypted: BinaryIO, agreement: Agreement, table: str, place: str, found: Decrypted) -> None:
    """Decrypt on one side of a pipe and read on the other: neither holds more than the pipe does."""
    reading, writing = os.pipe()
    failed: list[BaseException] = []
    hashed = hashlib.sha256()

    def read() -> None:
        try:
            with os.fdopen(os.dup(reading), "rb", _PIPE) as plain:
                _read(table, plain, place, found)
        except BaseException as error:
            failed.append(error)
        finally:
            # gpg must be able to end, whatever we think of what it says.
            while os.read(reading, _PIPE):
                pass
            os.close(reading)

    def take(block: bytes) -> None:
        hashed.update(block)
        found.size += len(block)
        view = memoryview(block)
        while view:
            view = view[os.write(writing, view) :]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        with tempfile.TemporaryDirectory(prefix="carefolio-keys-") as home:
            keyring = Keyring(Path(home))
            for kind in ("decrypt-keys", "verify-keys"):
                if armoured := agreements.secret(agreement, kind):
                    keyring.add(armoured.decode())
            passphrase = agreements.secret(agreement, "passphrase").decode()
            vouched = keyring.decrypt(
                encrypted, take, table, passphrase=passphrase, signers=frozenset(agreement.signers)
            )
    finally:
        os.close(writing)
        reader.join()
    if failed:
        raise failed[0]
    found.sha256, found.signed_by = hashed.digest(), vouched.signed_by


class _Counting(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.size = 0
        self.hashed = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        self.hashed.update(block)
        self.size += len(block)
        buffer[: len(block)] = block
        return len(block)


def _read(name: str, plain: BinaryIO, place: str, found: Decrypted) -> None:
    """Cut a file's rows into pieces. Raises ExtractError."""
    with text_of(plain) as text:
        _read_rows(name, Rows(tables()[name], text), place, found)


def _read_rows(name: str, rows: Rows, place: str, found: Decrypted) -> None:
    found.extra = rows.header.extra
    if name == SHARING:
        _sharing(rows, found)
        return

    def write(practice: str, count: int, lines: bytes) -> None:
        piece = f"{place}/{len(found.pieces):06}"
        files.write(piece, lines)
        found.pieces.append((practice, count, piece))

    counted = split(rows, write, _watching_organisations(rows, found) if name == ORGANISATION else None)
    found.rows, found.deleted, found.bad = counted.rows, counted.deleted, counted.bad
    found.by_practice = {} if name in CODING else dict(counted.by_practice)


def _sharing(rows: Rows, found: Decrypted) -> None:
    columns = list(rows.header.table.columns)
    guid, flags = columns.index("OrganisationGuid"), [columns.index(n) for n in ("IsActivated", "Disabled", "Deleted")]
    for row in rows:
        found.rows += 1
        try:
            practice = values.guid(row[guid]).lower()
            said = [values.boolean(row[at]) for at in flags]
        except ValueError as error:
            raise ExtractError(f"{SHARING} row {rows.number}", str(error)) from None
        if not practice or practice in found.sharing:
            raise ExtractError(f"{SHARING} row {rows.number}", "a practice without GUID, or twice")
        found.sharing[practice] = said


def _watching_organisations(rows: Rows, found: Decrypted) -> Callable[[Row], None]:
    """Notes the ODS code and name of each organisation in passing."""
    columns = list(rows.header.table.columns)
    guid, ods, name = (columns.index(each) for each in ("OrganisationGuid", "ODSCode", "OrganisationName"))

    def watch(row: Row) -> None:
        if len(found.organisations) < _MOST_ORGANISATIONS:
            key = row[guid].strip().strip("{}").lower()
            found.organisations[key] = [row[ods].strip().upper()[:20], row[name].strip()[:200]]

    return watch
