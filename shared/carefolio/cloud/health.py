"""Health paths of every door. Cloud Run's front end swallows /healthz, so they have other names."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from carefolio.cloud import database


async def live(request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> Response:
    """The process can do its work: the database answers, and takes what is to be published."""
    pool = await database.pool()
    waiting = await pool.fetchval("SELECT count(*) FROM (SELECT FROM outbox LIMIT 10000) AS waiting")
    return JSONResponse({"status": "ready", "database": "up", "outbox": waiting})


def health_routes(prefix: str) -> list[BaseRoute]:
    """``/health/live`` and ``/health/ready``, also below the function's own path for the load balancer."""
    return [
        Route(base + path, endpoint, methods=["GET"])
        for base in ("", prefix)
        for path, endpoint in (("/health/live", live), ("/health/ready", ready))
    ]
