"""What an app is told: notification Bundles and a subscription's status (Subscriptions R5 Backport IG 1.1.0, for R4).

What an event is about is read when it is told, with the subscription's own reader: what is closed to him by now is
left out, and his event has a number and a time alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.settings import settings
from carefolio.record.access import VERSIONS, Reader, opened, readable
from carefolio.record.includes import logical_id
from carefolio.record.masking import masked
from carefolio.record.rows import instant
from carefolio.record.subscribing import EMPTY, FULL

HANDSHAKE, HEARTBEAT, NOTIFICATION = "handshake", "heartbeat", "event-notification"
QUERY_STATUS, QUERY_EVENT = "query-status", "query-event"
_PROFILES = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
# Characters of resources in one Bundle.
_LARGEST = 4_000_000
_METHODS = {"create": ("POST", "201"), "update": ("PUT", "200"), "delete": ("DELETE", "204")}


@dataclass(frozen=True, slots=True)
class Told:
    """An event. ``reference`` is Type/id, None where it is closed to the reader; ``content`` None of a deletion too."""

    number: int
    at: datetime
    type: str
    change: str
    reference: str | None
    content: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Events of a subscription from ``first`` to ``last`` by number, at most so many, the oldest first."""

    subscription: uuid.UUID
    first: int
    last: int
    most: int


async def events(
    connection: Pool | Connection, reader: Reader, wanted: Sequence[Wanted]
) -> dict[uuid.UUID, list[Told]]:
    """By subscription the events that are wanted. Each patient of whom something is told gets an audit line."""
    arguments: list[Any] = [
        [each.subscription for each in wanted],
        [each.first for each in wanted],
        [each.last for each in wanted],
        [each.most for each in wanted],
    ]
    may_read = readable(reader, arguments)
    arguments += [reader.actor, reader.organisation_id]
    actor, organisation = f"${len(arguments) - 1}::text", f"${len(arguments)}::uuid"
    rows = await connection.fetch(
        f"""
        WITH due AS MATERIALIZED (
            SELECT wanted.id AS subscription_id, e.number, e.at, e.type, e.resource_id, e.edition, e.change
            FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::int[]) AS wanted (id, first, last, most)
            CROSS JOIN LATERAL (
                SELECT number, at, type, resource_id, version - (change = 'delete')::int AS edition, change
                FROM subscription_event
                WHERE subscription_id = wanted.id AND number >= wanted.first AND number <= wanted.last
                ORDER BY number LIMIT wanted.most
            ) AS e
        ), found AS (
            SELECT DISTINCT resource.id, resource.version, resource.type, resource.patient_id
            FROM due JOIN {VERSIONS} ON resource.id = due.resource_id AND resource.version = due.edition
            WHERE {may_read}
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type)
            SELECT {actor}, {organisation}, 'notify', patient_id, string_agg(DISTINCT type, ',') FROM found
            WHERE patient_id IS NOT NULL GROUP BY patient_id
        )
        SELECT due.*, opened.content
        FROM due LEFT JOIN {opened(reader, arguments)} ON opened.id = due.resource_id AND opened.version = due.edition
        ORDER BY subscription_id, number
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments,
    )
    contents = await masked(connection, reader, [row["content"] for row in rows])
    made: dict[uuid.UUID, list[Told]] = {each.subscription: [] for each in wanted}
    for row, content in zip(rows, contents, strict=True):
        made[row["subscription_id"]].append(_told(row, content))
    return made


def _told(row: asyncpg.Record, content: str | None) -> Told:
    reference = f"{row['type']}/{logical_id(content)}" if content is not None else None
    return Told(
        row["number"], row["at"], row["type"], row["change"], reference, None if row["change"] == "delete" else content
    )


def status(subscription: asyncpg.Record, kind: str, told: Sequence[Told] = (), content: str = EMPTY) -> dict[str, Any]:
    """Parameters: where a subscription stands (backport-subscription-status-r4)."""
    base = f"{settings().public_url}/fhir/R4"
    parameter: list[dict[str, Any]] = [
        {"name": "subscription", "valueReference": {"reference": f"{base}/Subscription/{subscription['logical_id']}"}}
    ]
    if subscription["topic"]:
        parameter.append({"name": "topic", "valueCanonical": subscription["topic"]})
    parameter += [
        {"name": "status", "valueCode": subscription["status"]},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(subscription["events"])},
    ]
    for each in told:
        part: list[dict[str, Any]] = [
            {"name": "event-number", "valueString": str(each.number)},
            {"name": "timestamp", "valueInstant": instant(each.at.astimezone(UTC))},
        ]
        if each.reference and content != EMPTY:
            part.append({"name": "focus", "valueReference": {"reference": f"{base}/{each.reference}"}})
        parameter.append({"name": "notification-event", "part": part})
    if subscription["error"]:
        parameter.append({"name": "error", "valueCodeableConcept": {"text": subscription["error"]}})
    return {
        "resourceType": "Parameters",
        "id": str(uuid.uuid4()),
        "meta": {"profile": [f"{_PROFILES}/backport-subscription-status-r4"]},
        "parameter": parameter,
    }


def bundle(subscription: asyncpg.Record, kind: str, told: Sequence[Told] = (), content: str = EMPTY) -> str:
    """A notification: the status, then what the events are about, as far as ``content`` says."""
    base = f"{settings().public_url}/fhir/R4"
    head = status(subscription, kind, told, content)
    asked = {"method": "GET", "url": f"{base}/Subscription/{subscription['logical_id']}/$status"}
    entries = [_entry(f"urn:uuid:{head['id']}", orjson.dumps(head).decode(), asked, "200")]
    # What changed twice is sent as it is now; what a Bundle has no room for is read by its reference.
    latest = {each.reference: each for each in told if each.reference and content != EMPTY}
    room = _LARGEST
    for reference, each in latest.items():
        method, answer = _METHODS[each.change]
        url = each.type if method == "POST" else reference
        body = each.content if content == FULL and len(each.content or "") <= room else None
        room -= len(body or "")
        entries.append(_entry(f"{base}/{reference}", body, {"method": method, "url": str(url)}, answer))
    meta = f'{{"profile":["{_PROFILES}/backport-subscription-notification-r4"]}}'
    now = instant(datetime.now(UTC))
    return (
        f'{{"resourceType":"Bundle","id":"{uuid.uuid4()}","meta":{meta},"type":"history","timestamp":"{now}",'
        f'"entry":[{",".join(entries)}]}}'
    )


def _entry(url: str, resource: str | None, request: dict[str, str], answer: str) -> str:
    held = f'"resource":{resource},' if resource is not None else ""
    said = f'"request":{orjson.dumps(request).decode()},"response":{{"status":"{answer}"}}'
    return f'{{"fullUrl":"{url}",{held}{said}}}'
