"""Bulk Data Access 2.0's $export: what a system may read, as ndjson files, written in parallel, as of one moment.

(https://hl7.org/fhir/uv/bulkdata/STU2/export.html) The record is read as it stood at that moment, however long it
takes and whatever is written meanwhile; a part is some thousand patients with all that is theirs, a file of it a
resource type.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from carefolio.cloud import files
from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.fhir.definitions import NO_ENDPOINT, elements, resource_types
from carefolio.identity import scopes
from carefolio.mapping.serialise import dumps
from carefolio.record import cohorts, jobs, provenance
from carefolio.record.access import Reader, opened, readable, resources
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.ids import internal_id
from carefolio.record.includes import logical_id
from carefolio.record.jobs import Job, JobError, NotYetError
from carefolio.record.search_terms import condition

KIND = "export"
# Patients of a part, of a statement; resources of nobody's in a statement.
_OF_PART, _AT_ONCE, _OF_NOBODY = 1000, 100, 2000
# What was changed by clocks a little ahead of this one, and by who had his time before he began.
_MARGIN = timedelta(seconds=2)
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
# Values of includeAssociatedData (Bulk Data Access 2.0).
LATEST, ALL = "LatestProvenanceResources", "RelevantProvenanceResources"
# Made when they are read, beside what clients have stored of them.
MADE = frozenset({"Provenance", "AuditEvent"})


def exportable(reader: Reader) -> list[str]:
    """The types that a system's scope lets it read, and that are stored."""
    return sorted(kind for kind in resource_types() - NO_ENDPOINT if reader.may(kind, "r"))


def check(reader: Reader, asked: dict[str, Any]) -> None:
    """Whether what is asked for can be; raises SearchError naming the parameter."""
    for kind in asked["types"]:
        if kind not in resource_types() - NO_ENDPOINT:
            raise SearchError("_type", f"{kind[:40]} is no resource type")
        if not reader.may(kind, "r"):
            raise SearchError("_type", f"{kind} is not open to this client")
    for kind, query in asked["filters"]:
        if kind not in resource_types():
            raise SearchError("_typeFilter", f"{kind[:40]} is no resource type")
        _filter(kind, query, Arguments(organisation_id=reader.organisation_id))
    if asked["associated"] and not reader.may("Provenance", "r"):
        raise SearchError("includeAssociatedData", "Provenance is not open to this client")
    for kind, name in asked["elements"]:
        if kind and (kind not in resource_types() or name not in elements(kind)):
            raise SearchError("_elements", f"{kind[:40]}.{name[:40]} is no element")


def _filter(kind: str, query: str, arguments: Arguments) -> str:
    """SQL of one _typeFilter. Raises SearchError."""
    found = parse_qsl(query, keep_blank_values=True)
    if not found:
        raise SearchError("_typeFilter", f"{kind}? needs a search parameter")
    return " AND ".join(condition(kind, name, value, arguments) for name, value in found)


async def _plan(pool: Pool, job: Job) -> list[dict[str, Any]]:
    """The patients in portions, and what is nobody's; when everything that was being written then is there."""
    await _settled(pool, job)
    asked = job.asked
    kinds = asked["types"] or exportable(job.reader)
    if asked.get("associated") and not asked["types"]:
        # They come with what they are about.
        kinds.remove("Provenance")
    # A part ends within ten minutes, and telling from where a resource came takes a millisecond.
    of_part = _AT_ONCE if asked.get("associated") else _OF_PART
    parts: list[dict[str, Any]] = []
    portion: list[str] = []
    after = uuid.UUID(int=0)
    while True:
        found = await _patients(pool, job, after)
        for number in found:
            portion.append(str(number))
            if len(portion) == of_part:
                parts.append({"patients": portion, "types": kinds})
                portion = []
        if len(found) < 10_000:
            break
        after = found[-1]
    if portion:
        parts.append({"patients": portion, "types": kinds})
    if asked["level"] == "system":
        parts.append({"patients": None, "types": kinds})
    return parts


async def _settled(pool: Pool, job: Job) -> None:
    """Whoever had begun to write when the export was asked for has ended: else a later export with _since misses it."""
    if "snapshot" not in job.asked:
        return
    for _ in range(50):
        over = await pool.fetchval(
            "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= pg_snapshot_xmax($1::text::pg_snapshot)",
            job.asked["snapshot"],
        )
        if over:
            return
        await asyncio.sleep(0.2)
    raise NotYetError


async def _patients(pool: Pool, job: Job, after: uuid.UUID) -> list[uuid.UUID]:
    """The next patients that the reader sees, in the order of their ids; with _since also who was deleted since."""
    reader = _reader(job)
    arguments: list[Any] = [after]
    chosen, gone = "", ""
    if job.asked["patients"] is not None:
        arguments.append([uuid.UUID(each) for each in job.asked["patients"]])
        chosen = f"AND id = ANY(${len(arguments)}::uuid[])"
    source, may_read = resources(reader, arguments), readable(reader, arguments)
    if job.asked["since"]:
        arguments += [datetime.fromisoformat(job.asked["since"]), reader.at]
        gone = f"""
            UNION SELECT id FROM resource_history
            WHERE type = 'Patient' AND id > $1 {chosen} AND content IS NULL AND valid_to = 'infinity'
              AND valid_from > ${len(arguments) - 1} AND valid_from < ${len(arguments)}
              AND {readable(reader, arguments, "resource_history")}
        """  # noqa: S608 - the predicates are ours, their values are arguments
    rows = await pool.fetch(
        f"""
        SELECT id FROM {source} WHERE type = 'Patient' AND id > $1 {chosen} AND {may_read} {gone}
        ORDER BY id LIMIT 10000
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments,
    )
    return [row["id"] for row in rows]


def _reader(job: Job) -> Reader:
    """As of the job's moment."""
    reader = job.reader
    return Reader(reader.actor, reader.organisation_id, reader.scope, datetime.fromisoformat(job.asked["at"]))


class Writers:
    """A file for each type that a part has something of; all of them are there whole, or none."""

    def __init__(self, job: Job, part: int) -> None:
        self._job, self._part = job, part
        self._stack = contextlib.ExitStack()
        self._open: dict[str, BinaryIO] = {}
        self.counts: dict[str, int] = {}
        # Provenances that are written: one is of several resources.
        self.said: set[uuid.UUID] = set()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, kind: str, lines: Sequence[str]) -> None:
        if kind not in self._open:
            self._open[kind] = self._stack.enter_context(files.writer(f"{self._job.folder}/{self.name(kind)}"))
        self._open[kind].write(("\n".join(lines) + "\n").encode())
        self.counts[kind] = self.counts.get(kind, 0) + len(lines)

    def name(self, kind: str) -> str:
        return f"{kind}-{self._part:06d}.ndjson"


async def _work(pool: Pool, job: Job, part: int, subject: dict[str, Any]) -> dict[str, Any]:
    """Write the files of a part."""
    with Writers(job, part) as out:
        if subject["patients"] is None:
            await _of_nobody(pool, job, subject["types"], out)
            if job.asked["since"]:
                await _gone(pool, job, None, subject["types"], out)
        else:
            for start in range(0, len(subject["patients"]), _AT_ONCE):
                if not await jobs.still_wanted(pool, job):
                    raise JobError("it was cancelled")
                patients = [uuid.UUID(each) for each in subject["patients"][start : start + _AT_ONCE]]
                await _of_patients(pool, job, patients, subject["types"], out)
                if job.asked["since"]:
                    await _gone(pool, job, patients, subject["types"], out)
    return {"files": [[kind, out.name(kind), count] for kind, count in sorted(out.counts.items())]}


async def _of_patients(pool: Pool, job: Job, patients: list[uuid.UUID], kinds: list[str], out: Writers) -> None:
    arguments: list[Any] = [patients, kinds]
    await _write(pool, job, "patient_id = ANY($1::uuid[]) AND type = ANY($2::text[])", arguments, out)


async def _of_nobody(pool: Pool, job: Job, kinds: list[str], out: Writers) -> None:
    """Who did it, where, with what: in the order of their ids."""
    after = uuid.UUID(int=0)
    while True:
        if not await jobs.still_wanted(pool, job):
            raise JobError("it was cancelled")
        arguments: list[Any] = [after, kinds]
        rows = await _write(
            pool, job, "patient_id IS NULL AND id > $1 AND type = ANY($2::text[])", arguments, out, most=_OF_NOBODY
        )
        if len(rows) < _OF_NOBODY:
            return
        after = max(row["id"] for row in rows)


async def _write(
    pool: Pool, job: Job, where: str, arguments: list[Any], out: Writers, *, most: int | None = None
) -> Sequence[Any]:
    """Write what is chosen, with an audit line for each patient, and return it."""
    reader = _reader(job)
    since = ""
    if job.asked["since"]:
        arguments.append(datetime.fromisoformat(job.asked["since"]))
        since = f"AND last_updated > ${len(arguments)}"
    limit = f"ORDER BY id LIMIT {most}" if most else ""
    chosen = f"""
        SELECT id, version, type, patient_id FROM {resources(reader, arguments)}
        WHERE {where} {since} AND {readable(reader, arguments)} {_filters(job, arguments)} {limit}
    """  # noqa: S608 - the predicates are ours, their values are arguments
    arguments += [reader.actor, reader.organisation_id]
    actor, organisation = f"${len(arguments) - 1}::text", f"${len(arguments)}::uuid"
    # A release before this one told of no such data.
    told = job.asked.get("associated", [])
    also = " || ',Provenance'" if told else ""
    rows: list[Any] = await pool.fetch(
        f"""
        WITH found AS MATERIALIZED ({chosen}), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, query)
            SELECT {actor}, {organisation}, 'export', patient_id, string_agg(DISTINCT type, ','){also}, '{job.id}'
            FROM found WHERE patient_id IS NOT NULL GROUP BY patient_id
        ) SELECT id, version, type, patient_id, opened.content
        FROM found JOIN {opened(reader, arguments)} USING (id, version) ORDER BY type, id
        """,  # noqa: S608 - ours
        *arguments,
        timeout=120,
    )
    await asyncio.to_thread(_put, rows, _elements(job), out)
    if told:
        await _associated(pool, job, rows, out)
    return rows


async def _associated(pool: Pool, job: Job, rows: Sequence[Any], out: Writers) -> None:
    """From where these came: what we know of it, and what clients have said (stored Provenances)."""
    found = [row for row in rows if row["type"] not in MADE]
    reader, latest = _reader(job), LATEST in job.asked["associated"]
    for start in range(0, len(found), _AT_ONCE):
        portion = found[start : start + _AT_ONCE]
        versions = [(row["id"], row["version"]) for row in portion]
        lines = [dumps(each).decode() for each in await provenance.of_found(pool, reader, versions, latest=latest)]
        if "Provenance" not in job.asked["types"]:
            targets = [f"{row['type']}/{logical_id(row['content'])}" for row in portion]
            patients = [row["patient_id"] for row in rows if row["patient_id"]]
            said = await provenance.stored(pool, reader, patients, targets, latest=latest)
            lines += [content for number, content in said.items() if number not in out.said]
            out.said |= said.keys()
        listed = [{"type": "Provenance", "content": line} for line in lines]
        await asyncio.to_thread(_put, listed, _elements(job), out)


def _filters(job: Job, arguments: list[Any]) -> str:
    """Of the types that have a _typeFilter what one of its filters finds."""
    by_kind: dict[str, list[str]] = {}
    for kind, query in job.asked["filters"]:
        by_kind.setdefault(kind, []).append(query)
    made = Arguments(values=arguments, organisation_id=job.reader.organisation_id)
    clauses = []
    for kind, queries in by_kind.items():
        allowed = " OR ".join(f"({_filter(kind, query, made)})" for query in queries)
        clauses.append(f"AND (type <> '{kind}' OR {allowed})")
    return " ".join(clauses)


def _elements(job: Job) -> dict[str, set[str]]:
    """By type (empty: every type) the elements that are wanted."""
    made: dict[str, set[str]] = {}
    for kind, name in job.asked["elements"]:
        made.setdefault(kind, set()).add(name)
    return made


def _put(rows: Sequence[Any], wanted: dict[str, set[str]], out: Writers) -> None:
    by_kind: dict[str, list[str]] = {}
    for row in rows:
        content = row["content"]
        if wanted:
            content = _reduced(content, row["type"], wanted)
        by_kind.setdefault(row["type"], []).append(content)
    for kind, lines in by_kind.items():
        out.write(kind, lines)


def _reduced(content: str, kind: str, wanted: dict[str, set[str]]) -> str:
    """Only the elements that are wanted and those that must be there, and a tag that says so."""
    if kind not in wanted and "" not in wanted:
        return content
    names = wanted.get(kind, set()) | wanted.get("", set())
    kept = names | {"resourceType", "id", "meta"} | {name for name, each in elements(kind).items() if each.least}
    resource = text.loads(content)
    made = {name: value for name, value in resource.items() if name in kept or name.removeprefix("_") in kept}
    meta = dict(made.get("meta", {}))
    meta["tag"] = [*meta.get("tag", []), _SUBSETTED]
    return dumps(made | {"meta": meta}).decode()


async def _gone(pool: Pool, job: Job, patients: list[uuid.UUID] | None, kinds: list[str], out: Writers) -> None:
    """What was deleted since, of patients or of nobody's: a Bundle for each in a file of its own (manifest.deleted)."""
    reader = _reader(job)
    arguments: list[Any] = [patients, kinds, datetime.fromisoformat(job.asked["since"]), reader.at]
    whose = "patient_id = ANY($1::uuid[])" if patients is not None else "$1::uuid[] IS NULL AND patient_id IS NULL"
    rows = await pool.fetch(
        f"""
        SELECT type, (
            SELECT before.content::json ->> 'id' FROM resource_history before
            WHERE before.id = resource_history.id AND before.version = resource_history.version - 1
        ) AS id
        FROM resource_history
        WHERE {whose} AND type = ANY($2::text[]) AND content IS NULL AND valid_to = 'infinity'
          AND valid_from > $3 AND valid_from < $4 AND {readable(reader, arguments, "resource_history")}
        """,  # noqa: S608 - ours
        *arguments,
    )
    bundles = [
        json.dumps({"resourceType": "Bundle", "type": "transaction",
                    "entry": [{"request": {"method": "DELETE", "url": f"{row['type']}/{row['id']}"}}]})
        for row in rows
        if row["id"] is not None
    ]  # fmt: skip
    if bundles:
        await asyncio.to_thread(out.write, _DELETED, bundles)


_DELETED = "deleted"


async def manifest(_: Pool, job: Job, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The manifest, without the addresses, which are the door's to say."""
    output = [each for result in results for each in result["files"]]
    at = datetime.fromisoformat(job.asked["at"]) - _MARGIN
    return {
        "transactionTime": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "output": [{"type": kind, "file": name, "count": count} for kind, name, count in output if kind != _DELETED],
        "deleted": [
            {"type": "Bundle", "file": name, "count": count} for kind, name, count in output if kind == _DELETED
        ],
    }


async def asked_now(pool: Pool) -> dict[str, str]:
    """The moment of an export that is asked for now, and who is writing at it."""
    row = await pool.fetchrow("SELECT clock_timestamp() AS at, pg_current_snapshot()::text AS snapshot")
    return {"at": row["at"].isoformat(), "snapshot": row["snapshot"]}


async def members(pool: Pool, reader: Reader, group: str) -> list[str] | None:
    """The patients of a Group; None where it is not there or not open."""
    arguments: list[Any] = [internal_id("Group", group)]
    row = await pool.fetchrow(
        f"SELECT content FROM resource WHERE id = $1 AND type = 'Group' AND {readable(reader, arguments)}",  # noqa: S608
        *arguments,
    )
    if row is None:
        return None
    if filters := await cohorts.filters_kept(pool, arguments[0]):
        # As it is now, of what this reader reads.
        return [str(number) for number, _ in await cohorts.members(pool, reader, filters)]
    said = text.loads(row["content"]).get("member", [])
    return [str(number) for number in _patients_of(said)]


def _patients_of(members_: Sequence[dict[str, Any]]) -> Iterator[uuid.UUID]:
    for member in members_:
        kind, _, number = str(member.get("entity", {}).get("reference", "")).rpartition("/")
        if kind.rpartition("/")[2] == "Patient" and number and not member.get("inactive"):
            yield internal_id("Patient", number)


def permits(scope: str | None) -> bool:
    """Whether a token is a system's: others have $everything."""
    return scope is None or set(scopes.contexts(scope)) <= {"system"}


jobs.register(KIND, jobs.Kind(_plan, _work, manifest))
