"""Made-up apps that subscribe, and the changes that they are told of: for measuring, and for killing in mid-work."""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
_SYSTEM = "urn:carefolio:load"
# Changes of one transaction.
_AT_ONCE = 20


@dataclass
class Apps:
    """A server that takes notifications: by subscription the numbers in the order of their coming, and the delays.

    A delay is from the change to the notification's arrival, in seconds.
    """

    numbers: dict[str, list[int]] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/{name}", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        now = datetime.now(UTC)
        said = json.loads(await request.read())["entry"][0]["resource"]["parameter"]
        numbers = self.numbers.setdefault(request.match_info["name"], [])
        for each in said:
            if each["name"] == "notification-event":
                part = {inner["name"]: inner for inner in each["part"]}
                numbers.append(int(part["event-number"]["valueString"]))
                self.delays.append((now - datetime.fromisoformat(part["timestamp"]["valueInstant"])).total_seconds())
        return web.Response()

    def told(self) -> int:
        """How many different events."""
        return sum(len(set(numbers)) for numbers in self.numbers.values())

    def median(self) -> float:
        return statistics.median(self.delays) if self.delays else 0.0


def subscription(port: int, number: int) -> dict[str, Any]:
    """A Subscription to one code's Observations."""
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "load",
        "criteria": "https://fhir.carefolio.uk/SubscriptionTopic/record-change",
        "_criteria": {"extension": [
            {"url": f"{_BACKPORT}filter-criteria", "valueString": f"Observation?code={_SYSTEM}|{number}"}
        ]},
        "channel": {
            "type": "rest-hook", "endpoint": f"http://127.0.0.1:{port}/{number}", "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{_BACKPORT}payload-content", "valueCode": "id-only"}]},
        },
    }  # fmt: skip


async def prepare(session: aiohttp.ClientSession, token: dict[str, str], port: int, subscriptions: int) -> list[str]:
    """So many subscriptions, and patients whose records will change: their ids."""
    patients = [await _create(session, token, {"resourceType": "Patient"}) for _ in range(50)]
    for number in range(subscriptions):
        await _create(session, token, subscription(port, number))
    return patients


async def _create(session: aiohttp.ClientSession, token: dict[str, str], resource: dict[str, Any]) -> str:
    async with session.post(f"/fhir/R4/{resource['resourceType']}", json=resource, headers=token) as answer:
        return str((await answer.json())["id"])


async def write(
    session: aiohttp.ClientSession, token: dict[str, str], patients: list[str], changes: int, kinds: int, rate: float
) -> None:
    """Write so many Observations of ``kinds`` codes, ``rate`` a second, in transactions, each until it is taken."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    running: set[asyncio.Task[None]] = set()
    for first in range(0, changes, _AT_ONCE):
        await asyncio.sleep(max(0.0, began + first / rate - loop.time()))
        numbers = range(first, min(first + _AT_ONCE, changes))
        entries = [_entry(patients[n % len(patients)], n, n % kinds) for n in numbers]
        running.add(asyncio.create_task(_send(session, token, entries)))
        if len(running) > 8:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*running)


def _entry(patient: str, number: int, code: int) -> dict[str, Any]:
    resource = {
        "resourceType": "Observation", "id": f"change-{number}", "status": "final",
        "code": {"coding": [{"system": _SYSTEM, "code": str(code)}]}, "subject": {"reference": f"Patient/{patient}"},
        "valueInteger": number,
    }  # fmt: skip
    return {"resource": resource, "request": {"method": "PUT", "url": f"Observation/change-{number}"}}


async def _send(session: aiohttp.ClientSession, token: dict[str, str], entries: list[dict[str, Any]]) -> None:
    body = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries})
    while True:
        try:
            async with session.post("/fhir/R4", data=body, headers=token) as answer:
                if answer.status == 200:
                    return
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.2)
