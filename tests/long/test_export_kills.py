"""An export goes on where a killed machine left it: nothing missing, nothing twice, in flat memory."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest
from tests.conftest import Running, running
from tests.local.test_up import children, until

from carefolio.local import growth

RESOURCES = 150_000
KILLS = 5


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_an_export_survives_five_kills(homes: Callable[[], Path], capsys: pytest.CaptureFixture[str]) -> None:
    with running(homes(), "--no-demo", TRACE_SHARE="0") as made:
        made.cli("organisation", "add", "RBULK", "Bulk")
        options = ("--organisation", "RBULK", "--scope", "system/*.rs", "--json")
        client = json.loads(made.cli("client", "add", "c", *options).stdout)
        connection = await asyncpg.connect(made.here.postgres.url)
        organisation = await connection.fetchval("SELECT id FROM organisation WHERE ods_code = 'RBULK'")
        await growth.grow(connection, organisation, RESOURCES)
        wanted = {row["type"]: row["count"] for row in await connection.fetch(
            "SELECT type, count(*) FROM resource WHERE $1 = ANY(organisations) GROUP BY 1", organisation
        )}  # fmt: skip
        await connection.close()
        async with aiohttp.ClientSession(made.url) as session:
            token = await authorized(session, client)
            first, _ = await exported(session, token, made, kills=0)
            second, largest = await exported(session, token, made, kills=KILLS)
        with capsys.disabled():
            print(
                f"\n  {sum(wanted.values())} resources with {KILLS} kills, largest process {largest >> 20} MB", end=" "
            )
        assert counts(first) == counts(second) == wanted
        ids = [json.loads(line)["id"] for lines in second.values() for line in lines]
        assert len(ids) == len(set(ids))
        assert largest < 400 << 20


def counts(found: dict[str, list[bytes]]) -> dict[str, int]:
    return {kind: len(lines) for kind, lines in found.items()}


async def authorized(session: aiohttp.ClientSession, client: dict[str, str]) -> dict[str, str]:
    secret = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
    form = {"grant_type": "client_credentials"}
    async with session.post("/oauth2/token", data=form, headers={"Authorization": f"Basic {secret}"}) as answer:
        return {"Authorization": f"Bearer {(await answer.json())['access_token']}"}


async def exported(
    session: aiohttp.ClientSession, token: dict[str, str], made: Running, kills: int
) -> tuple[dict[str, list[bytes]], int]:
    """The lines by type, and how large the process that writes them became; killed so many times meanwhile."""
    async with session.get("/fhir/R4/$export", headers=token | {"Prefer": "respond-async"}) as begun:
        assert begun.status == 202, await begun.text()
        place = begun.headers["Content-Location"].partition(made.url)[2] or begun.headers["Content-Location"]
    place = "/fhir/R4/" + place.rpartition("/fhir/R4/")[2]
    largest, until_next = 0, time.monotonic() + 0.5
    while True:
        for process in children(made, "serve internal"):
            with_memory = psutil.Process(process.pid)
            largest = max(largest, with_memory.memory_info().rss)
            if kills and time.monotonic() > until_next:
                process.kill()
                kills -= 1
                until_next = time.monotonic() + random.uniform(0.5, 1.5)
        async with session.get(place, headers=token) as told:
            if told.status == 200:
                manifest: dict[str, Any] = await told.json()
                break
            assert told.status == 202, await told.text()
        await asyncio.sleep(0.1)
    await until(made.url, 200)
    found: dict[str, list[bytes]] = {}
    for each in manifest["output"]:
        async with session.get("/fhir/R4/" + each["url"].rpartition("/fhir/R4/")[2], headers=token) as file:
            lines = (await file.read()).splitlines()
        assert len(lines) == each["count"]
        found.setdefault(each["type"], []).extend(lines)
    return found, largest
