"""What a FHIR request says: its type, its parameters, its body (R4 3.1.0)."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import anyio.to_thread
from starlette.requests import Request

from carefolio.cloud.http import read_body
from carefolio.doors import fhir_binary, fhir_formats
from carefolio.fhir.dates import date_range
from carefolio.fhir.definitions import NO_ENDPOINT, resource_types
from carefolio.fhir.errors import error
from carefolio.identity.tokens import Token
from carefolio.record import resources, search
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError
from carefolio.record.ids import internal_id

LONGEST = 10 * 1024 * 1024
_LONGEST_FORM = 64 * 1024
# What is longer is checked beside the event loop.
_LONG = 200 * 1024
VERSION = re.compile(r'(?:W/)?"?([1-9][0-9]{0,8})"?\Z')
FORM_TYPE = "application/x-www-form-urlencoded"
# Parameters of any request, about the form of its answer.
FORM = ("_format", "_pretty")


def reader_of(token: Token, request: Request | None = None) -> Reader:
    """Who reads; with ``_at`` in the request's query, as of when."""
    at = request.query_params.get("_at") if request is not None else None
    moment = search.moment_of(at) if at is not None else None
    if token.account_id is None:
        assert token.organisation_id is not None
        return Reader(f"client/{token.client_id}", token.organisation_id, token.scope, moment)
    return Reader.of_person(
        token.account_id, token.organisation_id, token.record_id, client=token.client_id, scope=token.scope, at=moment,
        patient=token.patient_id, grant=token.grant_id,
    )  # fmt: skip


def type_of(request: Request) -> str:
    """The type in the address. Raises FhirError, also for a form that is not served."""
    kind = str(request.path_params["type"])
    if kind not in resource_types() or kind in NO_ENDPOINT:
        raise error(404, "not-supported", "no such resource type in FHIR R4")
    fhir_formats.check_format(request)
    return kind


def number_of(kind: str, request: Request) -> uuid.UUID:
    """The record's own number of the id in the address."""
    return internal_id(kind, str(request.path_params["id"]))


def span_of(name: str, value: str) -> tuple[datetime, datetime]:
    """The range of a date in a parameter. Raises SearchError."""
    try:
        return tuple(date_range(value.replace(" ", "+")))  # type: ignore[return-value]
    except (ValueError, OverflowError):
        raise SearchError(name, "not a date") from None


async def query_of(request: Request) -> list[tuple[str, str]]:
    """The parameters of the address and, of a POST, of the form."""
    query = list(request.query_params.multi_items())
    if request.method == "POST":
        body = await read_body(request, _LONGEST_FORM)
        media = request.headers.get("content-type", FORM_TYPE).partition(";")[0].strip().lower()
        if body and media != FORM_TYPE:
            raise error(415, "not-supported", f"the parameters of a POST come as {FORM_TYPE}")
        query += parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return query


async def resource_of(request: Request, kind: str) -> dict[str, Any]:
    """The valid resource of type ``kind`` in the body. Raises FhirError."""
    body = await read_body(request, LONGEST)
    media = request.headers.get("content-type", "")
    document: dict[str, Any] | None = None
    if kind == "Binary":
        document = fhir_binary.received(body, media, request.path_params.get("id"))
    if document is None:
        document = fhir_formats.document(body, media)
    if len(body) > _LONG:
        await anyio.to_thread.run_sync(resources.check, document, kind)
    else:
        resources.check(document, kind)
    assert document is not None
    return document


async def document_of(request: Request) -> Any:
    """The JSON form of the body, unchecked."""
    return fhir_formats.document(await read_body(request, LONGEST), request.headers.get("content-type", ""))


def condition_of(request: Request) -> list[tuple[str, str]]:
    """The condition in the address of a conditional interaction. Raises FhirError where there is none."""
    query = [(n, v) for n, v in request.query_params.multi_items() if n not in FORM]
    if not query:
        raise error(412, "processing", "a conditional interaction needs a condition")
    return query


def if_match_of(request: Request) -> frozenset[int] | None:
    """The versions of If-Match, None without it. Raises FhirError (412)."""
    return versions_of(request.headers.get("if-match"))


def versions_of(header: str | None, place: str = "") -> frozenset[int] | None:
    """The versions that an If-Match names; none of them means any (``*``). Raises FhirError (412)."""
    if header is None:
        return None
    if header.strip() == "*":
        return frozenset()
    matches = [VERSION.match(part.strip()) for part in header.split(",")]
    if not all(matches):
        raise error(412, "conflict", "If-Match names no version", place)
    return frozenset(int(match.group(1)) for match in matches if match)
