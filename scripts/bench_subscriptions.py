"""How long after a change its notification arrives, while there are many of both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiohttp

from carefolio.local.subscribers import Apps, prepare, write


async def measure(
    row: Callable[[str, str, str], None], port: int, token: dict[str, str], carefolio: Callable[..., Any]
) -> None:
    """10,000 changes among 1,000 subscriptions, 300 a second."""
    apps, changes, kinds, rate = Apps(), 10_000, 1000, 300
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = free.getsockname()[1]
    await apps.start(at)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(60)) as session:
        token |= {"Content-Type": "application/fhir+json"}
        patients = await prepare(session, token, at, kinds)
        listed = await asyncio.to_thread(carefolio, "webhook", "list")
        await asyncio.to_thread(carefolio, "webhook", "allow", listed[0]["id"])
        while len(apps.numbers) < kinds:
            await asyncio.sleep(0.1)
        await write(session, token, patients, changes, kinds, rate)
        while apps.told() < changes:
            await asyncio.sleep(0.1)
    await apps.stop()
    delays = sorted(apps.delays)
    row(f"change to notification, {rate}/s, {kinds:,} subscriptions, median", f"{apps.median():.2f} s", "1 s")
    row("   p99", f"{delays[int(0.99 * len(delays))]:.2f} s", "")
