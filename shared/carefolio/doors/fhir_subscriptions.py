"""A subscription's status and events, for who missed some (Subscriptions R5 Backport IG 1.1.0)."""

from __future__ import annotations

import uuid

import asyncpg
from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_parameters import Parameters, given
from carefolio.doors.fhir_requests import reader_of
from carefolio.fhir.errors import error
from carefolio.mapping.serialise import dumps
from carefolio.record import notifications, reading
from carefolio.record.access import Reader
from carefolio.record.ids import internal_id
from carefolio.record.subscribing import EMPTY, FULL, ID_ONLY

_MOST, _LAST = 100, 10**15 - 1


async def status(request: Request) -> Response:
    """GET or POST Subscription/$status (``id``, ``status``) and Subscription/[id]/$status."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Subscription", "r")
    asked, one = Parameters(await given(request)), request.path_params.get("id")
    ids = [str(one)] if one else asked.listed("id")
    wanted = asked.listed("status")
    asked.done()
    with span("subscription status"):
        found = await _visible(reader_of(token), [internal_id("Subscription", each) for each in ids])
    if one and not found:
        raise error(404, "not-found", "no such Subscription, or not for this reader")
    entries = [
        {"fullUrl": f"urn:uuid:{made['id']}", "resource": made, "search": {"mode": "match"}}
        for row in found
        if not wanted or row["status"] in wanted
        for made in [notifications.status(row, notifications.QUERY_STATUS)]
    ]
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return answers.answer(dumps(bundle | ({"entry": entries} if entries else {})))


async def events(request: Request) -> Response:
    """GET or POST Subscription/[id]/$events: eventsSinceNumber, eventsUntilNumber, content; 100 at a time."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Subscription", "r")
    asked = Parameters(await given(request))
    first, last = (asked.number(name, most=_LAST) for name in ("eventsSinceNumber", "eventsUntilNumber"))
    content = asked.choice("content", EMPTY, ID_ONLY, FULL)
    asked.done()
    reader = reader_of(token)
    found = await _visible(reader, [internal_id("Subscription", str(request.path_params["id"]))])
    if not found:
        raise error(404, "not-found", "no such Subscription, or not for this reader")
    number = found[0]["id"]
    wanted = notifications.Wanted(number, first or 1, _LAST if last is None else last, _MOST)
    with span("subscription events"):
        listed = await notifications.events(await database.pool(), reader, [wanted])
    # Of a type that this token does not read nothing is told, whoever subscribed.
    told = [each for each in listed[number] if reader.may(each.type, "r")]
    return answers.answer(notifications.bundle(found[0], notifications.QUERY_EVENT, told, content or ID_ONLY))


async def _visible(reader: Reader, numbers: list[uuid.UUID]) -> list[asyncpg.Record]:
    """The subscriptions of these numbers (none: his own) whose resources the reader reads."""
    pool = await database.pool()
    rows = await pool.fetch(
        "SELECT * FROM subscription WHERE id = ANY($1) OR ($1 = '{}' AND reader ->> 'actor' = $2) ORDER BY created_at",
        numbers,
        reader.actor,
    )
    return [
        row for row in rows if (seen := await reading.read(pool, reader, "Subscription", row["id"])) and seen.content
    ]
