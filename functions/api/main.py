"""REST: who shares what with whom, teams, the access log; agreements and their extracts (docs/api.md)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door
from carefolio.doors import (
    consent,
    extracts,
    openapi,
    organisation,
    own_record,
    queues,
    receivers,
    rest,
    structure,
    systems,
)

ENDPOINTS = (
    *consent.ENDPOINTS,
    *own_record.ENDPOINTS,
    *structure.ENDPOINTS,
    *systems.ENDPOINTS,
    *organisation.ENDPOINTS,
    *queues.ENDPOINTS,
    *receivers.ENDPOINTS,
    *extracts.ENDPOINTS,
)


async def document(_: Request) -> Response:
    """GET /api/v1/openapi.json: what there is, for machines."""
    return JSONResponse(openapi.document(ENDPOINTS))


async def readable(_: Request) -> Response:
    """GET /api/v1: the same, for people."""
    return HTMLResponse(openapi.page(ENDPOINTS), headers={"Content-Security-Policy": "default-src 'none'"})


_APP = Door(
    "api",
    [
        Route(rest.BASE, readable, methods=["GET"]),
        Route(f"{rest.BASE}/openapi.json", document, methods=["GET"]),
        *rest.routes(ENDPOINTS),
        *health_routes("/api"),
    ],
    rest.problem,
)


@functions_framework.aio.http
async def api(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
