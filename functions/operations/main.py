"""What the clock asks for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud import database, edge, outbox, push
from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door, json_error
from carefolio.cloud.telemetry import span
from carefolio.extracts import agreements
from carefolio.identity import retention, senders
from carefolio.record import cohorts as groups
from carefolio.record import reindex, seals, trail_export
from carefolio.recovery import offsite, promises


async def sweep(request: Request) -> Response:
    """POST /operations/outbox: publish what a crashed instance left."""
    await push.verify(request)
    with span("sweep"):
        published = await outbox.sweep()
    return JSONResponse({"published": published})


async def search_parameters(request: Request) -> Response:
    """POST /operations/search-parameters: index what a new SearchParameter finds among older resources."""
    await push.verify(request)
    with span("index"):
        indexed = await reindex.index_new(await database.pool())
    return JSONResponse({"indexed": indexed})


async def cohorts(request: Request) -> Response:
    """POST /operations/cohorts: find the members of Groups by a search again."""
    await push.verify(request)
    with span("cohorts"):
        changed = await groups.refresh(await database.pool())
    return JSONResponse({"changed": changed})


async def forget(request: Request) -> Response:
    """POST /operations/forget: what has run out and served its time: codes, links, sessions, attempts."""
    await push.verify(request)
    with span("forget"):
        forgotten = await retention.forget(await database.pool())
    return JSONResponse({"forgotten": forgotten})


async def seal(request: Request) -> Response:
    """POST /operations/seal: seal the lines of the audit trail that have come since."""
    await push.verify(request)
    with span("seal"):
        sealed = await seals.seal(await database.pool())
    return JSONResponse({"sealed": sealed})


async def trail(request: Request) -> Response:
    """POST /operations/trail: the audit trail of each day that is over, as a file beside the backup."""
    await push.verify(request)
    with span("trail"):
        made = await trail_export.export(await database.pool())
    return JSONResponse({"files": made})


async def admit(request: Request) -> Response:
    """POST /operations/senders: have the load balancer let the senders' networks through, and no others."""
    await push.verify(request)
    with span("admit"):
        changed = await asyncio.to_thread(edge.keep, await senders.all_networks(await database.pool()))
    return JSONResponse({"changed": changed})


async def remake(request: Request) -> Response:
    """POST /operations/agreements: the clock's job of each agreement, in this region."""
    await push.verify(request)
    with span("remake"):
        kept = await agreements.remake_jobs(await database.pool())
    return JSONResponse({"jobs": kept})


async def export(request: Request) -> Response:
    """POST /operations/offsite: have this night's export of the database made."""
    await push.verify(request)
    with span("export"):
        found = await asyncio.to_thread(offsite.keep, datetime.now(UTC))
    return JSONResponse({"export": found.value})


async def recovery(request: Request) -> Response:
    """POST /operations/recovery: whether the promises of recovery would be kept if it had to be now."""
    await push.verify(request)
    with span("recovery"):
        broken = await promises.look(await database.pool(), datetime.now(UTC))
    return JSONResponse({"broken": [f"{each.promise}: {each.detail}" for each in broken]})


_APP = Door(
    "operations",
    [
        Route("/operations/outbox", sweep, methods=["POST"]),
        Route("/operations/search-parameters", search_parameters, methods=["POST"]),
        Route("/operations/cohorts", cohorts, methods=["POST"]),
        Route("/operations/forget", forget, methods=["POST"]),
        Route("/operations/seal", seal, methods=["POST"]),
        Route("/operations/trail", trail, methods=["POST"]),
        Route("/operations/senders", admit, methods=["POST"]),
        Route("/operations/agreements", remake, methods=["POST"]),
        Route("/operations/offsite", export, methods=["POST"]),
        Route("/operations/recovery", recovery, methods=["POST"]),
        *health_routes("/operations"),
    ],
    json_error,
)


@functions_framework.aio.http
async def operations(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
