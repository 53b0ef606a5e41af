"""What one operation costs: processor time of the functions and of PostgreSQL, log and disk; and what is full first.

The figures that scripts/capacity.py makes its model of. The client's own time is not counted.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from carefolio.local import growth, load
from carefolio.local.installation import Installation

_SIDES = {
    "serve public": "functions",
    "serve internal": "functions",
    "serve dispatcher": "queue",
    "postgres": "database",
}


@dataclass
class Spent:
    """Processor seconds by side, bytes of log, bytes of the database, and the seconds that it took."""

    seconds: dict[str, float]
    log: int
    size: int
    took: float


def processes(home: Path) -> dict[str, list[psutil.Process]]:
    """The installation's processes by side: those that its supervisor started, and the server's own."""
    found: dict[str, list[psutil.Process]] = {"functions": [], "queue": [], "database": []}
    for each in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(each.info["cmdline"] or [])
        ours = (each.info["environ"] or {}).get("CAREFOLIO_HOME") == str(home)
        for mark, side in _SIDES.items():
            if mark in line and (ours or (side == "database" and str(home) in line)):
                found[side].append(each)
    server = found["database"][0]
    found["database"] = [server, *server.children(recursive=True)]
    return found


def used(home: Path) -> dict[str, float]:
    """Processor seconds so far by side, also of server processes that have ended (their parent has them)."""
    totals = {}
    for side, members in processes(home).items():
        totals[side] = 0.0
        for each in members:
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            ended = times.children_user + times.children_system if side == "database" and each is members[0] else 0.0
            totals[side] += times.user + times.system + ended
    return totals


async def spent(here: Installation, work: Callable[[], Any]) -> Spent:
    connection = await asyncpg.connect(here.postgres.url)
    size = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS log, pg_database_size(current_database()) AS size"
    before, cpu, started = await connection.fetchrow(size), used(here.home), time.perf_counter()
    await work()
    while await connection.fetchval("SELECT EXISTS (SELECT FROM message WHERE status = 'received')"):
        await asyncio.sleep(0.05)
    took, after, later = time.perf_counter() - started, used(here.home), await connection.fetchrow(size)
    await connection.close()
    seconds = {side: after[side] - cpu[side] for side in after}
    return Spent(seconds, int(later["log"] - before["log"]), int(later["size"] - before["size"]), took)


def measure(
    row: Callable[[str, str, str], None], here: Installation, sender: dict[str, str], token: str,
    raw: Callable[..., bytes], fhir: Any,
) -> None:  # fmt: skip
    """A row for each kind of operation, and one that says what was busiest."""
    asyncio.run(_measure(row, here, sender, token, raw, fhir))


async def _measure(
    row: Callable[[str, str, str], None], here: Installation, sender: dict[str, str], token: str,
    raw: Callable[..., bytes], fhir: Any,
) -> None:  # fmt: skip
    secret = sender["username"], sender["password"]
    numbers = load.numbers()
    patients = [next(numbers) for _ in range(300)]
    await load.post(here.port, *secret, ((f"R{n}", load.registration(n, f"R{n}")) for n in patients))
    chance = random.Random(7)
    messages = [(f"C{at}", load.report(patients[at % 300], f"C{at}")) for at in range(4000)]
    told = await spent(here, lambda: load.post(here.port, *secret, messages))
    _say(row, "a result message (ORU, 4 results), posted and applied", told, len(messages))
    updates = [(f"U{at}", load.registration(patients[at % 300], f"U{at}")) for at in range(3000)]
    told = await spent(here, lambda: load.post(here.port, *secret, updates))
    _say(row, "a demographics message (ADT)", told, len(updates))
    for name, _, request in fhir:
        if name not in (
            "read Observation",
            "Observation?patient&code&_sort=-date",
            "Patient/$everything",
            "create Observation",
        ):
            continue
        asked = [raw(token, *request(chance.randrange(2000))) for _ in range(60_000)]
        count: list[float] = []

        async def ask(asked: list[bytes] = asked, count: list[float] = count) -> None:
            count += await load.ask(here.port, asked, 5)

        told = await spent(here, ask)
        _say(row, f"FHIR {name}", told, len(count))


def _say(row: Callable[[str, str, str], None], what: str, told: Spent, count: int) -> None:
    each = {side: seconds / count * 1000 for side, seconds in told.seconds.items()}
    busiest = max(told.seconds, key=lambda side: told.seconds[side])
    row(what, f"{each['functions']:.2f} + {each['database']:.2f} + {each['queue']:.2f} ms", "")
    row("   log, disk", f"{told.log / count / 1000:.1f} kB, {max(told.size, 0) / count / 1000:.1f} kB", "")
    cores = sum(told.seconds.values()) / told.took
    row(
        "   a second; busy cores; busiest",
        f"{count / told.took:,.0f}/s; {cores:.1f} of {os.cpu_count()}; {busiest}",
        "",
    )


async def filled(here: Installation, resources: int) -> None:
    connection = await asyncpg.connect(here.postgres.url)
    owner = await connection.fetchval("SELECT id FROM organisation WHERE ods_code = 'RLOAD'")
    await growth.grow(connection, owner, resources)
    await connection.close()
