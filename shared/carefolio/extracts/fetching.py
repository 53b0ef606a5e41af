"""Fetching an agreement's files: list, look twice, land, and have the batch loaded when it is whole."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.emis.names import FileName, read_name
from carefolio.extracts import batches, landing, sftp
from carefolio.extracts.agreements import Agreement, secret
from carefolio.extracts.sftp import FetchError, Remote

# Between the two looks at a file that was never seen before.
LOOK_AGAIN = 30.0
_LOCK = 0x0E315


@dataclass(slots=True)
class Fetched:
    """What a fetch did: files and bytes that landed, batches that are whole, what an operator must know."""

    files: int = 0
    bytes: int = 0
    batches: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    busy: bool = False


async def fetch(pool: Pool, agreement: Agreement, *, look_again: float = LOOK_AGAIN) -> Fetched:
    """Fetch what is new. Raises FetchError, after it was noted; what landed until then stays, and is gone on from."""
    made = Fetched()
    async with pool.acquire() as guard:
        # One at a time; what another run is fetching is not fetched twice.
        if not await guard.fetchval("SELECT pg_try_advisory_lock($1, $2)", _LOCK, agreement.id):
            made.busy = True
            return made
        await pool.execute("UPDATE agreement SET tried_at = now() WHERE id = $1", agreement.id)
        try:
            await _fetch(pool, agreement, made, look_again)
        except FetchError as error:
            await pool.execute("UPDATE agreement SET trouble = $2 WHERE id = $1", agreement.id, str(error))
            await batches.alert(pool, agreement, None, [str(error)])
            raise
        finally:
            await guard.execute("SELECT pg_advisory_unlock($1, $2)", _LOCK, agreement.id)
    made.alerts += await batches.stale(pool, agreement, datetime.now(UTC))
    await batches.alert(pool, agreement, None, made.alerts)
    await pool.execute(
        "UPDATE agreement SET fetched_at = now(), trouble = $2 WHERE id = $1",
        agreement.id,
        "; ".join(made.alerts) or None,
    )
    return made


async def _fetch(pool: Pool, agreement: Agreement, made: Fetched, look_again: float) -> None:
    keys = [await asyncio.to_thread(secret, agreement, kind) for kind in ("ssh-key", "ssh-passphrase", "password")]
    connected = sftp.session(agreement, *keys)
    session = await asyncio.to_thread(connected.__enter__)
    try:
        seen = _ours(await asyncio.to_thread(session.listed), agreement)
        before = await _sizes(pool, agreement)
        async with pool.acquire() as connection, connection.transaction():
            found, made.alerts = await batches.note(
                connection, agreement, [(remote.path, name, remote.size) for remote, name in seen]
            )
        if any(before.get(remote.path) != remote.size for remote, _ in seen) and any(found):
            await asyncio.sleep(look_again)
            again = {remote.path: remote for remote in await asyncio.to_thread(session.listed)}
        else:
            again = {remote.path: remote for remote, _ in seen}
        first = {remote.path for remote, _ in seen}
        steady = {remote.path for remote, _ in seen if again.get(remote.path) == remote}
        for batch in found:
            for row in await batches.waiting(pool, agreement, batch.id):
                if row["path"] in steady:
                    await _land(pool, agreement, session, row, batch.id, made)
    finally:
        await asyncio.to_thread(connected.__exit__, None, None, None)
    growing = {name.batch for remote, name in _ours(list(again.values()), agreement) if remote.path not in first}
    made.batches = await batches.complete(pool, agreement, found, growing)


def _ours(listed: list[Remote], agreement: Agreement) -> list[tuple[Remote, FileName]]:
    """The files whose names are of this agreement's extract; the folder says nothing."""
    named = [(remote, read_name(remote.path)) for remote in listed]
    return [(remote, name) for remote, name in named if name is not None and name.agreement == agreement.guid]


async def _sizes(pool: Pool, agreement: Agreement) -> dict[str, int]:
    """The sizes of an earlier look."""
    rows = await pool.fetch(
        """
        SELECT f.path, f.remote_size FROM extract_file f JOIN extract_batch b ON b.id = f.batch_id
        WHERE b.agreement_id = $1
        """,
        agreement.id,
    )
    return {row["path"]: row["remote_size"] for row in rows}


async def _land(pool: Pool, agreement: Agreement, session: sftp.Session, row: Any, stamp: str, made: Fetched) -> None:
    path, size = row["path"], row["remote_size"]
    folder = landing.folder_of(agreement.id, stamp, row["table_name"], size)
    await pool.execute("UPDATE extract_file SET attempts = attempts + 1 WHERE id = $1", row["id"])

    def land() -> tuple[bytes, int]:
        digest = landing.land(folder, size, lambda start, end: session.blocks(path, start, end))
        return digest, session.size(path)

    try:
        digest, size_now = await asyncio.to_thread(land)
    except FetchError as error:
        await pool.execute("UPDATE extract_file SET reason = $2 WHERE id = $1", row["id"], str(error))
        raise
    if size_now != size:
        # It was still being written: what came is of no use.
        await asyncio.to_thread(landing.forget, folder)
        made.alerts.append(f"{row['table_name']} of batch {stamp} changed while it was fetched")
        return
    await batches.fetched(pool, row["id"], folder, size, digest)
    made.files += 1
    made.bytes += size
