"""Messages between functions: Pub/Sub in the cloud, an embedded queue on one machine, behind one method.

``publish`` returns when the messages are safe. Delivery is at least once; order within a key is a courtesy of the
queue on which nothing rests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from carefolio.cloud import database
from carefolio.cloud.settings import settings

EMBEDDED_SCHEMA = (
    "CREATE SCHEMA IF NOT EXISTS queue",
    """
    CREATE TABLE IF NOT EXISTS queue.message (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        topic text NOT NULL,
        ordering_key text NOT NULL,
        data bytea NOT NULL,
        attributes text NOT NULL,
        published_at timestamptz NOT NULL DEFAULT now(),
        attempts int NOT NULL DEFAULT 0
    )
    """,
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """``attributes`` is a JSON object of strings; ``ordering_key`` may be empty."""

    topic: str
    ordering_key: str
    data: bytes
    attributes: str = "{}"


class Queue(Protocol):
    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all; raises where one is not known to be safe."""

    async def close(self) -> None: ...


class EmbeddedQueue:
    """A table in the embedded PostgreSQL; the local dispatcher (carefolio.local.dispatcher) pushes from it."""

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        pool = await database.pool()
        await pool.execute(
            """
            WITH published AS (
                INSERT INTO queue.message (topic, ordering_key, data, attributes)
                SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[])
            )
            SELECT pg_notify('queue', '')
            """,
            [m.topic for m in messages],
            [m.ordering_key for m in messages],
            [m.data for m in messages],
            [m.attributes for m in messages],
        )

    async def close(self) -> None:
        return None


class PubSubQueue:
    """Google Pub/Sub, or its emulator where PUBSUB_EMULATOR_HOST is set. Ordered per key within one region."""

    def __init__(self, project: str) -> None:
        from google.cloud import pubsub_v1  # type: ignore[attr-defined]

        self._project = project
        self._publisher: Any = pubsub_v1.PublisherClient(
            publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True),
            batch_settings=pubsub_v1.types.BatchSettings(max_latency=0.005),
        )

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        futures = []
        for message in messages:
            path = self._publisher.topic_path(self._project, message.topic)
            attributes = json.loads(message.attributes)
            sent = self._publisher.publish(path, message.data, ordering_key=message.ordering_key, **attributes)
            futures.append((path, message.ordering_key, asyncio.wrap_future(sent)))
        results = await asyncio.gather(*(future for _, _, future in futures), return_exceptions=True)
        failure: BaseException | None = None
        for (path, key, _), result in zip(futures, results, strict=True):
            if isinstance(result, BaseException):
                failure = failure or result
                if key:
                    # The client stops a key at its first failure until it is told to go on.
                    self._publisher.resume_publish(path, key)
        if failure:
            raise failure

    async def close(self) -> None:
        await asyncio.to_thread(self._publisher.stop)


_queues: dict[asyncio.AbstractEventLoop, Queue] = {}


def queue() -> Queue:
    """The running loop's queue."""
    loop = asyncio.get_running_loop()
    if loop not in _queues:
        _queues[loop] = EmbeddedQueue() if settings().embedded else PubSubQueue(settings().project)
    return _queues[loop]


async def close() -> None:
    if opened := _queues.pop(asyncio.get_running_loop(), None):
        await opened.close()
