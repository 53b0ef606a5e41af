"""FHIR R4 for apps."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import parse_qsl, urlencode

import functions_framework.aio
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from carefolio.cloud import database
from carefolio.cloud.health import health_routes
from carefolio.cloud.http import Door, read_body
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import span
from carefolio.doors.bearer import authorised
from carefolio.identity import discovery, scopes, tokens
from carefolio.mapping import MAPPED_TYPES
from carefolio.record import capability, search
from carefolio.record.access import Reader

_MEDIA_TYPE = "application/fhir+json; charset=utf-8"
_ISSUES = {400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported", 406: "not-supported",
           413: "too-long", 503: "transient"}  # fmt: skip
_LONGEST_FORM = 64 * 1024
_STARTED = datetime.now(UTC).isoformat(timespec="seconds")


async def metadata(request: Request) -> Response:
    """GET metadata: the CapabilityStatement, without a token (R4 3.1.0.9)."""
    return _json(orjson.dumps(capability.statement(settings().public_url, _STARTED)))


async def smart_configuration(request: Request) -> Response:
    """GET .well-known/smart-configuration."""
    made = discovery.smart_configuration(settings().public_url)
    return Response(orjson.dumps(made), media_type="application/json")


async def read(request: Request) -> Response:
    """GET [type]/[id]."""
    kind = _type(request)
    token = await authorised(request, kind, "r")
    row = None
    number = _uuid(request.path_params["id"])
    if number:
        with span("read"):
            row = await search.read(await database.pool(), _reader(token), kind, number)
    if row is None:
        raise HTTPException(404, f"no such {kind}, or not for this reader")
    modified = format_datetime(row["last_updated"].replace(microsecond=0), usegmt=True)
    return _json(row["content"], {"ETag": f'W/"{row["version"]}"', "Last-Modified": modified})


async def search_type(request: Request) -> Response:
    """GET [type]?… and POST [type]/_search."""
    kind = _type(request)
    token = await authorised(request, kind, "s")
    query = list(request.query_params.multi_items())
    if request.method == "POST":
        query += await _form(request)
    with span("search"):
        page = await search.search(await database.pool(), _reader(token), kind, query)
    here = f"{_base()}/{kind}"
    plain = [(name, value) for name, value in query if name != "_cursor"]
    links = [("self", f"{here}?{urlencode(query)}" if query else here)]
    if page.cursor:
        links.append(("next", f"{here}?{urlencode([*plain, ('_cursor', page.cursor)])}"))
    return _bundle(page, links, kind)


async def everything(request: Request) -> Response:
    """GET Patient/[id]/$everything, in pages of _count."""
    token = await authorised(request, "Patient", "r")
    if not scopes.permits(token.scope, "*", "r") and not all(
        scopes.permits(token.scope, kind, "r") for kind in MAPPED_TYPES
    ):
        raise HTTPException(403, "$everything needs the scope system/*.rs")
    query = dict(request.query_params)
    for name in query:
        if name not in ("_count", "_cursor", "_format"):
            raise search.SearchError(name, "not a parameter of $everything here")
    count = search.read_count(query.get("_count", str(search.MAX_COUNT)))
    patient = _uuid(request.path_params["id"])
    page = None
    if patient:
        with span("everything"):
            page = await search.everything(
                await database.pool(), _reader(token), patient, count, query.get("_cursor", "")
            )
    if page is None:
        raise HTTPException(404, "no such Patient, or not for this reader")
    here = f"{_base()}/Patient/{patient}/$everything"
    links = [("self", here)]
    if page.cursor:
        links.append(("next", f"{here}?{urlencode({'_count': count, '_cursor': page.cursor})}"))
    return _bundle(page, links, "")


def _reader(token: tokens.Token) -> Reader:
    return Reader(f"client/{token.client_id}", token.organisation_id)


def _type(request: Request) -> str:
    kind = str(request.path_params["type"])
    if kind not in MAPPED_TYPES:
        raise HTTPException(404, "no such resource type here")
    _check_format(request)
    return kind


def _check_format(request: Request) -> None:
    wanted = request.query_params.get("_format") or request.headers.get("accept", "")
    if wanted and not re.search(r"json|\*/\*|application/\*", wanted):
        raise HTTPException(406, "only JSON is served")


async def _form(request: Request) -> Sequence[tuple[str, str]]:
    body = await read_body(request, _LONGEST_FORM)
    return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def _base() -> str:
    return f"{settings().public_url}/fhir/R4"


def _bundle(page: search.Page, links: Sequence[tuple[str, str]], kind: str) -> Response:
    """A searchset, with the stored texts as they are."""
    base = _base()
    entries = ",".join(
        f'{{"fullUrl":"{base}/{of}/{number}","resource":{content},"search":{{"mode":"{_mode(of, kind)}"}}}}'
        for of, number, content in page.contents
    )
    link = orjson.dumps([{"relation": relation, "url": url} for relation, url in links]).decode()
    total = f'"total":{page.total},' if page.total is not None else ""
    listed = f',"entry":[{entries}]' if entries else ""
    return _json(f'{{"resourceType":"Bundle","type":"searchset",{total}"link":{link}{listed}}}')


def _mode(of: str, kind: str) -> str:
    return "match" if kind in ("", of) else "include"


def _json(content: bytes | str, headers: dict[str, str] | None = None) -> Response:
    return Response(content, 200, headers, media_type=_MEDIA_TYPE)


def _outcome(status: int, reason: str, expression: str = "") -> Response:
    issue: dict[str, object] = {
        "severity": "error",
        "code": _ISSUES.get(status, "exception"),
        "diagnostics": reason,
    }
    if expression:
        issue["expression"] = [expression]
    body = {"resourceType": "OperationOutcome", "issue": [issue]}
    return Response(orjson.dumps(body), status, media_type=_MEDIA_TYPE)


class _FhirDoor(Door):
    """Search errors become 400 with the parameter's name."""

    def _failure(self, error: Exception) -> Response:
        if isinstance(error, search.SearchError):
            return _outcome(400, f"{error.parameter}: {error.reason}", f"http.{error.parameter}")
        return super()._failure(error)


_ROOT = "/fhir/R4"
_APP = _FhirDoor(
    "fhir",
    [
        *health_routes(_ROOT),
        Route(f"{_ROOT}/metadata", metadata, methods=["GET"]),
        Route(f"{_ROOT}/.well-known/smart-configuration", smart_configuration, methods=["GET"]),
        Route(f"{_ROOT}/Patient/{{id}}/$everything", everything, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}/_search", search_type, methods=["POST"]),
        Route(f"{_ROOT}/{{type}}/{{id}}", read, methods=["GET"]),
        Route(f"{_ROOT}/{{type}}", search_type, methods=["GET"]),
    ],
    _outcome,
)


@functions_framework.aio.http
async def fhir(request: Request) -> ASGIApp:
    """The function's entry point."""
    return _APP
