"""A changed, removed or added line of the audit trail shows."""

from __future__ import annotations

import json

import asyncpg
import pytest
from tests.conftest import Hospital, Running, unique

from carefolio.record import seals


async def _sealed(pool: asyncpg.Pool) -> int:
    """Everything that is there now is sealed."""
    return sum([await seals.seal(pool) for _ in range(3)])


async def _line(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("INSERT INTO audit (actor, action) VALUES ($1, 'read') RETURNING id", unique("A")))


async def test_what_was_written_is_sealed_and_verified(
    hospital: Hospital, pool: asyncpg.Pool, installation: Running
) -> None:
    """By the function each minute, by the command at any time; in the chain of what was sealed before."""
    await hospital.registered()
    await _line(pool)
    assert await _sealed(pool) > 0
    found = await seals.verify(pool)
    assert (found.wrong, found.lines > 0) == ((), True)
    said = json.loads(installation.cli("audit", "verify", "--json").stdout)
    assert said["wrong"] == []
    assert said["seals"] >= found.seals


async def test_a_transaction_that_is_still_open_is_waited_for(pool: asyncpg.Pool) -> None:
    """Its line has a number below others that are there already, and is sealed with them, not left out."""
    async with pool.acquire() as late, late.transaction():
        number = await late.fetchval("INSERT INTO audit (actor, action) VALUES ('late', 'read') RETURNING id")
        await _line(pool)
        await _sealed(pool)
        upto = await pool.fetchval("SELECT coalesce(max(upto), 0) FROM audit_seal")
        assert upto < number
    await _sealed(pool)
    await _sealed(pool)
    assert await pool.fetchval("SELECT max(upto) FROM audit_seal") >= number
    assert (await seals.verify(pool)).wrong == ()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("UPDATE audit SET actor = 'somebody else' WHERE id = $1", "a line was changed"),
        ("DELETE FROM audit WHERE id = $1", "1 lines were sealed, 0 are there"),
        ("UPDATE audit_seal SET root = sha256('x') WHERE upto = $1", "a line was changed"),
        ("DELETE FROM audit_seal WHERE upto >= $1", "the bucket has it, the table has not"),
    ],
)
async def test_tampering_shows(pool: asyncpg.Pool, how: str, told: str) -> None:
    """Whatever was done: the trail refuses it, and where it is forced, the seals tell."""
    await _sealed(pool)
    await _sealed(pool)
    number = await _line(pool)
    await _sealed(pool)
    assert await pool.fetchval("SELECT max(upto) FROM audit_seal") == number
    if " audit " in how:
        with pytest.raises(asyncpg.RaiseError, match="only appended to"):
            await pool.execute(how, number)
    async with pool.acquire() as connection:
        undone = connection.transaction()
        await undone.start()
        try:
            await connection.execute("ALTER TABLE audit DISABLE TRIGGER audit_is_kept")
            await connection.execute(how, number)
            found = await seals.verify_on(connection)
            assert told in " ".join(found.wrong), found
        finally:
            await undone.rollback()
    assert (await seals.verify(pool)).wrong == ()
