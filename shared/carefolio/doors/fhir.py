"""FHIR R4's REST interactions (R4 3.1.0): what a request asks for, and who may."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from carefolio.cloud import addresses, database
from carefolio.cloud.http import Door, read_body
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import span
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_binary, fhir_formats, fhir_jobs, fhir_later
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_requests import (
    FORM,
    LONGEST,
    VERSION,
    condition_of,
    document_of,
    if_match_of,
    number_of,
    query_of,
    reader_of,
    resource_of,
    span_of,
    type_of,
)
from carefolio.doors.fhir_terminology import failure_of
from carefolio.fhir import text
from carefolio.fhir.definitions import resource_types
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.patch import fhirpath_patch, json_patch, merge_patch
from carefolio.identity import discovery, scopes
from carefolio.identity.tokens import Token
from carefolio.record import bulk, capability, provenance, reading, resources, search, trail
from carefolio.record.arguments import SearchError
from carefolio.record.ids import internal_id
from carefolio.record.resources import Operation
from carefolio.terminology import store
from carefolio.terminology.expansion import ExpansionError

_STARTED = datetime.now(UTC).isoformat(timespec="seconds")


async def metadata(request: Request) -> Response:
    """GET metadata: the CapabilityStatement, without a token (R4 3.1.0.9); mode=terminology: what codes there are."""
    fhir_formats.check_format(request)
    if request.query_params.get("mode") == "terminology":
        found = await store.listed(await database.pool(), "CodeSystem")
        systems = [(each.url, each.version) for each in found]
        return answers.answer(orjson.dumps(capability.terminology(addresses.address(), _STARTED, systems)))
    return answers.answer(orjson.dumps(capability.statement(addresses.address(), _STARTED)))


async def smart_configuration(request: Request) -> Response:
    """GET .well-known/smart-configuration."""
    made = discovery.smart_configuration(settings().public_url)
    return Response(orjson.dumps(made), media_type="application/json")


async def read(request: Request) -> Response:
    """GET [type]/[id], conditional (If-None-Match, If-Modified-Since), HEAD, and as of _at."""
    kind = type_of(request)
    token = await authorised(request, kind, "r")
    with span("read"):
        reader = reader_of(token, request)
        pool = await database.pool()
        found = await reading.read(pool, reader, kind, number_of(kind, request))
        if found is None and kind == "Provenance":
            found = await provenance.read(pool, reader, str(request.path_params["id"]))
    return _version(request, found, kind)


async def vread(request: Request) -> Response:
    """GET [type]/[id]/_history/[version]."""
    kind = type_of(request)
    token = await authorised(request, kind, "r")
    number = str(request.path_params["version"])
    found = None
    if number.isascii() and number.isdigit() and len(number) < 10 and number[0] != "0":
        found = await reading.vread(
            await database.pool(), reader_of(token), kind, number_of(kind, request), int(number)
        )
    return _version(request, found, kind)


def _version(request: Request, found: reading.Version | None, kind: str) -> Response:
    if found is None:
        raise error(404, "not-found", f"no such {kind}, or not for this reader")
    if found.content is None:
        raise error(410, "deleted", f"the {kind} is gone")
    headers = answers.version_headers(found.version, found.at)
    wanted = request.headers.get("if-none-match")
    since = request.headers.get("if-modified-since")
    if wanted is not None:
        known = {match.group(1) for part in wanted.split(",") if (match := VERSION.match(part.strip()))}
        if str(found.version) in known or wanted.strip() == "*":
            return Response(None, 304, headers)
    elif since is not None:
        try:
            if found.at.replace(microsecond=0) <= parsedate_to_datetime(since):
                return Response(None, 304, headers)
        except (ValueError, TypeError):
            # RFC 9110 13.1.3: what is no date is passed over.
            pass
    if kind == "Binary" and (held := fhir_binary.native(request, found.content, headers)):
        return held
    return answers.answer(answers.shown(found.content, request.query_params), 200, headers)


async def history(request: Request) -> Response:
    """GET _history of a resource, a type or all, with _since, _at, _count."""
    kind = str(request.path_params.get("type", ""))
    if kind:
        type_of(request)
    token = await authorised(request, kind or "*", "r")
    query = list(request.query_params.multi_items())
    asked: dict[str, Any] = {}
    for name, value in query:
        if name == "_count":
            asked["count"] = max(1, search.read_count(value))
        elif name == "_since":
            asked["since"] = span_of(name, value)[0]
        elif name == "_at":
            asked["at"] = span_of(name, value)
        elif name == "_cursor":
            asked["cursor"] = _history_cursor(value)
        elif name not in ("_format", "_pretty"):
            raise SearchError(name, "not a parameter of a history")
    number = number_of(kind, request) if "id" in request.path_params else None
    found = await reading.history(await database.pool(), reader_of(token), kind=kind or None, number=number, **asked)
    if number is not None and not found.versions and not query:
        raise error(404, "not-found", f"no such {kind}, or not for this reader")
    path = "/".join(part for part in (kind, str(request.path_params.get("id", "")), "_history") if part)
    return answers.history_bundle(found, path, query)


def _history_cursor(value: str) -> tuple[datetime, uuid.UUID, int]:
    try:
        at, number, version = value.split("|")
        return datetime.fromisoformat(at), uuid.UUID(number), int(version)
    except ValueError:
        raise SearchError("_cursor", "not a cursor of this history") from None


async def search_type(request: Request) -> Response:
    """GET [type]?…, POST [type]/_search, and [type] in a patient's compartment."""
    kind = type_of(request)
    token = await authorised(request, kind, "s")
    patient = None
    path = kind
    if "patient" in request.path_params:
        patient = internal_id("Patient", str(request.path_params["patient"]))
        path = f"Patient/{request.path_params['patient']}/{kind}"
    if "respond-async" in answers.preferences(request) and request.method != "HEAD":
        if kind in bulk.MADE:
            return await fhir_later.begin(request)
        return await fhir_jobs.search_later(request, reader_of(token), kind, await query_of(request), patient)
    return await _search(request, token, [kind], path, patient)


async def search_system(request: Request) -> Response:
    """GET ?_type=… and POST _search: over several types."""
    fhir_formats.check_format(request)
    query = await query_of(request)
    kinds = [kind for name, value in query if name == "_type" for kind in value.split(",")]
    if not kinds:
        raise SearchError("_type", "a search over all types names those that it means")
    for kind in kinds:
        if kind not in resource_types():
            raise SearchError("_type", f"{kind[:40]} is no resource type")
        token = await authorised(request, kind, "s")
    return await _search(request, token, kinds, "", None, query)


async def _search(
    request: Request,
    token: Token,
    kinds: Sequence[str],
    path: str,
    patient: uuid.UUID | None,
    query: list[tuple[str, str]] | None = None,
) -> Response:
    query = query if query is not None else await query_of(request)
    strict = {"strict": True, "lenient": False}.get(answers.preferences(request).get("handling", ""))
    with span("search"):
        pool, reader = await database.pool(), reader_of(token)
        page = await search.search(pool, reader, kinds, query, strict=strict, patient=patient)
        if list(kinds) == ["Provenance"] and page.total is not None:
            made = await provenance.search(pool, reader, query)
            page.found, page.total = page.found + made, page.total + len(made)
        if list(kinds) == ["AuditEvent"] and page.total is not None:
            made = await trail.search(pool, reader, query)
            page.found, page.total = page.found + made, page.total + len(made)
    _permit_included(token, page)
    return answers.searchset(page, path, query)


def _permit_included(token: Token, page: search.Page) -> None:
    """What goes with the matches is cut to the types that the token reads, and the answer says so."""
    found = [each for each in page.found if each.mode == "match" or scopes.permits(token.scope, each.type, "r")]
    page.withheld = len(found) < len(page.found)
    page.found = found


async def create(request: Request) -> Response:
    """POST [type], conditional with If-None-Exist."""
    kind = type_of(request)
    token = await authorised(request, kind, "c")
    if not set(request.query_params) <= set(FORM):
        # Other servers' way to say If-None-Exist: who means that must not get a second one.
        raise error(400, "invalid", "a create has no parameters; its condition is the header If-None-Exist")
    resource = await resource_of(request, kind)
    condition = request.headers.get("if-none-exist")
    query = parse_qsl(condition.partition("?")[2] or condition, keep_blank_values=True) if condition else None
    return await _write(request, token, Operation("POST", kind, resource=resource, query=query))


async def update(request: Request) -> Response:
    """PUT [type]/[id], as create where there is none, with If-Match; PUT [type]?… by condition."""
    kind = type_of(request)
    token = await authorised(request, kind, "u")
    resource = await resource_of(request, kind)
    number = request.path_params.get("id")
    query = None if number else condition_of(request)
    if number and resource.get("id") != number:
        raise error(400, "invalid", "the resource has another id than the address, or none", f"{kind}.id")
    operation = Operation("PUT", kind, id=number, resource=resource, query=query, if_match=if_match_of(request))
    operation.if_absent = request.headers.get("if-none-match", "").strip() == "*"
    return await _write(request, token, operation)


async def patch(request: Request) -> Response:
    """PATCH [type]/[id] and [type]?…: JSON Patch, JSON Merge Patch, or FHIRPath Patch in a Parameters resource."""
    kind = type_of(request)
    token = await authorised(request, kind, "u")
    body, media = await read_body(request, LONGEST), request.headers.get("content-type", "")
    make: Callable[[dict[str, Any], Any], dict[str, Any]]
    plain = media.partition(";")[0].strip()
    if plain == "application/json-patch+json":
        make, document = json_patch, text.loads(body)
    elif plain == "application/merge-patch+json":
        make, document = merge_patch, text.loads(body)
    elif fhir_formats.is_fhir(media):
        document = fhir_formats.document(body, media)
        is_parameters = isinstance(document, dict) and document.get("resourceType") == "Parameters"
        # Some clients send what they merge as plain JSON.
        make = fhirpath_patch if is_parameters or "fhir" in plain else merge_patch
    else:
        kinds = "application/json-patch+json, application/merge-patch+json, or Parameters in application/fhir+json"
        raise error(415, "not-supported", kinds)
    number = request.path_params.get("id")
    operation = Operation(
        "PATCH",
        kind,
        id=number,
        patch=lambda resource: make(resource, document),
        query=None if number else condition_of(request),
        if_match=if_match_of(request),
    )
    return await _write(request, token, operation)


async def delete(request: Request) -> Response:
    """DELETE [type]/[id], and [type]?… for all that match."""
    kind = type_of(request)
    token = await authorised(request, kind, "d")
    number = request.path_params.get("id")
    query = None if number else condition_of(request)
    operation = Operation("DELETE", kind, id=number, query=query, if_match=if_match_of(request), many=query is not None)
    return await _write(request, token, operation)


async def bundle(request: Request) -> Response:
    """POST to the base: a batch or a transaction (R4 3.1.0.11)."""
    fhir_formats.check_format(request)
    # Which rights are needed is told by the entries.
    token = await authorised(request, "", "")
    document = await document_of(request)
    if not isinstance(document, dict) or document.get("resourceType") != "Bundle":
        raise error(400, "invalid", "a Bundle is needed here")
    kind = document.get("type")
    if kind not in ("batch", "transaction"):
        raise error(400, "invalid", "a Bundle of type batch or transaction is needed", "Bundle.type")
    entries = document.get("entry", [])
    if not isinstance(entries, list) or len(entries) > _MOST_ENTRIES:
        raise error(400, "too-long", f"a Bundle of at most {_MOST_ENTRIES} entries", "Bundle.entry")
    from carefolio.doors import fhir_bundles

    fhir_bundles.check(document)
    made = await (fhir_bundles.transaction if kind == "transaction" else fhir_bundles.batch)(
        await database.pool(), reader_of(token), token, entries, request
    )
    listed = f',"entry":[{",".join(made)}]' if made else ""
    return answers.answer(f'{{"resourceType":"Bundle","type":"{kind}-response"{listed}}}')


_MOST_ENTRIES = 5000


async def _write(request: Request, token: Token, operation: Operation) -> Response:
    with span("write"):
        (result,) = await resources.commit(await database.pool(), reader_of(token), [operation])
    return answers.written(request, result)


class FhirDoor(Door):
    """Answers come in the form that was asked for; errors are OperationOutcomes that name the element or parameter."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The entries of a batch that read are requests of their own.
        scope["fhir.door"] = self
        addresses.note(scope)
        await super().__call__(scope, receive, fhir_formats.sender(scope, send))

    def _failure(self, failure: Exception) -> Response:
        if isinstance(failure, SearchError):
            return answers.outcome(400, f"{failure.parameter}: {failure.reason}", f"http.{failure.parameter}")
        if isinstance(failure, ExpansionError):
            failure = failure_of(failure)
        if isinstance(failure, FhirError):
            return answers.of_issues(failure.status, failure.issues)
        return super()._failure(failure)
