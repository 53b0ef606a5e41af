"""What a message takes away: entries of a set that it no longer lists, and the results of a report that it deletes.

Domain rules A4: the sets of AL1, DG1 and ZRX replace everything earlier from the same organisation; OBR-25 = R
deletes all results of the report.
"""

from __future__ import annotations

import uuid
from datetime import datetime

import orjson

from carefolio.cloud.database import Connection
from carefolio.mapping import Mapped
from carefolio.record.rows import Known, Row, deletion, make_row, without_head
from carefolio.record.write import Origin, known

_REPORT = "DiagnosticReport"


async def left_out(
    connection: Connection,
    mapped: Mapped,
    organisation: uuid.UUID,
    patient: uuid.UUID,
    seq: int,
    listed: set[uuid.UUID],
) -> list[Row]:
    """The deletions of what the organisation stated before and states no longer.

    Diagnoses of a visit belong to the visit, not to this set.
    """
    rows = await connection.fetch(
        """
        SELECT id, type, content FROM resource
        WHERE patient_id = $1 AND type = ANY($2) AND organisations = ARRAY[$3::uuid] AND seq < $4
        """,
        patient,
        list(mapped.sets),
        organisation,
        seq,
    )
    gone = {
        row["id"]: row["type"]
        for row in rows
        if row["id"] not in listed and not (row["type"] == "Condition" and "encounter" in orjson.loads(row["content"]))
    }
    there = await known(connection, list(gone), ()) if gone else {}
    return [deletion(number, gone[number], current) for number, current in there.items()]


def deletes_reports(mapped: Mapped) -> bool:
    """Whether the message says that a report was an error."""
    return any(e.type == _REPORT and e.resource.get("status") == "entered-in-error" for e in mapped.entries)


async def results_of_deleted(
    connection: Connection,
    mapped: Mapped,
    there: dict[uuid.UUID, Known],
    candidates: dict[int, list[uuid.UUID]],
    origin: Origin,
    now: datetime,
) -> list[Row]:
    """The results that deleted reports had, marked as errors, those that the message leaves out too."""
    results: set[uuid.UUID] = set()
    for entry in mapped.entries:
        if entry.type != _REPORT or entry.resource.get("status") != "entered-in-error":
            continue
        for number in candidates[id(entry)]:
            if (report := there.get(number)) and report.content and origin.seq >= report.seq:
                listed = orjson.loads(report.content).get("result", [])
                results |= {uuid.UUID(reference["reference"].rpartition("/")[2]) for reference in listed}
    made = []
    for number, current in (await known(connection, list(results), ["Observation"])).items() if results else ():
        if current.content is None:
            continue
        row = make_row(
            number,
            without_head(current.content) | {"status": "entered-in-error"},
            current,
            patient_id=current.patient_id,
            organisations=current.organisations,
            source=origin.id,
            now=now,
            label=current.label,
            place="OBR-25",
            available_from=current.available_from,
        )
        if row is not None:
            made.append(row)
    return made
