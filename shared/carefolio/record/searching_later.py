"""A search that is asked for now and answered later (R4 3.1.6.0, Prefer: respond-async): all of its pages as ndjson.

The same reader, rule, parameters and audit lines as a search that is answered at once; what it finds is what is there
when each page is read.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.record import bulk, jobs, search
from carefolio.record.access import Reader
from carefolio.record.jobs import Job, JobError
from carefolio.record.search import MAX_COUNT

KIND = "search"
# About the answer, which is another: pages and totals are the job's own.
_PAGING = ("_count", "_cursor", "_total", "_summary", "_format", "_pretty")


async def begin(
    pool: Pool, reader: Reader, request: str, kind: str, query: Sequence[tuple[str, str]], patient: uuid.UUID | None
) -> Job:
    """Have a search of a type done, in one ``patient``'s compartment or not.

    Raises SearchError at once for one that cannot be, and jobs.TooManyError.
    """
    asked = [[name, value] for name, value in query if name not in _PAGING]
    counted: list[tuple[str, str]] = [*map(tuple, asked), ("_summary", "count")]  # type: ignore[list-item]
    await search.search(pool, reader, [kind], counted, strict=True, patient=patient)
    whose = str(patient) if patient else None
    said = {"kind": kind, "query": asked, "patient": whose, "at": datetime.now(UTC).isoformat()}
    return await jobs.make(pool, KIND, reader, request, said)


async def _plan(_: Pool, __: Job) -> list[dict[str, Any]]:
    """One part: a page follows from the one before."""
    return [{}]


async def _work(pool: Pool, job: Job, part: int, _: dict[str, Any]) -> dict[str, Any]:
    asked = [(str(name), str(value)) for name, value in job.asked["query"]]
    # A release before this one told of no patient.
    patient = uuid.UUID(job.asked["patient"]) if job.asked.get("patient") else None
    cursor: list[tuple[str, str]] = []
    with bulk.Writers(job, part) as out:
        while True:
            if not await jobs.still_wanted(pool, job):
                raise JobError("it was cancelled")
            query = [*asked, ("_count", str(MAX_COUNT)), ("_total", "none"), *cursor]
            page = await search.search(pool, job.reader, [job.asked["kind"]], query, strict=True, patient=patient)
            by_kind: dict[str, list[str]] = {}
            for found in page.found:
                if found.mode == "match" or job.reader.may(found.type, "r"):
                    by_kind.setdefault(found.type, []).append(found.content)
            for kind, lines in by_kind.items():
                await asyncio.to_thread(out.write, kind, lines)
            if page.cursor is None:
                break
            cursor = [("_cursor", page.cursor)]
    return {"files": [[kind, out.name(kind), count] for kind, count in sorted(out.counts.items())]}


jobs.register(KIND, jobs.Kind(_plan, _work, bulk.manifest))
