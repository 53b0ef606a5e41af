"""100,000 changes, 1,000 subscriptions: each is told of its own, in order, though notify is killed five times."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from tests.conftest import free_port, running
from tests.local.test_up import children
from tests.long.test_export_kills import authorized

from carefolio.local.subscribers import Apps, prepare, write

CHANGES, SUBSCRIPTIONS, KILLS, RATE = 100_000, 1_000, 5, 300


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_every_subscription_is_told_of_everything(
    homes: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with running(homes(), "--no-demo", TRACE_SHARE="0") as made:
        made.cli("organisation", "add", "RSUB", "Subscribers")
        options = ("--organisation", "RSUB", "--scope", "system/*.cruds", "--json")
        client = json.loads(made.cli("client", "add", "c", *options).stdout)
        apps, port = Apps(), free_port()
        await apps.start(port)
        async with aiohttp.ClientSession(made.url, timeout=aiohttp.ClientTimeout(60)) as session:
            token = await authorized(session, client) | {"Content-Type": "application/fhir+json"}
            patients = await prepare(session, token, port, SUBSCRIPTIONS)
            [receiver] = json.loads(made.cli("webhook", "list", "--json").stdout)
            made.cli("webhook", "allow", receiver["id"])
            await until(lambda: len(apps.numbers) == SUBSCRIPTIONS, 120)
            writing = asyncio.create_task(write(session, token, patients, CHANGES, SUBSCRIPTIONS, RATE))
            for _ in range(KILLS):
                await asyncio.sleep(random.uniform(0.1, 0.2) * CHANGES / RATE)
                for process in children(made, "serve internal"):
                    process.kill()
            await writing
            began = time.monotonic()
            await until(lambda: apps.told() == CHANGES, 300)
            late = time.monotonic() - began
        await apps.stop()
        with capsys.disabled():
            again = sum(len(numbers) for numbers in apps.numbers.values()) - CHANGES
            what = f"{CHANGES} changes, {SUBSCRIPTIONS} subscriptions, {KILLS} kills"
            print(f"\n  {what}: {apps.told()} told, {again} twice, median delay {apps.median():.2f} s", end="")
            print(f", the last {late:.1f} s after the last change", end=" ")
    for numbers in apps.numbers.values():
        firsts = list(dict.fromkeys(numbers))
        assert firsts == list(range(1, CHANGES // SUBSCRIPTIONS + 1))


async def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
