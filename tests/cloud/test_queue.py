"""The two queues keep one promise: everything published is pushed, at least once, until it is taken.

What the emulator cannot do (order keys and tokens in a push, dead letters of an ordered one) is asked of the embedded
queue alone, which follows the published interface.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import KeySet
from tests.conftest import Running, free_port, unique

from carefolio.cloud.queue import EmbeddedQueue, Outgoing, PubSubQueue, Queue
from carefolio.cloud.topics import Subscription
from carefolio.local.dispatcher import Dispatcher


@dataclass
class Receiver:
    """A push endpoint that notes what comes, and refuses as it is told to."""

    port: int = 0
    pushes: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)
    refuse: Callable[[bytes, int], bool] = lambda data, attempt: False

    async def take(self, request: web.Request) -> web.Response:
        envelope = await request.json()
        data = base64.b64decode(envelope["message"].get("data", ""))
        self.pushes.append(envelope)
        self.tokens.append(request.headers.get("Authorization", ""))
        attempt = sum(base64.b64decode(push["message"]["data"]) == data for push in self.pushes)
        if self.refuse(data, attempt):
            return web.Response(status=503)
        self.taken.append(data)
        return web.Response(status=204)

    async def until(self, done: Callable[[], bool]) -> None:
        for _ in range(600):
            if done():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"taken so far: {self.taken[:20]}")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    made.port = free_port()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    yield made
    await runner.cleanup()


@dataclass
class Wired:
    """A queue with one topic that is pushed to the receiver; ``dead`` is its dead-letter topic."""

    queue: Queue
    topic: str
    dead: str

    async def publish(self, *messages: tuple[str, bytes]) -> None:
        await self.queue.publish([Outgoing(self.topic, key, data, '{"kind": "test"}') for key, data in messages])


@pytest.fixture
async def embedded(receiver: Receiver, pool: asyncpg.Pool) -> AsyncIterator[Wired]:
    topic = unique("topic")
    dead = f"{topic}-dead"
    subscriptions = (
        Subscription(topic, "test", "/push", 4, dead, ordered=True, waits=False),
        Subscription(dead, "test", "/dead", 100, None, ordered=False, waits=False),
    )
    base = f"http://127.0.0.1:{receiver.port}"
    dispatcher = Dispatcher(subscriptions, (), aiohttp.TCPConnector(), base, first_pause=0.02, longest_pause=0.1)
    running = asyncio.create_task(dispatcher.run())
    yield Wired(EmbeddedQueue(), topic, dead)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """Google's Pub/Sub emulator: its address."""
    gcloud = shutil.which("gcloud")
    found = sorted(
        Path(gcloud).resolve().parents[1].glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")
    ) if gcloud else []  # fmt: skip
    if not found and gcloud:
        found = sorted(Path("/usr/lib/google-cloud-sdk").glob("platform/pubsub-emulator/lib/*-all.jar"))
    if not found or not shutil.which("java"):
        pytest.skip("the Pub/Sub emulator is not on this machine (gcloud components install pubsub-emulator)")
    port = free_port()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["java", "-jar", found[-1], "--host=127.0.0.1", f"--port={port}"], stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                output.seek(0)
                if b"Server started" in output.read():
                    break
                time.sleep(0.1)
            else:
                pytest.skip("the Pub/Sub emulator does not start here")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
async def pubsub(receiver: Receiver, emulator: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wired]:
    from google.cloud import pubsub_v1
    from google.protobuf import duration_pb2

    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator)
    project, topic = "test-project", unique("topic")
    publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
    path = publisher.topic_path(project, topic)
    publisher.create_topic(name=path)
    subscriber.create_subscription(
        request={
            "name": subscriber.subscription_path(project, topic),
            "topic": path,
            "push_config": {"push_endpoint": f"http://127.0.0.1:{receiver.port}/push"},
            "enable_message_ordering": True,
            "retry_policy": {"minimum_backoff": duration_pb2.Duration(seconds=1)},
        }
    )
    queue = PubSubQueue(project)
    yield Wired(queue, topic, "")
    await queue.close()
    subscriber.close()
    publisher.transport.close()


@pytest.fixture(params=["embedded", "pubsub"])
def wired(request: pytest.FixtureRequest) -> Wired:
    made: Wired = request.getfixturevalue(request.param)
    return made


async def test_everything_that_is_published_is_pushed(wired: Wired, receiver: Receiver) -> None:
    sent = [(f"key{number % 7}", f"{number}".encode()) for number in range(100)]
    await wired.publish(*sent)
    await receiver.until(lambda: len(receiver.taken) >= 100)
    assert set(receiver.taken) == {data for _, data in sent}


async def test_the_envelope_is_pubsubs(wired: Wired, receiver: Receiver) -> None:
    await wired.publish(("", b'{"message": "x"}'))
    await receiver.until(lambda: bool(receiver.taken))
    envelope = receiver.pushes[0]
    assert envelope["subscription"].startswith("projects/")
    assert base64.b64decode(envelope["message"]["data"]) == b'{"message": "x"}'
    assert envelope["message"]["attributes"] == {"kind": "test"}
    assert envelope["message"]["messageId"] == envelope["message"]["message_id"]
    assert envelope["message"]["publishTime"].endswith("Z")


async def test_what_is_refused_comes_again(wired: Wired, receiver: Receiver) -> None:
    receiver.refuse = lambda data, attempt: data == b"bad" and attempt < 3
    await wired.publish(("k", b"bad"), ("other", b"good"))
    await receiver.until(lambda: len(receiver.taken) == 2)
    assert set(receiver.taken) == {b"good", b"bad"}


async def test_a_publisher_that_fails_says_so(wired: Wired) -> None:
    broken = Outgoing("no-such-topic" if isinstance(wired.queue, PubSubQueue) else wired.topic, "k", b"x", "{}")
    if isinstance(wired.queue, EmbeddedQueue):
        broken = Outgoing("\x00", "k", b"x", "{}")
    with pytest.raises(Exception):  # noqa: B017 - each queue has its own errors; what matters is that there is one
        await wired.queue.publish([broken])


async def test_messages_of_one_key_come_in_order_even_when_some_are_refused(
    embedded: Wired, receiver: Receiver
) -> None:
    receiver.refuse = lambda data, attempt: data.endswith(b"5") and attempt < 3
    sent = [(f"key{number % 3}", f"{number:03d}".encode()) for number in range(60)]
    await embedded.publish(*sent)
    await receiver.until(lambda: len(receiver.taken) == 60)
    for key in ("key0", "key1", "key2"):
        mine = [data for of, data in sent if of == key]
        assert [data for data in receiver.taken if data in mine] == mine


async def test_a_message_that_is_never_taken_ends_among_the_dead_letters(embedded: Wired, receiver: Receiver) -> None:
    receiver.refuse = lambda data, attempt: data == b"bad" and attempt <= 4
    await embedded.publish(("k", b"bad"), ("k", b"next"))
    await receiver.until(lambda: len(receiver.taken) == 2)
    of_bad = [push for push in receiver.pushes if base64.b64decode(push["message"]["data"]) == b"bad"]
    assert [push.get("deliveryAttempt") for push in of_bad] == [1, 2, 3, 4, None]
    assert of_bad[-1]["subscription"].endswith("-dead")
    assert of_bad[0]["message"]["orderingKey"] == "k"


async def test_a_push_is_signed_as_the_functions_demand(
    embedded: Wired, receiver: Receiver, installation: Running
) -> None:
    await embedded.publish(("", b"x"))
    await receiver.until(lambda: bool(receiver.taken))
    keys = KeySet.import_key_set(json.loads((installation.here.home / "secrets/push-keys.json").read_text()))
    claims = jwt.decode(receiver.tokens[0].removeprefix("Bearer "), keys, algorithms=["ES256"]).claims
    assert claims["email"] == os.environ["PUSH_SERVICE_ACCOUNT"]
    assert claims["email_verified"] is True
    assert claims["aud"] == os.environ["PUSH_AUDIENCE"]


async def test_a_restarted_dispatcher_goes_on_where_the_old_one_stopped(receiver: Receiver, pool: asyncpg.Pool) -> None:
    topic = unique("topic")
    await EmbeddedQueue().publish([Outgoing(topic, "k", f"{n}".encode(), "{}") for n in range(50)])

    def dispatcher() -> Awaitable[None]:
        return Dispatcher(
            (Subscription(topic, "t", "/p", 100, None, ordered=False, waits=False),),
            (),
            aiohttp.TCPConnector(),
            f"http://127.0.0.1:{receiver.port}",
        ).run()

    for _ in range(5):
        running = asyncio.ensure_future(dispatcher())
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    running = asyncio.ensure_future(dispatcher())
    await receiver.until(lambda: len(set(receiver.taken)) == 50)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


InternalCall = Callable[..., Awaitable[int]]


@pytest.fixture
async def call(installation: Running) -> AsyncIterator[InternalCall]:
    """Calls an internal function of the installation with a token; gives the status."""
    connector = aiohttp.UnixConnector(path=str(installation.here.internal_socket))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post(path: str, token: str | None, body: bytes = b"{}") -> int:
            headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
            async with session.post(f"http://internal{path}", data=body, headers=headers) as answer:
                return answer.status

        yield post


def signed(installation: Running, **claims: Any) -> str:
    from joserfc.jwk import ECKey

    key = ECKey.import_key(json.loads((installation.here.home / "secrets/push-key").read_text()))
    now = int(time.time())
    good = {
        "iss": "https://dispatcher.local", "aud": "https://internal.local", "email": "dispatcher@local",
        "email_verified": True, "iat": now, "exp": now + 300,
    }  # fmt: skip
    return jwt.encode({"alg": "ES256", "kid": key.kid}, good | claims, key)


@pytest.mark.parametrize("path", ["/ingest", "/ingest/dead", "/operations/outbox"])
async def test_who_may_not_push_is_refused(call: InternalCall, installation: Running, path: str) -> None:
    assert await call(path, None) == 401
    assert await call(path, "rubbish") == 401
    assert await call(path, signed(installation, aud="https://elsewhere")) == 401
    assert await call(path, signed(installation, iss="https://elsewhere")) == 401
    assert await call(path, signed(installation, exp=int(time.time()) - 3600)) == 401
    assert await call(path, signed(installation, email="somebody@else")) == 403
    assert await call(path, signed(installation, email_verified=False)) == 403


async def test_a_push_that_is_no_envelope_is_refused(call: InternalCall, installation: Running) -> None:
    token = signed(installation)
    for body in (b"", b"{}", b"[]", b'{"message": {"data": "!!!"}}', b'{"message": {"data": "e30="}}'):
        assert await call("/ingest", token, body) == 400
    assert await call("/operations/outbox", token) == 200
