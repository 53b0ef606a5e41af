"""What a Subscription resource asks for, and whether it can be (R4 Subscription; Subscriptions R5 Backport IG 1.1.0).

With an R4 search in ``criteria``, or the URL of one of our topics there and filters as extensions. What it asks for is
kept in the table ``subscription``, with whoever wrote it last: he is told what he may read, as long as he may.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection
from carefolio.cloud.topics import SUBSCRIPTION_DUE
from carefolio.fhir.dates import date_range
from carefolio.fhir.definitions import NO_ENDPOINT, resource_types, search_parameters
from carefolio.fhir.errors import error
from carefolio.identity import outside, sealed, webhooks
from carefolio.record.access import Reader
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.conditions import BY_MEANING, Conditions
from carefolio.record.ids import internal_id
from carefolio.record.includes import logical_id
from carefolio.record.places import key
from carefolio.record.search_terms import condition, reference_of, split, unescape
from carefolio.record.topics import TOPICS

REQUESTED, ACTIVE, ERROR, OFF = "requested", "active", "error", "off"
_PROFILES = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
FILTER, CONTENT = f"{_PROFILES}/backport-filter-criteria", f"{_PROFILES}/backport-payload-content"
HEARTBEAT, TIMEOUT = f"{_PROFILES}/backport-heartbeat-period", f"{_PROFILES}/backport-timeout"
MAX_COUNT = f"{_PROFILES}/backport-max-count"
EMPTY, ID_ONLY, FULL = "empty", "id-only", "full-resource"
JSON, XML = "application/fhir+json", "application/fhir+xml"
_PAYLOADS = {JSON: JSON, XML: XML, "application/json": JSON, "application/xml": XML}
LANES = 8
# Made when they are read, or told of by themselves.
UNTOLD = NO_ENDPOINT | {"Subscription", "Provenance", "AuditEvent"}
_MOST, _MOST_OF_PERSON, _MOST_FILTERS, _MOST_HEADERS = 5000, 20, 20, 10
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}):[ \t]*([\x20-\x7e]{1,2000})\Z")
_OURS = {
    "host", "content-length", "content-type", "connection", "transfer-encoding", "upgrade", "te", "trailer", "expect",
    "keep-alive", "proxy-connection", "webhook-id", "webhook-timestamp", "webhook-signature",
}  # fmt: skip
_HIDDEN = "***"
_LEAST_HEARTBEAT = 60
_EVENTS_AT_ONCE, _MOST_AT_ONCE = 20, 100


@dataclass(slots=True)
class Asked:
    """A Subscription as it will be kept; ``headers`` are those of the receiver's, with their secrets."""

    status: str
    topic: str | None
    filters: list[tuple[str, str]]
    channel: dict[str, Any]
    headers: list[tuple[str, str]]
    origin: str | None
    ends_at: datetime | None
    error: str | None = None


async def prepared(
    connection: Connection, reader: Reader, resource: dict[str, Any], number: uuid.UUID
) -> tuple[dict[str, Any], Asked]:
    """The resource as it is to be written, without the secrets of its headers, and what it asks for.

    Raises FhirError naming the element.
    """
    there = await connection.fetchrow("SELECT * FROM subscription WHERE id = $1", number)
    asked = await _read(connection, reader, resource)
    asked.headers = _with_secrets(asked, there, reader)
    if there and resource["status"] in (ACTIVE, ERROR) and there["status"] == resource["status"]:
        same = (there["topic"], json.loads(there["filters"]), json.loads(there["channel"]))
        if same == (asked.topic, [list(each) for each in asked.filters], asked.channel):
            asked.status, asked.error = there["status"], there["error"]
    made = {name: value for name, value in resource.items() if name != "error"} | {"status": asked.status}
    if asked.error:
        made["error"] = asked.error
    if asked.headers:
        made["channel"] = made["channel"] | {"header": [f"{name}: {_HIDDEN}" for name, _ in asked.headers]}
    return made, asked


def _with_secrets(asked: Asked, there: Any, reader: Reader) -> list[tuple[str, str]]:
    """Who writes back what he read leaves a secret as it was: he himself, and to where it went. Raises FhirError."""
    if not any(value == _HIDDEN for _, value in asked.headers):
        return asked.headers
    kept: dict[str, str] = {}
    if there is not None:
        same_place = json.loads(there["channel"])["endpoint"] == asked.channel["endpoint"]
        if same_place and json.loads(there["reader"])["actor"] == reader.actor:
            kept = dict(json.loads(sealed.unseal(bytes(there["headers_sealed"]))))
    if any(value == _HIDDEN and name not in kept for name, value in asked.headers):
        reason = f"{_HIDDEN} stands for a secret that you gave for the same endpoint: give it again"
        raise error(422, "invalid", reason, "Subscription.channel.header")
    return [(name, kept[name] if value == _HIDDEN else value) for name, value in asked.headers]


async def _read(connection: Connection, reader: Reader, resource: dict[str, Any]) -> Asked:
    for element in ("status", "criteria"):
        if element not in resource:
            raise error(422, "required", "a value is needed", f"Subscription.{element}")
    channel = resource["channel"]
    if "type" not in channel:
        raise error(422, "required", "a value is needed", "Subscription.channel.type")
    topic, filters = _what(reader, resource)
    made = Asked(REQUESTED, topic, filters, {}, _headers(channel), None, _end(resource))
    for kind, query in filters:
        try:
            await condition_of(connection, reader, kind, query, Arguments(organisation_id=reader.organisation_id))
        except SearchError as failure:
            # It is a Subscription as R4 has it; that nothing comes of it, it says itself.
            made.status, made.error = ERROR, f"{kind}?{failure.parameter}: {failure.reason}"
            made.filters = []
    if resource["status"] == OFF:
        made.status, made.error = OFF, None
    kind, endpoint = channel["type"], channel.get("endpoint", "")
    media = str(channel.get("payload", "")).partition(";")[0].strip()
    if media and media not in _PAYLOADS:
        raise error(422, "not-supported", f"one of {', '.join(_PAYLOADS)}", "Subscription.channel.payload")
    content = _extension(channel.get("_payload"), CONTENT, "valueCode")
    if content not in (None, EMPTY, ID_ONLY, FULL):
        raise error(422, "not-supported", f"one of {EMPTY}, {ID_ONLY}, {FULL}", "Subscription.channel.payload")
    if topic is not None and content is None:
        content = EMPTY
    made.channel = {
        "type": kind,
        "endpoint": endpoint,
        "payload": _PAYLOADS.get(media),
        "content": content,
        "heartbeat": _number(channel, HEARTBEAT, "valueUnsignedInt", least=_LEAST_HEARTBEAT),
        "timeout": _number(channel, TIMEOUT, "valueUnsignedInt", least=1),
        "max_count": min(_number(channel, MAX_COUNT, "valuePositiveInt", least=1) or _EVENTS_AT_ONCE, _MOST_AT_ONCE),
    }
    if kind == "rest-hook":
        made.origin = _origin(endpoint)
    elif kind == "email":
        if not re.fullmatch(r"mailto:[^@\s,;?]{1,64}@[A-Za-z0-9.-]{3,200}", endpoint):
            raise error(422, "invalid", "mailto: and one address", "Subscription.channel.endpoint")
        made.origin = endpoint.lower()
    else:
        made.status, made.error = ERROR, f"{kind}: there is no such channel here, only rest-hook and email"
    return made


def _what(reader: Reader, resource: dict[str, Any]) -> tuple[str | None, list[tuple[str, str]]]:
    """The topic, if it is one, and for each type of resource the query that it has to meet."""
    said = str(resource["criteria"])
    extended = resource.get("_criteria")
    queries = [
        each["valueString"]
        for each in (extended or {}).get("extension", [])
        if each.get("url") == FILTER and "valueString" in each
    ]
    if not said.startswith(("http:", "https:", "urn:")):
        queries = [said, *queries]
        topic = None
    elif (topic := TOPICS.get(said.partition("|")[0])) is None:
        raise error(422, "not-supported", f"one of {', '.join(TOPICS)}, or a search", "Subscription.criteria")
    if len(queries) > _MOST_FILTERS:
        raise error(422, "too-costly", f"at most {_MOST_FILTERS} filters", "Subscription.criteria")
    by_kind: dict[str, list[str]] = {}
    for query in queries:
        kind, _, rest = query.partition("?")
        if kind not in resource_types() or kind in UNTOLD:
            reason = f"{kind[:40]} is no type that is told of"
            raise error(422, "invalid", reason, "Subscription.criteria")
        if not reader.may(kind, "s") or not reader.may(kind, "r"):
            raise error(403, "forbidden", f"reading and searching {kind} needs a scope", "Subscription.criteria")
        by_kind.setdefault(kind, []).append(rest)
    if topic is None:
        return None, _joined(by_kind)
    readable = [kind for kind in sorted(topic.criteria or resource_types() - UNTOLD) if reader.may(kind, "r")]
    if outsider := next((kind for kind in by_kind if kind not in readable), None):
        raise error(422, "invalid", f"the topic does not tell of {outsider}", "Subscription.criteria")
    if not readable:
        raise error(403, "forbidden", "reading what the topic tells of needs a scope", "Subscription.criteria")
    wanted = by_kind or {kind: [] for kind in readable}
    return topic.url, _joined({kind: [topic.criteria.get(kind, ""), *rest] for kind, rest in wanted.items()})


def _joined(by_kind: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(kind, "&".join(each for each in queries if each)) for kind, queries in sorted(by_kind.items())]


async def condition_of(connection: Any, reader: Reader, kind: str, query: str, arguments: Arguments) -> str:
    """SQL of what a resource of a type has to be. Raises SearchError, for chains and the like too."""
    made = Conditions(connection, reader)
    clauses = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if "\x00" in name or "\x00" in value:
            raise SearchError("?", "a character that nothing has")
        if "." in name or name.startswith(("_has:", "_filter", "_list")):
            raise SearchError(name, "not in a subscription: only parameters of the resource itself")
        clauses.append(await made.of([kind], name, value, arguments))
    return " AND ".join(clauses) or "true"


_BY_KEYS = re.compile(r"(?:\(\()?keys && (?:\(SELECT )?\$1::bigint\[\](?:\)::bigint\[\])?(?:\) IS TRUE\))?\Z")


def interests(kind: str, query: str, organisation: uuid.UUID) -> tuple[list[int], bool]:
    """By which keys a resource that meets a query is found among those that changed, and whether that is all.

    [0] where each resource of the type has to be tried.
    """
    terms = parse_qsl(query, keep_blank_values=True)
    best: list[int] = []
    decided = len(terms) <= 1
    for name, value in terms:
        found = _record_keys(kind, name, value)
        # In a record there is more than what an element says to be the patient's; a value set may change.
        if found or name.partition(":")[2] in BY_MEANING:
            decided = False
        else:
            arguments = Arguments(organisation_id=organisation)
            sql = condition(kind, name, value, arguments)
            found = arguments.values[0] if _BY_KEYS.match(sql) and len(arguments.values) == 1 else []
            decided = decided and bool(found)
        if found and (not best or len(found) < len(best)):
            best = found
    return best or [0], decided


def _record_keys(kind: str, name: str, value: str) -> list[int]:
    """Of a query that names patients or ids: their records, joined ones too, and not only what an element says."""
    code, _, modifier = name.partition(":")
    if name == "_id":
        return [key("~id", str(internal_id(kind, unescape(each)))) for each in split(value, ",")]
    parameter = search_parameters(kind).get(code)
    if code not in ("patient", "subject") or modifier not in ("", "Patient") or parameter is None:
        return []
    names = [reference_of(each, modifier).removeprefix("Patient/") for each in split(value, ",")]
    return [] if any("/" in each for each in names) else [record_key(internal_id("Patient", each)) for each in names]


def record_key(record: uuid.UUID) -> int:
    """The key of what is in a record (and is not a search's)."""
    return key("~record", str(record))


def id_key(number: uuid.UUID) -> int:
    """The key of a resource's own number (and is not a search's)."""
    return key("~id", str(number))


def _origin(endpoint: str) -> str:
    try:
        return webhooks.origin(outside.check_url(endpoint))
    except outside.OutsideError as failure:
        raise error(422, "invalid", failure.reason, "Subscription.channel.endpoint") from None


def _headers(channel: dict[str, Any]) -> list[tuple[str, str]]:
    said = channel.get("header", [])
    found = [_HEADER.match(each or "") for each in said]
    taken = [match.group(1).lower() for match in found if match]
    if len(said) > _MOST_HEADERS or not all(found) or len(set(taken)) < len(said) or _OURS & set(taken):
        reason = f"at most {_MOST_HEADERS}, each once, as 'Name: value', none that HTTP or we say ourselves"
        raise error(422, "invalid", reason, "Subscription.channel.header")
    return [(match.group(1), match.group(2)) for match in found if match]


def _extension(element: Any, url: str, value: str) -> Any:
    listed = element.get("extension", []) if isinstance(element, dict) else []
    return next((each.get(value) for each in listed if each.get("url") == url), None)


def _number(channel: dict[str, Any], url: str, value: str, *, least: int) -> int | None:
    found = _extension(channel, url, value)
    if found is not None and not (isinstance(found, int) and least <= found <= 1_000_000):
        raise error(422, "invalid", f"{url.rpartition('/')[2]}: {value}, at least {least}", "Subscription.channel")
    return found


def _end(resource: dict[str, Any]) -> datetime | None:
    try:
        return date_range(resource["end"]).start if "end" in resource else None
    except (ValueError, OverflowError):
        raise error(422, "value", "not a moment that comes", "Subscription.end") from None


async def keep(connection: Connection, reader: Reader, number: uuid.UUID, content: str, asked: Asked) -> None:
    """Keep what a Subscription asks for from now on; it is begun by the queue. Raises FhirError."""
    await _check_number(connection, reader, number)
    wanted = {kind: interests(kind, query, reader.organisation_id) for kind, query in asked.filters}
    receiver = None
    if asked.origin and asked.status != OFF and not asked.error:
        receiver = await _receiver(connection, reader, asked.origin)
    await connection.execute(
        """
        INSERT INTO subscription AS s (id, logical_id, webhook_id, lane, organisation_id, reader, topic, filters,
                                       channel, headers_sealed, status, error, ends_at, waits, decided, grant_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        ON CONFLICT (id) DO UPDATE SET
            webhook_id = excluded.webhook_id, organisation_id = excluded.organisation_id, reader = excluded.reader,
            waits = excluded.waits, decided = excluded.decided, grant_id = excluded.grant_id,
            topic = excluded.topic, filters = excluded.filters, channel = excluded.channel,
            headers_sealed = excluded.headers_sealed, status = excluded.status, error = excluded.error,
            ends_at = excluded.ends_at, failures = 0, failing_since = NULL, paused_until = NULL,
            -- Who asks anew for the same misses nothing meanwhile.
            listening = s.listening AND excluded.status <> 'off' AND excluded.webhook_id IS NOT NULL
                AND s.topic IS NOT DISTINCT FROM excluded.topic AND s.filters = excluded.filters
        """,
        number,
        logical_id(content),
        receiver,
        number.int % LANES,
        # Who is no person's reader reads what this organisation contributed, and nothing else.
        None if reader.account is not None else reader.organisation_id,
        json.dumps(reader.told()),
        asked.topic,
        json.dumps(asked.filters),
        json.dumps(asked.channel),
        sealed.seal(json.dumps(asked.headers).encode()),
        asked.status,
        asked.error,
        asked.ends_at,
        reader.account is not None and not reader.is_professional,
        [kind for kind, (_, decided) in wanted.items() if decided],
        reader.grant,
    )
    await connection.execute("DELETE FROM subscription_interest WHERE subscription_id = $1", number)
    await connection.executemany(
        "INSERT INTO subscription_interest (type, key, subscription_id) VALUES ($1, $2, $3)",
        [(kind, each, number) for kind, (keys, _) in wanted.items() for each in set(keys)],
    )
    await webhooks.forget_unused(connection)
    if receiver is not None:
        await call(connection, [(receiver, number.int % LANES)])


async def _check_number(connection: Connection, reader: Reader, number: uuid.UUID) -> None:
    most = _MOST if reader.account is None else _MOST_OF_PERSON
    others = await connection.fetchval(
        "SELECT count(*) FROM subscription WHERE reader ->> 'actor' = $1 AND status <> 'off' AND id <> $2",
        reader.actor,
        number,
    )
    if others >= most:
        raise error(422, "too-costly", f"at most {most} subscriptions that are not off", "Subscription")


async def _receiver(connection: Connection, reader: Reader, origin: str) -> uuid.UUID:
    """Where it is sent to, which belongs to the app's organisation: new ones wait for the operator."""
    organisation = reader.organisation_id
    if reader.account is not None:
        client = reader.actor.rpartition("client/")[2]
        organisation = await connection.fetchval("SELECT organisation_id FROM client WHERE id = $1", client)
    try:
        return await webhooks.receiver_at(connection, organisation, origin, reader.actor)
    except webhooks.WebhookError as failure:
        raise error(422, "too-costly", str(failure), "Subscription.channel.endpoint") from None


async def remove(connection: Connection, number: uuid.UUID) -> None:
    """Nothing is told any more."""
    await connection.execute("DELETE FROM subscription WHERE id = $1", number)
    await webhooks.forget_unused(connection)


async def call(connection: Any, lanes: list[tuple[uuid.UUID, int]]) -> None:
    """Have what is due at receivers done (carefolio.record.delivering), when the caller's transaction has ended."""
    await connection.execute(
        """
        INSERT INTO outbox (topic, ordering_key, data, attributes)
        SELECT $1, 'lane ' || receiver || ' ' || lane,
               convert_to(json_build_object('receiver', receiver, 'lane', lane)::text, 'UTF8'), '{}'
        FROM unnest($2::uuid[], $3::int[]) AS t (receiver, lane)
        """,
        SUBSCRIPTION_DUE,
        [receiver for receiver, _ in lanes],
        [lane for _, lane in lanes],
    )
    outbox.kick_soon()
