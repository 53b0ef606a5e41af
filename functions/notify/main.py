"""Something is to be told: letters go out by e-mail."""

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
from carefolio.doors import letters


async def send(request: Request) -> Response:
    """POST /notify: one push. 204 when the letter has gone, or there is nobody to send it to; 500 to have it again."""
    envelope = await push.receive(request)
    try:
        number = uuid.UUID(json.loads(envelope.data)["letter"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the push names no letter") from None
    with span("letter", envelope.attributes.get("traceparent", "")):
        return Response(status_code=204 if await letters.send(await database.pool(), number) else 500)


_APP = Door("notify", [Route("/notify", send, methods=["POST"]), *health_routes("/notify")], json_error)


@functions_framework.aio.http
async def notify(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
