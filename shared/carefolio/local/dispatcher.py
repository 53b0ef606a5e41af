"""The embedded queue's other half: pushes messages to the functions as Pub/Sub does.

https://cloud.google.com/pubsub/docs/push: the envelope, a signed token, success by status, at least once, in order
per key, exponential back-off, and a dead-letter topic after so many deliveries.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from joserfc import jwt
from joserfc.jwk import ECKey

from carefolio.cloud import database, secrets
from carefolio.cloud.schedule import Job
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log
from carefolio.cloud.topics import Subscription

_SUCCESS = frozenset({102, 200, 201, 202, 204})
# Few at once, so that on a small machine what is being acknowledged comes before what is being applied; more of what
# only waits for others' servers.
_AT_ONCE, _WAITING_AT_ONCE = 3, 32
_IN_HAND = 2000
_TOKEN_LIFETIME = 3600


@dataclass(slots=True)
class _Message:
    id: int
    key: str
    topic: str
    data: bytes
    attributes: str
    published_at: datetime
    attempts: int


class Dispatcher:
    """Delivers what lies in the embedded queue. ``base`` and ``connector`` tell where functions are called.

    ``first_pause`` and ``longest_pause`` are the back-off's bounds in seconds.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        jobs: Sequence[Job],
        connector: aiohttp.BaseConnector,
        base: str = "http://internal",
        first_pause: float = 0.2,
        longest_pause: float = 10,
    ) -> None:
        self._subscriptions = {subscription.topic: subscription for subscription in subscriptions}
        self._jobs = jobs
        self._connector = connector
        self._base = base
        self._pauses = (first_pause, longest_pause)
        self._waiting: dict[str, deque[_Message]] = {}
        self._in_hand: set[int] = set()
        self._done: list[int] = []
        self._seen = 0
        self._wake = asyncio.Event()
        self._flush = asyncio.Event()
        self._slots = {waits: asyncio.Semaphore(_WAITING_AT_ONCE if waits else _AT_ONCE) for waits in (True, False)}
        self._tasks: set[asyncio.Task[None]] = set()
        self._token = ("", 0.0)

    async def run(self) -> None:
        """Deliver until cancelled; a database that is away is waited for."""
        async with aiohttp.ClientSession(
            connector=self._connector, timeout=aiohttp.ClientTimeout(total=60), auto_decompress=False
        ) as self._http:
            steps = (self._listen(), self._fetch(), self._acknowledge(), *(self._keep_time(job) for job in self._jobs))
            loops = [asyncio.create_task(step) for step in steps]
            try:
                await asyncio.gather(*loops)
            finally:
                for task in (*loops, *self._tasks):
                    task.cancel()
                await asyncio.gather(*loops, *self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        """Wake at each publication; and every second look at everything, for what came while nobody listened."""
        while True:
            try:
                connection = await database.connect()
            except database.UNAVAILABLE as error:
                log(Event.UNAVAILABLE, function="dispatcher", error=type(error).__name__)
                await asyncio.sleep(1)
                continue
            try:
                await connection.add_listener("queue", lambda *_: self._wake.set())
                while not connection.is_closed():
                    self._seen = 0
                    self._wake.set()
                    await asyncio.sleep(1)
            except database.UNAVAILABLE as error:
                log(Event.UNAVAILABLE, function="dispatcher", error=type(error).__name__)
            finally:
                connection.terminate()

    async def _fetch(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if len(self._in_hand) >= _IN_HAND:
                continue
            try:
                pool = await database.pool()
                rows = await pool.fetch(
                    """
                    SELECT id, ordering_key, topic, data, attributes, published_at, attempts FROM queue.message
                    WHERE id > $1 AND topic = ANY($2) ORDER BY id LIMIT $3
                    """,
                    self._seen,
                    list(self._subscriptions),
                    _IN_HAND,
                )
            except database.UNAVAILABLE as error:
                log(Event.UNAVAILABLE, function="dispatcher", error=type(error).__name__)
                continue
            for row in rows:
                # Publications may commit in another order than their ids: each second all are read again.
                self._seen = row["id"]
                if row["id"] in self._in_hand:
                    continue
                self._take(_Message(row["id"], row["ordering_key"] or f"\x00{row['id']}", *tuple(row)[2:]))

    def _take(self, message: _Message) -> None:
        self._in_hand.add(message.id)
        line = self._waiting.get(message.key)
        if line is not None:
            line.append(message)
            return
        self._waiting[message.key] = deque([message])
        task = asyncio.create_task(self._deliver_line(message.key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver_line(self, key: str) -> None:
        """One key's messages, one after the other."""
        line = self._waiting[key]
        while line:
            await self._deliver(line[0])
            line.popleft()
        del self._waiting[key]

    async def _deliver(self, message: _Message) -> None:
        """Push until it is taken, or until it goes to the dead letters."""
        subscription = self._subscriptions[message.topic]
        pause, longest = self._pauses
        while True:
            message.attempts += 1
            async with self._slots[subscription.waits]:
                status = await self._push(message, subscription)
            if status in _SUCCESS:
                self._done.append(message.id)
                self._flush.set()
                return
            log(Event.DELIVERY_FAILED, topic=message.topic, status=status, attempt=message.attempts)
            if message.attempts >= subscription.attempts and subscription.dead_letter:
                if await self._bury(message, subscription.dead_letter):
                    return
            else:
                await self._note_attempt(message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _keep_time(self, job: Job) -> None:
        """Call a job as Cloud Scheduler does; the first time at once, since the machine may have slept."""
        while True:
            done = await self._call(job.path, {}) in _SUCCESS
            await asyncio.sleep(job.minutes * 60 if done else 5)

    async def _push(self, message: _Message, subscription: Subscription) -> int:
        return await self._call(subscription.path, _envelope(message, subscription))

    async def _call(self, path: str, body: dict[str, Any]) -> int:
        """The answer's status, 0 where there was none."""
        headers = {"Authorization": f"Bearer {self._signed()}", "Content-Type": "application/json"}
        try:
            async with self._http.post(self._base + path, data=json.dumps(body), headers=headers) as answer:
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

    def _signed(self) -> str:
        """The token that Pub/Sub would send: OIDC claims of a service account."""
        token, expires = self._token
        now = time.time()
        if expires < now + 60:
            wanted = settings()
            key = ECKey.import_key(json.loads(secrets.read("push-key")))
            expires = now + _TOKEN_LIFETIME
            claims: dict[str, Any] = {
                "iss": wanted.push_issuer,
                "aud": wanted.push_audience,
                "email": wanted.push_account,
                "email_verified": True,
                "iat": int(now),
                "exp": int(expires),
            }
            token = jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)
            self._token = (token, expires)
        return token

    async def _note_attempt(self, message: _Message) -> None:
        with contextlib.suppress(*database.UNAVAILABLE):
            pool = await database.pool()
            await pool.execute("UPDATE queue.message SET attempts = $2 WHERE id = $1", message.id, message.attempts)

    async def _bury(self, message: _Message, topic: str) -> bool:
        """Move a message to its dead-letter topic, in one transaction; False where that has to wait."""
        try:
            pool = await database.pool()
            await pool.execute(
                """
                WITH gone AS (
                    DELETE FROM queue.message WHERE id = $1 RETURNING ordering_key, data, attributes
                )
                INSERT INTO queue.message (topic, ordering_key, data, attributes)
                SELECT $2, ordering_key, data, attributes FROM gone
                """,
                message.id,
                topic,
            )
        except database.UNAVAILABLE:
            return False
        log(Event.DEAD_LETTER, topic=message.topic, attempt=message.attempts)
        self._in_hand.discard(message.id)
        self._seen = 0
        self._wake.set()
        return True

    async def _acknowledge(self) -> None:
        """Delete what was taken, many at a time; what a crash keeps is delivered again."""
        while True:
            await self._flush.wait()
            self._flush.clear()
            done, self._done = self._done, []
            try:
                pool = await database.pool()
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("SET LOCAL synchronous_commit = off")
                    await connection.execute("DELETE FROM queue.message WHERE id = ANY($1)", done)
            except database.UNAVAILABLE:
                self._done += done
                await asyncio.sleep(0.5)
                self._flush.set()
                continue
            full = len(self._in_hand) >= _IN_HAND // 2
            self._in_hand.difference_update(done)
            if full:
                self._wake.set()
            await asyncio.sleep(0.02)


def _envelope(message: _Message, subscription: Subscription) -> dict[str, Any]:
    published = message.published_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    inner: dict[str, Any] = {
        "data": base64.b64encode(message.data).decode(),
        "attributes": json.loads(message.attributes),
        "messageId": str(message.id),
        "message_id": str(message.id),
        "publishTime": published,
        "publish_time": published,
    }
    if not message.key.startswith("\x00"):
        inner["orderingKey"] = message.key
    envelope: dict[str, Any] = {"message": inner, "subscription": f"projects/local/subscriptions/{message.topic}"}
    if subscription.dead_letter:
        envelope["deliveryAttempt"] = message.attempts
    return envelope
