"""Subscriptions are served: begun with a handshake, told of their events in order, kept alive, given up.

Each receiver has a few lanes, each subscription is in one of them, and one process at a time serves a lane: so one
that is slow or dead takes a few places and no more. An event is done with when its receiver has said so (2xx); what
dies before that is sent again. Who does not answer is left alone for longer and longer; the subscription is in error
then, its events are kept for a week, and the first that is taken makes it active again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from carefolio.cloud import mail
from carefolio.cloud.database import UNAVAILABLE, Pool
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log, where
from carefolio.cloud.topics import RECORD_CHANGED
from carefolio.fhir import text
from carefolio.fhir.xml import serialise
from carefolio.identity import grants, outside, sealed, webhooks
from carefolio.record import lanes
from carefolio.record import notifications as made
from carefolio.record.access import Reader
from carefolio.record.own_writes import rewrite
from carefolio.record.subscribing import ACTIVE, ERROR, JSON, OFF, REQUESTED, XML, call
from carefolio.record.write import RETRIED

# How long a lane is served at once; the queue brings the rest again.
_SECONDS = 20
# How long what was read to be told is told: what a person closes meanwhile is closed.
_TURN = 2
_MOST_AT_ONCE = 50
_FIRST_PAUSE, _LONGEST_PAUSE = 10, 3600
# After so long of failing it is in error, where it does not say itself; and then it is off.
_IN_ERROR, _DAYS = 300, 7
_MAIL_PAUSE, _MAIL_EVENTS = 300, 1000
_TRIES = 5
_ACTOR = "carefolio/subscriptions"


class _FailedError(Exception):
    """The receiver did not take it; ``unreachable``: it did not answer at all."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


async def serve(pool: Pool, receiver: uuid.UUID, lane: int) -> bool:
    """Serve what is due in a receiver's lane; False where another is at it, or something is left."""
    holder = lanes.holder()
    name = f"lane {receiver} {lane}"
    if not await holder.take(name):
        return False
    try:
        until, some = time.monotonic() + _SECONDS, _MOST_AT_ONCE
        while due := await _due(pool, receiver, lane, some):
            if time.monotonic() > until or not holder.holds(name):
                return False
            # Of a slow receiver no more are read than it takes at once: what is read is in the trail.
            served = await _Turn(pool, due).go()
            some = _MOST_AT_ONCE if served == len(due) else max(1, served)
    finally:
        await holder.leave(name)
    return True


_DUE = """
    webhook.allowed_at IS NOT NULL AND webhook.ended_at IS NULL AND coalesce(webhook.paused_until <= now(), true)
    AND s.status <> 'off' AND coalesce(s.paused_until <= now(), true) AND (
        NOT s.listening OR s.status = 'requested' OR s.delivered < s.events OR s.ends_at < now()
        OR s.last_at + (s.channel ->> 'heartbeat')::int * interval '1 second' < now()
    )
"""


async def _due(pool: Pool, receiver: uuid.UUID, lane: int, some: int) -> list[asyncpg.Record]:
    """The next subscriptions for which something is to be done, the one that waits longest first.

    ``over``: why nothing is to be told any more.
    """
    rows: list[asyncpg.Record] = await pool.fetch(
        f"""
        SELECT s.*, webhook.secret_sealed, CASE
            WHEN s.ends_at < now() THEN 'its end has come'
            WHEN s.failing_since < now() - make_interval(days => $3)
                THEN 'its receiver has taken nothing for too long'
            WHEN NOT EXISTS (SELECT FROM client WHERE id = substring(s.reader ->> 'actor' FROM 'client/(.+)$')
                             AND ended_at IS NULL) THEN 'the client that asked for it has ended'
            WHEN s.reader ->> 'account' IS NOT NULL AND NOT EXISTS (
                SELECT FROM app_grant WHERE app_grant.id = s.grant_id AND {grants.LIVING}
            ) THEN 'the person does not allow the app any more' END AS over
        FROM subscription s JOIN webhook ON webhook.id = s.webhook_id
        WHERE s.webhook_id = $1 AND s.lane = $2 AND {_DUE} ORDER BY s.last_at NULLS FIRST LIMIT $4
        """,  # noqa: S608 - ours
        receiver,
        lane,
        _DAYS,
        some,
    )
    return rows


class _Turn:
    """Subscriptions of a lane that are due: the next thing for each, one after the other.

    Their events are read together, and it is noted together what was taken, but never long after each other.
    """

    def __init__(self, pool: Pool, due: Sequence[asyncpg.Record]) -> None:
        self._pool = pool
        self._due = due
        self._told: dict[uuid.UUID, list[made.Told]] = {}
        self._taken: dict[uuid.UUID, tuple[asyncpg.Record, int]] = {}

    async def go(self) -> int:
        """How many were served."""
        await self._read()
        until, served = time.monotonic() + _TURN, 0
        try:
            for subscription in self._due:
                if time.monotonic() > until or not await self._serve(subscription):
                    break
                served += 1
        finally:
            await self._note()
        return served

    async def _read(self) -> None:
        """What is to be told now, by reader."""
        readers: dict[str, list[made.Wanted]] = {}
        for each in self._due:
            if each["over"] is None and each["listening"] and each["delivered"] < each["events"]:
                channel = json.loads(each["channel"])
                most = _MAIL_EVENTS if channel["type"] == "email" else channel["max_count"]
                wanted = made.Wanted(each["id"], each["delivered"] + 1, each["events"], most)
                readers.setdefault(each["reader"], []).append(wanted)
        for reader, of_reader in readers.items():
            self._told |= await made.events(self._pool, Reader.of_told(json.loads(reader)), of_reader)

    async def _serve(self, subscription: asyncpg.Record) -> bool:
        """Do the next thing for a subscription; False where its receiver cannot be reached at all."""
        if subscription["over"] is not None:
            await set_status(self._pool, subscription, OFF, subscription["over"])
            return True
        channel = json.loads(subscription["channel"])
        try:
            if not subscription["listening"] or subscription["status"] == REQUESTED:
                await _begin(subscription, channel)
                # Who was listening already and asked anew has what waits for him.
                self._take(subscription, subscription["delivered" if subscription["listening"] else "events"])
            elif subscription["delivered"] < subscription["events"]:
                await self._tell(subscription, channel, self._told[subscription["id"]])
            else:
                await _send(
                    subscription, channel, made.bundle(subscription, made.HEARTBEAT), f"heartbeat-{uuid.uuid4()}"
                )
                self._take(subscription, subscription["delivered"])
        except Exception as failure:
            if isinstance(failure, UNAVAILABLE):
                raise
            # Whatever it is that cannot be sent: one subscription never stops its lane.
            if not isinstance(failure, _FailedError):
                log(Event.SUBSCRIPTION_FAILED, subscription=subscription["id"], error=type(failure).__name__,
                    where=where(failure))  # fmt: skip
                failure = _FailedError("it cannot be sent")
            await self._note()
            await _failed(self._pool, subscription, channel, str(failure))
            if failure.unreachable:
                await self._pool.execute(
                    "UPDATE webhook SET paused_until = now() + $2 * interval '1 second' WHERE id = $1",
                    subscription["webhook_id"],
                    _FIRST_PAUSE,
                )
            return not failure.unreachable
        return True

    async def _tell(self, subscription: asyncpg.Record, channel: dict[str, Any], told: Sequence[made.Told]) -> None:
        if not told:
            # They were waited for too long.
            self._take(subscription, subscription["events"])
        elif channel["type"] == "email":
            number = len(told)
            sentence = f"{number} change{'s' if number > 1 else ''} that an app subscribed to."
            await _mail(channel, sentence, subscription)
            self._take(subscription, told[-1].number)
            await self._pool.execute(
                "UPDATE subscription SET paused_until = now() + $2 * interval '1 second' WHERE id = $1",
                subscription["id"],
                _MAIL_PAUSE,
            )
        elif channel["content"] is None:
            # As R4 itself has it: the resource, at its own address below the receiver's; or nothing but the call.
            for each in told:
                if channel["payload"] is None or each.content is None or each.reference is None:
                    await _send(subscription, channel, "", str(each.number))
                else:
                    await _send(subscription, channel, each.content, str(each.number), "PUT", f"/{each.reference}")
                self._take(subscription, each.number)
        else:
            now = dict(subscription) | {"status": ACTIVE, "error": None}
            body = made.bundle(now, made.NOTIFICATION, told, channel["content"])
            await _send(subscription, channel, body, str(told[-1].number))
            self._take(subscription, told[-1].number)

    def _take(self, subscription: asyncpg.Record, number: int) -> None:
        """Its receiver has taken everything up to a number."""
        self._taken[subscription["id"]] = subscription, number

    async def _note(self) -> None:
        taken, self._taken = self._taken, {}
        if not taken:
            return
        await self._pool.execute(
            """
            UPDATE subscription SET delivered = greatest(delivered, t.number), failures = 0, failing_since = NULL,
                last_at = now(), paused_until = CASE WHEN failures > 0 THEN NULL ELSE paused_until END
            FROM unnest($1::uuid[], $2::bigint[]) AS t (id, number) WHERE subscription.id = t.id
            """,
            list(taken),
            [number for _, number in taken.values()],
        )
        for subscription, _ in taken.values():
            if subscription["status"] != ACTIVE:
                await set_status(self._pool, subscription, ACTIVE, None)


async def _begin(subscription: asyncpg.Record, channel: dict[str, Any]) -> None:
    """The receiver says that it is there: of R4's own subscriptions the first event tells."""
    if channel["type"] == "email":
        await _mail(channel, "You will be told at this address of changes that an app subscribed to.", subscription)
    elif subscription["topic"] is not None or channel["content"] is not None:
        now = dict(subscription) | {"status": REQUESTED, "error": None}
        await _send(subscription, channel, made.bundle(now, made.HANDSHAKE), f"handshake-{uuid.uuid4()}")


async def _send(
    subscription: asyncpg.Record, channel: dict[str, Any], body: str, number: str, method: str = "POST", path: str = ""
) -> None:
    if channel["type"] != "rest-hook":
        return
    media = channel["payload"] or JSON
    data = serialise(text.loads(body)).encode() if body and media == XML else body.encode()
    headers = dict(json.loads(sealed.unseal(bytes(subscription["headers_sealed"]))))
    if body:
        headers["Content-Type"] = f"{media}; fhirVersion=4.0"
    headers |= webhooks.signed(bytes(subscription["secret_sealed"]), f"{subscription['id']}-{number}", data)
    base, mark, query = channel["endpoint"].partition("?")
    try:
        status = await outside.send(method, f"{base.rstrip('/')}{path}{mark}{query}" if path else channel["endpoint"],
                                    data, headers)  # fmt: skip
    except outside.OutsideError as failure:
        raise _FailedError(failure.reason, unreachable=True) from None
    if not 200 <= status < 300:
        raise _FailedError(f"status {status}")


async def _mail(channel: dict[str, Any], sentence: str, subscription: asyncpg.Record) -> None:
    """No word of a patient: mail is no safe place."""
    address = f"{settings().public_url}/fhir/R4/Subscription/{subscription['logical_id']}"
    try:
        await mail.send(
            channel["endpoint"].partition(":")[2], "A subscription of yours", f"{sentence}\n\n{address}/$events\n"
        )
    except mail.MailError as failure:
        raise _FailedError(failure.reason) from None


async def _failed(pool: Pool, subscription: asyncpg.Record, channel: dict[str, Any], reason: str) -> None:
    """Leave it alone for a while; what fails from the beginning, or for long, is in error."""
    in_error = await pool.fetchval(
        """
        UPDATE subscription SET failures = failures + 1, failing_since = coalesce(failing_since, now()),
            last_at = now(), paused_until = now() + least($2 * 2 ^ least(failures, 20), $3) * interval '1 second'
        WHERE id = $1
        RETURNING NOT listening OR failing_since < now() - $4 * interval '1 second'
        """,
        subscription["id"],
        _FIRST_PAUSE,
        _LONGEST_PAUSE,
        channel["timeout"] or _IN_ERROR,
    )
    log(Event.SUBSCRIPTION_UNTAKEN, subscription=subscription["id"], reason=reason)
    if in_error:
        await set_status(pool, subscription, ERROR, f"its receiver does not take what is sent: {reason}")


async def set_status(pool: Pool, subscription: asyncpg.Record, status: str, reason: str | None) -> None:
    """Where a subscription stands from now on, in its resource too."""
    for attempt in range(_TRIES):
        try:
            async with pool.acquire() as connection, connection.transaction():
                there = await connection.fetchrow(
                    """
                    UPDATE subscription SET status = $2, error = $3,
                        listening = CASE $2 WHEN 'active' THEN true WHEN 'off' THEN false ELSE listening END
                    WHERE id = $1 AND (status, error) IS DISTINCT FROM ($2, $3) AND channel = $4 AND status <> 'off'
                    RETURNING 1
                    """,
                    subscription["id"],
                    status,
                    reason,
                    subscription["channel"],
                )
                if there is not None:
                    number = subscription["id"]
                    await rewrite(connection, "Subscription", number, lambda r: _with_status(r, status, reason), _ACTOR)
                return
        except RETRIED:
            if attempt == _TRIES - 1:
                raise


def _with_status(resource: dict[str, Any], status: str, reason: str | None) -> dict[str, Any]:
    kept = {name: value for name, value in resource.items() if name != "error"}
    return kept | {"status": status} | ({"error": reason} if reason else {})


@dataclass(frozen=True, slots=True)
class Swept:
    """What the clock found: lanes that were called, events that nobody took in time."""

    called: int
    dropped: int


async def sweep(pool: Pool) -> Swept:
    """Have everything done that is due and that the queue does not bring by itself."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            """
            INSERT INTO outbox (topic, ordering_key, data, attributes)
            SELECT $1, 'changes', convert_to('{}', 'UTF8'), '{}'
            WHERE EXISTS (SELECT FROM record_change WHERE coalesce(due_at, at + interval '10 seconds') <= now())
            """,
            RECORD_CHANGED,
        )
        due = await connection.fetch(
            f"""
            SELECT DISTINCT s.webhook_id, s.lane FROM subscription s JOIN webhook ON webhook.id = s.webhook_id
            WHERE {_DUE}
            """  # noqa: S608 - ours
        )
        await call(connection, [(row["webhook_id"], row["lane"]) for row in due])
        dropped = await connection.execute(
            "DELETE FROM subscription_event WHERE at < now() - make_interval(days => $1)", _DAYS
        )
    removed = await pool.fetch(
        """
        SELECT s.* FROM subscription s JOIN webhook ON webhook.id = s.webhook_id
        WHERE webhook.ended_at IS NOT NULL AND s.status <> 'off'
        """
    )
    for each in removed:
        await set_status(pool, each, OFF, "its receiver was removed")
    return Swept(len(due), int(dropped.rpartition(" ")[2]))
