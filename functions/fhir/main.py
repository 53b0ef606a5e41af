"""FHIR R4 for apps."""

from __future__ import annotations

import functions_framework.aio
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp

from carefolio.doors.fhir_routes import DOOR

# An app in a browser calls from its own site (SMART App Launch 2.2); no cookie takes part in it.
_OPEN = CORSMiddleware(
    DOOR,
    allow_origins=["*"],
    allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
    allow_headers=["Authorization", "Content-Type", "If-Match", "If-Modified-Since", "If-None-Exist", "If-None-Match",
                   "Prefer", "X-Requested-With"],
    expose_headers=["Content-Location", "ETag", "Expires", "Last-Modified", "Location", "Retry-After", "X-Progress"],
    max_age=3600,
)  # fmt: skip
# The cheapest level: it is the line that is slow, not the reader.
_APP = GZipMiddleware(_OPEN, minimum_size=1000, compresslevel=1)


@functions_framework.aio.http
async def fhir(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
