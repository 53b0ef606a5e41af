"""Binary, which comes and goes as what it holds where the caller does not speak FHIR (R4 2.41.3)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from carefolio.doors.fhir_formats import is_fhir, names_format
from carefolio.fhir import text
from carefolio.fhir.errors import error

_MEDIA = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:;[ -~]{0,200})?\Z")


def received(body: bytes, media: str, number: str | None) -> dict[str, Any] | None:
    """The Binary of a body that is not FHIR's; None where it is."""
    if not media or is_fhir(media):
        return None
    if not _MEDIA.match(media):
        raise error(415, "not-supported", "the Content-Type names no media type")
    made = {"resourceType": "Binary", "contentType": media, "data": base64.b64encode(body).decode()}
    return made | ({"id": number} if number else {})


def native(request: Request, content: str, headers: dict[str, str]) -> Response | None:
    """The answer of what a stored Binary holds; None where FHIR's form is asked for, or it holds nothing."""
    if names_format(request):
        return None
    binary = text.loads(content)
    try:
        held = base64.b64decode("".join(binary.get("data", "").split()), validate=True)
    except binascii.Error:
        return None
    # What others sent is never run by a browser in our name.
    safe = {"Content-Security-Policy": "sandbox", "Content-Disposition": "attachment"}
    return Response(held, 200, headers | safe, media_type=binary["contentType"]) if held else None
