"""The audit trail as FHIR AuditEvents, made when they are asked for (R4 AuditEvent).

``AuditEvent?patient=…`` tells a patient all of his, and a privacy officer or a system what their organisation did.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg

from carefolio.cloud.database import Pool
from carefolio.fhir.dates import date_range
from carefolio.identity import accounts
from carefolio.mapping.serialise import dumps
from carefolio.record import access_log
from carefolio.record.access import Reader, readable
from carefolio.record.arguments import SearchError
from carefolio.record.ids import internal_id
from carefolio.record.includes import Found
from carefolio.record.rows import instant
from carefolio.record.sharing import decides

_MOST = 1000
_TYPE = {
    "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
    "code": "rest",
    "display": "RESTful Operation",
}
_INTERACTIONS = {"read": "read", "read-nothing": "read", "find": "search-type", "search": "search-type",
                 "history": "history", "everything": "operation", "export": "operation", "notify": "operation",
                 "write": "transaction"}  # fmt: skip
_ROLE = {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": "1", "display": "Patient"}
_BROKEN = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "BTG", "display": "break the glass"}
_ANSWER = frozenset({"_count", "_total", "_format", "_pretty", "_sort"})


async def search(pool: Pool, reader: Reader, query: Sequence[tuple[str, str]]) -> list[Found]:
    """What ``AuditEvent?patient=X[&date=…]``, or ``entity=Patient/X``, finds besides stored ones; else nothing.

    The newest first, ``_count`` of them; older ones by ``date=lt…``. Raises SearchError.
    """
    of_patient = [(name, value) for name, value in query
                  if name == "patient" or (name == "entity" and value.startswith("Patient/"))]  # fmt: skip
    others = [name for name, value in query if (name, value) not in of_patient and name not in ("date", *_ANSWER)]
    if len(of_patient) != 1 or others or not reader.may("AuditEvent", "r"):
        return []
    record = internal_id("Patient", of_patient[0][1].removeprefix("Patient/"))
    since, until = _bounds([value for name, value in query if name == "date"])
    count = next((int(value) for name, value in query if name == "_count" and value.isdigit()), 50)
    organisation = None
    if not await decides(pool, reader, record):
        if reader.own is not None or not await _may_audit(pool, reader, record):
            return []
        organisation = reader.organisation_id
    rows = await access_log.lines(pool, record, count=min(count, _MOST), organisation=organisation, since=since,
                                  until=until)  # fmt: skip
    return [Found("AuditEvent", uuid.UUID(int=row["id"]), dumps(_event(row)).decode()) for row in rows]


async def _may_audit(pool: Pool, reader: Reader, record: uuid.UUID) -> bool:
    """A privacy officer, or a system, of whom the record is open to."""
    if reader.account is not None and not await accounts.has_role(pool, reader.account, "privacy-officer"):
        return False
    arguments: list[Any] = [record]
    return bool(
        await pool.fetchval(
            f"SELECT true FROM resource WHERE id = $1 AND type = 'Patient' AND {readable(reader, arguments)}",  # noqa: S608
            *arguments,
        )
    )


def _bounds(dates: Sequence[str]) -> tuple[datetime | None, datetime | None]:
    since: datetime | None = None
    until: datetime | None = None
    for text in dates:
        prefix = text[:2] if text[:2] in ("eq", "ge", "gt", "le", "lt") else ""
        try:
            start, end = date_range(text.removeprefix(prefix).replace(" ", "+"))
        except (ValueError, OverflowError):
            raise SearchError("date", "not a date") from None
        if prefix in ("", "eq", "ge", "gt"):
            first = end if prefix == "gt" else start
            since = first if since is None else max(since, first)
        if prefix in ("", "eq", "le", "lt"):
            last = start if prefix == "lt" else end
            until = last if until is None else min(until, last)
    return since, until


def _event(row: asyncpg.Record) -> dict[str, Any]:
    interaction = _INTERACTIONS.get(row["action"], "operation")
    name = ", ".join(filter(None, (row["who"] or access_log.system_name(row["actor"]), row["organisation"])))
    agent: dict[str, Any] = {"who": {"display": name}, "requestor": True}
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"trail-{row['id']}",
        "meta": {"versionId": "1", "lastUpdated": instant(row["at"])},
        "type": _TYPE,
        "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": interaction}],
        "action": "C" if row["action"] == "write" else "R" if interaction != "operation" else "E",
        "recorded": instant(row["at"]),
        "outcome": "8" if row["action"] == "refused" else "0",
        "outcomeDesc": row["action"],
        "agent": [agent],
        "source": {"observer": {"display": "Carefolio"}},
        "entity": [{"what": {"reference": f"Patient/{row['patient_id']}"}, "role": _ROLE}],
    }
    if row["reason"]:
        event["purposeOfEvent"] = [{"coding": [_BROKEN], "text": row["reason"]}]
    if row["resource_type"]:
        event["entity"].append({"name": row["resource_type"]})
    return event
