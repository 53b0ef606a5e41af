"""How the FHIR door answers: resources, bundles, OperationOutcomes (R4 3.1.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import addresses
from carefolio.doors import fhir_formats
from carefolio.fhir import text
from carefolio.fhir.definitions import elements, summary
from carefolio.fhir.errors import FhirError
from carefolio.fhir.validation import Issue
from carefolio.mapping.serialise import dumps
from carefolio.record.includes import Found, logical_id
from carefolio.record.reading import History, Version
from carefolio.record.resources import Result
from carefolio.record.rows import instant
from carefolio.record.search import Page

_CODES = {400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported", 406: "not-supported",
          409: "conflict", 410: "deleted", 412: "conflict", 413: "too-long", 415: "not-supported", 422: "invalid",
          429: "throttled", 503: "transient"}  # fmt: skip
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


def base() -> str:
    """The server's address, to which references are relative."""
    return f"{addresses.address()}/fhir/R4"


def answer(content: bytes | str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A FHIR document."""
    return Response(content, status, headers, media_type=fhir_formats.JSON)


def outcome(status: int, reason: str, expression: str = "") -> Response:
    """An OperationOutcome with one issue."""
    return of_issues(status, [Issue(_CODES.get(status, "exception"), expression, reason)])


def of_issues(status: int, issues: Sequence[Issue]) -> Response:
    """An OperationOutcome."""
    return answer(dumps(_outcome("error", issues)), status)


def graded(issues: Sequence[tuple[str, Issue]]) -> bytes:
    """An OperationOutcome of issues with their severities."""
    return dumps({"resourceType": "OperationOutcome", "issue": [_issue(severity, issue) for severity, issue in issues]})


def _outcome(severity: str, issues: Sequence[Issue]) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [_issue(severity, issue) for issue in issues]}


def _issue(severity: str, issue: Issue) -> dict[str, Any]:
    made: dict[str, Any] = {"severity": severity, "code": issue.code, "diagnostics": issue.text}
    return made | ({"expression": [issue.expression]} if issue.expression else {})


def version_headers(number: int, at: datetime) -> dict[str, str]:
    """ETag and Last-Modified of a version."""
    return {"ETag": f'W/"{number}"', "Last-Modified": format_datetime(at.replace(microsecond=0), usegmt=True)}


def preferences(request: Request) -> dict[str, str]:
    """The Prefer headers (RFC 7240): return, handling, respond-async."""
    said = ",".join(request.headers.getlist("prefer"))
    pairs = [part.strip().partition("=") for part in re.split(r"[;,]", said) if part.strip()]
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def preferred_within(request: Request) -> bytes:
    """The Prefer header of a request that comes of this one, and is answered at once."""
    wanted = [(name, value) for name, value in preferences(request).items() if name != "respond-async"]
    return ", ".join(f"{name}={value}" if value else name for name, value in wanted).encode("latin-1", "replace")


def written(request: Request, result: Result) -> Response:
    """The answer to a write, as Prefer: return wants it (R4 3.1.0.1.5)."""
    headers = version_headers(result.version, result.at) if result.version else {}
    if result.content is None:
        if result.deleted:
            deleted = Issue("informational", "", f"{result.deleted + 1} resources are gone")
            return answer(dumps(_outcome("information", [deleted])), 200)
        return Response(None, 204, headers)
    if result.content is not None:
        headers["Location"] = f"{base()}/{result.type}/{result.id}/_history/{result.version}"
    wanted = preferences(request).get("return", "representation")
    if wanted == "minimal" or not result.shown:
        return Response(None, result.status, headers)
    if wanted == "OperationOutcome":
        done = Issue("informational", "", f"{result.type}/{result.id} has version {result.version}")
        return answer(dumps(_outcome("information", [done])), result.status, headers)
    return answer(result.content, result.status, headers)


def searchset(page: Page, path: str, query: Sequence[tuple[str, str]]) -> Response:
    """A Bundle of type searchset."""
    return answer(searchset_text(page, path, query))


def searchset_text(page: Page, path: str, query: Sequence[tuple[str, str]]) -> str:
    """A searchset, with the stored texts as they are where nothing is left out."""
    here = f"{base()}/{path}" if path else base()
    said = [(name, value) for name, value in query if name not in page.ignored]
    plain = [(name, value) for name, value in said if name != "_cursor"]
    links = [{"relation": "self", "url": f"{here}?{urlencode(said)}" if said else here}]
    if page.cursor:
        links.append({"relation": "next", "url": f"{here}?{urlencode([*plain, ('_cursor', page.cursor)])}"})
    shown = dict(query)
    entries = [_entry(found, shown) for found in page.found]
    issues = [Issue("not-supported", f"http.{name}", f"{name}: not a parameter here, ignored") for name in page.ignored]
    issues += [
        Issue("incomplete", f"http.{name}", f"{name}: older resources are still being indexed")
        for name in page.unfinished
    ]
    if page.cut:
        issues.append(Issue("incomplete", "", "more would have gone with the matches: ask with a smaller _count"))
    if page.withheld:
        issues.append(Issue("suppressed", "", "the token does not read every type that goes with the matches"))
    if issues:
        warning = dumps(_outcome("warning", issues)).decode()
        entries.append(f'{{"resource":{warning},"search":{{"mode":"outcome"}}}}')
    total = f'"total":{page.total},' if page.total is not None and shown.get("_total") != "none" else ""
    listed = f',"entry":[{",".join(entries)}]' if entries else ""
    return f'{{"resourceType":"Bundle","type":"searchset",{total}"link":{orjson.dumps(links).decode()}{listed}}}'


def _entry(found: Found, query: dict[str, str]) -> str:
    number = logical_id(found.content)
    content = shown(found.content, query)
    url = f"{base()}/{found.type}/{number}"
    return f'{{"fullUrl":"{url}","resource":{content},"search":{{"mode":"{found.mode}"}}}}'


def shown(content: str, query: Mapping[str, str]) -> str:
    """A stored resource, or what _elements or _summary leave of it."""
    if "_elements" in query or query.get("_summary") in ("true", "text", "data"):
        return dumps(_subset(text.loads(content), query)).decode()
    return content


def _subset(resource: dict[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """What _elements or _summary leave of a resource; mandatory elements stay, and a tag says what was done."""
    kind = resource["resourceType"]
    kept = {"resourceType", "id", "meta"} | {name for name, element in elements(kind).items() if element.least}
    if "_elements" in query:
        kept |= {name.rpartition(".")[2] for name in query["_elements"].split(",")}
    elif query["_summary"] == "text":
        kept |= {"text"}
    elif query["_summary"] == "data":
        kept = set(resource) - {"text"}
    else:
        kept |= set(summary(kind))
    made = {name: value for name, value in resource.items() if name in kept or name.removeprefix("_") in kept}
    if "_elements" not in query and query["_summary"] == "true":
        made = {name: _summarised(value, f"{kind}.{name}") for name, value in made.items()}
    meta = dict(made.get("meta", {}))
    meta["tag"] = [*meta.get("tag", []), _SUBSETTED]
    return made | {"meta": meta}


def _summarised(value: Any, path: str) -> Any:
    """Of a part of a resource (``Patient.contact``) what a summary has of it."""
    if isinstance(value, list):
        return [_summarised(inner, path) for inner in value]
    known = summary(path)
    return (
        {name: inner for name, inner in value.items() if name in known} if isinstance(value, dict) and known else value
    )


def history_bundle(found: History, path: str, query: Sequence[tuple[str, str]]) -> Response:
    """A Bundle of type history (R4 3.1.0.14)."""
    here = f"{base()}/{path}" if path else f"{base()}/_history"
    links = [{"relation": "self", "url": f"{here}?{urlencode(query)}" if query else here}]
    if found.cursor:
        at, number, version = found.cursor
        plain = [(name, value) for name, value in query if name != "_cursor"]
        cursor = f"{at.isoformat()}|{number}|{version}"
        links.append({"relation": "next", "url": f"{here}?{urlencode([*plain, ('_cursor', cursor)])}"})
    entries = [_version(version) for version in found.versions]
    listed = f',"entry":[{",".join(entries)}]' if entries else ""
    return answer(f'{{"resourceType":"Bundle","type":"history","link":{orjson.dumps(links).decode()}{listed}}}')


def _version(version: Version) -> str:
    number = logical_id(version.content) if version.content else str(version.id)
    where = f"{version.type}/{number}"
    gone = version.content is None
    method = "DELETE" if gone else "POST" if version.version == 1 else "PUT"
    url = version.type if method == "POST" else where
    status = "204" if gone else "201" if version.is_new else "200"
    said = {"status": status, "etag": f'W/"{version.version}"', "lastModified": instant(version.at)}
    head = f'{{"fullUrl":"{base()}/{where}",'
    if not gone:
        head += f'"resource":{version.content},'
    request = orjson.dumps({"method": method, "url": url}).decode()
    return head + f'"request":{request},"response":{orjson.dumps(said).decode()}}}'


def entry_of(result: Result, wanted: str = "representation") -> str:
    """A write's entry in the answer to a batch or a transaction; ``wanted`` is what Prefer: return asks for."""
    statuses = {200: "200 OK", 201: "201 Created", 204: "204 No Content"}
    said: dict[str, Any] = {"status": statuses[result.status], "lastModified": instant(result.at)}
    if result.version:
        said["etag"] = f'W/"{result.version}"'
    if result.id and result.content is not None:
        said["location"] = f"{base()}/{result.type}/{result.id}/_history/{result.version}"
    response = orjson.dumps(said).decode()
    if result.content is None or wanted != "representation" or not result.shown:
        return f'{{"response":{response}}}'
    return f'{{"resource":{result.content},"response":{response}}}'


def failed_entry(failure: FhirError) -> str:
    """An entry of a batch that failed, with its outcome."""
    body = _outcome("error", failure.issues)
    return dumps({"response": {"status": str(failure.status), "outcome": body}}).decode()
