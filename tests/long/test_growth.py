"""Among a million resources every kind of search goes by an index and reads little."""

from __future__ import annotations

import re
import time

import asyncpg
import pytest
from tests.conftest import Running, running

from carefolio.cloud import database as product
from carefolio.local import growth
from carefolio.record import search
from carefolio.record.access import Reader

RESOURCES = 1_000_000
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

# One search for each type of parameter, and what goes with it: at most so many blocks of 8 kB are looked at.
SEARCHES = {
    "token": ("Observation", [("code", "http://loinc.org|29463-7"), ("patient", "g7")], 500),
    "identifier": ("Patient", [("identifier", f"urn:growth|{growth.identifier(77)}")], 200),
    "string": ("Patient", [("family", growth.name_of(77))], 500),
    "string, contained": ("Patient", [("family:contains", growth.name_of(77)), ("identifier", "G00000077")], 500),
    "reference": ("Observation", [("encounter", "Encounter/g77-e1")], 300),
    "date of a patient": ("Observation", [("patient", "g7"), ("date", "ge2020")], 500),
    "date": ("Patient", [("birthdate", "1985-03-02")], 500),
    "number": ("RiskAssessment", [("probability", "gt0.8")], 200),
    "quantity": ("Observation", [("patient", "g7"), ("value-quantity", "gt50||kg")], 500),
    "composite": ("Observation", [("patient", "g7"), ("code-value-quantity", "29463-7$gt50")], 500),
    "uri": ("ValueSet", [("url", "http://x")], 200),
    "words": ("Patient", [("_content", growth.name_of(77))], 500),
    "chain": ("Observation", [("subject:Patient.identifier", f"urn:growth|{growth.identifier(77)}")], 500),
    "_has": ("Patient", [("_has:Encounter:patient:_id", "g77-e1")], 500),
    "_id": ("Observation", [("_id", "g77-o3")], 100),
}


@pytest.fixture(scope="module")
def grown(homes) -> Running:  # type: ignore[no-untyped-def]
    with running(homes(), "--no-demo", TRACE_SHARE="0") as made:
        yield made


async def test_searches_read_little_of_a_million(grown: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from carefolio.cloud.settings import settings

    grown.cli("organisation", "add", "RBIG", "Big")
    for name, value in grown.here.environment().items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    connection = await product.connect()
    try:
        organisation = await connection.fetchval("SELECT id FROM organisation WHERE ods_code = 'RBIG'")
        started = time.perf_counter()
        await growth.grow(connection, organisation, RESOURCES)
        print(f"\n{RESOURCES:,} resources in {time.perf_counter() - started:.0f} s")
        explaining = Explaining(connection)
        reader = Reader("test", organisation)
        found = 0
        for what, (kind, query, most) in SEARCHES.items():
            explaining.plans.clear()
            page = await search.search(explaining, reader, [kind], query)  # type: ignore[arg-type]
            found += bool(page.found)
            blocks = sum(explaining.blocks())
            print(f"{what:<20} {len(page.found):>5} found {blocks:>7} blocks {explaining.milliseconds():>7.1f} ms")
            assert "Seq Scan on resource" not in "\n".join(explaining.plans), (what, explaining.plans)
            assert blocks <= most, (what, explaining.plans)
        assert found >= len(SEARCHES) - 3
        size = await connection.fetchrow(
            "SELECT pg_total_relation_size('resource') AS bytes, sum(octet_length(content)) AS json FROM resource"
        )
        print(f"{size['bytes'] / RESOURCES:,.0f} bytes a resource, {size['bytes'] / size['json']:.1f} times its JSON")
        assert size["bytes"] < 4 * size["json"]
    finally:
        await connection.close()
        settings.cache_clear()


class Explaining:
    """A connection that explains what it fetches, in a transaction that is taken back, and then fetches it."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.plans: list[str] = []

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        await self._explain(query, arguments)
        return list(await self._connection.fetch(query, *arguments))

    async def fetchval(self, query: str, *arguments: object) -> object:
        await self._explain(query, arguments)
        return await self._connection.fetchval(query, *arguments)

    async def _explain(self, query: str, arguments: tuple[object, ...]) -> None:
        transaction = self._connection.transaction()
        await transaction.start()
        rows = await self._connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {query}", *arguments)
        await transaction.rollback()
        self.plans.append("\n".join(row[0] for row in rows))

    def blocks(self) -> list[int]:
        return [
            sum(
                int(number)
                for number in re.findall(r"(?:hit|read)=(\d+)", plan.split("Buffers:", 1)[1].splitlines()[0])
            )
            for plan in self.plans
            if "Buffers:" in plan
        ]

    def milliseconds(self) -> float:
        return sum(float(time) for plan in self.plans for time in re.findall(r"Execution Time: ([\d.]+)", plan))
