"""The clock says that an agreement's extract may have come: fetch what is new."""

from __future__ import annotations

import json

import functions_framework.aio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud import database, push
from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door, json_error, read_body
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log, span
from carefolio.extracts import agreements, fetching
from carefolio.extracts.sftp import FetchError

_LONGEST = 10_000
# Who tries it out on one machine has no server that is still being written to.
_LOCALLY = 1.0


async def fetch(request: Request) -> Response:
    """POST /emis_fetch {"agreement": name}: 200 with what was done; 503 where the server could not be read to its end.

    Cloud Scheduler tries a 503 again; what had landed until then is not fetched twice.
    """
    await push.verify(request)
    try:
        name = json.loads(await read_body(request, _LONGEST))["agreement"]
        agreement = await agreements.find(await database.pool(), name)
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, "the call names no agreement") from None
    if agreement.ended_at is not None:
        return JSONResponse({"ended": True})
    return await _fetched(agreement)


async def due(request: Request) -> Response:
    """POST /emis_fetch/due: on one machine, where no Cloud Scheduler has a job for each agreement."""
    await push.verify(request)
    pool = await database.pool()
    told = [await _fetched(agreement) for agreement in await agreements.due(pool)]
    return JSONResponse({"fetched": len(told)})


async def _fetched(agreement: agreements.Agreement) -> Response:
    with span("fetch extract"):
        try:
            look_again = _LOCALLY if settings().environment == "local" else fetching.LOOK_AGAIN
            made = await fetching.fetch(await database.pool(), agreement, look_again=look_again)
        except FetchError as error:
            # The same server says the same in a minute where it has refused us.
            return JSONResponse({"error": str(error)}, 200 if error.refused else 503)
    log(Event.EXTRACT_FETCHED, agreement=agreement.name, files=made.files, bytes=made.bytes, batches=len(made.batches))
    return JSONResponse({"files": made.files, "bytes": made.bytes, "batches": made.batches, "alerts": made.alerts})


_APP = Door(
    "emis_fetch",
    [
        Route("/emis_fetch", fetch, methods=["POST"]),
        Route("/emis_fetch/due", due, methods=["POST"]),
        *health_routes("/emis_fetch"),
    ],
    json_error,
)


@functions_framework.aio.http
async def emis_fetch(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
