"""What apps write: create, update, patch, delete, and bundles of them; one transaction, all or nothing (R4 3.1.0).

Nothing reaches the record that is not valid R4. Nobody writes into a record, or over a resource, that he does not
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.settings import settings
from carefolio.fhir import text
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.validation import validate
from carefolio.profiles import checking
from carefolio.record import effects, integrity, masking, parameters, search
from carefolio.record.access import Reader, hidden, may_write_into
from carefolio.record.consents import GRANTEE
from carefolio.record.contributing import check_author, for_whom, marked, new_label, patient_of
from carefolio.record.ids import internal_id, uuid7
from carefolio.record.includes import logical_id
from carefolio.record.references import names_of, resolved
from carefolio.record.rows import Known, Row, deletion, make_row
from carefolio.record.write import RETRIED, Origin, StrangerError, known, write

_TRIES = 5
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}\Z")
_MOST_CONDITIONAL = 500
_turns: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str, str], asyncio.Lock] = WeakValueDictionary()
Patch = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(slots=True)
class Operation:
    """One write. ``method`` is POST, PUT, PATCH or DELETE; ``id`` None where the server gives it, or a query finds it.

    ``query`` is If-None-Exist of a POST, the search of a conditional PUT, PATCH or DELETE. ``if_match``: the versions
    of which one must be current (none: any); ``if_absent``: there must be none. ``full_url`` is what other entries of
    a bundle call it; ``place`` names it in errors; ``directory``: it is a line of our own directory.
    """

    method: str
    type: str
    id: str | None = None
    resource: dict[str, Any] | None = None
    patch: Patch | None = None
    query: list[tuple[str, str]] | None = None
    if_match: frozenset[int] | None = None
    if_absent: bool = False
    full_url: str = ""
    place: str = ""
    many: bool = False
    directory: bool = False


@dataclass(slots=True)
class Result:
    """How a write ended: HTTP status, and the version that is there now (``content`` None after a deletion).

    ``shown`` is false where whoever wrote may not read: then the answer does not tell him what is there.
    """

    status: int
    type: str
    id: str
    version: int
    at: datetime
    content: str | None
    deleted: int = 0
    shown: bool = True


@dataclass(slots=True)
class _Work:
    """An operation on its way: the resource that it is about, found and locked."""

    operation: Operation
    number: uuid.UUID | None = None
    id: str = ""
    current: Known | None = None
    done: Result | None = None
    fresh: bool = False


@dataclass(slots=True)
class _Commit:
    """What one transaction gathers."""

    reader: Reader
    now: datetime
    origin: Origin
    rows: dict[uuid.UUID, Row] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    # What is to be kept beyond a resource: its content, or none where it goes, and what was prepared.
    beyond: dict[uuid.UUID, tuple[effects.Effect, str | None, Any]] = field(default_factory=dict)


async def commit(pool: Pool, reader: Reader, operations: Sequence[Operation]) -> list[Result]:
    """Do writes, all or none, in FHIR's order (DELETE, POST, PUT, PATCH); the results are in the order given.

    Raises FhirError and SearchError, which leave nothing changed; database errors pass.
    """
    await parameters.refresh(pool)
    alone = _is_alone(operations)
    for attempt in range(_TRIES):
        try:
            if alone and attempt == 0:
                async with _turn(operations[0]), pool.acquire() as connection:
                    return await _commit(connection, reader, operations, locking=False)
            async with pool.acquire() as connection, connection.transaction():
                results = await _commit(connection, reader, operations, locking=True)
            for done in effects.afterwards({operation.type for operation in operations}):
                await done(pool)
            return results
        except RETRIED:
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(0.01 * 2**attempt)
    raise AssertionError("the loop returns or raises")


def _turn(operation: Operation) -> contextlib.AbstractAsyncContextManager[Any]:
    """Who changes the same resource in this process waits here, rather than fail at the database and try again."""
    if operation.id is None:
        return contextlib.nullcontext()
    return _turns.setdefault((asyncio.get_running_loop(), operation.type, operation.id), asyncio.Lock())


def _is_alone(operations: Sequence[Operation]) -> bool:
    """Whether a write is of one resource and nothing else: one statement, which fails where somebody was faster."""
    if len(operations) != 1 or operations[0].query is not None or settings().referential_integrity:
        return False
    first = operations[0]
    if first.method == "PATCH":
        return effects.of(first.type) is None
    return not effects.matters(first.type, None if first.method == "DELETE" else first.resource)


async def _commit(
    connection: Connection, reader: Reader, operations: Sequence[Operation], *, locking: bool
) -> list[Result]:
    origin = Origin(uuid7(), reader.actor, organisation_id=reader.contributor, app=True)
    made = _Commit(reader, datetime.now(UTC), origin)
    work = [_Work(operation) for operation in operations]
    await _lock_queries(connection, operations)
    several: list[_Work] = []
    for each in work:
        several += await _find(connection, made, each)
    again = _once(work)
    await _know(connection, made, [*work, *several], locking=locking)
    _check_twice([*work, *several])
    for each in work:
        if each.operation.full_url and each.id:
            made.names |= names_of(each.operation.full_url, f"{each.operation.type}/{each.id}")
    waiting = [later for later, _ in again]
    for method in ("DELETE", "POST", "PUT", "PATCH"):
        for each in (*work, *several):
            if each.operation.method == method and each.done is None and each not in waiting:
                await _do(connection, made, each)
    rows = sorted(made.rows.values(), key=lambda row: row.id)
    if rows:
        patients = list(dict.fromkeys(row.patient_id for row in rows if row.patient_id))
        origin = await for_whom(connection, reader, origin, rows, patients)
        # Without a message the audit line of what belongs to nobody names nobody.
        try:
            await write(connection, origin, rows, made.now, patients=patients if len(patients) == 1 else [])
        except StrangerError:
            raise error(422, "business-rule", "the patient is not known to this client") from None
        if settings().referential_integrity:
            await integrity.check(connection, rows)
    for number, (effect, content, said) in sorted(made.beyond.items()):
        if content is None:
            await effect.gone(connection, number)
        else:
            await effect.keep(connection, reader, number, content, said)
    for later, first in again:
        assert first.done is not None
        later.done = dataclasses.replace(first.done, status=200)
    for each in work:
        if each.operation.many and each.done:
            each.done.deleted = sum(1 for other in several if other.operation is each.operation)
        if each.done:
            each.done.shown = reader.may(each.operation.type, "r")
    done = [each.done for each in work if each.done is not None]
    contents = await masking.masked(connection, reader, (each.content for each in done))
    for result, content in zip(done, contents, strict=True):
        result.content = content
    return done


def _once(work: Sequence[_Work]) -> list[tuple[_Work, _Work]]:
    """Creates of one condition in one transaction make one resource: (a later one, the first)."""
    first: dict[str, _Work] = {}
    again = []
    for each in work:
        if each.operation.method == "POST" and each.operation.query is not None and each.done is None:
            name = f"{each.operation.type}?{sorted(each.operation.query)}"
            if name in first:
                each.id, each.number, each.fresh = first[name].id, None, True
                again.append((each, first[name]))
            first.setdefault(name, each)
    return again


async def _lock_queries(connection: Connection, operations: Sequence[Operation]) -> None:
    """Two writes by the same condition decide one after the other."""
    names = {f"{o.type}?{sorted(o.query)}" for o in operations if o.query is not None}
    for name in sorted(names):
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 7))", name)


async def _find(connection: Connection, made: _Commit, work: _Work) -> list[_Work]:
    """The resource that an operation is about; for a deletion by condition all further ones."""
    operation = work.operation
    if operation.query is None:
        if operation.method == "POST":
            work.number = uuid7()
            work.id = str(work.number)
            work.fresh = True
        else:
            work.id = operation.id or ""
            if not _ID.match(work.id):
                raise error(400, "value", "an id has at most 64 letters, digits, - and .", operation.place)
            work.number = internal_id(operation.type, work.id)
        return []
    if not made.reader.may(operation.type, "s"):
        raise error(403, "forbidden", f"a condition needs the scope system/{operation.type}.s", operation.place)
    if not search.chooses(operation.query):
        raise error(412, "processing", "a condition has a criterion", operation.place)
    query = [*operation.query, ("_count", str(_MOST_CONDITIONAL if operation.many else 2))]
    page = await search.search(connection, made.reader, [operation.type], query, strict=True)
    found = [(each.id, logical_id(each.content)) for each in page.found]
    if not operation.many and len(found) > 1:
        raise error(412, "multiple-matches", "the condition is true of more than one resource", operation.place)
    if found:
        work.number, work.id = found[0]
        if operation.method == "PUT" and (operation.resource or {}).get("id", work.id) != work.id:
            raise error(400, "invalid", "the resource has another id than what the condition found", operation.place)
        if operation.method == "POST":
            row = await connection.fetchrow(
                "SELECT version, last_updated, content FROM resource WHERE id = $1", work.number
            )
            work.done = Result(200, operation.type, work.id, row["version"], row["last_updated"], row["content"])
        return [_Work(operation, number, name) for number, name in found[1:]]
    if operation.method in ("DELETE", "PATCH"):
        if operation.method == "PATCH":
            raise error(404, "not-found", "the condition is true of no resource", operation.place)
        work.done = Result(204, operation.type, "", 0, made.now, None)
    else:
        work.id = operation.id or (operation.resource or {}).get("id", "") if operation.method == "PUT" else ""
        work.id = work.id if _ID.match(work.id) else str(uuid7())
        work.number = internal_id(operation.type, work.id)
    return []


async def _know(connection: Connection, made: _Commit, work: Sequence[_Work], *, locking: bool) -> None:
    """Read what is there, with ``locking`` locked until the transaction ends, in the order of ids."""
    # A new id has nothing there, and nobody to wait for.
    numbers = sorted({each.number for each in work if each.number and each.done is None and not each.fresh})
    if not numbers:
        return
    if locking:
        await connection.execute("SELECT FROM resource WHERE id = ANY($1) ORDER BY id FOR UPDATE", numbers)
    kinds = {each.operation.type for each in work}
    there = await known(connection, numbers, sorted(kinds), aliases=False)
    live = [number for number, current in there.items() if current.live]
    person = made.reader.account is not None
    closed = await hidden(connection, made.reader, live) if made.reader.is_restricted or person else set()
    for each in work:
        if each.number is None or each.done is not None:
            continue
        if each.number in there and there[each.number].frozen:
            raise error(403, "forbidden", "the record is closed", each.operation.place)
        if each.number in closed and person and each.operation.method != "PUT":
            # As if it were not there.
            continue
        if each.number in closed:
            raise error(403, "forbidden", "the token does not read the resource", each.operation.place)
        each.current = there.get(each.number)
        if each.current and not await may_write_into(
            connection, made.reader, each.operation.type, each.operation.method, each.current.patient_id
        ):
            raise error(403, "forbidden", "the resource is outside of the record that is open", each.operation.place)
        if each.current and made.reader.contributor not in each.current.organisations:
            raise error(403, "forbidden", "the resource is not this client's to change", each.operation.place)


def _check_twice(work: Sequence[_Work]) -> None:
    """One transaction changes a resource once (R4 3.1.0.11.2)."""
    seen: set[uuid.UUID] = set()
    for each in work:
        if each.number is None or each.done is not None:
            continue
        if each.number in seen:
            raise error(400, "invalid", "the same resource twice in one transaction", each.operation.place)
        seen.add(each.number)


async def _do(connection: Connection, made: _Commit, work: _Work) -> None:
    operation, current, effect = work.operation, work.current, effects.of(work.operation.type)
    live = current is not None and current.live
    consent = current.content if live and current is not None and operation.type == "Consent" else None
    if consent is not None and GRANTEE in consent:
        raise error(422, "business-rule", "what is shared is changed by REST, not by its Consent", operation.place)
    if operation.if_match is not None and (not live or current is None or not _matches(operation.if_match, current)):
        raise error(412, "conflict", "the resource has another version", operation.place)
    if operation.if_absent and live:
        raise error(412, "conflict", "the resource is there already", operation.place)
    assert work.number is not None
    await check_author(connection, made.reader, operation, current if live else None, work.number)
    if operation.method == "DELETE":
        if current is None or not live:
            work.done = Result(204, operation.type, work.id, current.version if current else 0, made.now, None)
            return
        if len(current.organisations) > 1:
            # Who is a patient of others too does not go from the record because one has done with him.
            raise error(409, "conflict", "other organisations contributed to the resource", operation.place)
        row = deletion(work.number, operation.type, current)
        made.rows[work.number] = row
        if effect is not None:
            made.beyond[work.number] = effect, None, None
        work.done = Result(204, operation.type, work.id, row.version, made.now, None)
        return
    if operation.method == "PATCH":
        if current is None or current.content is None:
            raise error(404, "not-found", f"no such {operation.type}", operation.place)
        assert operation.patch is not None
        shown = text.loads(current.content)
        kept = await masking.with_marks(connection, made.reader, shown)
        resource = operation.patch(shown)
        masking.restore(resource, kept)
        if resource.get("id") != work.id or resource.get("resourceType") != operation.type:
            raise error(422, "invalid", "a patch does not change id or type", operation.place)
        check(resource, operation.type, operation.place)
    else:
        resource = copy.copy(operation.resource or {})
    resource["id"] = work.id
    resource = await resolved(connection, made.reader, resource, made.names, operation.place)
    resource = await marked(connection, made.reader, resource)
    said = None
    if effect is not None:
        resource, said = await effect.prepared(connection, made.reader, resource, work.number)
    if settings().enforce_profiles:
        await checking.meet(connection, made.reader.organisation_id, resource)
    row_made = await _row(connection, made, work, resource)
    content = row_made.content if row_made is not None else current.content if current is not None else None
    if effect is not None and (row_made is not None or effect.of_same):
        made.beyond[work.number] = effect, content, said
    if row_made is None:
        assert current is not None
        assert current.content is not None
        at = datetime.fromisoformat(text.loads(current.content)["meta"]["lastUpdated"])
        work.done = Result(200, operation.type, work.id, current.version, at, current.content)
        return
    made.rows[work.number] = row_made
    status = 200 if live else 201
    work.done = Result(status, operation.type, work.id, row_made.version, made.now, row_made.content)


def _matches(versions: frozenset[int], current: Known) -> bool:
    """If-Match; none named is any (``*``)."""
    return not versions or current.version in versions


def check(resource: Any, kind: str, place: str = "") -> None:
    """Raise FhirError where a resource is not a valid one of this type."""
    if not isinstance(resource, dict) or resource.get("resourceType") != kind:
        raise error(400, "invalid", f"the body is no {kind}", place)
    if issues := validate(resource):
        raise FhirError(422, issues)
    if kind == "SearchParameter":
        parameters.check(resource)


async def _row(connection: Connection, made: _Commit, work: _Work, resource: dict[str, Any]) -> Row | None:
    current = work.current
    assert work.number is not None
    organisations = [made.reader.contributor]
    if current is not None:
        organisations = list(dict.fromkeys([*current.organisations, made.reader.contributor]))
    patient = patient_of(resource, work.number)
    if work.operation.type == "Subscription":
        # What a person has himself told of is in the record from which he may write it.
        patient = made.reader.confined("Subscription", work.operation.method)
    if not await may_write_into(connection, made.reader, work.operation.type, work.operation.method, patient):
        raise error(403, "forbidden", "the resource is outside of the record that is open", work.operation.place)
    if made.reader.account is not None and masking.is_masked(resource):
        reason = "a reference that is masked cannot be written back: change the rest by PATCH"
        raise error(422, "business-rule", reason, work.operation.place)
    if current is not None and current.live and current.patient_id not in (None, patient):
        raise error(422, "business-rule", "a resource does not change its patient", work.operation.place)
    return make_row(
        work.number,
        resource,
        current,
        patient_id=patient,
        organisations=organisations,
        source=made.origin.id,
        now=made.now,
        # Who may see what is there is the patient's to change, not an app's.
        label=current.label if current is not None else await new_label(connection, made.reader, resource, patient),
        logical_id=work.id,
        available_from=current.available_from if current else None,
    )
