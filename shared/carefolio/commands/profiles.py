"""What a function does with its time, asked of the running one."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from carefolio.cloud import profiling
from carefolio.cloud.database import Pool
from carefolio.commands.terminal import Json, UsageError, actor, run, show

# Beyond the profile itself: until somebody calls the function, and until the page is written.
_PATIENCE = 120


def profile(
    function: Annotated[str, typer.Argument(help="fhir, hl7, portal, ingest …")],
    seconds: Annotated[int, typer.Option(min=1, max=profiling.LONGEST, help="For how long.")] = 30,
    as_json: Json = False,
) -> None:
    """Profile one instance of a function, the next that is asked for something; it goes on serving meanwhile.

    Prints where the page with its call stacks and flame graph lies among the files.
    """

    async def work(pool: Pool) -> profiling.Profile:
        number = await profiling.ask(pool, function, seconds, actor())
        async with asyncio.timeout(seconds + _PATIENCE):
            while True:
                found = await profiling.find(pool, number)
                if found.file or found.failed:
                    return found
                await asyncio.sleep(0.5)

    try:
        found = run(work)
    except TimeoutError:
        raise UsageError(f"no instance of {function} was asked for anything meanwhile") from None
    if found.failed:
        raise UsageError(f"the profile failed: {found.failed}")
    show({"profile": found.id, "file": found.file}, as_json)
