"""A step of an extract's batch is to be done: a file decrypted, a piece of rows taken in, a set of patients applied."""

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
from carefolio.extracts import steps


async def load(request: Request) -> Response:
    """POST /emis_load: one push. 204 when the step is done, or its batch has stopped; 500 to have it again."""
    envelope = await push.receive(request)
    try:
        number = uuid.UUID(json.loads(envelope.data)["step"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the push names no step") from None
    with span("extract step", envelope.attributes.get("traceparent", "")):
        return Response(status_code=204 if await steps.run(await database.pool(), number) else 500)


async def sweep(request: Request) -> Response:
    """POST /emis_load/sweep: have the open steps of batches published once more, where the queue has lost them."""
    await push.verify(request)
    return JSONResponse({"published": await steps.sweep(await database.pool())})


_APP = Door(
    "emis_load",
    [
        Route("/emis_load", load, methods=["POST"]),
        Route("/emis_load/sweep", sweep, methods=["POST"]),
        *health_routes("/emis_load"),
    ],
    json_error,
)


@functions_framework.aio.http
async def emis_load(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
