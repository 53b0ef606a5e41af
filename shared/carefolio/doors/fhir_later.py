"""A request that is answered later (Prefer: respond-async): any that is not bulk data, done by the queue with the
token that it came with.

FHIR R5, Asynchronous Interaction Request Pattern (https://hl7.org/fhir/R5/async-bundle.html): in the end the status
address has a Bundle (batch-response) whose one entry is what would have been answered at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from carefolio.cloud import database, files
from carefolio.cloud.database import Pool
from carefolio.cloud.http import Endpoint, read_body
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats, fhir_jobs, fhir_within
from carefolio.doors.bearer import Within, authorised, put_within
from carefolio.doors.fhir_requests import FORM, LONGEST, reader_of
from carefolio.identity import tokens
from carefolio.identity.tokens import Token
from carefolio.record import jobs
from carefolio.record.jobs import Job, JobError

KIND = "request"
_ANSWER, _BODY = "answer", "request"
_SAFE = ("GET", "HEAD")
# What of a request's headers says what is asked for; who asks is known from his token.
_HEADERS = frozenset({"host", "content-type", "if-match", "if-none-match", "if-none-exist", "if-modified-since"})
_TOLD = ("location", "etag", "last-modified")


def or_later(endpoint: Endpoint) -> Endpoint:
    """The endpoint, or where the caller prefers it 202 and an answer to come."""

    @functools.wraps(endpoint)
    async def chosen(request: Request) -> Response:
        if "respond-async" in answers.preferences(request):
            return await begin(request)
        return await endpoint(request)

    return chosen


async def begin(request: Request) -> Response:
    """Have a request answered later."""
    fhir_formats.check_format(request)
    token = await authorised(request, "", "")
    body = await read_body(request, LONGEST)
    query = [(name, value) for name, value in request.query_params.multi_items() if name not in FORM]
    prefer = answers.preferred_within(request).decode("latin-1")
    asked = {
        "method": request.method,
        "path": request.url.path,
        "query": urlencode(query),
        "headers": {name: value for name, value in request.headers.items() if name in _HEADERS} | {"prefer": prefer},
        "token": {name: str(value) if value else None for name, value in asdict(token).items()},
        "form": fhir_formats.wanted(request.scope),
    }
    pool, address = await database.pool(), fhir_jobs.address(request)
    given = {_BODY: body} if body else {}
    return await fhir_jobs.begun(jobs.make(pool, KIND, reader_of(token), address, asked, given))


def serve(door: ASGIApp) -> None:
    """Have this process do such requests by a door."""

    async def work(pool: Pool, job: Job, part: int, _: dict[str, Any]) -> dict[str, Any]:
        return await _work(door, pool, job, part)

    jobs.register(KIND, jobs.Kind(_plan, work, _finish))


async def _plan(_: Pool, __: Job) -> Sequence[dict[str, Any]]:
    return [{}]


async def _work(door: ASGIApp, pool: Pool, job: Job, part: int) -> dict[str, Any]:
    asked = job.asked
    caller = Within(_token(asked["token"]), _watch(pool, job, _token(asked["token"])))
    if why := await caller.stopped():
        raise JobError(why)
    body = b""
    with contextlib.suppress(FileNotFoundError):
        body = await asyncio.to_thread(files.read, f"{job.folder}/{_BODY}")
    if asked["method"] not in _SAFE and not await jobs.first_time(pool, job, part):
        # A write must not be done twice, and whether the first try came so far nobody knows.
        raise JobError("it ended in mid-work, and may be done or not: look before you ask again")
    headers = {"accept": "application/fhir+json", **asked["headers"]}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "https",
        "method": asked["method"],
        "path": asked["path"],
        "root_path": "",
        "query_string": asked["query"].encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": None,
        "server": None,
    }
    put_within(scope, caller)
    entry = fhir_within.entry(await fhir_within.ask(door, scope, body), _TOLD)
    made = f'{{"resourceType":"Bundle","type":"batch-response","entry":[{entry}]}}'
    await asyncio.to_thread(files.write, f"{job.folder}/{_ANSWER}", made.encode())
    await asyncio.to_thread(files.remove, f"{job.folder}/{_BODY}")
    return {}


def _watch(pool: Pool, job: Job, token: Token) -> Callable[[], Awaitable[str]]:
    """Asks, at most each second, why to go no further."""
    reason, asked_at = "", float("-inf")

    async def stopped() -> str:
        nonlocal reason, asked_at
        if not reason and asked_at + 1 < time.monotonic():
            asked_at = time.monotonic()
            if not await jobs.still_wanted(pool, job):
                reason = "it was cancelled"
            elif await tokens.is_ended(pool, token):
                reason = "the token, or what it came of, was ended"
        return reason

    return stopped


def _token(kept: dict[str, str | None]) -> Token:
    said = {name: value for name, value in kept.items() if value is not None}
    numbers = {name: uuid.UUID(value) for name, value in said.items() if name.endswith("_id") and name != "client_id"}
    return Token(said["client_id"], said["scope"], int(said["expires"]), said["jti"], **numbers)


async def _finish(_: Pool, __: Job, ___: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"file": _ANSWER}
