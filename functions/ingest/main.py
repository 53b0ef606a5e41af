"""A message was stored: map it, and update the record."""

from __future__ import annotations

import json
import uuid

import functions_framework.aio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud import database, push
from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door, json_error
from carefolio.cloud.telemetry import span
from carefolio.record.apply import apply_message, give_up, note_failure


async def apply(request: Request) -> Response:
    """POST /ingest: one push. 204 when the message has ended, applied or not; 500 to have it again."""
    envelope = await push.receive(request)
    message_id = _message_id(envelope)
    pool = await database.pool()
    try:
        with span("ingest", envelope.attributes.get("traceparent", "")):
            await apply_message(pool, message_id)
    except database.UNAVAILABLE:
        raise
    except Exception as error:
        if not await note_failure(pool, message_id, error):
            return Response(status_code=500)
    return Response(status_code=204)


async def bury(request: Request) -> Response:
    """POST /ingest/dead: the queue has given up a message; it goes to the review queue with its last reason."""
    envelope = await push.receive(request)
    await give_up(await database.pool(), _message_id(envelope))
    return Response(status_code=204)


def _message_id(envelope: push.Envelope) -> uuid.UUID:
    try:
        return uuid.UUID(json.loads(envelope.data)["message"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the push names no message") from None


_APP = Door(
    "ingest",
    [
        Route("/ingest", apply, methods=["POST"]),
        Route("/ingest/dead", bury, methods=["POST"]),
        *health_routes("/ingest"),
    ],
    json_error,
)


@functions_framework.aio.http
async def ingest(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
