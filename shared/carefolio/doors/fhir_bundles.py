"""Batches and transactions (R4 3.1.0.11): each entry as a request of its own, or all as one."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from starlette.requests import Request

from carefolio.cloud.database import UNAVAILABLE, Pool
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_jobs, fhir_within
from carefolio.doors.bearer import within
from carefolio.doors.fhir_requests import versions_of
from carefolio.fhir import text
from carefolio.fhir.definitions import resource_types
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.patch import fhirpath_patch, json_patch
from carefolio.fhir.validation import validate
from carefolio.identity import scopes
from carefolio.identity.tokens import Token
from carefolio.record import resources
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError
from carefolio.record.resources import Operation, Patch

_URL = re.compile(r"/?([A-Za-z]+)(?:/([A-Za-z0-9\-.]{1,64}))?(?:\?(.*))?\Z", re.DOTALL)
_RIGHTS = {"POST": "c", "PUT": "u", "PATCH": "u", "DELETE": "d", "GET": "r", "HEAD": "r"}


def check(bundle: dict[str, Any]) -> None:
    """Raise FhirError where a Bundle is none, its resources aside: they are their entries' own matter."""
    entries = bundle.get("entry")
    listed = [{n: v for n, v in e.items() if n != "resource"} if isinstance(e, dict) else e for e in entries or []]
    shell = bundle | ({"entry": listed} if entries else {})
    if issues := [issue for issue in validate(shell) if "request" not in issue.expression]:
        raise FhirError(400, issues)
    urls = [entry["fullUrl"] for entry in listed if "fullUrl" in entry]
    if len(set(urls)) < len(urls):
        raise error(400, "invalid", "bdl-7: two entries have the same fullUrl", "Bundle.entry.fullUrl")


async def transaction(pool: Pool, reader: Reader, token: Token, entries: Sequence[Any], request: Request) -> list[str]:
    """Every write or none; reads see what was written. The answers' entries. Raises FhirError and SearchError."""
    operations: list[tuple[int, Operation]] = []
    reads: list[int] = []
    for number, entry in enumerate(entries):
        place = f"Bundle.entry[{number}]"
        method = _method(entry, place)
        if method in ("GET", "HEAD"):
            reads.append(number)
        else:
            operations.append((number, _operation(token, entry, method, place)))
    await _check_reads(request, [(number, entries[number]) for number in reads], [each for _, each in operations])
    results = await resources.commit(pool, reader, [each for _, each in operations])
    wanted = answers.preferences(request).get("return", "representation")
    made = {number: answers.entry_of(result, wanted) for (number, _), result in zip(operations, results, strict=True)}
    for number in reads:
        made[number] = await _read(request, entries[number])
    return [made[number] for number in range(len(entries))]


async def batch(pool: Pool, reader: Reader, token: Token, entries: Sequence[Any], request: Request) -> list[str]:
    """Each entry by itself; one that fails leaves the others. The answers' entries."""
    made, caller = [], within(request)
    for number, entry in enumerate(entries):
        place = f"Bundle.entry[{number}]"
        if caller and (why := await caller.stopped()):
            made.append(answers.failed_entry(error(403, "suppressed", f"not done: {why}", place)))
            continue
        try:
            method = _method(entry, place)
            if method in ("GET", "HEAD"):
                made.append(await _read(request, entry))
                continue
            operation = _operation(token, entry, method, place)
            (result,) = await resources.commit(pool, reader, [operation])
            made.append(answers.entry_of(result, answers.preferences(request).get("return", "representation")))
        except FhirError as failure:
            made.append(answers.failed_entry(failure))
        except SearchError as failure:
            made.append(answers.failed_entry(error(400, "invalid", str(failure), place)))
        except UNAVAILABLE:
            # What came before it is done, and is told.
            made.append(answers.failed_entry(error(503, "transient", "the record is not available", place)))
    return made


def _method(entry: Any, place: str) -> str:
    asked = entry.get("request") if isinstance(entry, dict) else None
    method = asked.get("method") if isinstance(asked, dict) else None
    if isinstance(asked, dict) and not isinstance(asked.get("url"), str):
        raise error(400, "value", "the address of an entry is a JSON string", f"{place}.request.url")
    if method not in _RIGHTS:
        raise error(400, "required", "an entry has a request with a method", f"{place}.request.method")
    return str(method)


def _operation(token: Token, entry: dict[str, Any], method: str, place: str) -> Operation:
    asked = entry["request"]
    kind, number, query = _address(asked.get("url"), place)
    if not scopes.permits(token.scope, kind, _RIGHTS[method]):
        raise error(403, "forbidden", f"the token lacks the scope system/{kind}.{_RIGHTS[method]}", place)
    operation = Operation(method, kind, id=number, place=place, full_url=str(entry.get("fullUrl", "")))
    if method in ("POST", "PUT"):
        resource = entry.get("resource")
        resources.check(resource, kind, f"{place}.resource")
        operation.resource = resource
    if method == "POST":
        condition = asked.get("ifNoneExist")
        if condition:
            operation.query = parse_qsl(str(condition).partition("?")[2] or str(condition), keep_blank_values=True)
    elif number is None:
        if not query:
            raise error(400, "invalid", "an address with an id or a condition is needed", f"{place}.request.url")
        operation.query = query
        operation.many = method == "DELETE"
    elif method == "PUT" and (operation.resource or {}).get("id", number) != number:
        raise error(400, "invalid", "the resource has another id than the address", f"{place}.resource.id")
    if method == "PATCH":
        operation.patch = _patch(entry.get("resource"), f"{place}.resource")
    operation.if_match = versions_of(asked.get("ifMatch"), f"{place}.request.ifMatch")
    operation.if_absent = method == "PUT" and asked.get("ifNoneMatch") == "*"
    return operation


def _address(url: Any, place: str) -> tuple[str, str | None, list[tuple[str, str]]]:
    match = _URL.match(url.removeprefix(answers.base())) if isinstance(url, str) else None
    if match is None or match.group(1) not in resource_types():
        raise error(400, "invalid", "not an address of this server", f"{place}.request.url")
    return match.group(1), match.group(2), parse_qsl(match.group(3) or "", keep_blank_values=True)


def _patch(resource: Any, place: str) -> Patch:
    """A FHIRPath Patch in Parameters, or a JSON Patch in a Binary (R4 3.1.0.8)."""
    if isinstance(resource, dict) and resource.get("resourceType") == "Binary":
        if resource.get("contentType") != "application/json-patch+json":
            raise error(400, "not-supported", "a Binary that patches is application/json-patch+json", place)
        try:
            operations = text.loads(base64.b64decode(str(resource.get("data")), validate=True))
        except binascii.Error:
            raise error(400, "value", "not base64", f"{place}.data") from None
        return lambda patched: json_patch(patched, operations)
    return lambda patched: fhirpath_patch(patched, resource)


async def _check_reads(
    request: Request, entries: Sequence[tuple[int, dict[str, Any]]], operations: Sequence[Operation]
) -> None:
    """Raise FhirError where a transaction's GET will fail: then nothing is written."""
    written = {f"{operation.type}/{operation.id}" for operation in operations}
    for number, entry in entries:
        status, _, body = await _asked(request, entry)
        url = str(entry["request"].get("url")).removeprefix(answers.base()).strip("/").partition("?")[0]
        if status >= HTTPStatus.BAD_REQUEST and url not in written:
            place = f"Bundle.entry[{number}]"
            said = text.loads(body)["issue"][0]
            raise error(status, said["code"], said.get("diagnostics", "it cannot be read"), place)


async def _read(request: Request, entry: dict[str, Any]) -> str:
    """A GET entry: any interaction that reads."""
    return fhir_within.entry(await _asked(request, entry))


async def _asked(request: Request, entry: dict[str, Any]) -> fhir_within.Answer:
    """A GET entry as a request of its own with the same token."""
    asked = entry["request"]
    path, _, query = str(asked.get("url", "")).removeprefix(answers.base()).lstrip("/").partition("?")
    conditions = {"ifNoneMatch": b"if-none-match", "ifModifiedSince": b"if-modified-since"}
    headers = [
        (b"accept", b"application/fhir+json"),
        (b"prefer", answers.preferred_within(request)),
        *((name, value) for name, value in request.scope["headers"] if name in (b"authorization", b"host")),
        *((name, str(asked[said]).encode("latin-1", "replace")) for said, name in conditions.items() if said in asked),
    ]
    scope = {
        **request.scope,
        "method": asked["method"],
        "path": f"/fhir/R4/{unquote(path)}",
        "query_string": quote(query, safe="%=&:/?|,$+-._~;@!*'()").encode(),
        "headers": headers,
        fhir_jobs.OF_BUNDLE: True,
    }
    return await fhir_within.ask(request.scope["fhir.door"], scope)
