"""An operator's profile of a running function."""

from __future__ import annotations

import asyncio
import json
import subprocess

import pytest
from tests.conftest import CLI, Running

from carefolio.cloud import profiling

# Letters: a page is full of measured times, among whose digits any number may be found.
SOUGHT = "Featherstonehaugh"


async def test_a_profile_of_the_running_function(installation: Running) -> None:
    """Asked for while it serves, without a restart: names of functions, and nothing that a variable holds."""
    asked = await asyncio.create_subprocess_exec(
        str(CLI), "profile", "fhir", "--seconds", "2", "--json", env=installation.environment, stdout=subprocess.PIPE
    )
    calling = [asyncio.create_task(call(installation)) for _ in range(4)]
    told, _ = await asyncio.wait_for(asked.communicate(), 60)
    for each in calling:
        each.cancel()
    assert asked.returncode == 0
    page = (installation.here.home / "files" / json.loads(told)["file"]).read_text()
    # A page is a megabyte: what `assert in` would print of it on failure takes minutes to compare.
    assert page.count("cloud/http.py") > 0
    assert page.count(SOUGHT) == 0


async def call(installation: Running) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        while True:
            url = f"{installation.url}/fhir/R4/Patient?family={SOUGHT}"
            async with session.get(url) as answer:
                await answer.read()


async def test_a_function_that_nobody_calls_has_no_profile(pool: profiling.Pool) -> None:
    number = await profiling.ask(pool, "nobody", 1, "test")
    assert (await profiling.find(pool, number)).begun_at is None
    with pytest.raises(ValueError):
        await profiling.ask(pool, "fhir", 301, "test")
