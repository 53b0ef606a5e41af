"""Batches and transactions (R4 3.1.0.11): each entry as a request of its own, or all as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from carefolio.cloud.database import Pool
from carefolio.doors import fhir_answers as answers
from carefolio.fhir.definitions import resource_types
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.patch import fhirpath_patch
from carefolio.identity import scopes
from carefolio.identity.tokens import Token
from carefolio.record import reading, resources, search
from carefolio.record.access import Reader
from carefolio.record.ids import internal_id
from carefolio.record.resources import Operation
from carefolio.record.search_terms import SearchError

_URL = re.compile(r"/?([A-Za-z]+)(?:/([A-Za-z0-9\-.]{1,64}))?(?:\?(.*))?\Z", re.DOTALL)
_VERSION = re.compile(r'(?:W/)?"?([1-9][0-9]{0,8})"?\Z')
_RIGHTS = {"POST": "c", "PUT": "u", "PATCH": "u", "DELETE": "d", "GET": "r", "HEAD": "r"}


async def transaction(pool: Pool, reader: Reader, token: Token, entries: Sequence[Any]) -> list[str]:
    """Every entry or none; reads see what was written. The answers' entries. Raises FhirError and SearchError."""
    operations: list[tuple[int, Operation]] = []
    reads: list[int] = []
    for number, entry in enumerate(entries):
        place = f"Bundle.entry[{number}]"
        method = _method(entry, place)
        if method in ("GET", "HEAD"):
            reads.append(number)
        else:
            operations.append((number, _operation(token, entry, method, place)))
    results = await resources.commit(pool, reader, [each for _, each in operations], answers.base())
    made = {number: answers.entry_of(result) for (number, _), result in zip(operations, results, strict=True)}
    for number in reads:
        made[number] = await _read(pool, reader, token, entries[number], f"Bundle.entry[{number}]")
    return [made[number] for number in range(len(entries))]


async def batch(pool: Pool, reader: Reader, token: Token, entries: Sequence[Any]) -> list[str]:
    """Each entry by itself; one that fails leaves the others. The answers' entries."""
    made = []
    for number, entry in enumerate(entries):
        place = f"Bundle.entry[{number}]"
        try:
            method = _method(entry, place)
            if method in ("GET", "HEAD"):
                made.append(await _read(pool, reader, token, entry, place))
                continue
            operation = _operation(token, entry, method, place)
            (result,) = await resources.commit(pool, reader, [operation], answers.base())
            made.append(answers.entry_of(result))
        except FhirError as failure:
            made.append(answers.failed_entry(failure))
        except SearchError as failure:
            made.append(answers.failed_entry(error(400, "invalid", str(failure), place)))
    return made


def _method(entry: Any, place: str) -> str:
    asked = entry.get("request") if isinstance(entry, dict) else None
    method = asked.get("method") if isinstance(asked, dict) else None
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
        parameters = entry.get("resource")
        operation.patch = lambda resource: fhirpath_patch(resource, parameters)
    if (wanted := asked.get("ifMatch")) is not None:
        match = _VERSION.match(str(wanted))
        if not match:
            raise error(412, "conflict", "ifMatch names no version", f"{place}.request.ifMatch")
        operation.if_match = int(match.group(1))
    return operation


def _address(url: Any, place: str) -> tuple[str, str | None, list[tuple[str, str]]]:
    match = _URL.match(url.removeprefix(answers.base())) if isinstance(url, str) else None
    if match is None or match.group(1) not in resource_types():
        raise error(400, "invalid", "not an address of this server", f"{place}.request.url")
    return match.group(1), match.group(2), parse_qsl(match.group(3) or "", keep_blank_values=True)


async def _read(pool: Pool, reader: Reader, token: Token, entry: dict[str, Any], place: str) -> str:
    """A GET entry: a read or a search."""
    kind, number, query = _address(unquote(str(entry["request"].get("url"))), place)
    right = "r" if number else "s"
    if not scopes.permits(token.scope, kind, right):
        raise error(403, "forbidden", f"the token lacks the scope system/{kind}.{right}", place)
    if number:
        found = await reading.read(pool, reader, kind, internal_id(kind, number))
        if found is None or found.content is None:
            raise error(404 if found is None else 410, "not-found", f"no such {kind}", place)
        return f'{{"resource":{found.content},"response":{{"status":"200 OK","etag":"W/\\"{found.version}\\""}}}}'
    page = await search.search(pool, reader, [kind], query, answers.base())
    page.found = [each for each in page.found if each.mode == "match" or scopes.permits(token.scope, each.type, "r")]
    body = answers.searchset_text(page, kind, query)
    return f'{{"resource":{body},"response":{{"status":"200 OK"}}}}'
