"""A part of asynchronous work is to be done: of an export, for one."""

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
from carefolio.doors import fhir_later
from carefolio.doors.fhir_routes import DOOR
from carefolio.record import bulk, importing, searching_later
from carefolio.record import jobs as work_of

# The kinds that this function knows: each registers itself.
KINDS = (bulk.KIND, importing.KIND, searching_later.KIND)
fhir_later.serve(DOOR)


async def work(request: Request) -> Response:
    """POST /jobs: one push. 204 when the part is done, or its job has ended; 500 to have it again."""
    envelope = await push.receive(request)
    try:
        number = uuid.UUID(json.loads(envelope.data)["part"])
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the push names no part of a job") from None
    with span("job part", envelope.attributes.get("traceparent", "")):
        return Response(status_code=204 if await work_of.run(await database.pool(), number) else 500)


async def sweep(request: Request) -> Response:
    """POST /jobs/sweep: have open parts published once more, and remove what has run out."""
    await push.verify(request)
    published, expired = await work_of.sweep(await database.pool())
    return JSONResponse({"published": published, "expired": expired})


_APP = Door(
    "jobs",
    [
        Route("/jobs", work, methods=["POST"]),
        Route("/jobs/sweep", sweep, methods=["POST"]),
        *health_routes("/jobs"),
    ],
    json_error,
)


@functions_framework.aio.http
async def jobs(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
