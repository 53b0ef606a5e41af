"""FHIR's asynchronous requests (Bulk Data Access 2.0; R4 3.1.6.0): begun, polled, cancelled, and what they made
fetched.

Export: https://hl7.org/fhir/uv/bulkdata/STU2/export.html
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from datetime import UTC
from email.utils import format_datetime
from typing import Any

import anyio
import anyio.to_thread
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from carefolio.cloud import database, files
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_parameters import given
from carefolio.doors.fhir_requests import document_of, reader_of, span_of
from carefolio.fhir import text
from carefolio.fhir.errors import error
from carefolio.fhir.xml import serialise
from carefolio.record import bulk, importing, jobs, searching_later
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError
from carefolio.record.ids import internal_id
from carefolio.record.jobs import Job

_NDJSON = "application/fhir+ndjson"
_FORMATS = {"", _NDJSON, "application/ndjson", "ndjson"}
_FILE = re.compile(r"[A-Za-z]{2,40}-[0-9]{6}\.ndjson\Z")
_MOST_PATIENTS = 10_000
_BLOCK = 256 * 1024
# Asked for again after so many seconds.
_AGAIN = 2
# Marks a request that is an entry of a Bundle.
OF_BUNDLE = "carefolio.entry"
# Of the operation, but about what is not kept here.
_UNKNOWN = "not a parameter of this export; with Prefer: handling=lenient it is passed over"


async def export_system(request: Request) -> Response:
    """GET, POST $export: everything that the client may read."""
    return await _export(request, "system")


async def export_patients(request: Request) -> Response:
    """GET, POST Patient/$export: of all patients what is theirs."""
    return await _export(request, "patient")


async def export_group(request: Request) -> Response:
    """GET, POST Group/[id]/$export: of the members of a Group."""
    return await _export(request, "group")


async def _export(request: Request, level: str) -> Response:
    if OF_BUNDLE in request.scope:
        raise error(400, "not-supported", "an export is asked for by itself: an entry has no place to ask at")
    token = await authorised(request, "", "")
    reader = reader_of(token)
    if reader.account is not None or not bulk.permits(token.scope):
        raise HTTPException(
            403, "an export is for systems (client credentials, scope system/*.rs); people have $everything"
        )
    pool = await database.pool()
    query = [(name, _text(name, value)) for name, value in await given(request)]
    lenient = answers.preferences(request).get("handling", "") == "lenient"
    asked = _asked(query, level, lenient=lenient)
    if level == "group":
        if not reader.may("Group", "r"):
            raise HTTPException(403, "the members of a Group are for a client that reads Group")
        members = await bulk.members(pool, reader, str(request.path_params["id"]))
        if members is None:
            raise error(404, "not-found", "no such Group, or not for this reader")
        wanted = set(asked["patients"]) if asked["patients"] is not None else set(members)
        asked["patients"] = sorted(wanted & set(members))
    bulk.check(reader, asked)
    asked |= await bulk.asked_now(pool)
    return await begun(jobs.make(pool, bulk.KIND, reader, address(request), asked))


async def import_files(request: Request) -> Response:
    """POST $import: ndjson files of resources, by a manifest, from hosts that the operator has allowed."""
    reader = reader_of(await authorised(request, "", ""))
    if reader.account is not None:
        raise HTTPException(403, "an import is for systems (client credentials, scope system/*.cu)")
    inputs = importing.inputs_of(await document_of(request))
    importing.check(reader, inputs)
    return await begun(importing.begin(await database.pool(), reader, address(request), inputs))


async def search_later(
    request: Request, reader: Reader, kind: str, query: list[tuple[str, str]], patient: uuid.UUID | None
) -> Response:
    """A search with Prefer: respond-async, as bulk data (R4 3.1.6.0)."""
    pool = await database.pool()
    return await begun(searching_later.begin(pool, reader, address(request), kind, query, patient))


async def begun(making: Awaitable[Job]) -> Response:
    """202 with where to ask; 429 where the caller has too many under way."""
    try:
        job = await making
    except jobs.TooManyError:
        raise HTTPException(
            429,
            f"{jobs.MOST_LIVING} jobs of this client are under way: wait for one, or cancel it",
            {"Retry-After": "60"},
        ) from None
    headers = {"Content-Location": _status_of(job)}
    return answers.answer(
        orjson.dumps(_outcome("information", "informational", "begun: ask at Content-Location")), 202, headers
    )


def _text(name: str, value: Any) -> str:
    """A parameter as it would stand in the address; of a Reference what it refers to. Raises SearchError."""
    text = value.get("reference") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise SearchError(name, "no such type of it")
    return text


def _asked(query: list[tuple[str, str]], level: str, *, lenient: bool) -> dict[str, Any]:
    """What is asked for. Raises SearchError naming the parameter."""
    made: dict[str, Any] = {
        "level": level, "types": [], "since": None, "filters": [], "elements": [], "patients": None, "associated": [],
    }  # fmt: skip
    associated: list[str] = []
    for name, value in query:
        if name == "_outputFormat":
            if value not in _FORMATS:
                raise SearchError(name, f"files are {_NDJSON}")
        elif name == "_since":
            made["since"] = span_of(name, value)[0].astimezone(UTC).isoformat()
        elif name == "_type":
            made["types"] += [each for each in value.split(",") if each and each not in made["types"]]
        elif name == "_typeFilter":
            made["filters"] += [_type_filter(each) for each in _parted(value)]
        elif name == "_elements":
            made["elements"] += [list(each.strip().rpartition(".")[::2]) for each in value.split(",") if each.strip()]
        elif name == "includeAssociatedData":
            associated += value.split(",")
        elif name == "patient" and level != "system":
            made["patients"] = [*(made["patients"] or []), _patient(value)]
            if len(made["patients"]) > _MOST_PATIENTS:
                raise SearchError(name, f"at most {_MOST_PATIENTS} patients")
        elif not lenient and name not in ("_format", "_pretty"):
            raise SearchError(name[:40], _UNKNOWN)
    made["associated"] = _associated(associated, lenient=lenient)
    return made


def _associated(values: Sequence[str], *, lenient: bool) -> list[str]:
    """All Provenances have the latest among them. Raises SearchError."""
    known = [each for each in (bulk.ALL, bulk.LATEST) if each in values]
    if len(known) < len(set(values)) and not lenient:
        raise SearchError("includeAssociatedData", f"{bulk.LATEST} or {bulk.ALL}")
    return known[:1]


def _parted(value: str) -> Iterator[str]:
    """Several filters in one value: a comma before the next ``Type?`` parts them, another belongs to a search."""
    yield from re.split(r",(?=[A-Z][A-Za-z]+\?)", value)


def _type_filter(value: str) -> list[str]:
    kind, question, query = value.partition("?")
    if not question:
        raise SearchError("_typeFilter", "a filter is [type]?[parameters]")
    return [kind, query]


def _patient(value: str) -> str:
    kind, _, number = value.rpartition("/")
    if kind.rpartition("/")[2] != "Patient" or not number:
        raise SearchError("patient", "a reference to a Patient is needed")
    return str(internal_id("Patient", number))


def address(request: Request) -> str:
    """The address that was asked for, for the manifest."""
    question = request.url.query
    path = request.url.path.removeprefix("/fhir/R4")
    return f"{answers.base()}{path}" + (f"?{question}" if question else "")


def _status_of(job: Job) -> str:
    return f"{answers.base()}/$job/{job.id}"


async def status(request: Request) -> Response:
    """GET $job/[id]: 202 with X-Progress while it is under way, 500 with what failed, 200 with the manifest or, of a
    request that is not bulk data, its answer."""
    _, job = await _job(request)
    if job.status == "failed":
        raise error(500, "exception", f"the job failed: {job.failed}")
    if job.answer is None:
        done, parts = await jobs.progress(await database.pool(), job)
        progress = f"{done} of {parts} parts" if parts else "planning"
        return Response(None, 202, {"X-Progress": progress, "Retry-After": str(_AGAIN)})
    assert job.expires_at is not None
    headers = {"Expires": format_datetime(job.expires_at.astimezone(UTC), usegmt=True)}
    if name := job.answer.get("file"):
        told = await anyio.to_thread.run_sync(files.read, f"{job.folder}/{name}")
        if job.asked["form"] == "xml" and not fhir_formats.names_format(request):
            xml = await anyio.to_thread.run_sync(lambda: serialise(text.loads(told)))
            return Response(xml, 200, headers, media_type=fhir_formats.XML)
        return answers.answer(told, 200, headers)
    made = {"transactionTime": job.answer["transactionTime"], "request": job.request, "requiresAccessToken": True}
    if job.kind == importing.KIND:
        made["outcome"] = job.answer["outcome"]
        made["error"] = [_file(job, each) | {"inputUrl": each["inputUrl"]} for each in job.answer["error"]]
    else:
        made["output"] = [_file(job, each) for each in job.answer["output"]]
        made["deleted"] = [_file(job, each) for each in job.answer["deleted"]]
        made["error"] = []
    return Response(orjson.dumps(made), 200, headers, media_type="application/json")


def _file(job: Job, each: dict[str, Any]) -> dict[str, Any]:
    return {"type": each["type"], "url": f"{_status_of(job)}/{each['file']}", "count": each["count"]}


async def cancel(request: Request) -> Response:
    """DELETE $job/[id]: it ends, and what it made is gone."""
    _, job = await _job(request)
    await jobs.cancel(await database.pool(), job)
    return Response(None, 202)


async def fetch(request: Request) -> Response:
    """GET $job/[id]/[file]: a file of what it made, with the token of the client that asked for it."""
    _, job = await _job(request)
    name = str(request.path_params["file"])
    if job.answer is None or not _FILE.match(name):
        raise error(404, "not-found", "no such file")
    stream = _blocks(f"{job.folder}/{name}")
    try:
        first = await anext(stream, b"")
    except FileNotFoundError:
        raise error(404, "not-found", "no such file") from None
    return StreamingResponse(_after(first, stream), media_type=_NDJSON)


async def _after(first: bytes, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in stream:
        yield block


async def _blocks(name: str) -> AsyncIterator[bytes]:
    """A file in pieces, read beside the event loop. Raises FileNotFoundError with the first."""
    held = files.reader(name)
    file = await anyio.to_thread.run_sync(held.__enter__)
    try:
        while block := await anyio.to_thread.run_sync(file.read, _BLOCK):
            yield block
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(held.__exit__, None, None, None)


async def _job(request: Request) -> tuple[Reader, Job]:
    """The caller's own job. Raises FhirError 404 for another's, and for one that is over."""
    reader = reader_of(await authorised(request, "", ""))
    try:
        number = uuid.UUID(str(request.path_params["job"]))
    except ValueError:
        raise error(404, "not-found", "no such job") from None
    job = await jobs.find(await database.pool(), number, reader)
    if job is None or job.status in ("cancelled", "expired"):
        raise error(404, "not-found", "no such job, or it is over")
    return reader, job


def _outcome(severity: str, code: str, reason: str) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code, "diagnostics": reason}]}
