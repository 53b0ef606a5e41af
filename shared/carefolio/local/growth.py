"""A record of any size, made up: patients with their encounters, conditions and results, written by COPY.

For measuring what happens as the record grows; every row is as the product itself would have written it.
"""

from __future__ import annotations

import csv
import io
import random
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from carefolio.record.ids import internal_id
from carefolio.record.rows import Row, make_row

# Of each patient: himself, encounters, conditions, and results for the rest.
PER_PATIENT = 50
_BATCH = 200
_LOINC = "http://loinc.org"
_INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
CODES = ("29463-7", "8302-2", "8867-4", "2339-0", "718-7", "2947-0", "6298-4", "2069-3", "4548-4", "33914-3")
_SYLLABLES = ("an", "be", "cor", "da", "el", "far", "go", "hil", "is", "jo", "ka", "lor", "mi", "nor", "ol", "pe", "ro")
_COLUMNS = (
    "id", "type", "version", "last_updated", "patient_id", "organisations", "seq", "source_time", "digest", "content",
    "keys", "date_from", "date_to", "texts", "ranges",
)  # fmt: skip
_START = datetime(2015, 1, 1, tzinfo=UTC)


def identifier(patient: int) -> str:
    """The identifier value (system ``urn:growth``) of a patient by number."""
    return f"G{patient:08d}"


def name_of(patient: int) -> str:
    """The family name of a patient by number."""
    chance = random.Random(patient)  # noqa: S311 - made-up people
    return "".join(chance.choice(_SYLLABLES) for _ in range(3)).capitalize()


def _resources(patient: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(patient)  # noqa: S311 - made-up people
    number = f"g{patient}"
    subject = {"reference": f"Patient/{number}"}
    born = datetime(1930, 1, 1, tzinfo=UTC) + timedelta(days=chance.randrange(33_000))
    yield {
        "resourceType": "Patient",
        "id": number,
        "identifier": [{"system": "urn:growth", "value": identifier(patient)}],
        "name": [{"family": name_of(patient), "given": [chance.choice(_SYLLABLES).capitalize()]}],
        "gender": chance.choice(("male", "female")),
        "birthDate": born.date().isoformat(),
    }
    moment = _START + timedelta(hours=chance.randrange(80_000))
    for visit in range(3):
        yield {
            "resourceType": "Encounter",
            "id": f"{number}-e{visit}",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": subject,
            "period": {"start": moment.isoformat(), "end": (moment + timedelta(hours=1)).isoformat()},
        }
        yield {
            "resourceType": "Condition",
            "id": f"{number}-c{visit}",
            "code": {"coding": [{"system": "http://snomed.info/sct", "code": str(10_000 + chance.randrange(500))}]},
            "subject": subject,
            "recordedDate": moment.isoformat(),
        }
    for result in range(PER_PATIENT - 7):
        code = CODES[result % len(CODES)]
        value = round(chance.uniform(1, 200), 1)
        yield {
            "resourceType": "Observation",
            "id": f"{number}-o{result}",
            "status": "final",
            "category": [{"coding": [{"code": "laboratory"}]}],
            "code": {"coding": [{"system": _LOINC, "code": code, "display": f"Test {code}"}]},
            "subject": subject,
            "encounter": {"reference": f"Encounter/{number}-e{result % 3}"},
            "effectiveDateTime": (moment + timedelta(days=result)).isoformat(),
            "valueQuantity": {"value": value, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
            # What a laboratory says besides.
            "identifier": [{"system": "urn:growth:filler", "value": f"{number}-{result}"}],
            "issued": (moment + timedelta(days=result, hours=2)).isoformat(timespec="seconds"),
            "performer": [{"reference": f"Organization/lab{patient % 20}", "display": "Pathology, County Hospital"}],
            "interpretation": [{"coding": [{"system": _INTERPRETATION, "code": "N", "display": "Normal"}]}],
            "referenceRange": [
                {"low": {"value": 50, "unit": "kg"}, "high": {"value": 90, "unit": "kg"}, "text": "50 to 90 kg"}
            ],
            "note": [
                {"text": "Sample haemolysed slightly; the result was checked and authorised by the duty biochemist."}
            ],
        }


def _rows(first: int, last: int, organisation_id: uuid.UUID) -> bytes:
    """The rows of patients ``first`` to ``last`` as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    now = datetime.now(UTC)
    for patient in range(first, last):
        owner = internal_id("Patient", f"g{patient}")
        for resource in _resources(patient):
            number = internal_id(resource["resourceType"], resource["id"])
            row = make_row(
                number, resource, None, patient_id=owner, organisations=[organisation_id], source=owner, now=now,
                logical_id=resource["id"],
            )  # fmt: skip
            assert row is not None
            writer.writerow(_fields(row, now))
    return text.getvalue().encode()


def _fields(row: Row, now: datetime) -> Sequence[Any]:
    # The texts are a JSON array, which PostgreSQL's arrays of such strings are written like but for the brackets.
    texts = "{" + row.texts[1:-1].replace("\\u001f", "\x1f") + "}"
    owners = "{" + ",".join(map(str, row.organisations)) + "}"
    return (
        row.id, row.type, 1, now, row.patient_id, owners, 0, now, "\\x" + row.digest.hex(), row.content, row.keys,
        row.date_from or "", row.date_to or "", texts, row.ranges,
    )  # fmt: skip


async def grow(connection: asyncpg.Connection, organisation_id: uuid.UUID, resources: int, *, after: int = 0) -> int:
    """Add so many resources, patients ``after`` and following; returns the number of patients there are then.

    The index of keys is made anew at the end: row by row it would take hours.
    """
    last = after + resources // PER_PATIENT
    await connection.execute("DROP INDEX IF EXISTS resource_keys")
    spans = [(start, min(start + _BATCH, last)) for start in range(after, last, _BATCH)]
    with ProcessPoolExecutor(2) as workers:
        for made in workers.map(_rows, *zip(*((*span, organisation_id) for span in spans), strict=True)):
            await connection.copy_to_table("resource", source=io.BytesIO(made), columns=_COLUMNS, format="csv")
    await connection.execute(
        "INSERT INTO record (id, person_id, created_at) SELECT id, id, now() FROM resource WHERE type = 'Patient'"
        " ON CONFLICT DO NOTHING"
    )
    await connection.execute("SET maintenance_work_mem = '1GB'")
    await connection.execute(
        "CREATE INDEX resource_keys ON resource USING gin (keys) WITH (gin_pending_list_limit = 128)"
    )
    await connection.execute("ANALYZE resource")
    return last
