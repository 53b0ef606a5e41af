"""The web portal, for patients, carers and professionals."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.types import ASGIApp

from carefolio.cloud.health import health_routes
from carefolio.doors import pages
from carefolio.doors.portal import organisation_pages, professional_pages, record_pages, sharing_pages, writing_pages

_APP = pages.PageDoor(
    "portal",
    [
        *health_routes("/record"),
        *professional_pages.ROUTES,
        *organisation_pages.ROUTES,
        *record_pages.ROUTES,
        *writing_pages.ROUTES,
        *sharing_pages.ROUTES,
        *record_pages.SECTION_ROUTES,
    ],
    pages.page_error,
)


@functions_framework.aio.http
async def portal(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
