"""Something is to be told: letters go out by e-mail, events to webhooks, changes of the record to subscriptions."""

from __future__ import annotations

import json
import uuid

import functions_framework.aio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud import database, push
from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door, json_error
from carefolio.cloud.telemetry import span
from carefolio.doors import letters
from carefolio.identity import webhooks
from carefolio.record import changes as compared
from carefolio.record import delivering


async def send(request: Request) -> Response:
    """POST /notify: one push. 204 when the letter has gone, or there is nobody to send it to; 500 to have it again."""
    envelope = await push.receive(request)
    try:
        number = uuid.UUID(json.loads(envelope.data)["letter"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the push names no letter") from None
    with span("letter", envelope.attributes.get("traceparent", "")):
        return Response(status_code=204 if await letters.send(await database.pool(), number) else 500)


async def webhook(request: Request) -> Response:
    """POST /notify/webhook: one push of an event; whatever its receiver says, the clock comes back to it."""
    envelope = await push.receive(request)
    try:
        number = uuid.UUID(json.loads(envelope.data)["event"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the push names no event") from None
    with span("webhook", envelope.attributes.get("traceparent", "")):
        await webhooks.deliver(await database.pool(), number)
    return Response(status_code=204)


async def waiting_webhooks(request: Request) -> Response:
    """POST /notify/webhooks: events whose receivers did not take them, again."""
    await push.verify(request)
    with span("webhooks"):
        tried = await webhooks.sweep(await database.pool())
    return JSONResponse({"tried": tried})


async def changes(request: Request) -> Response:
    """POST /notify/changes: one push. 204 when all that was written is compared with the subscriptions; else 500."""
    envelope = await push.receive(request)
    with span("changes", envelope.attributes.get("traceparent", "")):
        return Response(status_code=204 if await compared.compare(await database.pool()) else 500)


async def subscription(request: Request) -> Response:
    """POST /notify/subscription: one push of a receiver's lane. 204 when nothing of it is due any more; else 500."""
    envelope = await push.receive(request)
    try:
        said = json.loads(envelope.data)
        receiver, lane = uuid.UUID(said["receiver"]), int(said["lane"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the push names no lane of a receiver") from None
    with span("subscription", envelope.attributes.get("traceparent", "")):
        return Response(status_code=204 if await delivering.serve(await database.pool(), receiver, lane) else 500)


async def waiting_subscriptions(request: Request) -> Response:
    """POST /notify/subscriptions: what is due by the clock: receivers that may be tried again, heartbeats, ends."""
    await push.verify(request)
    with span("subscriptions"):
        found = await delivering.sweep(await database.pool())
    return JSONResponse({"called": found.called, "dropped": found.dropped})


_APP = Door(
    "notify",
    [
        Route("/notify", send, methods=["POST"]),
        Route("/notify/webhook", webhook, methods=["POST"]),
        Route("/notify/webhooks", waiting_webhooks, methods=["POST"]),
        Route("/notify/changes", changes, methods=["POST"]),
        Route("/notify/subscription", subscription, methods=["POST"]),
        Route("/notify/subscriptions", waiting_subscriptions, methods=["POST"]),
        *health_routes("/notify"),
    ],
    json_error,
)


@functions_framework.aio.http
async def notify(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
