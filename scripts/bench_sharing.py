"""The sharing part of scripts/bench: what consent costs a search, what an audit line costs, how fast a caseload is."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg

from carefolio.cloud import closing, database
from carefolio.identity import tokens
from carefolio.record import caseload
from carefolio.record.access import Reader
from carefolio.record.ids import uuid7
from carefolio.record.many import Feed, write_many
from carefolio.record.rows import make_row

Row = Callable[[str, str, str], None]
_OBSERVATIONS = 40
RUNS = 7
_FAMILIES = ("Ashdown", "Birtwhistle", "Corrigan", "Dacosta", "Eastlake", "Farrow", "Gillespie", "Hargreave")


def measure(row: Row, port: int, patients: int, teams: int, sharings: int) -> None:
    """Print the rows of README's table, on the installation that this process's environment names."""
    asyncio.run(_measure(row, port, patients, teams, sharings))


async def _measure(row: Row, port: int, patients: int, teams: int, sharings: int) -> None:
    pool = await database.pool()
    hospital = await pool.fetchval("INSERT INTO organisation (ods_code, name) VALUES ('BEN1', 'Bench') RETURNING id")
    people = await _people(pool, hospital, patients)
    groups = await _teams(pool, people, teams, sharings)
    await pool.execute("ANALYZE", timeout=300)
    times = []
    for account, organisation in random.sample(groups, min(200, len(groups))):
        reader = Reader(f"account/{account}", organisation, account=account)
        started = time.perf_counter()
        found = await caseload.patients(pool, reader)
        times.append(time.perf_counter() - started)
        assert found
    title = f"a professional's patients, of {patients:,} with {sharings:,} sharings and {teams:,} teams, p95"
    row(title, f"{statistics.quantiles(times, n=20)[-1] * 1000:.0f} ms", "50 ms")
    chosen = random.sample(people[:500], 300)
    await tokens.publish_keys(pool)
    plain = tokens.issue("bench", "system/*.rs", organisation=hospital)
    consented = {each: await _professional(pool, each) for each in chosen}
    ratios = []
    async with aiohttp.ClientSession() as http:

        async def find(token: str, patient: uuid.UUID) -> None:
            query = f"patient={patient}&code=http://loinc.org|4548-4&_sort=-date"
            url = f"http://localhost:{port}/fhir/R4/Observation?{query}"
            async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                said = await answer.text()
                assert '"entry"' in said, said

        for _ in range(RUNS):
            without = await _timed([lambda p=p: find(plain, p) for p in chosen])
            ratios.append(await _timed([lambda p=p: find(consented[p], p) for p in chosen]) / without)
    row("Observation?patient&code with consent, of the same search without", f"{statistics.median(ratios):.2f} x",
        "1.25 x")  # fmt: skip
    line = "INSERT INTO audit (actor, action, patient_id) VALUES ('bench', 'read', $1)"
    audit = await _timed([lambda p=p: pool.execute(line, p) for p in chosen])
    row("an audit line by itself, committed", f"{audit / len(chosen) * 1000:.2f} ms", "0.3 ms")
    await closing.close_all()


async def _timed(work: list[Callable[[], Awaitable[Any]]]) -> float:
    started = time.perf_counter()
    for each in work:
        await each()
    return time.perf_counter() - started


async def _people(pool: asyncpg.Pool, hospital: uuid.UUID, count: int) -> list[uuid.UUID]:
    """Patients with a row each; the first five hundred have observations too."""
    made: list[uuid.UUID] = []
    feed, source, now = Feed("bench", hospital, "bench"), uuid7(), datetime.now(UTC)
    for start in range(0, count, 2000):
        rows = []
        for number in range(start, min(start + 2000, count)):
            patient = uuid.uuid4()
            made.append(patient)
            name = {"family": f"{_FAMILIES[number % len(_FAMILIES)]}{number % 997}", "given": [f"Given{number}"]}
            person = {"resourceType": "Patient", "name": [name], "birthDate": f"19{number % 90 + 10}-03-01"}
            rows.append(_row(patient, person, patient, hospital, source, now))
            if number < 500:
                rows += [_row(uuid.uuid4(), _observation(patient, at), patient, hospital, source, now)
                         for at in range(_OBSERVATIONS)]  # fmt: skip
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO record (id, person_id, created_at) SELECT id, id, now() FROM unnest($1::uuid[]) AS t (id)",
                made[start:],
            )
            await write_many(connection, feed, [(each, source) for each in rows], now)
    return made


def _row(number: uuid.UUID, resource: dict[str, Any], patient: uuid.UUID, owner: uuid.UUID, source: uuid.UUID,
         now: datetime) -> Any:  # fmt: skip
    return make_row(number, resource, None, patient_id=patient, organisations=[owner], source=source, now=now)


def _observation(patient: uuid.UUID, at: int) -> dict[str, Any]:
    code = ("4548-4", "718-7", "2093-3", "29463-7")[at % 4]
    coded = {"coding": [{"system": "http://loinc.org", "code": code}]}
    return {
        "resourceType": "Observation", "status": "final", "code": coded,
        "subject": {"reference": f"Patient/{patient}"}, "effectiveDateTime": f"20{at % 25:02}-01-0{at % 9 + 1}",
        "valueQuantity": {"value": at, "unit": "g/L"},
    }  # fmt: skip


async def _teams(
    pool: asyncpg.Pool, people: list[uuid.UUID], teams: int, sharings: int
) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Teams of ten in an organisation, a professional in each, and sharings at random: (account, organisation)."""
    organisations = [uuid.uuid4() for _ in range(max(1, teams // 10))]
    await pool.executemany("INSERT INTO organisation (id, ods_code, name) VALUES ($1, $2, 'Bench')",
                           [(each, f"BT{at}") for at, each in enumerate(organisations)])  # fmt: skip
    groups = [(uuid.uuid4(), uuid.uuid4(), organisations[at % len(organisations)]) for at in range(teams)]
    await pool.executemany("INSERT INTO team (id, organisation_id, name) VALUES ($1, $2, $1::uuid::text)",
                           [(team, organisation) for team, _, organisation in groups])  # fmt: skip
    await pool.executemany(
        "INSERT INTO account (id, kind, name, organisation_id) VALUES ($1, 'professional', 'Bench', $2)",
        [(account, organisation) for _, account, organisation in groups],
    )
    await pool.executemany("INSERT INTO account_team (account_id, team_id) VALUES ($1, $2)",
                           [(account, team) for team, account, _ in groups])  # fmt: skip
    chosen = random.Random(7)
    pairs = {(chosen.choice(people), chosen.choice(groups)[0]) for _ in range(sharings - len(people))}
    pairs |= {(patient, chosen.choice(groups)[0]) for patient in people}
    records = [(patient, team, "team", "explicit", ["general"], "bench") for patient, team in pairs]
    async with pool.acquire() as connection:
        await connection.copy_records_to_table(
            "sharing", records=records, columns=["record_id", "grantee", "role", "kind", "labels", "created_by"],
            timeout=300,
        )  # fmt: skip
    return [(account, organisation) for _, account, organisation in groups]


async def _professional(pool: asyncpg.Pool, patient: uuid.UUID) -> str:
    """The token of a professional with whose team a patient shares."""
    row = await pool.fetchrow(
        """
        SELECT account.id, account.organisation_id FROM sharing JOIN account_team ON team_id = grantee
        JOIN account ON account.id = account_id WHERE sharing.record_id = $1 LIMIT 1
        """,
        patient,
    )
    return tokens.issue("bench", "user/*.rs", organisation=row["organisation_id"], account=row["id"])
