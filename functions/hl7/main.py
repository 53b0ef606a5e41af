"""A hospital posts an HL7 v2 message: made durable, then acknowledged."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud.health import health_routes
from carefolio.doors import hl7 as door
from carefolio.doors import senders

_APP = door.SenderDoor(
    "hl7",
    [
        Route("/hl7", door.post_message, methods=["POST"]),
        Route("/hl7/check", door.check_message, methods=["POST"]),
        Route("/hl7/explain", door.explain_message, methods=["POST"]),
        Route("/hl7/messages", senders.list_own, methods=["GET"]),
        Route("/hl7/messages/{id}", senders.show_own, methods=["GET"]),
        Route("/hl7/senders/{name}", senders.read_settings, methods=["GET"]),
        Route("/hl7/senders/{name}", senders.write_settings, methods=["PUT"]),
        Route("/hl7/codes", senders.list_codes, methods=["GET"]),
        Route("/hl7/codes", senders.solve_code, methods=["PUT"]),
        Route("/services/hl7", door.post_envelope, methods=["POST"]),
        Route("/services/hl7", door.get_wsdl, methods=["GET"]),
        *health_routes("/hl7"),
    ],
    door.plain,
)


@functions_framework.aio.http
async def hl7(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
