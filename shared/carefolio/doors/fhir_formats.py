"""In which form a FHIR document comes and goes: JSON or XML, indented where that is asked for (R4 3.1.0.1.11)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.types import Message, Scope, Send

from carefolio.fhir import text, xml
from carefolio.fhir.errors import error
from carefolio.mapping.serialise import dumps

JSON = "application/fhir+json; charset=utf-8"
XML = "application/fhir+xml; charset=utf-8"
_JSON_TYPES = frozenset({"application/fhir+json", "application/json", "application/json+fhir", "text/json"})
_XML_TYPES = frozenset({"application/fhir+xml", "application/xml", "application/xml+fhir", "text/xml"})
_ANY = frozenset({"*/*", "application/*", "text/*", "text/html"})
_NAMES = {"json": "json", "xml": "xml"} | dict.fromkeys(_JSON_TYPES, "json") | dict.fromkeys(_XML_TYPES, "xml")
_FHIR_VERSION = re.compile(r"fhirVersion\s*=\s*\"?([0-9.]+)", re.IGNORECASE)
_QUALITY = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)")


def is_fhir(media: str) -> bool:
    """Whether a Content-Type is one of FHIR's."""
    return media.partition(";")[0].strip().lower() in _NAMES


def is_fhir_json(media: str) -> bool:
    """Whether what has this Content-Type is a FHIR document in JSON."""
    return media.partition(";")[0].strip().lower() == "application/fhir+json"


def document(body: bytes, media: str) -> Any:
    """The JSON form of a request's body. Raises FhirError (415 for other media types)."""
    form = _NAMES.get(media.partition(";")[0].strip().lower() or "json")
    version = _FHIR_VERSION.search(media)
    if form is None or (version and not version.group(1).startswith("4.0")):
        raise error(415, "not-supported", "send application/fhir+json or application/fhir+xml")
    return xml.parse(body) if form == "xml" else text.loads(body)


def check_format(request: Request) -> None:
    """Raise FhirError where the caller takes neither JSON nor XML."""
    if wanted(request.scope) is None:
        raise error(406, "not-supported", "JSON and XML are served")


def names_format(request: Request) -> bool:
    """Whether the caller names one of FHIR's own forms, where a Binary could come as what it holds."""
    accepted = (part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(","))
    return "_format" in request.query_params or any(part in _NAMES for part in accepted)


def wanted(scope: Scope) -> str | None:
    """The form that is asked for, json or xml; None where it is neither."""
    query = parse_qs(scope["query_string"].decode("latin-1")) if b"_format" in scope["query_string"] else {}
    if named := query.get("_format"):
        return _NAMES.get(named[0].partition(";")[0].strip().lower().replace(" ", "+"))
    accept = next((value for name, value in scope["headers"] if name == b"accept"), b"").decode("latin-1").lower()
    if not accept:
        return "json"
    best, form, refused = 0.0, None, set[str]()
    for part in accept.split(","):
        media = part.partition(";")[0].strip()
        quality = float(match.group(1)) if (match := _QUALITY.search(part)) else 1.0
        if quality == 0 and media in _NAMES:
            refused.add(_NAMES[media])
        version = _FHIR_VERSION.search(part)
        if version and not version.group(1).startswith("4.0"):
            continue
        any_form = "xml" if "json" in refused else "json"
        found = _NAMES.get(media) or (any_form if media in _ANY else None)
        if found and quality > best:
            best, form = quality, found
    return form


def sender(scope: Scope, send: Send) -> Send:
    """``send``, or what turns a JSON answer into the form that was asked for first."""
    pretty = b"_pretty=true" in scope["query_string"]
    as_xml = wanted(scope) == "xml"
    if not (pretty or as_xml):
        return send
    start: Message = {}

    async def formed(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        headers = dict(start["headers"])
        body = message.get("body", b"")
        if body and headers.get(b"content-type", b"").startswith(b"application/fhir+json"):
            resource = text.loads(body)
            body = xml.serialise(resource).encode() if as_xml else dumps(resource, indent=True)
            headers[b"content-length"] = str(len(body)).encode()
            headers[b"content-type"] = (XML if as_xml else JSON).encode()
        await send({**start, "headers": list(headers.items())})
        await send({"type": "http.response.body", "body": body})

    return formed
