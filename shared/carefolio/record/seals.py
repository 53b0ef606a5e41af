"""The audit trail is sealed: what was written can be neither changed nor taken away without that being seen.

Each minute the lines since the last seal become the leaves of a Merkle tree; its root, chained to the seal before, goes
into a bucket that keeps what it has (retention lock), and into the table beside. Writers wait for nobody: a line is
sealed when every transaction that could still bring one with a lower number has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from carefolio.cloud import files
from carefolio.cloud.database import Connection, Pool

_MOST_LINES = 200_000
_LOCK = 0x5EA1
_FOLDER = "audit/seals"
# A line as it is hashed: its columns in this order for ever; a column that comes later is not among them.
_LEAF = r"""
    sha256(convert_to(concat_ws(E'\x1f', id, extract(epoch FROM at), actor, coalesce(organisation_id::text, '-'),
        action, coalesce(patient_id::text, '-'), coalesce(resource_type, '-'), coalesce(resource_id::text, '-'),
        coalesce(message_id::text, '-'), coalesce(query, '-'), coalesce(array_to_string(written, ','), '-')), 'UTF8'))
"""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found: seals and lines that were looked at, and what is wrong, the oldest first.

    ``waiting``: lines that are too young to be sealed, or that nobody seals.
    """

    seals: int
    lines: int
    wrong: tuple[str, ...]
    waiting: int


async def seal(pool: Pool) -> int:
    """Seal what can be sealed; returns the number of lines. One instance at a time, the others do nothing.

    Raises OSError where the bucket cannot be written: the next call makes up for it.
    """
    lines = await _seal(pool)
    await _keep(pool)
    return lines


async def _seal(pool: Pool) -> int:
    async with pool.acquire() as connection, connection.transaction():
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
            return 0
        upto = await _mark(connection)
        last = await connection.fetchrow("SELECT number, upto, root FROM audit_seal ORDER BY number DESC LIMIT 1")
        start = last["upto"] if last else 0
        if upto is None or upto <= start:
            return 0
        upto = min(upto, start + _MOST_LINES)
        leaves = await _leaves(connection, start, upto)
        number = (last["number"] if last else 0) + 1
        root = _root(leaves, bytes(last["root"]) if last else b"")
        await connection.execute(
            "INSERT INTO audit_seal (number, since, upto, lines, root) VALUES ($1, $2, $3, $4, $5)",
            number, start, upto, len(leaves), root,
        )  # fmt: skip
        return len(leaves)


async def _keep(pool: Pool) -> None:
    """Write into the bucket what the table has sealed and the bucket does not have yet: each number once.

    After the commit, so that the bucket never has two seals of one number but where somebody made one anew.
    """
    there = await asyncio.to_thread(_numbers)
    for row in await pool.fetch("SELECT * FROM audit_seal WHERE number > $1 ORDER BY number", max(there, default=0)):
        said = {name: row[name] for name in ("number", "since", "upto", "lines")} | {"root": row["root"].hex()}
        await asyncio.to_thread(_write, row["number"], row["root"], json.dumps(said).encode())


def _numbers() -> list[int]:
    return [int(name.rpartition("/")[2][:12]) for name in files.names(_FOLDER)]


async def _mark(connection: Connection) -> int | None:
    """The highest line that can be sealed now, from what was noted at the last two times.

    A transaction that took a line's number before a mark has a number of its own at the next one; when all that had one
    then have ended, no line below the first mark can appear any more.
    """
    found = await connection.fetchval(
        """
        WITH marks AS (SELECT at, last_id, lead(next_xact) OVER (ORDER BY at) AS next_xact FROM audit_mark)
        SELECT max(last_id) FROM marks WHERE next_xact <= pg_snapshot_xmin(pg_current_snapshot())
        """
    )
    await connection.execute(
        """
        WITH forgotten AS (
            DELETE FROM audit_mark WHERE last_id < coalesce($1, 0)
            -- A restored database counts its transactions anew.
            OR next_xact > pg_snapshot_xmax(pg_current_snapshot())
        )
        INSERT INTO audit_mark (at, last_id, next_xact)
        SELECT clock_timestamp(), coalesce((SELECT max(id) FROM audit), 0), pg_snapshot_xmax(pg_current_snapshot())
        """,
        found,
    )
    return int(found) if found is not None else None


async def _leaves(connection: Connection, since: int, upto: int) -> list[bytes]:
    rows = await connection.fetch(
        f"SELECT {_LEAF} AS leaf FROM audit WHERE id > $1 AND id <= $2 ORDER BY id",  # noqa: S608 - ours
        since,
        upto,
        timeout=300,
    )
    return [row["leaf"] for row in rows]


def _root(leaves: Sequence[bytes], before: bytes) -> bytes:
    """The root of a Merkle tree (leaves and nodes hashed apart: RFC 9162 section 2.1), chained to the seal before."""
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [hashlib.sha256(b"\x01" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return hashlib.sha256(b"\x02" + before + (level[0] if level else b"")).digest()


def _write(number: int, root: bytes, content: bytes) -> None:
    """A name for each content: a seal that is made anew lies beside the first, and is seen."""
    files.write(f"{_FOLDER}/{number:012}-{root.hex()[:16]}.json", content)


async def verify(pool: Pool) -> Verified:
    """Compute every seal anew, and compare it with what the table and the bucket say."""
    async with pool.acquire() as connection:
        return await verify_on(connection)


async def verify_on(connection: Connection) -> Verified:
    """``verify``, as this connection sees the trail."""
    seals = await connection.fetch("SELECT * FROM audit_seal ORDER BY number")
    before, start, wrong, lines = b"", 0, [], 0
    kept = await asyncio.to_thread(_kept)
    for each in seals:
        place = f"seal {each['number']} (lines {each['since'] + 1} to {each['upto']})"
        if each["since"] != start:
            wrong.append(f"{place}: it does not follow the seal before")
        leaves = await _leaves(connection, each["since"], each["upto"])
        lines += len(leaves)
        root = _root(leaves, before)
        if len(leaves) != each["lines"]:
            wrong.append(f"{place}: {each['lines']} lines were sealed, {len(leaves)} are there")
        elif root != each["root"]:
            wrong.append(f"{place}: a line was changed")
        said = kept.pop(each["number"], [])
        if len({copy["root"] for copy in said}) > 1:
            wrong.append(f"{place}: the bucket has more than one seal of this number")
        if not any(copy["root"] == each["root"].hex() and copy["lines"] == each["lines"] for copy in said):
            wrong.append(f"{place}: the bucket has another seal, or none")
        before, start = each["root"], each["upto"]
    wrong += [f"seal {number}: the bucket has it, the table has not" for number in sorted(kept)]
    waiting = await connection.fetchval("SELECT count(*) FROM audit WHERE id > $1", start)
    return Verified(len(seals), lines, tuple(wrong), waiting)


def _kept() -> dict[int, list[dict[str, Any]]]:
    """All seals that the bucket has, by their number."""
    found: dict[int, list[dict[str, Any]]] = {}
    for name in files.names(_FOLDER):
        said = json.loads(files.read(name))
        found.setdefault(int(said["number"]), []).append(said)
    return found
