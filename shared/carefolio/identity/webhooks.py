"""Webhooks: an organisation's own system is told that something waits; the thing itself it reads by REST.

An organisation registers a receiver; nothing leaves until the operator of this installation allows it. What is sent
names no patient. Signed as https://www.standardwebhooks.com says; delivered at least once; a receiver that does not
answer is left alone for longer and longer, and delays nobody else.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import asyncpg

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.settings import settings
from carefolio.cloud.topics import SUBSCRIPTION_DUE, WEBHOOK_EVENT
from carefolio.identity import outside, sealed

MESSAGE_HELD, MESSAGE_FAILED = "message.held", "message.failed"
CORRECTION_ASKED, CONVERSATION_WAITING, GLASS_BROKEN = "correction.asked", "conversation.waiting", "glass.broken"
EVENTS = (MESSAGE_HELD, MESSAGE_FAILED, CORRECTION_ASKED, CONVERSATION_WAITING, GLASS_BROKEN)
_MOST = 20
# After so many days an event that nobody took is given up.
_DAYS = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 10, 3600


class WebhookError(Exception):
    """What was asked for cannot be; the text is for an administrator. ``missing``: there is no such webhook."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver: of ``events``, or, where it has none, of subscriptions; ``allowed`` by the operator or not yet.

    ``result`` of the last delivery of an event; how many are ``waiting``.
    """

    id: uuid.UUID
    organisation: str
    url: str
    events: tuple[str, ...]
    allowed: bool
    result: str
    last_at: datetime | None
    waiting: int


_SELECT = """
    SELECT webhook.*, organisation.ods_code, (
        SELECT count(*) FROM webhook_event e WHERE e.webhook_id = webhook.id AND e.delivered_at IS NULL
    ) + (
        SELECT coalesce(sum(events - delivered), 0) FROM subscription WHERE webhook_id = webhook.id AND status <> 'off'
    )::bigint AS waiting FROM webhook JOIN organisation ON organisation.id = organisation_id WHERE ended_at IS NULL
"""


async def add(pool: Pool, organisation: uuid.UUID, actor: str, url: str, events: Sequence[str]) -> tuple[Webhook, str]:
    """Register a receiver; its secret is known here and never again. Raises WebhookError."""
    try:
        outside.check_url(url)
    except outside.OutsideError as error:
        raise WebhookError(f"url: {error.reason}") from None
    if unknown := [each for each in events if each not in EVENTS]:
        raise WebhookError(f"events: {unknown[0][:40]} is none of {', '.join(EVENTS)}")
    if not events:
        raise WebhookError(f"events: at least one of {', '.join(EVENTS)}")
    if sum(bool(each.events) for each in await of_organisation(pool, organisation)) >= _MOST:
        raise WebhookError(f"an organisation has at most {_MOST} webhooks")
    secret = secrets.token_bytes(32)
    number = await pool.fetchval(
        """
        INSERT INTO webhook (organisation_id, url, events, secret_sealed, created_by) VALUES ($1, $2, $3, $4, $5)
        RETURNING id
        """,
        organisation, url, sorted(set(events)), sealed.seal(secret), actor,
    )  # fmt: skip
    [made] = await _found(pool, "AND webhook.id = $1", number)
    return made, f"whsec_{base64.b64encode(secret).decode()}"


def origin(url: str) -> str:
    """Scheme, host and port of a URL, in one spelling; of ``mailto:`` the whole of it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}" if parts.netloc else url


async def receiver_at(connection: Connection, organisation: uuid.UUID, wanted: str, actor: str) -> uuid.UUID:
    """The organisation's receiver at an ``origin``; a new one has no events, and waits for the operator.

    Raises WebhookError.
    """
    # Two at once make one.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('receivers ' || $1))", str(organisation))
    rows = await connection.fetch(
        "SELECT id, url FROM webhook WHERE organisation_id = $1 AND ended_at IS NULL AND events = '{}'", organisation
    )
    for row in rows:
        # A receiver of events, which name no patient, is not one of records.
        if row["url"] == wanted:
            number: uuid.UUID = row["id"]
            return number
    if len(rows) >= _MOST:
        raise WebhookError(f"an organisation has at most {_MOST} receivers of subscriptions")
    made: uuid.UUID = await connection.fetchval(
        """
        INSERT INTO webhook (organisation_id, url, events, secret_sealed, created_by) VALUES ($1, $2, '{}', $3, $4)
        RETURNING id
        """,
        organisation,
        wanted,
        sealed.seal(secrets.token_bytes(32)),
        actor,
    )
    return made


async def forget_unused(connection: Connection) -> None:
    """Receivers of subscriptions that nobody allowed and nobody wants any more are none."""
    await connection.execute(
        """
        DELETE FROM webhook WHERE events = '{}' AND allowed_at IS NULL AND last_at IS NULL
        AND NOT EXISTS (SELECT FROM subscription WHERE webhook_id = webhook.id)
        """
    )


async def renew_secret(pool: Pool, organisation: uuid.UUID, number: uuid.UUID) -> str:
    """A new secret of a receiver, known here and never again; all is signed with it at once. Raises WebhookError."""
    secret = secrets.token_bytes(32)
    done = await pool.execute(
        "UPDATE webhook SET secret_sealed = $3 WHERE id = $1 AND organisation_id = $2 AND ended_at IS NULL",
        number,
        organisation,
        sealed.seal(secret),
    )
    if done != "UPDATE 1":
        raise WebhookError("the organisation has no such webhook", missing=True)
    return f"whsec_{base64.b64encode(secret).decode()}"


async def of_organisation(pool: Pool, organisation: uuid.UUID) -> list[Webhook]:
    """Its receivers."""
    return await _found(pool, "AND organisation_id = $1 ORDER BY created_at", organisation)


async def every(pool: Pool) -> list[Webhook]:
    """Those of all organisations, for the operator."""
    return await _found(pool, "ORDER BY created_at")


async def end(pool: Pool, organisation: uuid.UUID, number: uuid.UUID) -> None:
    """Nothing is sent there any more. Raises WebhookError."""
    done = await pool.execute(
        "UPDATE webhook SET ended_at = now() WHERE id = $1 AND organisation_id = $2 AND ended_at IS NULL",
        number,
        organisation,
    )
    if done != "UPDATE 1":
        raise WebhookError("the organisation has no such webhook", missing=True)


async def allow(pool: Pool, number: uuid.UUID, actor: str, *, allowed: bool) -> Webhook:
    """The operator lets this installation send there, or no more. Raises WebhookError."""
    done = await pool.execute(
        """
        UPDATE webhook SET allowed_at = CASE WHEN $3 THEN coalesce(allowed_at, now()) END, allowed_by = $2,
            paused_until = NULL, failures = 0
        WHERE id = $1 AND ended_at IS NULL
        """,
        number,
        actor,
        allowed,
    )
    if done != "UPDATE 1":
        raise WebhookError("there is no such webhook", missing=True)
    if allowed:
        # Subscriptions that waited for it begin.
        await pool.execute(
            """
            INSERT INTO outbox (topic, ordering_key, data, attributes)
            SELECT DISTINCT $2, 'lane ' || webhook_id || ' ' || lane,
                   convert_to(json_build_object('receiver', webhook_id, 'lane', lane)::text, 'UTF8'), '{}'
            FROM subscription WHERE webhook_id = $1 AND status <> 'off'
            """,
            number,
            SUBSCRIPTION_DUE,
        )
        await outbox.sweep()
    return (await _found(pool, "AND webhook.id = $1", number))[0]


async def emit(connection: Pool | Connection, organisation: uuid.UUID, kind: str, subject: str) -> None:
    """Something waits at an address of ours; told to whoever asked for it, after the caller's transaction."""
    await connection.execute(
        """
        WITH told AS (
            INSERT INTO webhook_event (webhook_id, kind, subject)
            SELECT id, $2, $3 FROM webhook
            WHERE organisation_id = $1 AND ended_at IS NULL AND allowed_at IS NOT NULL AND $2 = ANY(events)
            RETURNING id
        )
        INSERT INTO outbox (topic, ordering_key, data, attributes)
        SELECT $4, '', convert_to(json_build_object('event', id)::text, 'UTF8'), '{}' FROM told
        """,
        organisation,
        kind,
        subject,
        WEBHOOK_EVENT,
    )


async def deliver(pool: Pool, event: uuid.UUID) -> None:
    """Send an event that was not delivered yet, unless its receiver is left alone for now (``sweep`` comes back)."""
    row = await pool.fetchrow(
        """
        SELECT e.id, e.kind, e.subject, e.at, webhook.id AS webhook, url, secret_sealed, ods_code
        FROM webhook_event e JOIN webhook ON webhook.id = webhook_id
        JOIN organisation ON organisation.id = organisation_id
        WHERE e.id = $1 AND delivered_at IS NULL AND ended_at IS NULL AND allowed_at IS NOT NULL
          AND coalesce(paused_until <= now(), true)
        """,
        event,
    )
    if row is None:
        return
    result = await _send(row)
    await pool.execute(
        """
        WITH sent AS (
            UPDATE webhook_event SET delivered_at = CASE WHEN $3 = 'delivered' THEN now() END, attempts = attempts + 1
            WHERE id = $1
        )
        UPDATE webhook SET last_at = now(), last_result = $3,
            failures = CASE WHEN $3 = 'delivered' THEN 0 ELSE failures + 1 END,
            paused_until = CASE WHEN $3 <> 'delivered'
                THEN now() + least($4 * 2 ^ least(failures, 20), $5) * interval '1 second' END
        WHERE id = $2
        """,
        event, row["webhook"], result, _FIRST_PAUSE, _LONGEST_PAUSE,
    )  # fmt: skip


async def _send(row: asyncpg.Record) -> str:
    body = json.dumps({
        "id": str(row["id"]), "type": row["kind"], "timestamp": row["at"].isoformat(),
        "data": {"organisation": row["ods_code"], "subject": f"{settings().public_url}{row['subject']}"},
    }).encode()  # fmt: skip
    headers = {"Content-Type": "application/json"} | signed(bytes(row["secret_sealed"]), str(row["id"]), body)
    try:
        status = await outside.send("POST", row["url"], body, headers)
    except outside.OutsideError as error:
        return error.reason
    return "delivered" if 200 <= status < 300 else f"status {status}"


def signed(secret_sealed: bytes, number: str, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks for a delivery of now."""
    now = str(int(time.time()))
    made = signature(sealed.unseal(secret_sealed), number, now, body)
    return {"webhook-id": number, "webhook-timestamp": now, "webhook-signature": f"v1,{made}"}


def signature(secret: bytes, number: str, timestamp: str, body: bytes) -> str:
    """The signature of a delivery, in base64 (Standard Webhooks: HMAC-SHA256 of id.timestamp.body)."""
    made = hmac.new(secret, b".".join((number.encode(), timestamp.encode(), body)), hashlib.sha256)
    return base64.b64encode(made.digest()).decode()


async def sweep(pool: Pool) -> int:
    """Deliver what waits at receivers that may be tried again, a few of each; returns how many were tried."""
    await pool.execute("DELETE FROM webhook_event WHERE at < now() - make_interval(days => $1)", _DAYS)
    rows = await pool.fetch(
        """
        SELECT webhook.id, array_agg(event.id ORDER BY event.at) AS events FROM webhook JOIN LATERAL (
            SELECT id, at FROM webhook_event e WHERE e.webhook_id = webhook.id AND delivered_at IS NULL
            AND at < now() - interval '5 seconds' ORDER BY at LIMIT 20
        ) AS event ON true
        WHERE ended_at IS NULL AND allowed_at IS NOT NULL AND coalesce(paused_until <= now(), true)
        GROUP BY webhook.id
        """
    )

    async def of_one(events: Sequence[uuid.UUID]) -> None:
        for event in events:
            await deliver(pool, event)

    await asyncio.gather(*(of_one(row["events"]) for row in rows), return_exceptions=True)
    return sum(len(row["events"]) for row in rows)


async def _found(pool: Pool, where: str, *arguments: object) -> list[Webhook]:
    rows = await pool.fetch(f"{_SELECT} {where}", *arguments)
    return [
        Webhook(row["id"], row["ods_code"], row["url"], tuple(row["events"]), row["allowed_at"] is not None,
                row["last_result"] or "", row["last_at"], row["waiting"])
        for row in rows
    ]  # fmt: skip
