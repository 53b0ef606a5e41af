"""REST for administration: agreements and their extracts."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door, json_error
from carefolio.doors import extracts

_ONE = "/api/agreements/{name}"
_APP = Door(
    "api",
    [
        Route("/api/agreements", extracts.list_agreements, methods=["GET"]),
        Route(_ONE, extracts.show_agreement, methods=["GET"]),
        Route(_ONE, extracts.put_agreement, methods=["PUT"]),
        Route(_ONE, extracts.end_agreement, methods=["DELETE"]),
        Route(f"{_ONE}/fetch", extracts.fetch, methods=["POST"]),
        Route(f"{_ONE}/batches/{{stamp}}/retry", extracts.retry_batch, methods=["POST"]),
        Route(f"{_ONE}/parked", extracts.list_parked, methods=["GET"]),
        Route(f"{_ONE}/parked/retry", extracts.retry_parked, methods=["POST"]),
        Route(f"{_ONE}/parked/{{id}}/{{how}}", extracts.settle_parked, methods=["POST"]),
        *health_routes("/api"),
    ],
    json_error,
)


@functions_framework.aio.http
async def api(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
