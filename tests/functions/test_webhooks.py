"""Webhooks as a receiver sees them, and as one that is away."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from tests.conftest import Hospital, NewHospital, Reply, Running, free_port, unique
from tests.record.people import Person

from carefolio.identity import webhooks

_SCOPE = "system/*.rs system/Webhook.cds system/Message.rus"


@dataclass
class Receiver:
    """A hospital's own server."""

    url: str
    status: int = 200
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    port = free_port()
    made = Receiver(f"http://127.0.0.1:{port}/hook")
    app = web.Application()
    app.router.add_post("/hook", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made
    await runner.cleanup()


async def ask(hospital: Hospital, method: str, path: str, body: Any = None) -> Reply:
    headers = {"Authorization": f"Bearer {await hospital.authorize()}"}
    data = json.dumps(body) if body is not None else None
    return await hospital.request(method, f"/api/v1{path}", data=data, headers=headers)


async def held(hospital: Hospital) -> str:
    row = await hospital.accepted(Person(local=unique("L")).result(unique("F"), "141"))
    assert row["status"] == "held"
    return str(row["id"])


async def test_an_event_is_sent_when_the_operator_allows_it(
    new_hospital: NewHospital, receiver: Receiver, installation: Running
) -> None:
    """Nothing before; then signed, once, without a word of a patient; nothing after it was ended."""
    hospital = await new_hospital(scope=_SCOPE)
    made = await ask(hospital, "POST", "/webhooks", {"url": receiver.url, "events": ["message.held"]})
    assert made.status == 201, made.body
    await held(hospital)
    await asyncio.sleep(0.5)
    assert receiver.got == []
    shown = json.loads(installation.cli("webhook", "allow", made.json["id"], "--json").stdout)
    assert shown["allowed"]
    number = await held(hospital)
    for _ in range(100):
        if receiver.got:
            break
        await asyncio.sleep(0.05)
    [(headers, body)] = receiver.got
    said = json.loads(body)
    assert (said["type"], said["data"]["subject"].endswith(f"/messages/{number}")) == ("message.held", True)
    secret = base64.b64decode(made.json["secret"].removeprefix("whsec_"))
    made_here = webhooks.signature(secret, headers["webhook-id"], headers["webhook-timestamp"], body)
    assert headers["webhook-signature"] == f"v1,{made_here}"
    [listed] = (await ask(hospital, "GET", "/webhooks")).json["webhooks"]
    assert (listed["result"], listed["waiting"], "secret" in listed) == ("delivered", 0, False)
    assert (await ask(hospital, "DELETE", f"/webhooks/{made.json['id']}")).status == 204
    await held(hospital)
    await asyncio.sleep(0.5)
    assert len(receiver.got) == 1


async def test_a_receiver_that_fails_is_left_alone_and_tried_again(
    new_hospital: NewHospital, receiver: Receiver, pool: asyncpg.Pool
) -> None:
    """The first failure pauses it; nothing is lost; the clock brings all of it when it answers."""
    hospital = await new_hospital(scope=_SCOPE)
    made = await ask(hospital, "POST", "/webhooks", {"url": receiver.url, "events": ["message.held"]})
    number = uuid.UUID(made.json["id"])
    await webhooks.allow(pool, number, "test", allowed=True)
    receiver.status = 500
    for _ in range(3):
        await held(hospital)
    for _ in range(100):
        if receiver.got:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    assert len(receiver.got) == 1
    [listed] = (await ask(hospital, "GET", "/webhooks")).json["webhooks"]
    assert (listed["result"], listed["waiting"]) == ("status 500", 3)
    receiver.status = 200
    await pool.execute("UPDATE webhook SET paused_until = now() WHERE id = $1", number)
    await pool.execute("UPDATE webhook_event SET at = at - interval '1 minute' WHERE webhook_id = $1", number)
    await webhooks.sweep(pool)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 3
    assert (await ask(hospital, "GET", "/webhooks")).json["webhooks"][0]["waiting"] == 0


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"url": "http://10.0.0.1/x", "events": ["message.held"]}, "url: "),
        ({"url": "https://metadata.google.internal/x", "events": ["message.held"]}, "url: "),
        ({"url": "https://169.254.169.254/x", "events": ["message.held"]}, "url: "),
        ({"url": "https://example.org/x", "events": ["odd"]}, "events: "),
        ({"url": "https://example.org/x", "events": []}, "events: "),
    ],
)
async def test_what_is_refused(new_hospital: NewHospital, body: Any, place: str) -> None:
    """No address of our own network, no event that there is not."""
    hospital = await new_hospital(scope=_SCOPE)
    made = await ask(hospital, "POST", "/webhooks", body)
    assert (made.status, made.json["detail"].startswith(place)) == (422, True), made.body
