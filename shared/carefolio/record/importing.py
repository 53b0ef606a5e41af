"""$import: ndjson files of resources, fetched from where their manifest says, line by line, with a report of what was
refused.

The manifest is that of the SMART team's Bulk Import proposal (https://github.com/smart-on-fhir/bulk-import), as JSON
or as Parameters. A line is an update: its id stays, one without gets an id of what it says, so that a file that is read
once more, after a crash or in another import, makes nothing twice. A line that is refused holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.fhir import text
from carefolio.fhir.definitions import NO_ENDPOINT, resource_types
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.validation import validate
from carefolio.identity import outside
from carefolio.mapping.serialise import dumps
from carefolio.record import bulk, jobs, resources
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError
from carefolio.record.ids import derived
from carefolio.record.jobs import Job, JobError
from carefolio.record.resources import Operation

KIND = "import"
_FORMATS = ("application/fhir+ndjson", "application/ndjson", "ndjson")
_MOST_FILES = 1000
# A part has ten minutes; what is longer is another file.
_MOST_LINES = 500_000
_LONGEST_LINE = 10 * 1024 * 1024
_AT_ONCE = 200
_MOST_REPORTED = 10_000
_TIMEOUT = httpx2.Timeout(30, connect=5)
_OUTCOME = "OperationOutcome"

Input = dict[str, str]


def inputs_of(said: Any) -> list[Input]:
    """The files of a manifest: type and url of each. Raises FhirError."""
    if not isinstance(said, dict):
        raise error(400, "invalid", "a manifest is needed: inputFormat, input")
    if said.get("resourceType") == "Parameters":
        said = _of_parameters(said)
    if said.get("inputFormat", _FORMATS[0]) not in _FORMATS:
        raise error(400, "invalid", f"files are {_FORMATS[0]}", "inputFormat")
    files = said.get("input")
    if not isinstance(files, list) or not files or len(files) > _MOST_FILES:
        raise error(400, "required", f"1 to {_MOST_FILES} files are needed", "input")
    made = []
    for number, each in enumerate(files):
        if not isinstance(each, dict) or not isinstance(each.get("type"), str) or not isinstance(each.get("url"), str):
            raise error(400, "required", "a file has a type and a url", f"input[{number}]")
        made.append({"type": each["type"], "url": each["url"]})
    return made


def _of_parameters(said: dict[str, Any]) -> dict[str, Any]:
    """As JSON what Parameters say: inputFormat, and for each input its parts type (or resourceType) and url."""
    if issues := validate(said):
        raise FhirError(400, issues)
    made: dict[str, Any] = {"input": []}
    for parameter in said.get("parameter") or []:
        name = parameter.get("name")
        value = next((each for key, each in parameter.items() if key.startswith("value")), None)
        if name == "input":
            parts = {part.get("name"): next((each for key, each in part.items() if key.startswith("value")), None)
                     for part in parameter.get("part") or []}  # fmt: skip
            made["input"].append({"type": parts.get("type") or parts.get("resourceType"), "url": parts.get("url")})
        elif name == "inputFormat":
            made[name] = value
    return made


def check(reader: Reader, inputs: Sequence[Input]) -> None:
    """Whether the caller may write these types, and we may fetch from there. Raises FhirError."""
    for number, each in enumerate(inputs):
        place = f"input[{number}]"
        if each["type"] not in resource_types() - NO_ENDPOINT:
            raise error(400, "invalid", f"{each['type'][:40]} is no resource type", f"{place}.type")
        if not (reader.may(each["type"], "c") and reader.may(each["type"], "u")):
            raise error(403, "forbidden", f"the client does not write {each['type']}", f"{place}.type")
        try:
            outside.check_url(each["url"])
        except outside.OutsideError as refused:
            raise error(400, "invalid", refused.reason, f"{place}.url") from None
        if (urlsplit(each["url"]).hostname or "").lower() not in settings().import_hosts:
            raise error(403, "forbidden", "the operator has not allowed files from this host", f"{place}.url")


async def begin(pool: Pool, reader: Reader, request: str, inputs: Sequence[Input]) -> Job:
    """Have the files taken in. Raises jobs.TooManyError."""
    asked = {"input": list(inputs), "at": datetime.now(UTC).isoformat()}
    return await jobs.make(pool, KIND, reader, request, asked)


async def _plan(_: Pool, job: Job) -> list[dict[str, Any]]:
    return list(job.asked["input"])


class _Taken:
    """What has become of the lines of a file so far."""

    def __init__(self, out: bulk.Writers) -> None:
        self._out = out
        self.good, self.refused = 0, 0

    async def refuse(self, line: int, issues: Sequence[tuple[str, str]]) -> None:
        """A line in the report: its number and place, and what is wrong, never what it says."""
        self.refused += 1
        if self.refused > _MOST_REPORTED:
            return
        listed = [
            {"severity": "error", "code": "invalid", "diagnostics": f"line {line}: {reason}"}
            | ({"expression": [place]} if place else {})
            for reason, place in issues
        ]
        outcome = dumps({"resourceType": _OUTCOME, "issue": listed}).decode()
        await asyncio.to_thread(self._out.write, _OUTCOME, [outcome])


async def _work(pool: Pool, job: Job, part: int, subject: dict[str, Any]) -> dict[str, Any]:
    """Take one file in."""
    with bulk.Writers(job, part) as out:
        taken = _Taken(out)
        batch: list[tuple[int, bytes]] = []
        number = 0
        try:
            async for line in _lines(subject["url"]):
                number += 1
                if number > _MOST_LINES:
                    raise JobError(f"input[{part - 1}]: more than {_MOST_LINES} lines; part the file")
                if line is None:
                    await taken.refuse(number, [(f"longer than {_LONGEST_LINE} bytes", "")])
                elif line.strip():
                    batch.append((number, line))
                if len(batch) == _AT_ONCE:
                    if not await jobs.still_wanted(pool, job):
                        raise JobError("it was cancelled")
                    await _take(pool, job, part, subject["type"], batch, taken)
                    batch = []
        except outside.OutsideError as failed:
            raise JobError(f"input[{part - 1}]: {failed.reason}, after line {number}") from None
        await _take(pool, job, part, subject["type"], batch, taken)
    files = [[kind, out.name(kind), count] for kind, count in out.counts.items()]
    return {
        "type": subject["type"],
        "url": subject["url"],
        "good": taken.good,
        "refused": taken.refused,
        "files": files,
    }


async def _lines(url: str) -> AsyncIterator[bytes | None]:
    """The lines of a file, read as they are asked for; None for one that is too long. Raises OutsideError."""
    to = await outside.pinned(url)
    held, skipping = b"", False
    try:
        async with (
            httpx2.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "GET", to.target, headers={"Accept": _FORMATS[0], "Host": to.host}, extensions=to.extensions
            ) as answer,
        ):
            if answer.status_code != 200:
                raise outside.OutsideError(f"status {answer.status_code}")
            async for chunk in answer.aiter_bytes():
                *whole, held = (held + chunk).split(b"\n")
                for line in whole:
                    yield None if skipping else line
                    skipping = False
                if len(held) > _LONGEST_LINE:
                    held, skipping = b"", True
    except (httpx2.HTTPError, TimeoutError) as failed:
        raise outside.OutsideError(type(failed).__name__) from None
    if held or skipping:
        yield None if skipping else held


async def _take(pool: Pool, job: Job, part: int, kind: str, lines: Sequence[tuple[int, bytes]], taken: _Taken) -> None:
    """Some lines at once; one by one where one of them cannot be written."""
    read = await asyncio.to_thread(_read, job, part, kind, lines)
    operations: list[tuple[int, Operation]] = []
    for number, found in read:
        if isinstance(found, Operation):
            operations.append((number, found))
        else:
            await taken.refuse(number, found)
    if not operations:
        return
    try:
        await resources.commit(pool, job.reader, [operation for _, operation in operations])
        taken.good += len(operations)
        return
    except (FhirError, SearchError):
        # One of them: which, is seen when each is by itself.
        pass
    for number, operation in operations:
        try:
            await resources.commit(pool, job.reader, [operation])
            taken.good += 1
        except FhirError as refused:
            await taken.refuse(number, [(issue.text, issue.expression) for issue in refused.issues])
        except SearchError as refused:
            await taken.refuse(number, [(refused.reason, refused.parameter)])


def _read(
    job: Job, part: int, kind: str, lines: Sequence[tuple[int, bytes]]
) -> list[tuple[int, Operation | list[tuple[str, str]]]]:
    """Each line as a write, or what is wrong with it."""
    made: list[tuple[int, Operation | list[tuple[str, str]]]] = []
    for number, line in lines:
        try:
            resource = text.loads(line)
            if isinstance(resource, dict) and "id" not in resource:
                resource["id"] = str(derived("import", job.reader.actor, kind, line.strip().decode("utf-8", "replace")))
            resources.check(resource, kind)
        except FhirError as refused:
            made.append((number, [(issue.text, issue.expression) for issue in refused.issues[:20]]))
        except SearchError as refused:
            made.append((number, [(refused.reason, refused.parameter)]))
        except (ValueError, RecursionError):
            made.append((number, [("not JSON", "")]))
        else:
            made.append((number, Operation("PUT", kind, id=str(resource["id"]), resource=resource)))
    return made


async def _finish(_: Pool, job: Job, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "transactionTime": job.asked["at"],
        "outcome": [
            {"type": each["type"], "inputUrl": each["url"], "count": each["good"], "refused": each["refused"]}
            for each in results
        ],
        "error": [
            {"type": kind, "inputUrl": each["url"], "file": name, "count": count}
            for each in results
            for kind, name, count in each["files"]
        ],
    }


jobs.register(KIND, jobs.Kind(_plan, _work, _finish))
